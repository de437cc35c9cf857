"""Version, date and citation: the files that name them agree."""
import re

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
