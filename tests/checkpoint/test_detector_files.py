"""A run folder is read whole: never parts of two runs, however a fit replaces it meanwhile."""
import shutil

import pytest
import torch

from minilora import fit
from minilora.checkpoint import detector_files
from minilora.checkpoint.detector_files import (ADAPTER_MODEL, MEMORY_FILE, RUN_FILE_BYTES,
                                                read_run)
from minilora.runs import run_class


@pytest.fixture(scope="module")
def two_runs(gear_run, tiny_weights, tmp_path_factory):
    """Run folders that differ in every number."""
    folders = []
    for seed in (1, 2):
        out = tmp_path_factory.mktemp("two") / "run"
        run_class.run_class(fit.parse([
            "--class", "gear", "--shots", "2", "--steps", "1", "--seed", str(seed), "--data",
            str(gear_run[1].parent), "--model", str(tiny_weights), "--out", str(out)]),
            lambda line: None)
        folders.append(out)
    return folders


def parts(content):
    """Numbers of each file of a run."""
    return {"context": content.detector["context"], "memory": content.memory["bank"]["tokens"],
            "lora": next(iter(content.adapter["layers"].values()))["lora_A"]}


@pytest.mark.parametrize("moment", range(12))
def test_a_run_that_is_replaced_while_it_is_read_is_one_of_both(two_runs, tmp_path, monkeypatch,
                                                                moment):
    """At each file that is hashed or opened, another run takes the place of the first one."""
    run = shutil.copytree(two_runs[0], tmp_path / "run")
    calls = []

    def replacing(function):
        def called(*given):
            calls.append(1)
            if len(calls) == moment + 1:
                for name in RUN_FILE_BYTES:
                    shutil.copy(two_runs[1] / name, tmp_path / "new")
                    (tmp_path / "new").rename(run / name)
            return function(*given)
        return called
    for name in ("load_tensors", "sha256_of", "read_peft_files", "check_file_size", "result_path"):
        monkeypatch.setattr(detector_files, name, replacing(getattr(detector_files, name)))
    found = parts(read_run(run))
    monkeypatch.undo()
    whole = [parts(read_run(folder)) for folder in two_runs]
    assert not torch.equal(whole[0]["memory"], whole[1]["memory"])
    assert any(all(torch.equal(found[key], one[key]) for key in one) for one in whole)


@pytest.mark.parametrize("name", [MEMORY_FILE, ADAPTER_MODEL])
def test_a_file_of_terabytes_is_refused_before_it_is_hashed(two_runs, tmp_path, monkeypatch, name):
    run = shutil.copytree(two_runs[0], tmp_path / "run")
    with open(run / name, "r+b") as file:
        file.truncate(1 << 40)                          # a hole: no byte on the disk
    real = detector_files.sha256_of
    monkeypatch.setattr(detector_files, "sha256_of", lambda path: (
        pytest.fail("it was hashed") if path.name == name else real(path)))
    with pytest.raises(ValueError, match=f"{name} has 1,099,511,627,776 bytes, expected at most"):
        read_run(run)
