"""The console command `minilora`, and `python -m minilora`: list the commands, or run one.

    minilora fit ...    the same as    python -m minilora.fit ...

A command is a module minilora/<name>.py, or minilora/<name>/__main__.py, with a function `main`.
Left out: the options of a command (its module); nothing here imports torch before a command runs.
"""
import difflib
import sys
from collections.abc import Callable
from importlib import import_module

from minilora import __version__
from minilora.io.called_as import called_as
from minilora.io.text import shown

COMMANDS = {"fit": "fit a detector to a few good pictures, write a run folder",
            "predict": "score pictures with a run folder: OK or NG; --watch a folder",
            "serve": "OK or NG in the browser: on this computer, or a phone",
            "export": "suspicious regions as boxes, polygons or masks; ONNX",
            "explain": "every stage of the score of one picture, as a page",
            "compare": "tables and curves of several runs, for a thesis",
            "reproduce": "repeat the fit of a run folder, and compare the numbers",
            "search": "find moments in pictures and videos by words",
            "data": "list the contents of a data folder",
            "checkpoint": "list the contents of a file of weights; download official ones",
            "scenes": "write the embedded pictures as a data folder",
            "belts": "draw videos of a conveyor belt, as data for search",
            "pretrain": "train the embedded model again",
            "mae": "masked autoencoder: pretraining, linear probe, fine-tuning"}


def overview() -> str:
    """All commands, one line each, and how one is called by this user."""
    return "\n".join([
        f"example: {called_as('minilora.fit')} --good FOLDER", "",
        f"minilora {__version__}: CLIP adapted to detect defects, from a few good pictures", "",
        "commands:", *(f"  {name:11s} {words}" for name, words in COMMANDS.items()), "",
        f"{called_as('minilora.fit')} --help lists the options of fit.",
        "Every other module has a demo: python -m minilora.lora"])


def unknown_command(name: str) -> str:
    """What is said about a command that does not exist: one line with the nearest one."""
    near = difflib.get_close_matches(name, COMMANDS, 1, 0.5)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"minilora: no command '{shown(name, 60)}'; {guess}--help lists the commands"


def command_main(name: str) -> Callable[[], int | None]:
    """The function `main` of a command."""
    module = import_module(f"minilora.{name}")
    if hasattr(module, "__path__"):                     # a folder
        module = import_module(f"minilora.{name}.__main__")
    return module.main


def main() -> None:
    """Runs the command in the arguments; without one, prints the overview."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        return print(overview())
    if name == "--version":
        return print(f"minilora {__version__}")
    if name not in COMMANDS:
        print(unknown_command(name), file=sys.stderr)
        sys.exit(2)
    sys.argv = [sys.argv[0], *rest]
    from minilora.io.cli import run_command             # imports torch
    run_command(f"minilora.{name}", lambda: command_main(name)())


if __name__ == "__main__":
    main()
