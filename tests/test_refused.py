"""A combination that cannot work is refused in one line with the remedy: no banner, no folder."""
import sys
from pathlib import Path

import pytest
from PIL import Image

from minilora.__main__ import main
from minilora.io.notes import take_notes

REFUSED = {
    "fit --good good --shots 20": "at most 2",
    "fit --class nut --shots 100": "at most 24",            # before the embedded scenes are drawn
    "fit --good good --resolution 225": "give 224 or 240",
    "fit --good good --blocks 9": "give fewer",
    "fit --good good --rank 2000": "1 to 256",
    "fit --test good": "--test needs --good",
    "search index nowhere": "nowhere",
    "search query nowhere gear": "index PATHS --out nowhere",
    "mae --class nut --shots 100": "at most 24",
    "mae --shots 0": "at least 1",
    "mae --mask-ratio 1": "between 0 and 1",
    "mae --data data --class nut --probe": "good and defective test pictures",
    "pretrain --grids": "pass --photos",
    "pretrain --teacher good/0.png": "pass --photos",
    "pretrain --minutes 2": "pass --full 0 or 1",
    "belts --out videos --labels": "pass --kind line",
    "predict nowhere good": "give the folder",
    "export nowhere good": "give the folder"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with two good pictures, and a class without test pictures."""
    for folder in ("good", "data/nut/train/good"):
        Path(tmp_path, folder).mkdir(parents=True)
        for k in range(2):
            Image.new("RGB", (40, 40), (90, 90 + k, 90)).save(tmp_path / folder / f"{k}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINILORA_DATA", raising=False)
    take_notes()                                        # of tests before, in the same process
    return tmp_path


@pytest.mark.parametrize("command", REFUSED)
def test_what_cannot_work_is_refused_before_anything_is_printed_or_made(command, place, monkeypatch,
                                                                        capsys):
    before = sorted(place.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["minilora", *command.split()])
    with pytest.raises(SystemExit) as stop:
        main()
    out, error = capsys.readouterr()
    assert stop.value.code == 2 and out == "" and error.count("\n") == 1
    assert error.startswith(f"minilora {command.split()[0]}") and REFUSED[command] in error
    assert sorted(place.rglob("*")) == before
