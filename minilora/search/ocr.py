"""Text in a picture, as an extra: rapidocr, which ships its models and runs offline.

    pip install minilora[ocr]

A serial number on a part can then be searched: `python -m minilora.search index PATHS --ocr`, then
`query INDEX --reads 4821`.  It takes about half a second a frame on one core.
Leaves out: handwriting, other scripts than its models know (Latin, Chinese).
"""
import numpy as np


class Reader:
    """Reads a PIL picture.  Raises ValueError if the package is not there."""

    def __init__(self):
        try:
            from rapidocr_onnxruntime import RapidOCR
        except ImportError as error:
            raise ValueError("--ocr needs rapidocr_onnxruntime; pip install minilora[ocr]"
                             ) from error
        self.engine = RapidOCR()

    def __call__(self, picture):
        """All that is read, line by line, "" for nothing."""
        found, _ = self.engine(np.asarray(picture.convert("RGB"))[:, :, ::-1])  # it wants BGR
        return "\n".join(text for _, text, _ in found or [])


def demo():
    from PIL import Image, ImageDraw, ImageFont
    try:
        read = Reader()
    except ValueError as error:
        print(error)
        return
    for text in ("SN 4821", "LOT K-17", ""):
        picture = Image.new("RGB", (240, 80), "white")
        ImageDraw.Draw(picture).text((20, 20), text, "black", ImageFont.load_default(36))
        print(f"written {text!r}, read {read(picture)!r}")


if __name__ == "__main__":
    demo()
