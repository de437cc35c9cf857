"""How the user has called a command: with the console command or with `python -m`.

Claim: help, errors and suggested commands are in the form that works for this user; the console
command `minilora` is there only where the package is installed.

    minilora fit              the console command
    python -m minilora fit    the package
    python -m minilora.fit    the command's module

Left out: the arguments (io/cli.py, `shell_command`).
"""
import sys
from pathlib import Path


def called_as(name: str) -> str:
    """The command `name` ("minilora.fit"), or the package ("minilora"), in the user's form."""
    start = Path(sys.argv[0])
    if start.stem == "minilora":
        return name.replace(".", " ", 1)
    if start.parts[-2:] == ("minilora", "__main__.py"):
        return f"python -m {name.replace('.', ' ', 1)}"
    return f"python -m {name}"


def demo() -> None:
    """The three forms."""
    given = sys.argv[0]
    for start in ("/usr/bin/minilora", "minilora/__main__.py", "minilora/fit.py"):
        sys.argv[0] = start
        print(f"{start:22s} {called_as('minilora.fit')}")
    sys.argv[0] = given


if __name__ == "__main__":
    demo()
