"""Packaging of minilora: five run-time packages; tests and benchmarks need more (the extras)."""
import re
from pathlib import Path

from setuptools import setup

TOP = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "(.+)"', (TOP / "minilora/__init__.py").read_text("utf-8"))[1]
README = TOP / "README.md"
FOLDERS = sorted(path.parent.name for path in TOP.glob("minilora/*/__init__.py"))

setup(
    name="minilora",
    version=VERSION,
    description="CLIP adapted to find defects with a handful of good images, line by line",
    long_description=README.read_text("utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    author="minilora authors",
    license="MIT",
    license_files=["LICENSE", "minilora/bpe_merges.LICENSE"],
    python_requires=">=3.10",
    # The folder weights/ stays at the top, where a reader finds it, and becomes minilora.weights
    # in the installed package. Its files are named one by one: an official checkpoint of 350 MB
    # that happens to lie there must not slip into a wheel.
    packages=["minilora", *(f"minilora.{folder}" for folder in FOLDERS),
              *(["minilora.weights"] if (TOP / "weights").is_dir() else [])],
    package_dir={"minilora.weights": "weights"},
    package_data={"minilora": ["bpe_merges.txt.gz", "bpe_merges.LICENSE", "py.typed"],
                  "minilora.weights": ["mini-clip.pt", "README.md"]},
    include_package_data=False,
    install_requires=["torch>=2.4", "numpy>=1.24", "pillow>=10.1", "regex>=2024.4", "ftfy>=6.3"],
    entry_points={"console_scripts": ["minilora = minilora.__main__:main"]},
    extras_require={
        "test": ["pytest", "pytest-xdist", "hypothesis", "scikit-learn", "scipy", "transformers",
                 "peft", "torchmetrics", "pycocotools", "xmlschema", "av", "faiss-cpu",
                 "rapidocr_onnxruntime", "onnx", "onnxscript", "onnxruntime", "selenium",
                 "nbclient", "nbformat", "ipykernel"],
        "video": ["av"],
        "ocr": ["rapidocr_onnxruntime"],
        "faiss": ["faiss-cpu"],
        "onnx": ["onnx", "onnxscript", "onnxruntime", "torch>=2.9"],
        "speech": ["pyttsx3"],
        "bench": ["transformers", "peft", "scikit-learn", "torchmetrics", "psutil", "av",
                  "faiss-cpu"],
    },
)
