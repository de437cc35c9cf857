"""The command `python -m minilora.search`."""
from minilora.io.cli import run_command
from minilora.search.run import main

if __name__ == "__main__":
    run_command("minilora.search", main)
