"""The pictures of this session: what was decided, with a small picture each, and as CSV.

Claim: a server that runs for months stays within fixed memory: the newest entries are kept, and of
each picture only a thumbnail.

Left out: anything on disk; the history ends with the server.
"""
import threading
from collections import deque
from datetime import datetime
from typing import Any

from PIL import Image

from minilora.prediction.picture import Prediction, csv_lines
from minilora.report.html import data_address

MAX_ENTRIES = 500
HISTORY_SIDE = 64                 # pixels of the longer side; about 2 kB each
# x, y: middle of the worst patch, in pixels of the upright picture
HISTORY_COLUMNS = ("time", "file", "decision", "score", "threshold", "x", "y", "framing", "error")


class History:
    """The newest entries, {column: value} with "thumbnail"; several threads may use it."""

    def __init__(self, limit: int = MAX_ENTRIES) -> None:
        self._entries: deque[dict[str, Any]] = deque(maxlen=limit)
        self._lock = threading.Lock()
        self.count = 0                                          # also of those not kept

    def add(self, prediction: Prediction, picture: Image.Image | None) -> dict[str, Any]:
        """Keeps a prediction, and the picture as a thumbnail.  Returns the entry."""
        entry = {name: prediction.get(name) for name in HISTORY_COLUMNS}
        entry["time"] = datetime.now().astimezone().isoformat(timespec="seconds")
        entry["thumbnail"] = picture and data_address(picture, HISTORY_SIDE)
        with self._lock:
            self._entries.append(entry)
            self.count += 1
        return entry

    def entries(self) -> list[dict[str, Any]]:
        """All entries that are kept, the oldest first."""
        with self._lock:
            return list(self._entries)

    def csv(self) -> str:
        """The entries as the text of a CSV file."""
        return csv_lines(self.entries(), HISTORY_COLUMNS)


def demo() -> None:
    """Three predictions in a history of two; the CSV has no formula."""
    history = History(2)
    for name, decision in (("a.png", "OK"), ("=1+1.png", "NG"), ("c.png", "OK")):
        history.add({"file": name, "decision": decision, "score": 1.0, "threshold": 1.2},
                    Image.new("RGB", (640, 480)))
    for line in history.csv().splitlines():
        print(line.partition(",")[2])
    print(f"{history.count} scored, a thumbnail has "
          f"{len(history.entries()[0]['thumbnail']):,} characters")


if __name__ == "__main__":
    demo()
