"""The command `python -m minilora.checkpoint`."""
from minilora.checkpoint.weights import main
from minilora.io.cli import run_command

if __name__ == "__main__":
    run_command("minilora.checkpoint", main)
