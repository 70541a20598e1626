"""The report: one page that works, the same bytes from the same run."""

import dataclasses
import itertools
import json
import re
import shutil
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advlens.errors import RunError
from advlens.report.blocks import (
    Finding,
    Measured,
    NoteBlock,
    Picture,
    PictureColumn,
    PictureRow,
    PictureRowsBlock,
    Section,
)
from advlens.report.page import THUMBNAIL, write_report
from advlens.report.sections.accuracy import section as accuracy
from advlens.report.sections.attribution import section as attribution
from advlens.report.sections.dissection import section as dissection
from advlens.report.sections.features import section as features
from advlens.report.sections.neurons import section as neurons
from advlens.runs.results import Results
from advlens.words import Estimate
from pages import elements, links, page, text_of
from synthetic_attribution import write_attribution
from synthetic_dissection import write_dissection
from synthetic_features import write_features
from synthetic_predictions import write_predictions
from synthetic_run import LAYERS, rows_of, write_run, write_table
from unrendered import unrendered


def written(run: Path) -> Path:
    """A report with all kinds of blocks, whose figures are not rendered."""
    write_run(run, shown=1)
    write_dissection(run, layers=LAYERS[1:2], units=(30,), shown=1)
    write_attribution(run, shown=2)
    write_features(run, components=(3,), shown=1, top=2)
    with unrendered():
        write_report(run, [accuracy, neurons, dissection, attribution, features])
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("report") / "run")


def rendered(run: Path) -> Path:
    """A report with two plots and a grid."""
    write_run(run, models=("one",), shown=1)
    write_report(run, [accuracy, grid_only])
    return run


@pytest.fixture(scope="module")
def plotted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rendered(tmp_path_factory.mktemp("plotted") / "run")


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Path]:
    """A run without a report, whose figures will not be rendered."""
    with unrendered():
        yield write_run(tmp_path / "run", models=("one",), shown=1)


def test_images_have_alt_texts_and_links_lead_somewhere(run):
    images = elements(run, "img")
    pictures = ("pictures", "dissection_pictures", "dissection_pictures", "attribution_pictures")
    assert len(images) > sum(len(rows_of(run, table)) for table in pictures)
    assert all(len(image.attrib["alt"]) > 10 for image in images)
    framed = [image for image in images if image.attrib["alt"].endswith(", framed")]
    assert len(framed) == len(elements(run, "figure", "cell framed")) > 0
    ids = [e.attrib["id"] for e in page(run).iter() if "id" in e.attrib]
    assert len(set(ids)) == len(ids)
    hrefs = {value for name, value in links(run) if name == "href"}
    for value in hrefs:
        if value.startswith("#"):
            assert value[1:] in ids
        else:
            assert (run / urllib.parse.unquote(value)).is_file()
    assert hrefs >= {f"results/{path.name}" for path in (run / "results").iterdir()}


def test_without_scripts_every_unit_stands_in_a_plain_table(run: Path) -> None:
    (plain,) = elements(run, "noscript")
    headers, *cells = [[text_of(cell) for cell in row] for row in plain.iter("tr")]
    for found, row in zip(cells, rows_of(run, "dissection", images="real"), strict=True):
        shown = dict(zip(headers, found, strict=True))
        assert [shown[name] for name in ("Model", "Layer", "Unit", "Concept", "IoU")] == [
            *(row["model"], row["layer"], row["unit"], row["concept"] or "–"),
            f"{float(row['iou']):.4f}",
        ]
    assert len(list(plain.iter("a"))) == 2  # one pictured unit of each model


def test_pictures_have_maps_rows_and_alt_texts(run):
    cells = [list(e.iter("img")) for e in elements(run, "figure")]
    maps = [found[1] for found in cells if len(found) == 2]
    assert len(maps) == 2 * 8
    assert {e.attrib["alt"] for e in maps} == {"Discrepancy map of the picture above"}
    wanted = r"Adversarial image, predicted as truck \(before the attack: \w+\), framed"
    assert any(re.fullmatch(wanted, e.attrib["alt"]) for e in elements(run, "img"))
    assert "stands its discrepancy map" in text_of(page(run))
    rows = elements(run, "div", "row")
    assert len(rows) == 2 * 2 + 2 * 1 + 2 * 1 + 4
    for row in rows:
        assert row.attrib["role"] == "group"
        assert row.attrib["aria-label"]
        assert len(list(row.iter("img"))) >= 3
    shown = [text_of(e) for e in rows[0].iter("span") if "model m1" in e.attrib.get("class", "")]
    assert shown == ["robust"]
    wrong = [text_of(e) for e in elements(run, "figcaption", "predicted")]
    assert wrong.count("dog → truck 81.2%, gap 31.0%") == 2
    assert len(elements(run, "span", "heat")) == 2


def test_values_are_strong(run):
    strong = {text_of(e) for e in elements(run, "strong")}
    assert strong
    assert all(re.fullmatch(r"-?\d+(\.\d+)?%?", text) for text in strong)


def test_headings_descend_and_the_page_holds_what_was_audited(run):
    levels = [int(e.tag[1]) for e in page(run).iter() if re.fullmatch("h[1-6]", str(e.tag))]
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    record, shown = json.loads((run / "run.json").read_text()), text_of(page(run))
    assert text_of(elements(run, "h1")[0]) == "standard and robust on CIFAR-10 test"
    wanted = [model[name] for model in record["models"] for name in ("weights", "spec")]
    wanted += [record["command"], record["data"]["fingerprint"], "272,474", "3, 26", "torch 2.10.0"]
    wanted += ["epsilon 0.5", "fgsm 0.00392157, 0.0157", "limit none", "a.b c", "812.4", "1,403"]
    for text in [*wanted, *record["warnings"], *record["notes"]]:
        assert text in shown
    assert [text_of(e) for e in elements(run, "pre")] == [record["command"]]


def test_plots_come_for_light_and_dark_pages_and_for_phones(plotted: Path) -> None:
    pictures = elements(plotted, "picture")
    assert len(pictures) == 2
    for picture in pictures:
        *sources, image = picture
        assert len({*[source.attrib["srcset"] for source in sources], image.attrib["src"]}) == 4
        medias = [source.attrib["media"] for source in sources]
        kinds = [("dark" in media, "max-width" in media) for media in medias]
        assert kinds == [(True, True), (False, True), (True, False)]


def test_the_same_run_gives_the_same_bytes(run: Path, plotted: Path, tmp_path: Path) -> None:
    """All of the page, and some plots and pictures; each kind of figure has a test of its own."""
    for first, again in ((run, written(tmp_path / "a")), (plotted, rendered(tmp_path / "b"))):
        files = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
        assert len(files) > 40
        for path in files:
            assert (again / path).read_bytes() == (first / path).read_bytes()


def shown_titles(run: Path) -> list[str]:
    return [text_of(e) for e in elements(run, "h2")]


def test_what_a_page_does_without_is_left_out(fresh):
    write_report(fresh, [accuracy])
    assert not elements(fresh, "script")
    (policy,) = [e for e in elements(fresh, "meta") if "http-equiv" in e.attrib]
    assert "script-src" not in policy.attrib["content"]
    assert "runs no script" in text_of(page(fresh))
    write_report(fresh, [made_up("new")])
    assert "#glossary" not in {value for _, value in links(fresh)}
    for name in ("layers", "accuracy"):
        (fresh / "results" / f"{name}.csv").unlink()
    shutil.rmtree(fresh / "figures")
    write_report(fresh, [accuracy, neurons])
    assert shown_titles(fresh) == ["Read first", "Numbers", "How it was made"]
    assert "holds no results" in text_of(page(fresh))
    assert not (fresh / "figures" / "accuracy.svg").exists()


def test_a_long_warning_is_a_short_sentence_and_its_reason_folded(fresh):
    record, reason = json.loads((fresh / "run.json").read_text()), "why " * 40
    record["warnings"] = [f"it is left out: {reason}", "short: as it is"]
    (fresh / "run.json").write_text(json.dumps(record))
    write_report(fresh, [made_up("new")])
    long, short = elements(fresh, "li", "warning")
    ((folded, summary),) = ((d, d[0]) for d in long.iter("details"))
    assert (text_of(summary), text_of(short)) == ("it is left out.", "short: as it is")
    assert text_of(folded).endswith(f"Why {reason[4:]}".strip())


def made_up(name: str, *findings: Finding) -> Callable[[Results], Section]:
    blocks = [NoteBlock(title="T", text="Text.")]
    section = Section(title=name, anchor=name, lead="New.", blocks=blocks, findings=findings)
    return lambda results: section


def claims(name: str, n: int) -> list[Finding]:
    return [Finding(claim=f"{name}{place}.", important=True) for place in range(n)]


def test_a_new_stage_needs_only_its_section_and_what_is_unimportant_is_folded(fresh):
    warning = Finding(claim="Weak.", warning=True)
    write_report(fresh, [made_up("Mine", Finding(claim="Rest."), *claims("m", 2), warning)])
    titles = ["Read first", "Can it be trusted?", "Mine", "Numbers", "How it was made"]
    assert shown_titles(fresh) == titles
    (section,) = [e for e in elements(fresh, "section") if e.attrib["id"] == "Mine"]
    (more,) = [e for e in section.iter("details") if e.attrib.get("class") == "more"]
    every, folded = (
        [text_of(claim) for part in each.iter("ul") for claim in part] for each in (section, more)
    )
    assert (every, folded) == (["m0.", "m1.", "Weak.", "Rest."], ["Rest."])
    assert text_of(more[0]) == "More: 1 finding"


def test_a_section_opens_with_the_first_of_its_pictures(fresh: Path) -> None:
    """Four rows; what the verdict already shows stands with the rest."""
    made, files = [], [row["file"] for row in rows_of(fresh, "pictures")]
    for name, folded in (("a", True), ("b", False), ("c", False)):
        columns = [PictureColumn(heading="h", pictures=[Picture(file=files[0], alt="Some image")])]
        rows = [PictureRow(title=f"{name}{place}", columns=columns) for place in range(6)]
        block = PictureRowsBlock(name=name, title=name, caption="", file="f", rows=rows)
        made.append(dataclasses.replace(block, folded=folded))
    section = Section(title="S", anchor="S", lead="", findings=[], blocks=made)
    write_report(fresh, [lambda results: section])
    (shown,) = [e for e in elements(fresh, "section") if e.attrib["id"] == "S"]
    rest, more = [e for e in shown.iter("details") if e.attrib.get("class") == "more"]
    every, after, folded = (
        [text_of(p) for p in part.iter("p") if p.attrib.get("class") == "row-title"]
        for part in (shown, rest, more)
    )
    assert every[:4] == ["b0", "b1", "b2", "b3"]
    assert (after, text_of(rest[0])) == (["b4", "b5"], "More: 2 rows")
    assert folded == [f"{name}{place}" for name in "ac" for place in range(6)]
    assert every == [*every[:4], *after, *folded]


def test_the_page_writes_out_what_a_finding_rests_on(fresh: Path) -> None:
    one = Estimate(value=0.2, low=0.1, high=0.3, n=9)
    other = Estimate(value=0.7, low=0.6, high=0.8, n=8)
    estimates = [
        Measured(name="how much", estimates={"a": one, "b": other}),
        Measured(name="CS", model="a", estimates={"then": one, "now": one}, counted="units"),
        Measured(name="dead", estimates={"a": Estimate.only(1 / 3, 9)}, form="count"),
        Measured(name="bare", estimates={"a": Estimate.only(0.5, 0)}, form="percent"),
    ]
    write_report(fresh, [made_up("m", Finding(claim="Claim.", estimates=estimates, note="Note."))])
    ((shown,),) = [e for e in elements(fresh, "ul", "findings") if "Claim" in text_of(e)]
    (details,) = shown
    assert [text_of(part) for part in details] == [
        "Claim.",
        "How much: b 0.700 (0.600–0.800) and a 0.200 (0.100–0.300) ; the intervals are disjoint "
        "( n = 9 images for a and 8 images for b).",
        "CS of a: 0.200 (0.100–0.300) then and now ( n = 9 units).",
        "Dead: a 3 of 9.",
        "Bare: a 50.0%.",
        "Note.",
    ]


def test_claims_have_their_pictures_beside_them(fresh: Path) -> None:
    """An image and its twin, the most consistent unit at the highest success, and a class."""
    write_predictions(fresh, models=("one",), shown=1)
    write_features(fresh, models=("one",), judges=("judge",))
    units = rows_of(fresh, "pictures")
    equal = [
        {**row, "images": "equal-success", "rank": 7 - int(row["rank"])}
        for row in units
        if row["images"] == "adversarial"
    ]
    write_table(fresh, "pictures", [*units, *equal])
    write_report(fresh, [grid_only])
    example = rows_of(fresh, "examples", kind="fooled")[0]
    real, adversarial = (
        [r["file"] for r in units if (r["chosen"], r["images"]) == ("highest LC", kind)]
        for kind in ("real", "adversarial")
    )
    made = rows_of(fresh, "generation_pictures", kind="generated", **{"class": "airplane"})
    wanted = [
        [example[kind] for kind in ("natural", "attacked", "difference")],
        *(real[:4], adversarial[:3:-1], [row["file"] for row in made]),
    ]
    strips = elements(fresh, "div", "cells strip")
    for strip, files in zip(strips, wanted, strict=True):
        for image, name in zip(strip.iter("img"), files, strict=True):
            with urllib.request.urlopen(image.attrib["src"]) as file:
                assert file.read() == (fresh / name).read_bytes()
    told = [example["predicted"], example["attacked_as"], f"difference × {example['factor']}"]
    assert [text_of(figure) for figure in strips[0]] == told


def grid_only(results: Results) -> Section | None:
    section = neurons(results)
    assert section
    blocks = [block for block in section.blocks if hasattr(block, "grids")]
    return Section(title="Grids", anchor="grids", lead="", findings=[], blocks=blocks)


def test_pictures_are_embedded_large_ones_smaller(fresh: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (299, 250, 3), dtype=np.uint8)
    Image.fromarray(noise).save(fresh / "figures/images/4.png")
    write_report(fresh, [grid_only])
    small, large = [], []
    for image in elements(fresh, "img"):
        (large if "jpeg" in image.attrib["src"] else small).append(image.attrib)
    assert {image["class"] for image in small} == {"small"}
    with urllib.request.urlopen(small[0]["src"]) as file:
        assert file.read() == (fresh / "figures/images/0.png").read_bytes()
    (shown,) = large
    assert "class" not in shown
    with urllib.request.urlopen(shown["src"]) as file, Image.open(file) as image:
        assert max(image.size) == THUMBNAIL


@pytest.mark.parametrize(
    "content",
    [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"<svg/>", "GIF", "JPEG", "BMP", "cut", "large"],
)
def test_a_picture_that_is_none_is_refused(fresh: Path, content: bytes | str) -> None:
    path, reason = fresh / "figures/images/0.png", "0.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif content == "large":
        Image.new("1", (5001, 5000)).save(path)
        reason = "more than 2097152 pixels"
    else:
        Image.new("RGB", (8, 8)).save(path, content)
    with pytest.raises(RunError, match=f"cannot read the picture .*{reason}"):
        write_report(fresh, [grid_only])
