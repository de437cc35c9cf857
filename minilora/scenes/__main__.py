"""The command `python -m minilora.scenes`."""
from minilora.io.cli import command
from minilora.scenes.scene import main

if __name__ == "__main__":
    command("minilora.scenes", main)
