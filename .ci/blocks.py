"""Prints the shell blocks of README.md that are marked as tested, as one script.

A block counts if the line before it is `<!-- tested -->`.
"""

import re
from pathlib import Path

MARKED = re.compile(r"<!-- tested -->\n```(?:bash|sh|shell)\n(.*?)```", re.DOTALL)

if __name__ == "__main__":
    print("\n".join(MARKED.findall(Path("README.md").read_text())))
