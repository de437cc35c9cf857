"""The page of `minilora serve` in a browser: upload, keyboard, phone, dark mode, hostile names."""
import base64
import csv
import re
import time

import pytest
from browser import backgrounds, console_errors, show, sideways
from PIL import Image
from serving import encoded, noise, serving

# What a file may be called on some disk, and must never be on a page
HOSTILE = ("<img src=x onerror=\"window.hacked=1\">'.png", "a\nb.png", "\u202egnp.exe",
           "=cmd()|' /C calc'!A0.png", "</script><script>window.hacked=1</script>.png", "x" * 300)


@pytest.fixture(scope="module")
def gear(gear_run):
    """A running server of the tiny model."""
    with serving(gear_run[0]) as server:
        yield server


@pytest.fixture
def pictures(gear_run, tmp_path):
    """Paths {"good", "ng", "text"} of a good picture, one like none of them, and a text."""
    paths = {name: tmp_path / f"{name}.png" for name in ("good", "ng", "text")}
    paths["good"].write_bytes((gear_run[1] / "train" / "good" / "000.png").read_bytes())
    paths["ng"].write_bytes(encoded(noise()))
    paths["text"].write_text("no picture")
    return paths


@pytest.fixture
def page(browser, gear):
    """The page, freshly opened, with an empty history."""
    gear.history._entries.clear()
    show(browser, gear.access.address("127.0.0.1"))
    return browser


def element(page, name):
    return page.find_element("id", name)


def choose(page, *paths):
    """Uploads files by the page's own button, and waits for the answers."""
    before = rows(page)
    element(page, "files").send_keys("\n".join(map(str, paths)))
    wait(page, before + len(paths))


def drop(page, content, name):
    """Drops a file of this name on the page, and waits for the answer."""
    before = rows(page)
    opened = page.execute_script(
        "const bytes = Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0));"
        "const data = new DataTransfer(); data.items.add(new File([bytes], arguments[1]));"
        "return document.getElementById('drop').dispatchEvent(new DragEvent('drop', "
        "{dataTransfer: data, bubbles: true, cancelable: true}));",
        base64.b64encode(content).decode(), name)
    assert not opened                               # the browser must not open the file itself
    wait(page, before + 1)


def rows(page):
    return page.execute_script("return document.querySelectorAll('#history tbody tr').length")


def wait(page, count, seconds=20):
    """Until the history has so many rows and nothing is in the queue."""
    end = time.monotonic() + seconds
    while rows(page) < count or element(page, "progress").text:
        assert time.monotonic() < end, element(page, "progress").text
        time.sleep(0.02)


def test_a_good_picture_is_ok_and_another_ng_in_words(page, pictures):
    assert not page.find_element("css selector", ".photo").is_displayed()
    choose(page, pictures["good"])
    assert element(page, "decision").text == "OK"
    assert re.fullmatch(r"good\.png: score \d\.\d{3}, not above the threshold \d\.\d{3}",
                        element(page, "words").text)
    choose(page, pictures["ng"])
    assert element(page, "decision").text == "NG"
    assert ", above the threshold" in element(page, "words").text
    assert "does not look like that there" in element(page, "sentence").text
    loaded = page.execute_script("return [...document.images].filter(i => i.src)"
                                 ".map(i => i.complete && i.naturalWidth > 0)")
    assert len(loaded) == 6 and all(loaded)         # picture, map, two crops, two thumbnails
    assert console_errors(page) == []


def test_several_pictures_are_queued_and_one_that_is_none_stops_nothing(page, pictures):
    choose(page, pictures["good"], pictures["text"], pictures["ng"])
    words = [row.text.split()[1] for row in page.find_elements("css selector", "#history tr")[1:]]
    assert words == ["NG", "cannot", "OK"]          # the newest on top
    listed = page.find_elements("css selector", "#history tbody tr")[1].text
    assert "text.png" in listed and "not a picture" in listed and "not scored" in listed
    show(page, page.current_url)                    # loaded again: the history is still there
    wait(page, 3)
    assert element(page, "decision").text == ""


def test_hostile_names_are_text_on_the_page(page):
    content = encoded(noise())
    for name in HOSTILE:
        drop(page, content, name)
        assert element(page, "decision").text == "NG"
    table = element(page, "history").text
    assert HOSTILE[0] in table and "a\\nb.png" in table and "\\u202egnp.exe" in table
    assert page.execute_script("return window.hacked") is None
    assert page.find_elements("css selector", "img[src=x]") == []
    assert sideways(page) == 0 and console_errors(page) == []


def test_an_upload_of_100_mb_is_refused_in_words_and_the_page_goes_on(page, pictures, tmp_path):
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(100_000_000)
    choose(page, large, pictures["good"])
    assert "100.0 MB; expected at most 20 MB" in element(page, "history").text
    assert element(page, "decision").text == "OK"


def test_the_keyboard_reaches_everything_and_the_focus_is_seen(page, pictures, tmp_path):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow",
                                                         "downloadPath": str(tmp_path)})
    choose(page, pictures["ng"])
    reached = []
    page.execute_script("const top = document.createElement('span'); top.tabIndex = 0;"
                        "document.body.prepend(top); top.focus()")          # Tab starts at the top
    for name in ("files", "toggle", "csv"):
        ActionChains(page).send_keys(Keys.TAB).perform()
        reached.append(page.switch_to.active_element.get_attribute("id"))
        assert page.execute_script(
            "const e = document.activeElement;"
            "return getComputedStyle(e.closest('.button') || e).outlineStyle") == "solid"
        if name == "toggle":
            assert element(page, "map").is_displayed()
            ActionChains(page).send_keys(Keys.SPACE).perform()
            assert not element(page, "map").is_displayed()
    assert reached == ["files", "toggle", "csv"]
    ActionChains(page).send_keys(Keys.ENTER).perform()
    saved = tmp_path / "minilora-history.csv"
    for _ in range(200):
        if saved.is_file() and saved.stat().st_size:
            break
        time.sleep(0.05)
    assert [row["file"] for row in csv.DictReader(saved.open())] == ["ng.png"]


def test_the_result_is_read_out(page):
    live = page.execute_script("return document.getElementById('decision').parentElement"
                               ".getAttribute('aria-live')")
    assert live == "polite" and element(page, "progress").get_attribute("role") == "status"


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_it_without_scrolling_sideways(page, gear, pictures, dark):
    show(page, gear.access.address("127.0.0.1"), width=400, dark=dark)
    choose(page, pictures["ng"], pictures["text"])
    drop(page, pictures["ng"].read_bytes(), "a_very_long_name_without_any_space" * 8 + ".png")
    assert sideways(page) == 0
    assert element(page, "camera").get_attribute("capture") == "environment"
    assert page.find_element("css selector", ".photo").is_displayed()   # on a touch screen only
    levels = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in backgrounds(page)]
    assert (levels[0] > levels[1]) == dark                  # text lighter than its background
    assert console_errors(page) == []


def test_a_page_without_the_token_says_what_is_missing(page, gear):
    show(page, f"http://127.0.0.1:{gear.access.port}/")
    assert "open the whole address" in page.find_element("css selector", "body").text


def test_a_server_that_has_ended_is_said_on_the_page(browser, gear_run, pictures):
    with serving(gear_run[0]) as server:
        show(browser, server.access.address("127.0.0.1"))
    choose(browser, pictures["good"])
    assert "is minilora serve still running" in element(browser, "words").text


def test_a_turned_photograph_is_shown_upright(page, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    path.write_bytes(encoded(Image.effect_noise((96, 64), 100), "JPEG", exif=exif))
    choose(page, path)
    width, height = page.execute_script(
        "const p = document.getElementById('picture'); return [p.naturalWidth, p.naturalHeight]")
    assert (width, height) == (64, 96)
