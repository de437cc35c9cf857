"""Notes about files: each kind is one line, with the first file and the number of others."""
from concurrent.futures import ThreadPoolExecutor

from minilora.io import notes
from minilora.io.notes import note, take_notes


def test_a_kind_of_note_is_one_line_however_many_files_it_has():
    take_notes()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda k: note("dark", f"{k % 500:03}.png"), range(2000)))
    (line,) = take_notes()
    assert line.endswith(" and 499 more files: dark")
    assert take_notes() == []


def test_the_name_of_a_file_cannot_forge_a_line():
    note("dark", "a.png\nOK  b.png\x1b[2J")
    (line,) = take_notes()
    assert line.isprintable() and "\\nOK" in line


def test_the_memory_for_names_is_limited(monkeypatch):
    monkeypatch.setattr(notes, "MAX_NOTED", 10)
    for k in range(100):
        note("dark", k)
    assert take_notes() == ["0 and at least 9 more files: dark"]
