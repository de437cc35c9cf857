"""The command `python -m minilora.compare`."""
from minilora.compare.run import main
from minilora.io.cli import run_command

if __name__ == "__main__":
    run_command("minilora.compare", main)
