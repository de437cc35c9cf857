"""The command `python -m minilora.scenes`."""
from minilora.io.cli import run_command
from minilora.scenes.scene import main

if __name__ == "__main__":
    run_command("minilora.scenes", main)
