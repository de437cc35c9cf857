"""Show text from strangers: file names, keys, versions, HTTP reasons.

Claim: a name may hold a line break, a terminal's control sequence or three megabytes.  Printed as
it is, it can forge a line "OK" or hide one.  So every text that comes from a file, a folder or a
server is shown by `shown`: control characters become visible escapes, and it is cut.

Left out: HTML (`report/html.py` escapes it).
"""
from pathlib import Path
from typing import Any

MAX_SHOWN = 200                             # characters of one text from a stranger
SHOWN_PATH = 1000                           # a cut path would hide which file it is
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def shown(value: Any, limit: int = MAX_SHOWN) -> str:
    """`str(value)` in one printable line of at most `limit` characters, escapes included.

    Bytes of a file name that are not UTF-8 (Python's surrogates) become \\xHH.
    """
    text = value if isinstance(value, str) else safe_str(value, limit)
    if len(text) <= limit and text.isprintable():
        return text
    pieces, length = [], 0
    for character in text[:limit + 1]:
        piece = escape(character)
        if length + len(piece) > limit - 1:
            return "".join(pieces) + "…"
        pieces.append(piece)
        length += len(piece)
    return "".join(pieces)


def shown_path(path: str | Path) -> str:
    """A path in one printable line, long enough to see which file it is."""
    return shown(path, SHOWN_PATH)


def safe_str(value: Any, limit: int) -> str:
    """str(value), or only the type's name where that could be long or fail."""
    if isinstance(value, (int, float, bool, type(None))) and not (
            isinstance(value, int) and value.bit_length() > 256):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        return repr(bytes(value[:limit]))
    if isinstance(value, BaseException) or hasattr(value, "__fspath__"):
        return str(value)
    return f"<{type(value).__name__}>"


def escape(character: str) -> str:
    """One character, or its escape if it would not be visible as itself."""
    if "\udc80" <= character <= "\udcff":           # a byte that was not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    if character.isprintable():                     # no control, format, or unassigned character
        return character
    return character.encode("unicode_escape").decode()


def utf8_text(value: Any) -> str:
    """str(value), with an escape such as \\udce9 for each byte of a file name that is not UTF-8."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def csv_cell(value: Any) -> Any:
    """A text that no spreadsheet takes for a formula: one that starts like one gets a quote."""
    if not isinstance(value, str):
        return value
    text = utf8_text(value)
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def demo() -> None:
    """A forged line, a control sequence, a name that is not UTF-8, and a long one."""
    for text in ("a.png\nOK  score 0.1  b.png", "\x1b[2Jgone", "caf\udce9.png", "x" * 10**6):
        print(shown(text, 60))
    print(csv_cell("=1+1"), csv_cell(0.5))


if __name__ == "__main__":
    demo()
