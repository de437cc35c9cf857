"""Prints the shell blocks of the READMEs that are marked as tested, as one script.

A block counts if the line before it is `<!-- tested -->`.
"""

import re
from pathlib import Path

DOCUMENTS = ("README.md", "minilora/README.md", "minilora/search/README.md",
             "minilora/baselines/README.md")
MARKED = re.compile(r"<!-- tested -->\n```(?:bash|sh|shell)\n(.*?)```", re.DOTALL)

if __name__ == "__main__":
    for name in DOCUMENTS:
        print("\n".join(MARKED.findall(Path(name).read_text("utf-8"))))
