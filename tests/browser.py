"""Headless Chromium for tests of pages, through its driver (selenium).

    def test_a_page(browser, tmp_path):                 # the fixture is in conftest.py
        show(browser, path.as_uri(), width=400, dark=True)
        browser.find_element("css selector", "h1").text
        assert sideways(browser) == 0 and console_errors(browser) == []

One browser serves all tests of a process; `show` sets window and colours afresh.  Nothing outside
127.0.0.1 can be reached: every other address goes to a proxy that does not exist.
A test is skipped only if Chromium, its driver or selenium is not installed.
"""
import shutil
import tempfile
from contextlib import contextmanager

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
           "--disable-background-networking", "--disable-component-update", "--disable-sync",
           "--disable-dev-shm-usage", "--hide-scrollbars", "--proxy-server=127.0.0.1:9",
           "--window-size=1200,900")                    # loopback addresses bypass the proxy
PAGE_SECONDS = 30                                       # until a page or a script has ended


def installed(*names):
    """Path of the first of these programs; the calling test is skipped if none is installed."""
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip(f"{names[0]} is not installed (apt-get install chromium chromium-driver)")


@contextmanager
def chromium(downloads=None):
    """A running Chromium, as selenium's driver.  downloads: folder for files that are saved."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program, driver = installed(*BROWSERS), installed("chromedriver", "chromium.chromedriver")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = program
        for option in (*OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(executable_path=driver)
        browser = webdriver.Chrome(options=options, service=service)
        try:
            browser.set_page_load_timeout(PAGE_SECONDS)
            browser.set_script_timeout(PAGE_SECONDS)
            if downloads:
                browser.execute_cdp_cmd("Browser.setDownloadBehavior", {
                    "behavior": "allow", "downloadPath": str(downloads)})
            yield browser
        finally:
            browser.quit()


def show(browser, address, width=1200, height=900, dark=False):
    """Opens an address in a window of this size (pixels), in light or dark colours.

    The size is that of the page itself: a window of Chromium cannot be narrower than 500.  Below
    500 it is a phone, with a touch screen.
    """
    phone = width < 500
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": height, "screenWidth": width, "screenHeight": height,
        "deviceScaleFactor": 1, "mobile": phone})
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})
    console_errors(browser)                             # those of the page before are forgotten
    browser.get(address)


def console_errors(browser):
    """Errors and warnings that the page's console has shown since the last call."""
    return [entry["message"] for entry in browser.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING")]


def sideways(browser):
    """How many pixels the page is wider than the window: 0 if nothing scrolls sideways.

    On a phone, `innerWidth` grows with a page that is too wide; the screen's width does not.
    """
    return browser.execute_script(
        "return document.documentElement.scrollWidth - Math.min(innerWidth, screen.width)")


def backgrounds(browser, selector="body"):
    """Computed (colour, background) of an element, as CSS says them: "rgb(28, 32, 36)"."""
    return tuple(browser.execute_script(
        "const s = getComputedStyle(document.querySelector(arguments[0]));"
        "return [s.color, s.backgroundColor]", selector))


def screenshot(browser, path):
    """Writes a PNG file of the whole page, also of what lies below the window."""
    import base64
    data = browser.execute_cdp_cmd("Page.captureScreenshot", {
        "format": "png", "captureBeyondViewport": True})["data"]
    path.write_bytes(base64.b64decode(data))
