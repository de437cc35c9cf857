"""A file name made from the name of another file: short enough, printable, and still distinct.

Claim: a picture may have any name that the disk allows: 255 bytes, control characters, bytes that
are not UTF-8.  A result that is named after it gets a prefix and another ending, so the name is
cut, and characters that some program could not read are replaced.  Where that changed the name,
eight digits of its SHA-256 keep two different names different.

Left out: names that a result has already (the caller numbers them).
"""
import hashlib

MOST_BYTES = 200                # leaves 55 for what the caller adds
NEVER = set('\\/:*?"<>|')       # not allowed in names on Windows


def derived_stem(stem: str, most: int = MOST_BYTES) -> str:
    """`stem` itself if it is ordinary; else a printable text of at most `most` bytes in its place.

    most: at least 16.
    """
    text = "".join(c if c.isprintable() and c not in NEVER else "_" for c in stem)
    encoded = text.encode()                         # no lone surrogates: they are not printable
    if text == stem and 0 < len(encoded) <= most:
        return text
    digits = hashlib.sha256(stem.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{encoded[:most - 9].decode(errors='ignore')}-{digits}"


def demo() -> None:
    """An ordinary name, a long one, one with a line end, and one that is not UTF-8."""
    for stem in ("scratch-003", "x" * 251, "a\nOK  b", "caf\udce9"):
        print(f"{stem[:12]!r:16s} {len(stem):3d} characters -> {derived_stem(stem, 40)}")


if __name__ == "__main__":
    demo()
