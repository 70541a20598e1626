"""What the viewer's pages show: the list, files, units."""

import re
import shutil
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import pytest

from advlens.viewer import pages
from advlens.viewer.server import POLICY, Server, serving
from pages import parsed, text_of
from synthetic_run import BOTH, MAIN, rows_of, write_run
from viewing import ask, get, number, text


def test_the_list_names_each_run_and_its_verdict(server):
    said = text(server, "")
    for name in ("deep/one", "deep/two", "whole", "begun"):
        assert f"runs/{name}" in said
    assert "CIFAR-10 test · 1,000 images · 2026-03-01 · finished" in said
    assert "standard ✓ Accuracy: holds ✗ Accuracy under attack in L∞: does not hold" in said
    assert "is not finished; the command that began it goes on with it" in said
    assert (
        get(server, "").count('type="checkbox"') == 3
    )  # a run without a record cannot be compared


def test_a_run_that_comes_later_is_listed_and_numbers_stay(folder, tmp_path):
    shutil.copytree(folder / "runs" / "whole", tmp_path / "b")
    with serving([tmp_path]) as server:
        assert number(server, "/b") == 0
        shutil.copytree(folder / "runs" / "whole", tmp_path / "a")
        assert (number(server, "/b"), number(server, "/a")) == (0, 1)
        shutil.rmtree(tmp_path / "b")
        assert "runs/b" not in text(server, "")
        assert "it is not there" in text(server, "run/0/units", 400)


def test_every_link_leads_to_a_page_that_loads_nothing(server):
    """Of pages that differ in their query only one is asked for."""
    waiting, seen = [""], {"", "compare"}
    while waiting:
        path = waiting.pop()
        status, headers, body = ask(server, f"/{server.token}/{path}")
        assert status == 200, path
        policy, _, script = headers["Content-Security-Policy"].partition("; script-src ")
        assert policy == POLICY
        assert bool(script) == path.endswith("report.html")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer"
        if not headers["Content-Type"].startswith("text/html"):
            continue
        for element in parsed(body).iter():
            for name in ("href", "src", "srcset", "action"):
                link = element.attrib.get(name, "")
                if name in ("src", "srcset") or link.startswith("#"):
                    assert not link or link.startswith(("data:", "#"))
                    continue
                assert "//" not in link
                to = urlsplit(urljoin(f"http://host/{path}", link))
                key = re.sub(r"^run/\d+", "run", to.path[1:])
                if link and key not in seen and "figures" not in key:
                    seen.add(key)
                    waiting.append(f"{to.path[1:]}?{to.query}" if to.query else to.path[1:])
    assert {"run/", "run/units", "run/unit", "run/report.html", "run/run.json"} <= seen
    assert "run/results/units.csv" in seen


def test_files_of_a_report_are_there(server, folder):
    for name in ("report.html", "run.json", "results/units.csv"):
        found = get(server, f"run/{number(server, 'whole')}/{name}")
        assert found == (folder / "runs" / "whole" / name).read_text(encoding="utf-8")
    figures = [path.name for path in (folder / "runs" / "whole" / "figures").glob("*.*")]
    assert len(figures) > 10
    for name in figures:
        _, headers, _ = ask(server, f"/{server.token}/run/{number(server, 'whole')}/figures/{name}")
        assert headers["Content-Type"] == ("image/png" if name.endswith("png") else "image/svg+xml")


def units(server: Server, **query: str) -> list[dict[str, str]]:
    """The rows of the table of units that a query gives, page by page."""
    run, found = number(server, "whole"), list[dict[str, str]]()
    for page in range(1, 100):
        asked = urlencode({**query, "page": str(page)})
        body = parsed(get(server, f"run/{run}/units?{asked}"))
        rows = [row for row in body.iter("tr") if row.find("td") is not None]
        found += [{c.attrib["data-label"]: text_of(c) for c in row.iter("td")} for row in rows]
        if not any(link.attrib.get("rel") == "next" for link in body.iter("a")):
            break
    return found


def test_all_units_are_in_the_table(server, folder):
    run, found = folder / "runs" / "whole", units(server)
    known = {
        (row["model"], row["layer"], row["unit"])
        for table in ("units", "dissection")
        for row in rows_of(run, table)
    }
    names = [(row["Model"], row["Layer"], row["Unit"].split(",")[0]) for row in found]
    assert len(names) == len(known) == 188
    assert set(names) == known
    (unit,) = (
        r for r in found if r["Unit"] == "2" and r["Layer"] == "conv1" and r["Model"] == BOTH[0]
    )
    (row,) = (r for r in rows_of(run, "units")[:6] if r["unit"] == "2")
    assert [float(unit[name]) for name in ("LC", "CS1", "CS2")] == pytest.approx(
        [float(row[name]) for name in ("lc", "cs1", "cs2")], abs=1e-4
    )


def test_units_are_sorted_by_every_column_with_absent_values_last(server):
    headers = {header: key for key, header in pages.COLUMNS.items()}
    few = {"model": BOTH[0], "layer": "layer2.0.conv2"}
    for header in units(server, **few)[0]:
        for down in ({}, {"down": "1"}):
            rows = units(server, **few, sort=headers[header], **down)
            values = [row[header] for row in rows]
            known = [value.split(",")[0] for value in values if value != "–"]
            assert values[len(known) :] == ["–"] * (len(values) - len(known))
            keys = [re.sub(r"\d+", lambda found: found[0].zfill(9), value) for value in known]
            assert keys == sorted(keys, reverse=bool(down)), (header, down)


def test_filters_work_together(server):
    rows = units(server)
    for query, keep in {
        "model=robust": lambda row: row["Model"] == "robust",
        "layer=layer2.0.conv2": lambda row: row["Layer"] == "layer2.0.conv2",
        "concept=CEPT 1": lambda r: "concept 1" in r["Concept"] + r["Under attack"],
        "cs1=0.5": lambda row: row["CS1"] != "–" and float(row["CS1"]) >= 0.5,
        "iou=0.03": lambda row: row["IoU"] != "–" and float(row["IoU"]) >= 0.03,
        "pictured=1": lambda row: "pictures" in row["Unit"],
    }.items():
        kept = [row for row in rows if keep(row)]
        asked = {key: values[-1] for key, values in parse_qs(query).items()}
        assert kept
        assert units(server, **asked) == kept
    together = units(server, model="robust", layer="layer2.0.conv2", lc="0.6", pictured="1")
    assert together
    assert {row["Model"] for row in together} == {"robust"}
    assert units(server, concept="nowhere") == []


@pytest.mark.parametrize("value", ["x", "nan", "inf", "1e999", "<b>", "0x1", "1" * 5000])
def test_a_bound_that_is_no_number_is_one_sentence(server, value):
    asked = urlencode({"lc": value})
    body = get(server, f"run/{number(server, 'whole')}/units?{asked}", 400)
    said = text_of(parsed(body))
    assert f"LC must be at least a number, not {value[:40]!r}" in said
    assert "<b>" not in body


@pytest.mark.parametrize("query", ["page=0", "page=-1", "page=x", "page=" + "9" * 5000, "&" * 5000])
def test_an_odd_query_is_the_first_page(server, query):
    assert ", 1 to 50 shown" in text(server, f"run/{number(server, 'whole')}/units?{query}")


def test_a_unit_has_its_numbers_classes_and_pictures(server):
    run, (unit, *_) = number(server, "whole"), units(server, pictured="1", concept="concept")
    asked = {"model": unit["Model"], "layer": unit["Layer"], "unit": unit["Unit"].split(",")[0]}
    body = parsed(get(server, f"run/{run}/unit?{urlencode(asked)}"))
    said, images = text_of(body), list(body.iter("img"))
    for words in (f"Unit {asked['unit']} of {asked['layer']}", unit["LC"], unit["CS1"], MAIN):
        assert words in said
    for words in (unit["Concept"], unit["IoU"], unit["Under attack"], "adversarial-reestimated"):
        assert words in said
    alts = [image.attrib["alt"] for image in images]
    assert all(alts)
    assert alts.count("Discrepancy map of the picture above") == 8
    assert sum("the unit's mask drawn" in alt for alt in alts) == 8
    assert {alt.split()[0] for alt in alts} == {"Real", "Adversarial", "Discrepancy"}
    assert all(image.attrib["src"].startswith("data:image/png;base64,") for image in images)


def test_the_classes_of_a_unit(tmp_path):
    run = write_run(tmp_path / "run", shown=0)
    names = (
        "model,layer,unit,images,class_1,share_1,class_2,share_2,class_3,share_3,class_4,share_4"
    )
    rows = [f"standard,conv1,3,{images},cat,0.75,dog,0.25,,,,,," for images in ("real", "target")]
    table = [f"{names},class_5,share_5", *rows]
    (run / "results" / "unit_classes.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    with serving([run]) as server:
        said = text(server, "run/0/unit?model=standard&layer=conv1&unit=3")
        assert "real cat 75.0% dog 25.0% – – –" in said
        assert "targets of the attack cat 75.0%" in said
        assert "No pictures of this unit were made" in said
        assert "cat 75%, dog 25%" in text(server, "run/0/units")


@pytest.mark.parametrize("unit", ["model=standard&layer=conv1&unit=99", "unit=3", "", "unit=%00"])
def test_a_unit_that_is_not_there(server, unit):
    get(server, f"run/{number(server, 'whole')}/unit?{unit}", 404)
