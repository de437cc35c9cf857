"""The command `python -m minilora.belts`; what it does is in scenes/belts.py."""
from minilora.io.cli import command
from minilora.scenes.belts import main

if __name__ == "__main__":
    command("minilora.belts", main)
