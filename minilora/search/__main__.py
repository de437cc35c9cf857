"""The command `python -m minilora.search`."""
from minilora.io.cli import command
from minilora.search.query import main

if __name__ == "__main__":
    command("minilora.search", main, failed=2)
