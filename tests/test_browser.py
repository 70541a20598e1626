"""The unit browser in a real browser: sorted, filtered and walked through, offline."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page

from advlens.report.blocks import BrowserColumn, Section, UnitBrowserBlock
from advlens.report.grids import Cell, Grid, GridBlock
from advlens.report.page import write_report
from advlens.report.sections.dissection import section as dissection
from advlens.runs.results import Results
from browsing import opened, started_browser
from synthetic_dissection import write_dissection
from synthetic_run import BOTH, rows_of, write_run
from unrendered import unrendered
from work import at_most

CALLS = 5_000_000
"""Of functions, at most, to write the page of ten thousand units."""

HOSTILE = "</script><img src=x onerror=alert(1)>"
ROWS = """() => {
    const names = [...document.querySelectorAll(".units thead button")].map(b => b.innerText);
    return [...document.querySelectorAll(".units tbody tr")].map(row =>
        Object.fromEntries([...row.cells].map((cell, n) => [names[n], cell.textContent])));
}"""
UNITS: list[list[str | float | None]] = [
    [BOTH[n % 2], f"layer{n % 17}", n, f"concept {n * 7919 % 1200}", n * 7919 % 9973 / 9973]
    for n in range(10_000)
]
CONTRAST = """element => {
    const light = color => {
        const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    let ground = element;
    while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)")
        ground = ground.parentElement;
    const [a, b] = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor]
        .map(light).sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with started_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("browser") / "run", shown=1)
    concepts = [HOSTILE, *(f"concept {n}" for n in range(1, 20))]
    write_dissection(run, shown=1, concepts=concepts, units=(40, 48))
    with unrendered():
        write_report(run, [dissection])
    return run


@pytest.fixture
def page(chromium: Browser, run: Path) -> Iterator[Page]:
    with report(chromium, run, width=1280) as page:
        yield page


@contextmanager
def report(chromium: Browser, run: Path, *, width: int) -> Iterator[Page]:
    """The report, unfolded and without a network."""
    address = (run / "report.html").as_uri()
    with opened(chromium, address, width=width, offline=True) as page:
        unfold(page)
        yield page


def unfold(page: Page) -> None:
    for part in page.locator(".more > summary").all():
        part.click()


def headers(page: Page) -> list[str]:
    return page.locator(".units thead button").all_inner_texts()


def shown(page: Page) -> list[dict[str, str]]:
    """The rows of the page of units, by header."""
    return page.evaluate(f"({ROWS})()")


def everything(page: Page) -> list[dict[str, str]]:
    """All rows that the filters leave, page by page."""
    found: list[dict[str, str]] = page.evaluate(
        f"""() => {{
            const [rows, found] = [{ROWS}, []];
            const [, next] = document.querySelectorAll(".pager button");
            for (;;) {{
                found.push(...rows());
                if (next.disabled) return found;
                next.click();
            }}
        }}"""
    )
    return found


def status(page: Page) -> str:
    return page.get_by_role("status").inner_text()


def sort(page: Page, header: str) -> Locator:
    units = page.locator(".units")
    units.get_by_role("button", name=header, exact=True).click()
    return units.get_by_role("columnheader", name=header, exact=True)


def filter_of(page: Page, label: str) -> Locator:
    return page.get_by_role("combobox", name=label, exact=True)


def test_all_units_are_there_as_in_the_plain_table(page: Page, run: Path) -> None:
    units = rows_of(run, "dissection", images="real")
    assert len(shown(page)) == 25
    assert status(page) == f"{len(units)} of {len(units)} units, 1 to 25 shown"
    found = everything(page)
    assert status(page) == f"{len(units)} of {len(units)} units, 176 to 176 shown"
    plain = page.evaluate(
        """() => {
            const text = document.querySelector("noscript").textContent;
            const table = new DOMParser().parseFromString(text, "text/html");
            return [...table.querySelectorAll("tr")].map(
                row => [...row.cells].map(cell => cell.textContent));
        }"""
    )
    assert plain[0] == headers(page)
    assert [list(row.values()) for row in found] == plain[1:]
    assert any(row["Concept"] == HOSTILE for row in found)


def test_sorting_by_every_column_both_ways(page: Page) -> None:
    filter_of(page, "Model").select_option("robust")
    for header in headers(page):
        orders = []
        for _ in range(2):
            orders.append(sort(page, header).get_attribute("aria-sort"))
            values = [row[header] for row in everything(page)]
            known = [value for value in values if value != "–"]
            assert values[: len(known)] == known  # absent values last, both ways
            # numbers within a text count as numbers: "concept 2" comes before "concept 10"
            keys = [re.sub(r"\d+", lambda found: found[0].zfill(9), text) for text in known]
            assert keys == sorted(keys, reverse=orders[-1] == "descending")
        numeric = header in ("IoU", "By chance", "IoU then", "LC", "CS1")
        assert orders[0] == ("descending" if numeric else "ascending")
        assert orders[0] != orders[1]
        assert page.locator("[aria-sort]:not([aria-sort=none])").count() == 1


def test_filters_work_together_and_are_counted(page: Page, run: Path) -> None:
    rows = everything(page)
    for label, value in (("Layer", "layer2.0.conv2"), ("Category", "part"), ("Change", "lost")):
        filter_of(page, label).select_option(value)
        rows = [row for row in rows if row[label] == value]
        assert everything(page) == rows
    page.get_by_role("spinbutton", name="IoU at least").fill("0.06")
    rows = [row for row in rows if float(row["IoU"]) >= 0.06]
    assert rows
    assert everything(page) == rows
    assert status(page) == f"{len(rows)} of 176 units, 1 to {len(rows)} shown"
    page.get_by_role("button", name="Reset").click()
    assert status(page) == "176 of 176 units, 1 to 25 shown"


def test_a_text_is_found_in_either_concept(page: Page) -> None:
    rows = [r for r in everything(page) if "cept 7" in r["Concept"] + "|" + r["Under attack"]]
    page.get_by_role("searchbox", name="Concept contains").press_sequentially("CEPT 7")
    assert len(rows) > 5
    assert everything(page) == rows
    page.get_by_role("searchbox", name="Concept contains").fill("nowhere")
    assert shown(page) == []
    assert status(page) == "0 of 176 units"
    assert page.get_by_role("button", name="Next").is_disabled()


def focused(page: Page) -> str:
    return page.evaluate("document.activeElement.textContent")


def test_keys_clicks_and_the_tabulator_reach_everything(page):
    filter_of(page, "Model").focus()
    names = []
    for _ in range(6 + 1 + 12 + 1):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.tagName"))
    filters = "SELECT SELECT SELECT INPUT INPUT BUTTON"
    assert " ".join(names) == f"{filters} DIV {'BUTTON ' * 12}TR"
    rows = page.locator(".units tbody tr")
    rows.nth(0).focus()
    page.keyboard.press("ArrowDown")
    assert focused(page) == rows.nth(1).text_content()
    assert page.locator(".units tbody tr[tabindex='0']").count() == 1
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")  # nothing above the first row of the first page
    assert focused(page) == rows.nth(0).text_content()
    page.keyboard.press("Enter")  # no pictures
    assert "#" not in page.url
    page.keyboard.press("End")
    last = focused(page)
    page.keyboard.press("ArrowDown")
    assert status(page).endswith("26 to 50 shown")
    assert focused(page) == rows.nth(0).text_content()
    page.keyboard.press("ArrowUp")
    assert focused(page) == last
    page.keyboard.press("Home")
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    grid = page.locator("article:target")
    assert "layer1.0.conv2, unit 3" in grid.inner_text()
    assert page.evaluate("document.activeElement.id") == grid.get_attribute("id")
    assert grid.evaluate("e => e.getBoundingClientRect().top >= 0")
    page.locator(".units tbody tr.pictured td").nth(4).click()
    assert page.locator("article:target").count() == 1
    assert page.locator(".units tbody tr.pictured a").first.get_attribute("aria-label") == (
        "3, with pictures"
    )


def test_on_a_phone_nothing_sticks_out(chromium: Browser, run: Path) -> None:
    right = "cells => cells.every(cell => cell.getBoundingClientRect().right <= innerWidth)"
    with report(chromium, run, width=390) as phone:
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390
        row = phone.locator(".units tbody tr").first
        assert row.evaluate("e => e.scrollWidth <= e.clientWidth")
        assert row.locator("td").evaluate_all(right)
        labels = row.locator("td").evaluate_all("cells => cells.map(cell => cell.dataset.label)")
        assert labels == headers(phone)
        assert sort(phone, "IoU").get_attribute("aria-sort") == "descending"


def test_texts_contrast_with_their_ground(chromium: Browser, run: Path) -> None:
    for scheme in ("light", "dark"):
        page = chromium.new_page(color_scheme=scheme)
        page.goto((run / "report.html").as_uri())
        unfold(page)
        for selector in (".units thead button", ".units td", ".filters label", ".units .reset"):
            assert page.locator(selector).first.evaluate(CONTRAST) >= 4.5, (scheme, selector)
        for mark in page.locator(".verdict li b").all():
            assert mark.evaluate(CONTRAST) >= 4.5, (scheme, mark.inner_text())
        page.close()


def test_without_scripts_there_is_a_plain_table(chromium: Browser, run: Path) -> None:
    with chromium.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto((run / "report.html").as_uri())
        unfold(page)
        tables = page.locator("noscript table")
        assert (tables.count(), tables.locator("tbody tr").count()) == (1, 176)
        assert tables.is_visible()
        assert not page.locator(".units").is_visible()


def test_what_is_folded_is_printed(chromium: Browser, run: Path) -> None:
    page = chromium.new_page()
    page.goto((run / "report.html").as_uri())
    folded = page.locator(".more .terms, .findings .evidence, #made .hashes")
    assert folded.count() > 5
    assert not any(part.is_visible() for part in folded.all())
    page.emulate_media(media="print")
    assert all(part.is_visible() for part in folded.all())
    page.close()


def many(results: Results) -> Section:
    kinds = {"real": [Cell(file="figures/images/0.png", label="", predicted="")]}
    grid = Grid(name="a-grid", model=BOTH[0], layer="layer0", unit=0, measures={}, kinds=kinds)
    columns = [
        BrowserColumn(header="Model", kind="model", filter="choice"),
        BrowserColumn(header="Layer", kind="text", filter="choice"),
        BrowserColumn(header="Unit", kind="unit"),
        BrowserColumn(header="Concept", kind="text", filter="search"),
        BrowserColumn(header="IoU", kind="number", filter="minimum"),
    ]
    names = {"title": "All units", "caption": "C.", "file": "units.csv"}
    rows = {"rows": UNITS, "grids": ["a-grid", *[""] * 9_999]}
    blocks = [
        UnitBrowserBlock(columns=columns, **names, **rows),
        GridBlock(title="G", caption="C.", grids=[grid], labels="predicted"),
    ]
    return Section(title="Many", anchor="many", lead="L.", findings=[], blocks=blocks)


def test_ten_thousand_units_are_sorted_and_searched(chromium: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shown=1)
    with at_most(calls=CALLS):
        write_report(run, [many])
    assert (run / "report.html").stat().st_size < 4e6
    with report(chromium, run, width=1280) as page:
        assert status(page) == "10000 of 10000 units, 1 to 25 shown"
        page.evaluate(
            """() => {
                for (const button of document.querySelectorAll(".units thead button"))
                    button.click();
                const search = document.querySelector("[type=search]");
                search.value = "concept 11";
                search.dispatchEvent(new Event("input"));
            }"""
        )
        found = [row for row in UNITS if "concept 11" in str(row[3])]
        assert status(page) == f"{len(found)} of 10000 units, 1 to 25 shown"
        best = max(float(row[4] or 0) for row in found)
        assert shown(page)[0]["IoU"] == f"{best:.4f}"
