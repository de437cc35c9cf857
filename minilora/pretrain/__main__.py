"""The command `python -m minilora.pretrain`."""
from minilora.io.cli import command
from minilora.pretrain.train import main

if __name__ == "__main__":
    command("minilora.pretrain", main)
