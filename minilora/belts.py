"""The command `python -m minilora.belts`; the code is in scenes/belts.py."""
from minilora.io.cli import run_command
from minilora.scenes.belts import main

if __name__ == "__main__":
    run_command("minilora.belts", main)
