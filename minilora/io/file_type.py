"""Name the kinds of files that are often given in place of a file of weights.

Claim: a web page saved as `ViT-B-16.pt` is the most frequent damage of a download, and "not a zip"
does not help its owner.  The first bytes tell what a file is, before all of it is read or hashed.

Left out: reading what is passed (`io/zip_reader.py`, `io/safetensors.py`).
"""
import tempfile
from pathlib import Path

from minilora.io.checkpoint_error import CheckpointError
from minilora.io.regular_file import NotRegularFileError, open_regular
from minilora.io.safetensors import is_safetensors
from minilora.io.text import shown

MAX_PATH_SHOWN = 1_000                  # characters of a path in a message


def check_file_type(path: str | Path) -> None:
    """Raise CheckpointError for files that are often given in place of a file of weights.

    Passed: zips, which `Archive` reads, and safetensors files, which `read_safetensors` reads.
    """
    path, name = Path(path), shown(path, MAX_PATH_SHOWN)
    if path.is_dir():
        raise CheckpointError(f"{name} is a folder; give the .pt file in it")
    try:
        with open_regular(path) as file:
            head = file.read(512)
    except NotRegularFileError as error:
        raise CheckpointError(f"{shown(error, MAX_PATH_SHOWN)}; give a file of weights") from error
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read: {error.strerror}") from error
    if is_safetensors(path):                        # its first eight bytes may be any of the others
        return
    again = "download the file again"
    kinds = [
        (not head, f"is empty; {again}"),
        (head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<",
         f"is a web page, not weights; {again}, not the web page about it"),
        (head.startswith(b"version https://git-lfs"),
         "is a Git LFS pointer, not the weights; run `git lfs pull`"),
        (head[:1] == b"\x80", "is in torch.save's format before 2020, or is a bare pickle; save it "
         "again with a recent torch.save"),
        (head[:4] != b"PK\3\4", f"is not a PyTorch archive, it starts with {head[:8]!r}; {again}")]
    for found, text in kinds:
        if found:
            raise CheckpointError(f"{name} {text}")


def demo() -> None:
    """What is said about four files that are no weights."""
    with tempfile.TemporaryDirectory() as folder:
        for head in (b"", b"<!DOCTYPE html>", b"version https://git-lfs", b"\x80\x02}q\x00."):
            path = Path(folder) / "ViT-B-16.pt"
            path.write_bytes(head)
            try:
                check_file_type(path)
            except CheckpointError as error:
                print(str(error).replace(folder, "..."))


if __name__ == "__main__":
    demo()
