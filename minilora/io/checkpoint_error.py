"""The error of every reader of weights, and a limit that they share.

Claim: a caller need not know which reader refused a file: all of them raise CheckpointError.

Left out: what is read: pickles (io/unpickler.py), zips (io/zip_reader.py), io/safetensors.py.
"""
MAX_NUMBER_KEY = 1 << 31                # more bits would allow numbers chosen to collide in a dict


class CheckpointError(ValueError):
    """A file of weights that cannot be used; the message says which, why, and what to do."""


def demo() -> None:
    """It is a ValueError: a command prints it in one line."""
    try:
        raise CheckpointError("weights.pt is cut off; copy or download it again")
    except ValueError as error:
        print(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    demo()
