"""`python -m bench.all`: which jobs run, what is said before, and what happens when one fails."""
import argparse
import importlib
import shlex
import sys

import pytest
import torch

from bench import all as everything
from bench import defaults
from bench.all import Job

SCRIPT = """
import sys
from pathlib import Path
what, out, name = sys.argv[1], Path(sys.argv[sys.argv.index("--out") + 1]), sys.argv[-1]
Path({log!r}).open("a").write(name + "\\n")
if what == "fails":
    sys.exit(3)
out.mkdir(parents=True, exist_ok=True)
if what == "writes":
    (out / (name + ".txt")).write_text({line!r})
    (out / (name + ".csv")).write_text("a,b")
"""


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty folder of results, and three jobs in place of the real ones."""
    folder = tmp_path / "results"
    folder.mkdir()
    (tmp_path / "fakejob.py").write_text(SCRIPT.format(log=str(tmp_path / "log"),
                                                       line=defaults.defaults_line()))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(everything, "RESULTS", folder)
    monkeypatch.setattr(everything, "JOBS", (
        Job("one", "fakejob writes", 30), Job("two", "fakejob fails", 60, ("search",)),
        Job("three", "fakejob writes", 90, ())))
    return folder


def run(tmp_path, *arguments):
    return everything.main([*map(str, arguments), "--out", str(tmp_path / "out")])


def ran(tmp_path):
    """Names of the jobs that were started."""
    return (tmp_path / "log").read_text().split() if (tmp_path / "log").exists() else []


def test_a_job_that_fails_is_named_and_the_others_are_run(results, tmp_path, capsys):
    assert run(tmp_path) == 1
    assert ran(tmp_path) == ["one", "two", "three"]
    assert "failed: two; the others are written" in capsys.readouterr().err
    assert sorted(p.name for p in results.iterdir()) == ["one.csv", "one.txt", "three.csv",
                                                         "three.txt"]


def test_a_run_that_was_stopped_goes_on_with_what_is_missing(results, tmp_path):
    (results / "one.txt").write_text(defaults.defaults_line())
    assert run(tmp_path) == 1 and ran(tmp_path) == ["two", "three"]


def test_a_table_of_other_defaults_is_measured_again(results, tmp_path, monkeypatch, capsys):
    today = defaults.default_digests()
    for name in ("one", "two", "three"):
        (results / f"{name}.txt").write_text(
            defaults.defaults_line().replace(today["detector"], "00000000"))
    assert run(tmp_path) == 0 and ran(tmp_path) == ["one"]
    assert "other defaults of detector" in capsys.readouterr().out
    assert run(tmp_path) == 0 and ran(tmp_path) == ["one"]


def test_a_job_that_depends_on_no_default_runs_if_it_has_no_table(results, tmp_path):
    (results / "three.txt").write_text("a table of long ago")
    run(tmp_path)
    assert ran(tmp_path) == ["one", "two"]


def test_a_table_that_is_named_is_measured_in_any_case(results, tmp_path):
    (results / "one.txt").write_text(defaults.defaults_line())
    assert run(tmp_path, "--only", "one") == 0 and ran(tmp_path) == ["one"]


def test_a_command_that_writes_no_table_has_failed(results, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(everything, "JOBS", (Job("one", "fakejob nothing", 1),))
    assert run(tmp_path) == 1 and "failed: one" in capsys.readouterr().err


def test_the_list_says_hours_and_reasons_and_runs_nothing(results, tmp_path, capsys):
    assert run(tmp_path, "--list") == 0 and ran(tmp_path) == []
    said = capsys.readouterr().out
    assert "3 of 3 tables, about 3.0 hours" in said and said.count("no table yet") == 3


def test_the_hours_are_said_before_any_work(results, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(everything, "run_job", lambda job, options: print("works") or True)
    run(tmp_path)
    said = capsys.readouterr().out
    assert said.index("about 3.0 hours") < said.index("works")


@pytest.mark.parametrize("word, option", everything.PLACES.items())
def test_what_is_missing_is_said_before_any_work(results, tmp_path, monkeypatch, capsys, word,
                                                 option):
    monkeypatch.setattr(everything, "JOBS", (*everything.JOBS[:1],
                                             Job("last", f"fakejob writes {word}", 1)))
    with pytest.raises(SystemExit) as ended:
        run(tmp_path)
    assert ended.value.code == 2 and ran(tmp_path) == []
    assert f"{option} is missing, which last need" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(tmp_path, option, tmp_path / "nowhere")
    assert "nowhere: not found; expected" in capsys.readouterr().err and ran(tmp_path) == []


def test_a_folder_without_all_products_is_refused_before_any_work(results, tmp_path, monkeypatch,
                                                                  capsys):
    monkeypatch.setattr(everything, "JOBS", (Job("last", "fakejob writes FOLDER", 1),))
    for name in everything.PRODUCTS[1:]:
        (tmp_path / "data" / name).mkdir(parents=True)
    with pytest.raises(SystemExit):
        run(tmp_path, "--data", tmp_path / "data")
    assert "holds no bottle; expected" in capsys.readouterr().err and ran(tmp_path) == []
    (tmp_path / "data" / "bottle").mkdir()
    assert run(tmp_path, "--data", tmp_path / "data") == 0 and ran(tmp_path) == ["last"]


def test_a_job_for_a_gpu_is_left_out_where_there_is_none(results, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(everything, "JOBS", (Job("card", "fakejob writes", 8, device="cuda"),))
    monkeypatch.setattr(everything.torch.cuda, "is_available", lambda: False)
    assert run(tmp_path) == 0 and ran(tmp_path) == []
    assert "left out: needs a GPU" in capsys.readouterr().out
    monkeypatch.setattr(everything.torch.cuda, "is_available", lambda: True)
    assert run(tmp_path) == 0 and ran(tmp_path) == ["card"]


# ---- the real jobs ------------------------------------------------------------------------------

class Parsed(Exception):
    """Ends a command as soon as it has read its options."""


@pytest.mark.parametrize("job", everything.JOBS, ids=lambda job: job.name)
def test_each_command_understands_its_options(job, monkeypatch, tmp_path):
    read = argparse.ArgumentParser.parse_args

    def stop(self, *arguments):
        raise Parsed(read(self, *arguments))

    options = argparse.Namespace(out=tmp_path, **{option[2:]: tmp_path
                                                  for option in everything.PLACES.values()})
    module, *words = everything.arguments_of(job, options)[2:]
    monkeypatch.setattr(sys, "argv", [module, *words])
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)       # for the options alone
    with pytest.raises(Parsed) as found:
        importlib.import_module(module).main()
    parsed = found.value.args[0]
    assert parsed.name == job.name and parsed.out == tmp_path / job.out


def test_jobs_have_names_of_their_own_and_known_groups():
    names = [job.name for job in everything.JOBS]
    assert len(set(names)) == len(names)
    assert {group for job in everything.JOBS for group in job.depends} \
        <= defaults.default_digests().keys()
    assert not {word for job in everything.JOBS for word in shlex.split(job.command)
                if word.isupper()} - everything.PLACES.keys()
