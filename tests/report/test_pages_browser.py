"""Pages in a browser: nothing leaves a phone's screen, tables sort by keyboard, dark is dark."""
import re

import pytest
from browser import backgrounds, console_errors, show, sideways

from minilora import explain
from minilora.detector import Detector
from minilora.report import html


@pytest.fixture(scope="module")
def pages(gear_run, tmp_path_factory):
    """{name: address} of the page of a run and of the page that explains a picture."""
    out, data = gear_run
    path = tmp_path_factory.mktemp("page") / "explain.html"
    body = explain.explain(Detector.open(out), data / "test" / "good" / "000.png")
    path.write_text(html.document("explain", body), "utf-8")
    return {"run": (out / "report.html").as_uri(), "explain": path.as_uri()}


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("name", ["run", "explain"])
def test_a_page_does_not_scroll_sideways_and_follows_the_colours(browser, pages, name, width,
                                                                  dark):
    show(browser, pages[name], width, dark=dark)
    assert sideways(browser) == 0 and console_errors(browser) == []
    text, back = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in backgrounds(browser))
    assert (text > back) == dark
    columns = browser.execute_script(                       # none is off the screen
        "return [...document.querySelectorAll('.wide')].map(e => e.scrollWidth - e.clientWidth)")
    assert columns and max(columns) <= 1


def test_long_names_do_not_widen_a_page(browser, tmp_path):
    table = html.sortable_table(("file", "score"), [("x" * 300, "0.1"), ("y_z" * 90, "0.2")],
                                kind="scroll")
    path = tmp_path / "page.html"
    path.write_text(html.document("t", f"<h1>{'x' * 300}</h1>{table}"), "utf-8")
    show(browser, path.as_uri(), 400)
    assert sideways(browser) == 0


@pytest.fixture
def table_page(browser, tmp_path):
    """A shown page with a table of words, numbers and a missing value, and a fixed mean."""
    table = html.explained_table(("class", "AUROC", "note"), [
        ("nut", ["97.0", "b"]), ("bolt", ["–", "c"]), ("pin", ["100.0", "a"]),
        ("mean", ["98.5", ""])], fixed=1)
    path = tmp_path / "page.html"
    path.write_text(html.document("t", table), "utf-8")
    show(browser, path.as_uri())
    return browser


def first_column(browser):
    """The first cell of each row of the table, from above."""
    return [row.find_element("css selector", "td").text
            for row in browser.find_elements("css selector", "tbody tr, tfoot tr")]


def press(browser, times, key):
    """Tab `times` times, then a key, with the focus where it is."""
    from selenium.webdriver import ActionChains, Keys
    chain = ActionChains(browser)
    for _ in range(times):
        chain.send_keys(Keys.TAB)
    chain.send_keys(key).perform()


def test_a_table_is_sorted_by_keyboard_and_says_so(table_page):
    assert first_column(table_page) == ["nut", "bolt", "pin", "mean"]
    head = table_page.find_elements("css selector", "th")[1]
    head.find_element("css selector", "button").send_keys("\ue007")          # Enter
    assert first_column(table_page) == ["nut", "pin", "bolt", "mean"], "97 < 100; the dash last"
    assert head.get_attribute("aria-sort") == "ascending"
    press(table_page, 0, " ")
    assert first_column(table_page) == ["pin", "nut", "bolt", "mean"]
    assert head.get_attribute("aria-sort") == "descending"
    press(table_page, 1, " ")                                                # the next heading
    assert first_column(table_page) == ["pin", "nut", "bolt", "mean"], "a, b, c"
    assert head.get_attribute("aria-sort") is None, "one column decides"


def test_words_are_sorted_as_words(table_page):
    table_page.find_element("css selector", "th button").click()
    assert first_column(table_page) == ["bolt", "nut", "pin", "mean"]


def test_without_scripts_the_table_is_complete(browser, tmp_path):
    table = html.explained_table(("class", "AUROC", ""), [("nut", ["97.0", "words"])])
    path = tmp_path / "page.html"
    path.write_text(html.document("t", table), "utf-8")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, path.as_uri())
        assert "AUROC" in browser.find_element("css selector", "thead").text
        assert browser.find_elements("css selector", "th button") == []
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
