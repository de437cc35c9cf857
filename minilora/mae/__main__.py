"""The command `python -m minilora.mae`."""
from minilora.io.cli import run_command
from minilora.mae.run import main

if __name__ == "__main__":
    run_command("minilora.mae", main)
