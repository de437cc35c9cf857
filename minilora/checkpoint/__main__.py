"""The command `python -m minilora.checkpoint`."""
from minilora.checkpoint.weights import main
from minilora.io.cli import command

if __name__ == "__main__":
    command("minilora.checkpoint", main)
