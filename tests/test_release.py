"""Version, date, citation and extras: the files that name them agree."""
import ast
import re
import sys

from conftest import REPO

import minilora

CITATION = (REPO / "CITATION.cff").read_text("utf-8")
CHANGES = (REPO / "CHANGELOG.md").read_text("utf-8")


def value(key):
    """The value of a key of CITATION.cff that stands on one line."""
    return re.search(rf"^{key}: (.+)$", CITATION, re.MULTILINE)[1].strip('"')


def test_the_citation_has_the_keys_that_its_format_requires_and_the_version_of_the_package():
    """cff-version 1.2.0 requires cff-version, message, title and authors."""
    assert value("cff-version") == "1.2.0" and value("message") and value("title")
    assert re.search(r"^authors:\n  - name: .+$", CITATION, re.MULTILINE)
    assert value("version") == minilora.__version__ and value("license") == "MIT"


def test_the_newest_change_is_this_version_and_the_date_is_that_of_the_citation():
    newest, older = re.findall(r"^## \[(.+)\] - (\d{4}-\d\d-\d\d)$", CHANGES, re.MULTILINE)[:2]
    assert newest == (minilora.__version__, value("date-released"))
    assert newest > older


def test_a_source_archive_holds_both_and_the_page_of_the_interface():
    included = (REPO / "MANIFEST.in").read_text("utf-8").split()
    assert {"CITATION.cff", "CHANGELOG.md", "minilora/API.md"} <= set(included)


def imported(path):
    """Names of all packages that a file imports."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_the_extra_test_names_every_package_that_tests_and_notebook_import():
    """A package that only happens to be there would be missing in a fresh environment."""
    setup = (REPO / "setup.py").read_text("utf-8")
    named = re.findall(r'"([\w-]+)', re.search(r'"test": \[(.+?)\]', setup, re.DOTALL)[1])
    named += re.findall(r'"([\w-]+)', re.search(r"install_requires=\[(.+?)\]", setup)[1])
    assert {"nbclient", "ipykernel"} <= {*named}, "the notebook is executed"
    own = {path.stem for path in (REPO / "tests").rglob("*.py")} | {"bench", "minilora"}
    here = set().union(*(imported(path) for path in (REPO / "tests").rglob("*.py")))
    spelled = {"PIL": "pillow", "sklearn": "scikit-learn", "faiss": "faiss-cpu"}
    foreign = {spelled.get(name, name) for name in here - own - set(sys.stdlib_module_names)}
    # setuptools comes with the installation, safetensors with transformers
    assert foreign - {"setuptools", "safetensors"} <= {*named}
    extras = re.findall(r'^        "(\w+)": \[', setup, re.MULTILINE)
    assert len(extras) == len({*extras}), "a second list of one name replaces the first"
