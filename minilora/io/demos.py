"""Run the demo of a mechanism, and draw what it shows: `python -m minilora.lora --plot lora.svg`.

Claim: a mechanism stands at the bottom of the package, but a drawing of it needs what is above:
charts, the embedded model, drawn pictures.  So the figures stand on top (figures/) and are imported
here by their name, and only if --plot is given: no mechanism depends on its own picture.

Left out: what is drawn (figures/write.py lists it).
"""
import sys
from collections.abc import Callable
from importlib import import_module

FIGURES_MODULE = "minilora.figures.write"


def run_demo(name: str, demo: Callable[[], None]) -> None:
    """What `python -m minilora.NAME` does: the demo; with --plot FILE its figure, too."""
    if not sys.argv[1:]:                                # the usual case loads nothing else
        demo()
        return
    from minilora.io.cli import option_parser, run_command

    def main():
        p = option_parser(f"minilora.{name}", demo.__globals__["__doc__"], f"--plot {name}.svg")
        p.add_argument("--plot", metavar="FILE", required=True,
                       help="draw what the demo shows: a file ending in .svg or .png")
        path = p.parse_args().plot
        figures = import_module(FIGURES_MODULE)
        figures.check_figure_path(path)
        demo()
        figures.write_figure(name, path)
    run_command(f"minilora.{name}", main)


def demo() -> None:
    """A toy mechanism without options."""
    before, sys.argv = sys.argv, ["toy.py"]
    try:
        run_demo("toy", lambda: print("what `python -m minilora.toy` prints"))
    finally:
        sys.argv = before
    print(f"figures come from {FIGURES_MODULE}, loaded: {FIGURES_MODULE in sys.modules}")


if __name__ == "__main__":
    demo()
