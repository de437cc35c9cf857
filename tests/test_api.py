"""The Python interface: what is exported, and that its page is true."""
import doctest
import re

from conftest import REPO

import minilora
from bench import api

PAGE = REPO / "minilora" / "API.md"


def test_every_exported_name_is_there_and_is_what_it_is_called():
    for name in minilora.__all__:
        assert getattr(minilora, name).__name__ == name
        assert getattr(minilora, name).__module__.startswith("minilora.") and name in dir(minilora)


def test_the_page_is_the_one_that_bench_api_writes():
    assert PAGE.read_text("utf-8") == api.page(), "run python -m bench.api"


def test_the_page_shows_every_exported_name():
    assert set(minilora.__all__) <= set(re.findall(r"^## `(.+)`$", PAGE.read_text("utf-8"), re.M))


def test_every_example_of_the_page_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```pycon\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 1 + len(api.EXAMPLES)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "API.md", str(PAGE), 0)
    report = []
    failed, tried = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert failed == 0 and tried > 40, "".join(report)
