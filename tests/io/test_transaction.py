"""A folder of results changes completely or not at all, and only what its record lists."""
import errno
import json
import os

import pytest

from minilora.io import transaction
from minilora.io.files import sha256_of
from minilora.io.lock import HELD_FILE, LOCK_FILE
from minilora.io.record import RECORD_FILE, read_record

STAGED = f"{transaction.STAGING}test"
NAMES = ("one", "two", "maps/*.png")


def write(folder, **files):
    with transaction.atomic_folder(folder, "test", NAMES) as staging:
        put(staging, **files)


def put(folder, **files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def content(folder):
    """{name: text, or what else it is} of everything in a folder."""
    return {str(p.relative_to(folder)): os.readlink(p) if p.is_symlink() else
            p.read_text() if p.is_file() else os.lstat(p).st_mode for p in folder.rglob("*")}


def visible(folder):
    return {name: text for name, text in content(folder).items()
            if not name.startswith(".") and isinstance(text, str)}


def test_all_files_are_moved_into_place_and_no_other_file_is_touched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with transaction.atomic_folder(tmp_path, "test", NAMES) as staging:
        put(staging, one="1", **{"maps/a.png": "a"})
        assert not (tmp_path / "one").exists()
    assert visible(tmp_path) == {"one": "1", "maps/a.png": "a", "notes.txt": "mine"}
    assert sorted(p for p in os.listdir(tmp_path) if p.startswith(".")) == [RECORD_FILE, LOCK_FILE]
    assert read_record(tmp_path) == {"test": {name: sha256_of(tmp_path / name)
                                              for name in ("maps/a.png", "one")}}


def test_an_error_leaves_the_earlier_result_and_the_resume_file_only(tmp_path):
    write(tmp_path, one="old", two="old")
    with pytest.raises(KeyboardInterrupt), \
            transaction.atomic_folder(tmp_path, "test", NAMES) as staging:
        put(staging, one="new", **{"maps/a.png": "new", transaction.RESUME_FILE: "half-way"})
        raise KeyboardInterrupt
    assert visible(tmp_path) == {"one": "old", "two": "old"}
    assert os.listdir(tmp_path / STAGED) == [transaction.RESUME_FILE]
    with transaction.atomic_folder(tmp_path, "other", ["three"]) as staging:
        assert not list(staging.iterdir())
    with transaction.atomic_folder(tmp_path, "test", NAMES) as staging:
        assert [p.name for p in staging.iterdir()] == [transaction.RESUME_FILE]
        (staging / "one").write_text("newest")
    assert (tmp_path / "one").read_text() == "newest"
    assert not (tmp_path / STAGED).exists() and not (tmp_path / transaction.RESUME_FILE).exists()


def test_files_that_only_the_earlier_result_had_are_deleted(tmp_path):
    write(tmp_path, one="old", two="old", **{"maps/a.png": "old"})
    put(tmp_path, **{"maps/notes.txt": "mine"})
    write(tmp_path, one="new", **{"maps/b.png": "new"})
    assert visible(tmp_path) == {"one": "new", "maps/b.png": "new", "maps/notes.txt": "mine"}


def test_a_block_that_writes_nothing_replaces_nothing(tmp_path):
    write(tmp_path, one="old")
    write(tmp_path)
    assert visible(tmp_path) == {"one": "old"} and "one" in read_record(tmp_path)["test"]
    assert list(tmp_path.glob(f"{transaction.STAGING}*")) == []


@pytest.mark.parametrize("name", ["one", "maps/mine.png"])
def test_a_file_of_other_origin_is_refused_before_the_work(tmp_path, name):
    put(tmp_path, **{name: "mine"})
    with pytest.raises(ValueError, match=f"{name} was not written by minilora.*another --out"):
        with transaction.atomic_folder(tmp_path, "test", NAMES):
            pytest.fail("the block was entered")
    assert visible(tmp_path) == {name: "mine"}


def test_a_result_that_was_changed_or_belongs_to_another_command_is_refused(tmp_path):
    write(tmp_path, one="old")
    with pytest.raises(ValueError, match=r"one belongs to .* another command \(test\)"):
        with transaction.atomic_folder(tmp_path, "other", ["one"]):
            pass
    (tmp_path / "one").write_text("corrected by hand")
    with pytest.raises(ValueError, match="one was changed since minilora wrote it; move it away"):
        write(tmp_path, one="new")
    assert visible(tmp_path) == {"one": "corrected by hand"}


def test_a_file_that_appears_during_the_work_is_not_replaced(tmp_path):
    with pytest.raises(ValueError, match="one was not written by minilora"):
        with transaction.atomic_folder(tmp_path, "test", NAMES) as staging:
            put(staging, one="new")
            put(tmp_path, one="mine")
    assert visible(tmp_path) == {"one": "mine"}
    (tmp_path / "one").unlink()
    transaction.recover(tmp_path, "test", NAMES)
    assert visible(tmp_path) == {"one": "new"}          # the work was not lost


def test_what_a_command_reads_is_not_among_what_it_replaces(tmp_path):
    write(tmp_path, **{"maps/a.png": "picture"})
    (tmp_path / "link").symlink_to(tmp_path / "maps" / "a.png")
    for path in (tmp_path / "maps" / "a.png", tmp_path / "link"):
        with pytest.raises(ValueError, match="a.png is read by this command"):
            with transaction.atomic_folder(tmp_path, "test", NAMES, [path]):
                pass
    with transaction.atomic_folder(tmp_path, "other", ["three"], [tmp_path / "maps" / "a.png"]):
        pass
    assert (tmp_path / "maps" / "a.png").read_text() == "picture"


@pytest.mark.parametrize("make", [lambda p, home: p.symlink_to(home), lambda p, home: p.mkdir(),
                                  lambda p, home: os.mkfifo(p),
                                  lambda p, home: p.symlink_to(home / "nothing")])
@pytest.mark.parametrize("name", ["one", RECORD_FILE, LOCK_FILE])
def test_anything_but_a_regular_file_is_refused(tmp_path, name, make):
    home, run = tmp_path / "home", tmp_path / "run"
    put(home, a="mine")
    run.mkdir()
    make(run / name, home)
    before = content(tmp_path)
    with pytest.raises(ValueError, match="is a |is not as minilora"):
        write(run, one="new")
    after = content(tmp_path)
    assert before.items() <= after.items() and after.keys() - before.keys() <= {f"run/{LOCK_FILE}"}


def test_a_users_folder_that_looks_like_a_staging_folder_is_refused(tmp_path):
    put(tmp_path / STAGED, one="mine", **{"maps/a.png": "mine", "notes.txt": "mine"})
    before = content(tmp_path / STAGED)
    with pytest.raises(ValueError, match=f"{STAGED} was not written by minilora"):
        write(tmp_path, one="new")
    assert content(tmp_path / STAGED) == before


def test_files_of_other_names_in_the_staging_folder_are_not_touched(tmp_path):
    with pytest.raises(KeyboardInterrupt), transaction.atomic_folder(tmp_path, "test", NAMES) as at:
        put(at, one="half", **{transaction.RESUME_FILE: "half-way"})
        raise KeyboardInterrupt
    put(tmp_path / STAGED, one="half", **{"thesis.doc": "mine"})
    with pytest.raises(ValueError, match="thesis.doc is a file that was not written by minilora"):
        write(tmp_path, one="new")
    (tmp_path / STAGED / "thesis.doc").rename(tmp_path / STAGED / ".DS_Store")
    write(tmp_path, one="new")
    assert content(tmp_path / STAGED) == {".DS_Store": "mine"}


# ---- a stranger's folder ------------------------------------------------------------------------

def forge(folder, listed, staged=(), recorded=None):
    """A folder as a stranger could send it: with a record, a staging folder and a journal."""
    (folder / STAGED).mkdir(parents=True, exist_ok=True)
    put(folder / STAGED, **dict(staged))
    record = {"version": 1, "results": {"test": recorded or {}}}
    (folder / RECORD_FILE).write_text(json.dumps(record))
    text = listed if isinstance(listed, str) else json.dumps(
        {"version": 1, "results": {"test": listed}})
    (folder / STAGED / transaction.COMMIT_RECORD).write_text(text)


NOTHING = "0" * 64
FORGED = {
    "a journal that leads out": ({"../victim.png": NOTHING}, "expected names with their sha256"),
    "an absolute name": ({"/etc/passwd": NOTHING}, "expected names with their sha256"),
    "a hidden name": ({RECORD_FILE: NOTHING}, "expected names with their sha256"),
    "a name of another command": ({"report.html": NOTHING}, "does not fit report.html"),
    "another content": ({"one": NOTHING}, "does not fit one"),
    "a digest that is none": ({"one": "x"}, "expected names with their sha256"),
    "a list of an earlier version": ("one\n..\nmaps", "it is no JSON"),
    "a deep list": ("[" * 100_000, "nested too deep"),
    "many lists": ("[" + "[]," * 400_000 + "0]", "at most 300,000 lists"),
    "another file": ("[1, 2]", "expected named values"), "nothing": ("", "it is no JSON")}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_journal_is_refused_and_nothing_changes(tmp_path, case):
    run = tmp_path / "run"
    put(tmp_path, **{"victim.png": "mine", "run/report.html": "mine", "run/maps/b.png": "mine"})
    listed, message = FORGED[case]
    forge(run, listed, {"one": "theirs"})
    before = content(tmp_path)
    for act in (lambda: write(run, one="new"), lambda: transaction.recover(run, "test", NAMES)):
        with pytest.raises(ValueError, match=message):
            act()
        assert {name: text for name, text in content(tmp_path).items()
                if not name.endswith(LOCK_FILE)} == before


def test_a_journal_alone_deletes_and_replaces_nothing(tmp_path):
    """The stranger even knows the digest of the user's file."""
    put(tmp_path, one="mine", two="mine")
    forge(tmp_path, {"one": sha256_of(tmp_path / "one")}, {"one": "mine"})
    with pytest.raises(ValueError, match="one was not written by minilora"):
        write(tmp_path, one="new")
    assert visible(tmp_path) == {"one": "mine", "two": "mine"}


def test_a_record_with_another_digest_deletes_nothing(tmp_path):
    put(tmp_path, one="mine")
    forge(tmp_path, {"two": NOTHING}, {}, {"one": NOTHING})
    with pytest.raises(ValueError, match="one was not written by minilora"):
        write(tmp_path, two="new")
    assert visible(tmp_path) == {"one": "mine"}


@pytest.mark.parametrize("place", [STAGED, f"{STAGED}/complete", f"{STAGED}/one", f"{STAGED}/maps",
                                   f"{STAGED}/maps/a.png", f"{STAGED}/unfinished.safetensors",
                                   f"{STAGED}/.minilora-0123456789abcdef.tmp", "maps", "maps/a.png",
                                   "one"])
def test_a_link_anywhere_in_what_a_command_owns_is_refused(tmp_path, place):
    home, run = tmp_path / "home", tmp_path / "run"
    put(home, **{"a.png": "mine", "one": "mine"})
    put(run / STAGED, one="theirs", **{"maps/a.png": "theirs"})
    forge(run, {name: sha256_of(run / STAGED / name) for name in ("one", "maps/a.png")})
    target = home if place in (STAGED, f"{STAGED}/maps", "maps") else home / "a.png"
    if (run / place).exists():
        (run / place).rename(tmp_path / "aside")
    (run / place).parent.mkdir(exist_ok=True)
    (run / place).symlink_to(target)
    before = content(tmp_path)
    with pytest.raises(ValueError, match="is a link|not as minilora writes it .*link"):
        write(run, one="new")
    assert {name: text for name, text in content(tmp_path).items()
            if not name.endswith(LOCK_FILE)} == before


def test_a_journal_that_is_a_pipe_or_a_device_makes_nobody_wait(tmp_path):
    forge(tmp_path, {})
    for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path)):
        (tmp_path / STAGED / "complete").unlink()
        make(tmp_path / STAGED / "complete")
        for act in (lambda: write(tmp_path, one="new"),
                    lambda: transaction.result_path(tmp_path, "one", "test")):
            with pytest.raises(ValueError, match="is a named pipe|is a link"):
                act()


# ---- crashes ------------------------------------------------------------------------------------

def crash(monkeypatch, call, last):
    """From now on the process dies at the `last`-th call of os.replace, os.unlink or os.rmdir."""
    calls, real = [], getattr(os, call)

    def deadly(*arguments, **options):
        calls.append(arguments)
        if len(calls) == last:
            raise SystemExit("killed")
        return real(*arguments, **options)
    monkeypatch.setattr(os, call, deadly)
    monkeypatch.setattr(transaction, "clear_staging", killed_clear(transaction.clear_staging, calls,
                                                                   last))
    return calls


def killed_clear(real, calls, last):
    """A dead process does not tidy up."""
    return lambda *arguments, **options: None if len(calls) >= last else real(*arguments, **options)


OLD, NEW = {"one": "old", "two": "old", "maps/a.png": "old"}, {"one": "new", "maps/b.png": "new"}


@pytest.mark.parametrize("call, last", [("replace", k) for k in range(1, 5)]
                         + [("unlink", k) for k in range(1, 4)] + [("rmdir", 1), ("rmdir", 2)])
def test_a_crash_leaves_the_old_result_or_the_new_one(tmp_path, call, last, monkeypatch):
    write(tmp_path, **OLD)
    calls = crash(monkeypatch, call, last)
    try:
        write(tmp_path, **NEW)
    except SystemExit:
        pass
    monkeypatch.undo()
    assert len(calls) >= last
    seen = {name: path.read_text() for name in {**OLD, **NEW}
            if (path := transaction.result_path(tmp_path, name, "test")).exists()}
    assert seen in (OLD, NEW)
    transaction.recover(tmp_path, "test", NAMES)
    assert visible(tmp_path) == seen
    assert read_record(tmp_path)["test"] == {n: sha256_of(tmp_path / n) for n in seen}
    write(tmp_path, one="newest")
    assert visible(tmp_path) == {"one": "newest"}
    assert sorted(p for p in os.listdir(tmp_path) if p.startswith(".")) == [RECORD_FILE, LOCK_FILE]


def test_a_crash_before_the_last_step_leaves_nothing_for_long(tmp_path):
    """The empty staging folder; the user's of the same name stays."""
    write(tmp_path, one="new")
    for purpose in ("test", "other"):
        (tmp_path / f"{transaction.STAGING}{purpose}").mkdir()
        transaction.recover(tmp_path, purpose, NAMES)
    assert [p.name for p in tmp_path.glob(f"{transaction.STAGING}*")] == [".unfinished-other"]
    assert (tmp_path / "one").read_text() == "new"


def test_a_reader_sees_a_committed_result_and_changes_nothing(tmp_path, monkeypatch):
    write(tmp_path, **OLD)
    crash(monkeypatch, "replace", 3)                    # the journal is there, one file is moved
    with pytest.raises(SystemExit):
        write(tmp_path, **NEW)
    monkeypatch.undo()
    before = content(tmp_path)
    paths = {name: transaction.result_path(tmp_path, name, "test") for name in {**OLD, **NEW}}
    assert {name: path.read_text() for name, path in paths.items() if path.exists()} == NEW
    assert {path.parent.name for path in paths.values()} > {STAGED, tmp_path.name}
    assert content(tmp_path) == before
    assert transaction.result_path(tmp_path / "absent", "one") == tmp_path / "absent" / "one"


@pytest.mark.parametrize("place", ["maps", "maps/a.png"])
def test_a_reader_follows_no_link(tmp_path, place):
    put(tmp_path / "home", **{"a.png": "mine"})
    (tmp_path / "run" / place).parent.mkdir(parents=True)
    (tmp_path / "run" / place).symlink_to(tmp_path / "home" / ("a.png" if "." in place else ""))
    with pytest.raises(ValueError, match="is a link"):
        transaction.result_path(tmp_path / "run", "maps/a.png")


def test_temporary_files_of_a_killed_process_are_deleted(tmp_path):
    with pytest.raises(SystemExit), transaction.atomic_folder(tmp_path, "test", NAMES) as staging:
        put(staging, one="half", **{transaction.RESUME_FILE: "half-way"})
        raise SystemExit
    left = [tmp_path / STAGED / ".minilora-0123456789abcdef.tmp",
            tmp_path / ".minilora-fedcba9876543210.tmp"]
    for path in left:
        path.write_text("half")
        os.utime(path, (1, 1))
    write(tmp_path, one="new")
    assert sorted(os.listdir(tmp_path)) == [RECORD_FILE, LOCK_FILE, "one"]


def test_without_locks_a_second_writer_is_refused_all_the_same(tmp_path, monkeypatch):
    import fcntl

    def none(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(fcntl, "flock", none)
    with transaction.atomic_folder(tmp_path, "test", NAMES) as staging:
        put(staging, one="first")
        with pytest.raises(ValueError, match=f"another process.*remove .*{HELD_FILE}"):
            write(tmp_path, one="second")
    write(tmp_path, one="third")
    assert visible(tmp_path) == {"one": "third"} and not (tmp_path / HELD_FILE).exists()
