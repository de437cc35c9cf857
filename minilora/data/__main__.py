"""The command `python -m minilora.data`."""
from minilora.data.mvtec import main
from minilora.io.cli import command

if __name__ == "__main__":
    command("minilora.data", main)
