"""A parser of options whose help fits one screen, and whose errors are one line.

Claim: a help is read on a screen of 80 x 40 characters, from the top: an example that can be run,
what the command does, the common options, the rare ones; one line each.

Left out: the parser of one command (io/cli.py, `option_parser`), long explanations (the docstring
of the command's module).
"""
import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from minilora import __version__
from minilora.io.error_text import ERROR_STATUS, MAX_MESSAGE
from minilora.io.text import shown


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """One line per option: its first spelling (older ones still work), its help, its default.

    None, on/off switches and lists have no default to show.
    """

    def _fill_text(self, text, width, indent):
        return "\n".join(super(HelpFormatter, self)._fill_text(line, width, indent)
                         for line in text.split("\n"))

    def _get_help_string(self, action):
        if action.default is None or isinstance(action.default, (bool, list)):
            return action.help
        return super()._get_help_string(action)

    def _format_action_invocation(self, action):
        if not action.option_strings:
            return super()._format_action_invocation(action)
        value = self._format_args(action, action.dest.upper()) if action.nargs != 0 else ""
        return f"{action.option_strings[0]} {value}".rstrip()

    def _format_args(self, action, default_metavar):
        if action.nargs in ("+", "*"):
            return f"{self._metavar_formatter(action, default_metavar)(1)[0]} ..."
        return super()._format_args(action, default_metavar)


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose help fits one screen and whose errors are one line.

    The help starts with an example in place of argparse's list of all options, and ends with the
    group `rare`.  An empty value is refused, except for options in `may_be_empty`:
    `--data "$FOLDER"` with an unset variable would otherwise mean something else than the user
    thinks.
    """
    may_be_empty: tuple[str, ...] = ()

    def __init__(self, prog: str, description: str, example: str = "",
                 epilog: str | None = None) -> None:
        """example: what follows the command's name in the example."""
        super().__init__(prog=prog, usage=argparse.SUPPRESS, epilog=epilog, add_help=False,
                         description=f"example: {prog} {example}\n\n{description}",
                         formatter_class=HelpFormatter)
        self.example = example
        self.rare = self.add_argument_group("rare options")
        add = self.rare.add_argument
        add("--help", "-h", action="help", help="this text; also --version, --debug (tracebacks)")
        add("--version", action="version", version=f"minilora {__version__}",
            help=argparse.SUPPRESS)
        add("--debug", action="store_true", help=argparse.SUPPRESS)

    def format_help(self) -> str:
        """The text of --help, with the rare options last."""
        self._action_groups.sort(key=lambda group: group is self.rare)      # keeps the others
        return super().format_help()

    def parse_known_args(self, args: Sequence[str] | None = None,
                         namespace: argparse.Namespace | None = None
                         ) -> tuple[argparse.Namespace, list[str]]:
        args = sys.argv[1:] if args is None else list(args)
        for option, following in zip(args, [*args[1:], None]):
            name, equals, value = option.partition("=")
            if name.startswith("--") and name not in self.may_be_empty and "" in (
                    [value] if equals else [following]):
                self.error(f"argument {name}: expected a value, found ''")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        name = self.prog.removeprefix("python -m ")
        self.exit(ERROR_STATUS, f"{name}: {shown(message, MAX_MESSAGE)}; --help lists the "
                                "options\n")


def demo() -> None:
    """The help of a small command, and an error."""
    p = OneLineParser("minilora fit", "Fit a detector.", "--shots 8")
    p.add_argument("--shots", metavar="N", type=int, default=8, help="good pictures")
    print(p.format_help())
    sys.stdout.flush()
    try:
        p.parse_args(["--shots", "few"])
    except SystemExit as stop:
        print(f"exit status {stop.code}")


if __name__ == "__main__":
    demo()
