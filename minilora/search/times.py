"""Times of a video as text: 75.5 seconds are "01:15.5", and back.

Left out: dates, frames.
"""
import argparse
import re

from minilora.io.text import shown

TIME = re.compile(r"(?:(?:(\d{1,6}):)?(\d{1,7}):)?(\d{1,9}(?:\.\d{0,9})?)")


def format_time(seconds: float) -> str:
    """Minutes and seconds, as video players show them: 75.5 -> 01:15.5."""
    tenths = round(10 * seconds)
    return f"{tenths // 600:02d}:{tenths // 10 % 60:02d}.{tenths % 10}"


def time_option(text: str) -> float:
    """A `type=` for argparse: seconds from "75.5", "1:15.5" (MM:SS) or "0:01:15.5" (HH:MM:SS)."""
    found = TIME.fullmatch(text.strip())
    hours, minutes, seconds = (float(part or 0) for part in found.groups()) if found else [0.0] * 3
    if not found or found[2] and seconds >= 60 or found[1] and minutes >= 60:
        raise argparse.ArgumentTypeError("expected seconds, MM:SS or HH:MM:SS, found "
                                         f"'{shown(text)}'")
    return 3600 * hours + 60 * minutes + seconds


def time_window(start: float | None, end: float | None) -> tuple[float, float] | None:
    """(from, to) in seconds of --from and --to, None without both.

    Raises ValueError if nothing lies between them.
    """
    window = start or 0.0, float("inf") if end is None else end
    if window[0] >= window[1]:
        raise ValueError(f"--from {format_time(window[0])} is not before --to "
                         f"{format_time(window[1])}; give an earlier --from or a later --to")
    return None if start is end is None else window


def demo() -> None:
    """The three spellings of a time."""
    for text in ("75.5", "1:15.5", "0:01:15.5"):
        print(f"{text:10s} {time_option(text)} s, shown as {format_time(time_option(text))}")


if __name__ == "__main__":
    demo()
