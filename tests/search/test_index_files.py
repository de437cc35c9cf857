"""An index among other processes, among a user's files, and from a stranger."""
import errno
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import REPO
from PIL import Image

from minilora.checkpoint.base_model import BaseModel
from minilora.io.progress import stages_on
from minilora.search import faiss_index, index_changes, indexing, results
from minilora.search import run as search_run
from minilora.search.events import Event
from minilora.search.index import Index, with_index
from minilora.search.index_changes import end_run
from minilora.search.index_file import write_index_file
from minilora.search.indexing import remove_files, update_index

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}


class Greys:
    """Two features of a picture; stops after `limit` pictures."""

    def __init__(self, limit=10**9):
        self.count, self.limit = 0, limit

    def encode(self, pictures):
        self.count += len(pictures)
        if self.count > self.limit:
            raise KeyboardInterrupt
        grey = torch.tensor([p.convert("L").getpixel((1, 1)) / 255 for p in pictures])
        return torch.stack([grey.cos(), grey.sin()], 1).half()


def fresh(folder):
    return Index(folder, BaseModel("greys", "0" * 64), {"rate": 1.0, "change": 0.0})


def animation(path, frames, first=0):
    pictures = [Image.new("L", (8, 8), (first + 7 * k) % 256) for k in range(frames)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=1000)
    return path


@pytest.fixture
def files(tmp_path):
    """Four pictures and two animations."""
    folder = tmp_path / "files"
    folder.mkdir()
    for k in range(4):
        Image.new("L", (8, 8), 60 * k).save(folder / f"{k}.png")
    for name in ("a.gif", "b.gif"):
        animation(folder / name, 6)
    return folder


def without_locks(monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr("fcntl.flock", flock)


def content_of(folder):
    """{path: kind and bytes} of everything below a folder."""
    return {str(p.relative_to(folder)): os.readlink(p) if p.is_symlink() else
            p.read_bytes() if p.is_file() else "no file" for p in sorted(folder.rglob("*"))}


# ---- several processes --------------------------------------------------------------------------

WORKER = """
import errno, sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}, {here!r}]
import test_index_files as t
root, name, locks, job = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "True", sys.argv[4]
if not locks:
    import fcntl
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = flock
def meet(number):
    (root / f"{{name}}-{{number}}").touch()
    end = time.monotonic() + 60
    while len(list(root.glob(f"*-{{number}}"))) < 2 and time.monotonic() < end:
        time.sleep(0.001)
t.indexing.PART_ROWS = 4
for number in range(6 if job == "race" else 12):
    if job == "race":
        meet(number)
        paths = sorted((root / "files").glob(f"{{name}}*")) + [root / "files" / "both.png"]
        assert t.update_index(t.fresh(root / f"index{{number}}"), paths, t.Greys()) == []
    else:
        for path in sorted((root / "files").glob("*.gif")):
            t.animation(path, 20 + number)
        t.update_index(t.fresh(root / "index"), sorted((root / "files").iterdir()), t.Greys())
"""


def worker(root, name, locks, job):
    code = WORKER.format(tests=str(REPO / "tests"), here=str(Path(__file__).parent))
    return subprocess.Popen([sys.executable, "-c", code, str(root), name, str(locks), job],
                            cwd=REPO, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("locks", [True, False])
def test_two_runs_at_once_lose_no_row_and_mix_nothing(tmp_path, locks):
    """Six times: each run has files of its own, and one that both were given."""
    folder = tmp_path / "files"
    folder.mkdir()
    greys = {"both.png": 1}
    for k, name in enumerate(("left", "right")):
        for number in range(300 // 8):
            greys[f"{name}{number}.png"] = 3 * number + 100 * k
        animation(folder / f"{name}.gif", 10, 90 * k)
    for name, grey in greys.items():
        Image.new("L", (8, 8), grey).save(folder / name)
    pair = [worker(tmp_path, name, locks, "race") for name in ("left", "right")]
    for process in pair:
        assert process.communicate(timeout=240)[1] == "" and process.returncode == 0
    for number in range(6):
        index = Index.open(tmp_path / f"index{number}")
        rows = {Path(p).name: v for p, _, v in index.curves(lambda part: part["features"][:, 1])}
        assert set(rows) == {*greys, "left.gif", "right.gif"}
        for name, grey in greys.items():
            expected = torch.tensor(grey / 255).sin().half()
            assert rows[name].tolist() == [expected.item()], "the features of this very file"
        assert len(rows["left.gif"]) == len(rows["right.gif"]) == 10
        assert index.unfinished == {} and {p.stem for p in (index.folder / "parts").iterdir()} == {
            *index.part_names()}, "what was encoded twice is deleted"


def test_queries_while_files_are_indexed_again_never_fail(tmp_path, files):
    """Every run replaces all parts of the animations and deletes the earlier ones."""
    update_index(fresh(tmp_path / "index"), sorted(files.iterdir()), Greys())
    names, asked = {p.name for p in files.iterdir()}, 0

    def work(index):
        time.sleep(0.1)                         # a large index takes long to read
        curves = index.curves(lambda part: part["features"][:, 0])
        return {Path(path).name: len(values) for path, times, values in curves}
    process = worker(tmp_path, "one", True, "again")
    while process.poll() is None:
        found = with_index(Index.open(tmp_path / "index"), work)
        assert set(found) == names and set(found.values()) <= {1, 6, *range(20, 32)}
        asked += 1
    assert process.communicate()[1] == "" and process.returncode == 0 and asked > 10


def test_a_query_that_had_read_the_earlier_index_reads_the_new_one(tmp_path, files):
    update_index(fresh(tmp_path / "i"), [files / "a.gif"], Greys())
    attempts = []

    def work(index):
        attempts.append(1)
        if len(attempts) == 1:                  # another process encodes the file again
            animation(files / "a.gif", 9)
            update_index(fresh(tmp_path / "i"), [files / "a.gif"], Greys())
        (_, _, values), = index.curves(lambda part: part["times"])
        return len(values)
    assert with_index(Index.open(tmp_path / "i"), work) == 9 and len(attempts) == 2


def test_a_query_does_not_go_on_with_an_index_of_another_model(tmp_path, files):
    """Its text was encoded by the model of the earlier one."""
    update_index(fresh(tmp_path / "i"), [files / "a.gif"], Greys())

    def work(index):
        write_index_file(index.folder, {
            "base": replace(index.base, sha256="1" * 64), "sampling": index.sampling,
            "reads": False, "files": index.entries, "parts": index.parts, "unfinished": {}})
        raise ValueError("a part is gone")
    with pytest.raises(ValueError, match="replaced by an index of another model.*run the same"):
        with_index(Index.open(tmp_path / "i"), work)


def test_a_query_shows_how_many_parts_it_has_read(tmp_path, files, monkeypatch):
    monkeypatch.setattr("minilora.io.progress.EVERY_SECONDS", 0)
    index = fresh(tmp_path / "i")
    update_index(index, sorted(files.iterdir()), Greys())
    stream, parts = io.StringIO(), len(index.part_names())
    with stages_on(stream):
        assert len([*index.curves(lambda part: part["times"])]) == len(index.entries) > parts > 1
    assert stream.getvalue().splitlines()[-1].startswith(f"parts of the index    {parts}/{parts}")


def test_a_part_that_is_really_missing_is_named_at_once(tmp_path, files):
    update_index(fresh(tmp_path / "i"), [files / "a.gif"], Greys())
    next((tmp_path / "i" / "parts").iterdir()).unlink()
    attempts = []

    def work(index):
        attempts.append(1)
        return list(index.curves(lambda part: part["times"]))
    with pytest.raises(ValueError, match="parts/frames-.*found nothing"):
        with_index(Index.open(tmp_path / "i"), work)
    assert len(attempts) == 1


def test_another_process_that_keeps_the_lock_is_named(tmp_path, files, monkeypatch):
    monkeypatch.setattr(index_changes, "WAIT_SECONDS", 0.1)
    with index_changes.lock_folder(tmp_path / "i"):
        with pytest.raises(ValueError, match="is being written by another process"):
            update_index(fresh(tmp_path / "i"), [files / "a.gif"], Greys())


def test_runs_with_other_options_do_not_share_an_index(tmp_path, files):
    update_index(fresh(tmp_path / "i"), [files / "0.png"], Greys())
    other = Index(tmp_path / "i", BaseModel("greys", "1" * 64), {"rate": 2.0, "change": 0.0})
    before = content_of(tmp_path / "i")
    with pytest.raises(ValueError, match="was made with .*give the same model and options"):
        update_index(other, [files / "1.png"], Greys())
    assert content_of(tmp_path / "i").keys() == before.keys()


# ---- interruptions ------------------------------------------------------------------------------

def test_parts_of_a_killed_run_are_used_or_deleted(tmp_path, files, monkeypatch):
    """A run of the same file uses them; after a week those of other files are deleted."""
    monkeypatch.setattr(indexing, "PART_ROWS", 2)
    monkeypatch.setattr(indexing, "BATCH", 2)
    out = tmp_path / "i"
    for name in ("a.gif", "b.gif"):
        with pytest.raises(KeyboardInterrupt):
            update_index(fresh(out), [files / name], Greys(limit=4))
    assert len(list((out / "parts").iterdir())) == 4 and len(Index.open(out).unfinished) == 2
    again = Greys()
    update_index(fresh(out), [files / "a.gif"], again)
    assert again.count == 2, "two parts of two frames were complete"
    assert len(list((out / "parts").iterdir())) == 3 + 2, "b's may belong to a run that goes on"
    monkeypatch.setattr(index_changes, "ABANDONED_SECONDS", -1)
    update_index(fresh(out), [files / "0.png"], Greys())
    index = Index.open(out)
    assert {p.stem for p in (out / "parts").iterdir()} == {*index.part_names()}
    assert index.unfinished == {} and len(index.entries) == 2


def test_temporary_files_of_killed_runs_are_removed(tmp_path, files):
    update_index(fresh(tmp_path / "i"), [files / "0.png"], Greys())
    for folder in (tmp_path / "i", tmp_path / "i" / "parts"):
        path = folder / f".minilora-{'0' * 16}.tmp"
        path.write_bytes(b"half a part")
        os.utime(path, (1e9, 1e9))
    update_index(fresh(tmp_path / "i"), [files / "1.png"], Greys())
    assert not list((tmp_path / "i").rglob("*.tmp"))


def test_a_full_disk_ends_the_run_and_removes_no_file_from_the_index(tmp_path, files, monkeypatch):
    update_index(fresh(tmp_path / "i"), [files / "a.gif"], Greys())
    animation(files / "a.gif", 9)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(indexing, "save_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        update_index(fresh(tmp_path / "i"), [files / "a.gif"], Greys())
    (_, times, _), = Index.open(tmp_path / "i").curves(lambda part: part["times"])
    assert len(times) == 6


# ---- files of others ----------------------------------------------------------------------------

def test_a_users_files_in_the_folder_stay(tmp_path, files):
    out = tmp_path / "mine"
    out.mkdir()
    for name in ("index.html", "a.png", "groups-1.faiss", "notes.txt", ".hidden"):
        (out / name).write_text(f"my {name}")
    update_index(fresh(out), sorted(files.iterdir()), Greys())
    for name in ("old.pt", "holiday.safetensors", "frames-0.safetensors", "stills-1.pt",
                 f"stills-{'0' * 16}-00000.safetensors", ".x.tmp"):
        (out / "parts" / name).write_text(f"my {name}")
    (out / "parts" / "linked.safetensors").symlink_to(out / "notes.txt")
    before = {p: b for p, b in content_of(out).items()
              if isinstance(b, bytes) and b.startswith(b"my ")}
    animation(files / "a.gif", 9)
    update_index(Index.open(out), sorted(files.iterdir()), Greys())
    remove_files(Index.open(out), [files])
    after = content_of(out)
    assert len(before) == 11 and all(after[p] == b for p, b in before.items())
    assert (out / "parts" / "linked.safetensors").is_symlink()


def test_a_part_that_was_changed_since_is_not_deleted(tmp_path, files):
    update_index(fresh(tmp_path / "i"), [files / "a.gif"], Greys())
    part, = (tmp_path / "i" / "parts").iterdir()
    part.write_bytes(b"my own bytes")
    remove_files(Index.open(tmp_path / "i"), [files])
    assert part.read_bytes() == b"my own bytes"
    assert Index.open(tmp_path / "i").parts == {}


def test_a_link_in_the_place_of_a_part_is_neither_followed_nor_deleted(tmp_path, files):
    out, victim = tmp_path / "i", tmp_path / "victim.safetensors"
    update_index(fresh(out), [files / "a.gif"], Greys())
    part, = (out / "parts").iterdir()
    part.rename(victim)
    part.symlink_to(victim)
    with pytest.raises(ValueError, match="parts/frames-.* is a link, not written by minilora"):
        list(Index.open(out).curves(lambda part: part["times"]))
    remove_files(Index.open(out), [files])
    assert victim.exists() and part.is_symlink()


FOREIGN = {"a linked folder of parts": lambda out, victim: (out / "parts").symlink_to(victim),
           "a file called parts": lambda out, victim: (out / "parts").write_text("mine"),
           "parts without an index": lambda out, victim: (
               (out / "parts").mkdir(), (out / "parts" / "a.pt").write_text("mine")),
           "a dangling link": lambda out, victim: (out / "index.json").symlink_to(victim / "new"),
           "a link to an index": lambda out, victim: (out / "index.json").symlink_to(
               victim / "index.json"),
           "a named pipe": lambda out, victim: os.mkfifo(out / "index.json"),
           "a folder": lambda out, victim: (out / "index.json").mkdir(),
           "another index.json": lambda out, victim: (out / "index.json").write_text('{"a": 1}')}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_folder_of_other_origin_is_refused_and_unchanged(tmp_path, files, kind):
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.mkdir()
    update_index(fresh(victim), [files / "a.gif"], Greys())
    (victim / "a.pt").write_text("of somebody else")
    FOREIGN[kind](out, victim)
    before = content_of(tmp_path)
    options = search_run.parser().parse_args(["index", str(files), "--out", str(out)])
    for use in (lambda: update_index(fresh(out), [files / "0.png"], Greys()),
                lambda: Index.open(out), lambda: search_run.run_index(options, print)):
        with pytest.raises(ValueError, match="not written by minilora|is no index that this"):
            use()
    assert content_of(tmp_path) == before


def test_a_strangers_index_deletes_nothing_it_lists_wrongly(tmp_path, files):
    """Names and digests of files that are no parts, runs of any name: nothing is deleted."""
    out = tmp_path / "i"
    update_index(fresh(out), [files / "a.gif"], Greys())
    (out / "parts" / "mine.safetensors").write_text("mine")
    (out / "parts" / f"mine-{'a' * 16}-0.safetensors").write_text("mine")
    saved = json.loads((out / "index.json").read_text())
    saved["parts"]["mine"] = "0" * 64
    saved["unfinished"]["b" * 16] = 0
    (out / "index.json").write_text(json.dumps(saved))
    end_run(Index.open(out))
    assert len(list((out / "parts").iterdir())) == 3


def test_a_query_writes_nothing_beside_the_index(tmp_path, files, tiny_weights, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = lambda *arguments: (lambda o: o.run(o, lambda line: None))(
        search_run.parser().parse_args(arguments))
    out = tmp_path / "i"
    run("index", str(files), "--out", str(out), "--model", str(tiny_weights))
    before = content_of(out)
    for extra in ((), ("--fast",)):
        run("query", str(out), "a gear", "--model", str(tiny_weights), *extra)
    assert content_of(out) == before
    assert len(list((tmp_path / "cache").rglob("*.faiss"))) == 1


def test_faiss_reads_no_file_of_the_index_folder(tmp_path, files, monkeypatch):
    """A forged one would meet a C++ parser; and without a cache the lists stay in memory."""
    faiss = pytest.importorskip("faiss")
    update_index(fresh(tmp_path / "i"), sorted(files.iterdir()), Greys())
    index, read = Index.open(tmp_path / "i"), []
    real = faiss.read_index
    monkeypatch.setattr(faiss, "read_index", lambda path, *a: read.append(path) or real(path, *a))
    monkeypatch.setattr(faiss_index, "cache_folder", lambda: None)
    assert faiss_index.inverted_index_path(index) is None
    assert len(faiss_index.nearest_files(index, torch.ones(2))) == 6 and read == []
    monkeypatch.setattr(faiss_index, "cache_folder", lambda: tmp_path / "cache")
    for name in ("groups-0.faiss", faiss_index.inverted_index_path(index).name):
        (tmp_path / "i" / name).write_bytes(b"IwFl" + b"\xff" * 100)
    for _ in range(2):
        assert len(faiss_index.nearest_files(index, torch.ones(2))) == 6
    assert [Path(p).parent for p in read] == [tmp_path / "cache" / "search"]
    Path(read[0]).write_bytes(b"damaged")
    assert len(faiss_index.nearest_files(index, torch.ones(2))) == 6, "built again"
    with pytest.raises(ValueError, match="features of 2 numbers, the query has 3"):
        faiss_index.nearest_files(index, torch.ones(3))


def test_a_pipe_among_the_files_is_named_and_not_opened(tmp_path, files):
    os.mkfifo(files / "pipe.png")
    (files / "folder.png").mkdir()
    failed = update_index(fresh(tmp_path / "i"), [files / "pipe.png", files / "folder.png",
                                                  files / "0.png"], Greys())
    assert [(Path(p).name, "expected a picture or a video" in e) for p, e in failed] == [
        ("pipe.png", True), ("folder.png", True)]


# ---- options and names --------------------------------------------------------------------------

WRONG = {"-k 0": "-k", "-k -3": "-k", "--smooth nan": "--smooth", "--smooth -1": "--smooth",
         "--gap inf": "--gap", "--gap -1": "--gap", "--device quantum": "--device",
         "--reads=": "--reads", "--without=": "--without"}
WRONG_INDEX = {"--rate nan": "--rate", "--rate 0": "--rate", "--rate inf": "--rate",
               "--rate -1": "--rate", "--change nan": "--change", "--change 256": "--change"}


@pytest.mark.parametrize("option", [*WRONG, *WRONG_INDEX])
def test_a_wrong_option_is_named_before_any_work(option, capsys):
    start = ["query", "nowhere", "a gear"] if option in WRONG else ["index", "nowhere"]
    with pytest.raises(SystemExit) as stop:
        search_run.parser().parse_args(start + option.split())
    assert stop.value.code == 2 and (WRONG | WRONG_INDEX)[option] in capsys.readouterr().err


@pytest.mark.parametrize("words, message", [
    ([""], "an empty text"), (["  "], "an empty text"), (["a gear without "], "an empty text"),
    ([], "nothing to look for"),
    (["gear " * 80], "has 8[0-9] tokens .*at most 77; give a shorter text"),
    (["--like", "absent.png"], "absent.png"), (["--like", "/dev/zero"], "is a device"),
    (["--reads", "\x1b["], "neither letter"),
    (["a", "--reads", "b"], "either --reads or")])
def test_a_query_that_cannot_be_answered_is_refused_before_the_model_is_loaded(
        tmp_path, files, words, message, monkeypatch):
    update_index(fresh(tmp_path / "i"), [files / "0.png"], Greys())
    monkeypatch.setattr(search_run, "load_clip", lambda *a: pytest.fail("loaded"))
    options = search_run.parser().parse_args(["query", str(tmp_path / "i"), *words])
    with pytest.raises((ValueError, OSError), match=message) as caught:
        search_run.run_query(options, print)
    assert str(caught.value).isprintable()


def test_names_from_an_index_are_escaped(tmp_path):
    forged = "/a/x\n  1   0.999  /good.png\x1b[2J.png"
    line = results.event_line(1, Event(forged, 0, 0, 0, 0.5))
    assert line.isprintable() and "\\n" in line
    html = results.result_page("<script>", [Event(f"{forged}<img src=x>\udce9", 0, 0, 0, 0.5)], {
        f"{forged}<img src=x>\udce9": (torch.zeros(1), torch.zeros(1))}, {
        (f"{forged}<img src=x>\udce9", 0): Image.new("RGB", (8, 8))})
    html.encode()
    assert "\x1b" not in html and "<script>" not in html and "<img src" not in html
    assert "href" not in html


def test_files_of_one_name_are_shown_with_their_folder():
    names = results.short_names(["/a/b/x.png", "/a/c/x.png", "/a/y.png", "/1/d/z.png",
                                 "/2/d/z.png"])
    assert names == {"/a/b/x.png": "b/x.png", "/a/c/x.png": "c/x.png", "/a/y.png": "y.png",
                     "/1/d/z.png": "/1/d/z.png", "/2/d/z.png": "/2/d/z.png"}
