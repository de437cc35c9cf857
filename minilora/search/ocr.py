"""Optical character recognition, optional: rapidocr, which ships its models and runs offline.

    pip install ".[ocr]"

It makes a serial number on a part searchable: `python -m minilora.search index PATHS --ocr`, then
`query INDEX --reads 4821`.  It takes about half a second per frame on one core.
Left out: handwriting, and scripts that its models do not know (they know Latin and Chinese).
"""
import numpy as np
from PIL import Image


class TextReader:
    """Reads the text in a PIL picture.  Raises ValueError if the package is not installed."""

    def __init__(self) -> None:
        try:
            from rapidocr_onnxruntime import RapidOCR
        except ImportError as error:
            raise ValueError('--ocr needs rapidocr_onnxruntime; in the clone: pip install ".[ocr]"'
                             ) from error
        self.engine = RapidOCR()

    def __call__(self, picture: Image.Image) -> str:
        """The text line by line; "" if there is none."""
        lines, _ = self.engine(np.asarray(picture.convert("RGB"))[:, :, ::-1])  # expects BGR
        return "\n".join(text for _, text, _ in lines or [])


def demo() -> None:
    """Read two serial numbers and an empty picture."""
    from PIL import ImageDraw, ImageFont
    try:
        read = TextReader()
    except ValueError as error:
        print(error)
        return
    for text in ("SN 4821", "LOT K-17", ""):
        picture = Image.new("RGB", (240, 80), "white")
        ImageDraw.Draw(picture).text((20, 20), text, "black", ImageFont.load_default(36))
        print(f"written {text!r}, read {read(picture)!r}")


if __name__ == "__main__":
    demo()
