"""The command `python -m minilora.data`."""
from minilora.data.summary import main
from minilora.io.cli import run_command

if __name__ == "__main__":
    run_command("minilora.data", main)
