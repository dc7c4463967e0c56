"""The site in a real browser: it sorts, filters, opens entries, logs no error, and axe-core finds nothing serious.

Needs Chromium and its driver, as in Debian's packages `chromium` and `chromium-driver`, and the package `selenium`. The
accessibility checks need axe-core besides: `npm install --no-save axe-core` in the checkout, or the path of axe.min.js
in the variable AXE_CORE.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from board_site import HOSTILE, write_site_board

from mir2bench.leaderboard import pages, site

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    selenium = pytest.importorskip("selenium")

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
AXE = Path(os.environ.get("AXE_CORE", Path(__file__).parent.parent / "node_modules" / "axe-core" / "axe.min.js"))
BOARD = "Rendezvous10-adv1-v0"
PAGES = (
    "index.html",
    "columns.html",
    f"{BOARD}/index.html",
    f"{BOARD}/hostile/index.html",
    f"{BOARD}/challenged/index.html",
)
WIDE, PHONE = (1440, 1000), (390, 844)

pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromedriver")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("board")
    write_site_board(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "AT_ONCE", 6)  # so that there are rows that are not shown at once
        return site.build(root, tmp_path_factory.mktemp("out") / "site").index.parent


@pytest.fixture(scope="module")
def browser(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    profile = tmp_path_factory.mktemp("profile")
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    found.set_script_timeout(60)
    yield found
    found.quit()


@pytest.fixture
def visit(browser: Any, built: Path) -> Iterator[Callable[..., Any]]:
    """Open a page with a size and a color scheme; at the end, nothing must have been logged."""

    def go(page: str, size: tuple[int, int] = WIDE, scheme: str = "light") -> Any:
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get((built / page).as_uri())
        return browser

    browser.get_log("browser")
    yield go
    assert browser.get_log("browser") == []


def names(browser: Any, table: str = "reported") -> list[str]:
    """The entries of the rows that a table shows."""
    rows = browser.find_elements("css selector", f"#table-{table} tbody th a")
    return [row.get_attribute("href").split("/")[-2] for row in rows]


def until(browser: Any, true: Callable[[], bool]) -> None:
    """Wait until something holds; the table draws after the event, not in it."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30, poll_frequency=0.05).until(lambda _: true())


def sorting(cell: Any) -> str | None:
    return cell.get_attribute("aria-sort")


def head(browser: Any, title: str, table: str = "reported") -> Any:
    heads = browser.find_elements("css selector", f"#table-{table} thead th")
    return next(found for found in heads if found.text.strip() == title)


def test_sorts_by_every_click_and_by_keyboard(visit: Callable[..., Any]) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = visit(f"{BOARD}/index.html")
    first = names(browser)
    assert len(first) == 6
    clean = head(browser, "Clean return")
    assert sorting(clean) is None
    clean.click()
    until(browser, lambda: sorting(clean) == "descending")
    cells = [
        c.text.split("\n")[0] for c in browser.find_elements("css selector", "#table-reported tbody td:nth-child(5)")
    ]
    values = [float(cell.replace("\N{MINUS SIGN}", "-")) for cell in cells]
    assert values == sorted(values, reverse=True)
    assert names(browser) != first
    clean.find_element("css selector", "[role=button]").send_keys(Keys.ENTER)
    until(browser, lambda: sorting(clean) == "ascending")
    method = head(browser, "Method")
    method.click()
    until(browser, lambda: sorting(method) == "ascending")
    shown = [link.text.lower() for link in browser.find_elements("css selector", "#table-reported tbody th a")]
    assert shown == sorted(shown)


def test_searches_filters_and_turns_pages(visit: Callable[..., Any]) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = visit(f"{BOARD}/index.html")
    controls = browser.find_element("css selector", '[data-for="table-reported"]')
    count = controls.find_element("css selector", ".count")
    assert count.text == "11 rows"
    browser.find_element("css selector", "#table-reported_wrapper [aria-label=Next]").click()
    until(browser, lambda: len(names(browser)) == 5)
    search = controls.find_element("css selector", "input[type=search]")
    search.send_keys("METHOD-3")
    until(browser, lambda: (names(browser), count.text) == (["method-3"], "1 of 11 rows"))
    clear = (Keys.CONTROL + "a" + Keys.NULL, Keys.BACKSPACE)
    search.send_keys(*clear, "no such method")
    until(browser, lambda: names(browser) == [])
    assert "No row fits" in browser.find_element("id", "table-reported").text
    search.send_keys(*clear)
    controls.find_element("css selector", "[data-hide=sanity]").click()
    until(browser, lambda: count.text == "9 of 11 rows")
    select = controls.find_element("css selector", "select")
    select.find_elements("css selector", "option")[2].click()  # the other way of attacking
    until(browser, lambda: (names(browser), count.text) == (["hostile"], "1 of 11 rows"))
    assert names(browser, "verified")  # the other table stays as it was


def test_columns_can_be_hidden(visit: Callable[..., Any]) -> None:
    browser = visit(f"{BOARD}/index.html")
    box = browser.find_element("css selector", '[data-for="table-verified"] [data-part=attackers]')

    def heads() -> list[str]:
        return [cell.text.strip() for cell in browser.find_elements("css selector", "#table-verified thead th")]

    assert "greedy" in heads()
    box.click()
    assert "greedy" not in heads()
    box.click()
    assert "greedy" in heads()


def test_opens_an_entry_and_comes_back(visit: Callable[..., Any]) -> None:
    browser = visit("index.html")
    browser.find_element("link text", BOARD).click()
    browser.find_element("css selector", '[data-for="table-verified"] input[type=search]').send_keys("alert")
    until(browser, lambda: browser.find_elements("link text", HOSTILE))
    browser.find_element("link text", HOSTILE).click()
    assert browser.find_element("tag name", "h1").text == HOSTILE
    assert HOSTILE in browser.title
    browser.find_element("css selector", ".crumbs a:nth-of-type(2)").click()
    assert browser.find_element("tag name", "h1").text == BOARD


def test_theme_button_fixes_the_scheme(visit: Callable[..., Any]) -> None:
    def paper() -> str:
        return browser.execute_script("return getComputedStyle(document.body).backgroundColor")

    browser = visit("index.html")
    light = paper()
    visit("index.html", scheme="dark")
    assert paper() != light
    button = browser.find_element("css selector", "button.theme")
    button.click()  # system -> light
    assert paper() == light
    visit("columns.html", scheme="dark")
    assert paper() == light  # it is remembered
    for _ in range(2):
        browser.find_element("css selector", "button.theme").click()
    assert paper() != light


def test_skip_link_comes_first(visit: Callable[..., Any]) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = visit("index.html")
    browser.find_element("tag name", "body").send_keys(Keys.TAB)
    skip = browser.switch_to.active_element
    assert skip.text == "Skip to the content"
    skip.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == "main"


def test_fits_a_phone(visit: Callable[..., Any]) -> None:
    for page in PAGES:
        browser = visit(page, PHONE)
        width = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert width == [PHONE[0], PHONE[0]], page


@pytest.mark.skipif(not AXE.is_file(), reason="needs axe-core, see above")
@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (PHONE, "dark")])
def test_axe_finds_nothing(visit: Callable[..., Any], size: tuple[int, int], scheme: str) -> None:
    for page in PAGES:
        browser = visit(page, size, scheme)
        browser.execute_script(AXE.read_text(encoding="utf-8"))
        found = browser.execute_async_script(
            "const done = arguments[0]; for (const d of document.querySelectorAll('details')) d.open = true;"
            "axe.run({preload: false})"
            ".then(r => done([r.passes.length, r.violations.map(v => [v.id, v.impact, v.nodes[0].html])]))"
        )
        assert found[0] > 10
        assert found[1] == [], page
