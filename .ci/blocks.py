"""Prints the shell blocks of README.md that are marked as tested, as one script.

A block counts if the line before it is `<!-- tested -->`, or `<!-- tested: NAME -->`; with a NAME as
argument only the blocks of that name are printed.
"""

import re
import sys
from pathlib import Path

MARKED = re.compile(r"<!-- tested(?:: (\S+))? -->\n```(?:bash|sh|shell)\n(.*?)```", re.DOTALL)


def blocks(text, wanted=None):
    return [body for name, body in MARKED.findall(text) if wanted in (None, name)]


if __name__ == "__main__":
    print("\n".join(blocks(Path("README.md").read_text(), *sys.argv[1:2])))
