"""The viewer in a real browser: from the list to a report and a unit, by mouse and keys."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from advlens.viewer.server import Server
from browsing import opened, started_browser


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["wide", "phone"])
def page(request: pytest.FixtureRequest, server: Server) -> Iterator[Page]:
    """The list of runs; at the end nobody complained, and nothing but the server was asked."""
    width, scheme = request.param
    with (
        started_browser() as browser,
        opened(browser, server.address, server.address, width=width, color_scheme=scheme) as page,
    ):
        yield page


def fits(page: Page) -> bool:
    page.wait_for_load_state()
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_from_the_list_to_a_report_and_a_unit(page: Page) -> None:
    assert fits(page)
    whole = page.locator("section.run").filter(has_text="/whole")
    whole.get_by_role("link", name="Report").click()
    page.wait_for_url("**/report.html")
    assert "standard and robust on CIFAR-10 test" in page.title()
    for part in page.locator(".more > summary").all():
        part.click()
    page.wait_for_selector(".units tbody tr")  # the report's own script runs
    page.get_by_role("link", name="units.csv").first.click()
    page.wait_for_url("**/units.csv")
    assert page.locator("body").inner_text().startswith("model,layer,unit")
    for _ in range(2):
        page.go_back()
    whole.get_by_role("link", name="Units").click()
    page.wait_for_url("**/units")
    assert fits(page)
    page.get_by_label("Model").select_option("robust")
    page.get_by_label("with pictures").check()
    page.get_by_label("IoU at least").fill("0.01")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**/units?*iou=0.01*")
    assert page.get_by_label("Model").input_value() == "robust"
    page.get_by_role("link", name="CS1").click()
    page.wait_for_url("**&down=1")
    header = page.get_by_role("columnheader", name="CS1")
    assert header.get_attribute("aria-sort") == "descending"
    header.get_by_role("link").click()
    page.wait_for_url("**&sort=cs1")
    assert header.get_attribute("aria-sort") == "ascending"
    rows = page.locator(".units tbody tr")
    assert 0 < rows.count() < 10
    rows.first.get_by_role("link").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/unit?*")
    assert fits(page)
    assert page.get_by_role("heading", level=1).inner_text().startswith("Unit ")
    seen = "images => images.every(each => each.complete && each.naturalWidth > 0)"
    assert page.locator("img").evaluate_all(seen)
    assert page.locator("img").count() >= 16
    page.get_by_role("link", name="All runs").click()
    page.wait_for_url(re.compile(".*[^?]/$"))
    assert page.get_by_role("heading", level=1).inner_text() == "Runs"
    whole.get_by_role("link", name="Stages").click()
    page.wait_for_url("**/run/*/")
    assert fits(page)
    assert "This run is finished." in page.locator("main").inner_text()


def test_the_keyboard_reaches_everything(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    wanted = page.locator("a, button, input").count()
    reached = set()
    for _ in range(wanted):
        reached.add(
            page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)")
        )
        page.keyboard.press("Tab")
    assert len(reached) == wanted
