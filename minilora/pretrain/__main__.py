"""The command `python -m minilora.pretrain`."""
from minilora.io.cli import run_command
from minilora.pretrain.train import main

if __name__ == "__main__":
    run_command("minilora.pretrain", main)
