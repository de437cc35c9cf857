"""The command `python -m minilora.mae`."""
from minilora.io.cli import command
from minilora.mae.run import main

if __name__ == "__main__":
    command("minilora.mae", main)
