"""The command `python -m minilora.serve`."""
from minilora.io.cli import run_command
from minilora.serve.run import main

if __name__ == "__main__":
    run_command("minilora.serve", main)
