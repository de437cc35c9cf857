"""Small versions of four commands, for kills.py; each takes a few seconds or less.

    python -m small pretrain OPTIONS...     minilora.pretrain with a small tower
    python -m small download FILE SHA256    1 MB from a slow local server
    python -m small index OPTIONS...        minilora.search with few frames per part
    python -m small scenes OPTIONS...       minilora.scenes with few and small pictures
"""
import functools
import http.server
import sys
import threading
import time

from minilora.checkpoint.download import download_file
from minilora.clip import CLIPConfig
from minilora.pretrain import train as pretrain
from minilora.scenes import scene
from minilora.search import indexing
from minilora.search import run as search

CONTENT = bytes(range(256)) * 4000
TOWER = CLIPConfig(embed=16, resolution=224, vision_layers=2, vision_width=64, patch=16,
                   text_width=64, text_layers=1)


class SlowHandler(http.server.BaseHTTPRequestHandler):
    """Supports Range; sends the whole content in half a second."""

    def do_GET(self):
        requested = self.headers.get("Range")
        start = int(requested.removeprefix("bytes=").removesuffix("-")) if requested else 0
        self.send_response(206 if requested else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        if requested:
            self.send_header("Content-Range",
                             f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        for k in range(start, len(CONTENT), 32_000):
            self.wfile.write(CONTENT[k:k + 32_000])
            time.sleep(0.016)

    def log_message(self, *arguments):
        pass


def main():
    what = sys.argv.pop(1)
    if what == "pretrain":
        pretrain.MINI = TOWER
        results = {"accuracy": 0.0, "auroc": 0.5}
        pretrain.held_out.measure_scenes = lambda *arguments, **options: results
        return pretrain.main()
    if what == "index":
        indexing.PART_ROWS, indexing.BATCH = 16, 8
        return search.main()
    if what == "scenes":
        scene.write_class = functools.partial(scene.write_class, good=4, test_good=2, defective=2,
                                              resolution=64)
        return scene.main()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), SlowHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        download_file(f"http://127.0.0.1:{server.server_port}/w.pt", *sys.argv[1:])
        server.shutdown()


if __name__ == "__main__":
    main()
