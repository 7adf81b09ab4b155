"""A report in a real browser: opens offline, says nothing on the console, draws, sorts, changes its colours."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stagekit.bench.report import write_page

pytestmark = pytest.mark.browser


def wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the page is not ready"
        time.sleep(0.1)


@pytest.fixture
def page(browser: Any, pictured: tuple[list[Any], Path]) -> Any:
    results, root = pictured
    path = write_page([(r, root) for r in results], root / "page.html", "Report")
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(path.as_uri())
    wait(lambda: browser.execute_script("return document.documentElement.dataset.ready") == "yes")
    return browser


# Chromium opens its own start page first.
OWN = ("file:", "data:", "blob:", "chrome:", "chrome-untrusted:")


def test_it_opens_offline_without_a_word_on_the_console(page: Any) -> None:
    assert [entry for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    asked = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in sent if not url.startswith(OWN)] == []


def test_charts_are_drawn_and_pictures_are_there(page: Any) -> None:
    drawn = "return [...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('.trace, .points path').length)"
    marks = page.execute_script(drawn)
    assert len(marks) == 7
    assert all(marks)
    widths = page.execute_script("return [...document.images].map(i => i.complete && i.naturalWidth)")
    assert widths == [64] * 5


def column(page: Any, heading: str) -> list[float]:
    found = page.execute_script(
        "const t = document.querySelector('table');"
        "const i = [...t.tHead.rows[0].cells].findIndex(c => c.textContent === arguments[0]);"
        "return [...t.tBodies[0].rows].map(r => Number(r.cells[i].dataset.value))",
        heading,
    )
    return [float(value) for value in found]


def test_tables_sort_by_value_both_ways(page: Any) -> None:
    heading = page.find_element("xpath", "//table[1]//th/button[text()='p50 ms']")
    assert column(page, "p50 ms") == [0.005, 0.008]
    heading.click()
    heading.click()
    assert column(page, "p50 ms") == [0.008, 0.005]
    assert heading.find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    heading.click()
    assert column(page, "p50 ms") == [0.005, 0.008]


def test_dark_and_light_differ_and_charts_follow(page: Any) -> None:
    look = "return [getComputedStyle(document.body).backgroundColor, document.querySelector('.xtick text').style.fill]"
    before = page.execute_script(look)
    page.find_element("id", "theme").click()
    wait(lambda: page.execute_script(look)[1] != before[1])
    assert page.execute_script(look)[0] != before[0]


def test_it_prints(page: Any) -> None:
    printed = page.print_page()
    assert len(printed) > 10_000
