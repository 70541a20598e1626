"""The report: one page, safe whatever the names are, the same bytes from the same run."""

import base64
import functools
import hashlib
import itertools
import json
import re
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import html5lib
import numpy as np
import pytest
from PIL import Image

from advlens.errors import RunError
from advlens.report.blocks import Finding, Measured, NoteBlock, Section
from advlens.report.page import IN_SHORT, THUMBNAIL, write_report
from advlens.report.sections.accuracy import section as accuracy
from advlens.report.sections.attribution import section as attribution
from advlens.report.sections.dissection import section as dissection
from advlens.report.sections.features import section as features
from advlens.report.sections.neurons import section as neurons
from advlens.report.sections.training import section as training
from advlens.runs.results import Results
from advlens.words import Estimate
from synthetic_attribution import write_attribution
from synthetic_dissection import write_dissection
from synthetic_features import write_features
from synthetic_run import read, write_run, write_training

Sections = Sequence[Callable[[Results], Section | None]]
PAYLOADS = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    '" onfocus="alert(1)" autofocus="',
    "javascript:alert(1)",
    "https://evil.example/x.js",
    "//evil.example/x.png",
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "<!-- --><script>alert(1)</script>",
    "]]><script>alert(1)</script>",
    "<iframe src=//evil.example></iframe>",
    "<a href='javascript:alert(1)'>x</a>",
    "<base href=//evil.example/>",
    "<meta http-equiv=refresh content=0;url=//evil.example>",
    "<link rel=stylesheet href=//evil.example>",
    "<object data=//evil.example></object>",
    "<math><mtext><script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "${alert(1)}`x`",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\u202egnp.exe\u2066",
    "\x00\x1b[31mred\x07",
    "../../etc/passwd",
    "a/b\\c:d*?",
    '=HYPERLINK("//evil.example")',
    "x" * 3000,
    "模型 🤖 éß\n\ttwo lines",
)


ONE_LAYER: dict[str, Any] = {"layers": ("layer1.0.conv2",), "units": (30,), "shown": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("report") / "run", shown=1)
    write_report(run, [accuracy, neurons])
    return run


@pytest.fixture(scope="module")
def dissected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("dissected") / "run", shown=1)
    write_report(write_dissection(run, **ONE_LAYER), [dissection])
    return run


def write_explained(run: Path) -> Path:
    return write_features(write_attribution(run, shown=2), shown=1, top=2)


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("explained") / "run", shown=1)
    write_report(write_explained(run), [attribution, features])
    return run


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = iter(PAYLOADS * 3)
    run = write_run(
        tmp_path_factory.mktemp("hostile") / "run",
        models=PAYLOADS[1::15],
        layers=PAYLOADS,
        units=[4] * len(PAYLOADS),
        classes=PAYLOADS,
        shown=1,
        texts=lambda text: next(texts) + text,
    )
    write_training(run, models=PAYLOADS[1::15], epochs=2, texts=lambda text: next(texts) + text)
    write_dissection(
        run,
        models=PAYLOADS[1::15],
        layers=PAYLOADS[:2],
        units=(60, 60),
        concepts=PAYLOADS,
        shown=1,
        texts=lambda text: next(texts, "") + text,
    )
    write_attribution(
        run,
        models=PAYLOADS[1::15],
        shown=2,
        labels=PAYLOADS,
        texts=lambda text: next(texts, "") + text,
    )
    write_features(
        run,
        models=PAYLOADS[1::15],
        classes=PAYLOADS[::6],
        components=(3,),
        features=PAYLOADS[0],
        shown=1,
        top=1,
        texts=lambda text: next(texts, "") + text,
    )
    write_report(run, [accuracy, neurons, training, dissection, attribution, features])
    return run


def page(run: Path) -> Element:
    return parsed((run / "report.html").read_text(encoding="utf-8"))


@functools.cache
def parsed(text: str) -> Element:
    """A page, which no test changes; parsing a long one takes seconds."""
    return html5lib.parse(text, namespaceHTMLElements=False)


def elements(run: Path, name: str) -> Iterator[Element]:
    return page(run).iter(name)


def text_of(element: Element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def links(run: Path) -> Iterator[tuple[str, str]]:
    for element in page(run).iter():
        for name in ("href", "src", "srcset", "action", "data", "poster", "background"):
            if name in element.attrib:
                yield name, element.attrib[name]


# hostile names


def test_there_are_thirty_payloads() -> None:
    assert len(set(PAYLOADS)) == 30


def test_nothing_runs_and_nothing_is_loaded(hostile: Path) -> None:
    for element in page(hostile).iter():
        if not isinstance(element.tag, str):
            continue  # a comment
        assert element.tag not in {"iframe", "object", "embed", "base", "form", "svg"}
        assert not [name for name in element.attrib if name.startswith("on")]
        assert element.tag != "link"
    metas = [element.attrib for element in elements(hostile, "meta")]
    assert [meta.get("http-equiv") for meta in metas if "http-equiv" in meta] == [
        "Content-Security-Policy"
    ]
    for name, value in links(hostile):
        if name in ("src", "srcset"):
            assert re.match(r"data:image/(png|jpeg|svg\+xml);base64,", value)
        else:
            assert re.match(r"(#[a-z0-9-]+|results/[\w.-]+|figures/[\w.-]+|run\.json)$", value)
    style = text_of(next(elements(hostile, "style")))
    assert "url(" not in style
    assert "@import" not in style


def test_policy_forbids_everything_but_the_page_itself(hostile: Path) -> None:
    head = next(elements(hostile, "head"))
    policy = head.find("meta[@http-equiv]")
    data, script = elements(hostile, "script")
    digest = hashlib.sha256((script.text or "").encode()).digest()
    assert policy is not None
    assert policy.attrib["content"] == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{base64.b64encode(digest).decode()}'"
    )
    assert data.attrib == {"type": "application/json"}
    # nothing but the character set comes before it
    assert [child.tag for child in head][:2] == ["meta", "meta"]
    assert list(head)[1] is policy


def test_every_attribute_is_quoted(hostile: Path) -> None:
    text = (hostile / "report.html").read_text(encoding="utf-8")
    body = re.sub(r"<style>.*?</style>|(?<=<script>).*?(?=</script>)", "", text, flags=re.DOTALL)
    tags = re.findall(r"<[a-z][^<>]*>", body)
    assert len(tags) > 500
    for tag in tags:
        assert re.fullmatch(r'<[a-z][a-z0-9]*(\s+[a-z:-]+="[^"]*")*\s*>', tag), tag


def test_payloads_are_shown_as_they_are(hostile: Path) -> None:
    shown = text_of(page(hostile))
    for payload in PAYLOADS:
        visible = re.sub("[\u202e\u2066\x00\x1b\x07]", "�", payload)
        assert " ".join(visible.split()) in shown


def test_the_data_of_the_browser_cannot_leave_its_element(hostile: Path) -> None:
    data = next(elements(hostile, "script")).text or ""
    assert not set("<>&'") & set(data)
    names = {row["concept"] for row in read(hostile, "dissection")}
    shown = set(json.loads(data)["texts"])
    assert len(names) > 25
    for name in names:
        assert re.sub("[\u202e\u2066\x00\x1b\x07\r]", "�", name) in shown


def test_every_file_stays_in_the_run_folder(hostile: Path) -> None:
    inside = {path for path in hostile.rglob("*") if path.is_file()}
    assert {path for path in hostile.parent.rglob("*") if path.is_file()} == inside
    names = [path.name for path in (hostile / "figures").iterdir() if path.is_file()]
    assert all(re.fullmatch(r"[a-z0-9-]+\.(png|svg)", name) for name in names)


def test_svg_files_hold_no_script(hostile: Path) -> None:
    for path in (hostile / "figures").glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert "<script" not in text
        assert not re.search(r"<[^>]*\son[a-z]+=", text)


# a page that works


def test_images_have_alt_text(run: Path) -> None:
    images = list(elements(run, "img"))
    assert len(images) == 5 + 2 * 2 * 16
    assert all(len(image.attrib["alt"]) > 10 for image in images)
    framed = [image for image in images if image.attrib["alt"].endswith(", framed")]
    marked = [e for e in elements(run, "figure") if "framed" in e.attrib.get("class", "")]
    assert len(framed) == len(marked) > 0


@pytest.mark.parametrize("made", ["run", "dissected", "explained"])
def test_ids_are_unique_and_links_lead_somewhere(made: str, request: pytest.FixtureRequest) -> None:
    run: Path = request.getfixturevalue(made)
    ids = [e.attrib["id"] for e in page(run).iter() if "id" in e.attrib]
    assert len(set(ids)) == len(ids)
    for name, value in links(run):
        if name != "href":
            continue
        if value.startswith("#"):
            assert value[1:] in ids
        else:
            assert (run / urllib.parse.unquote(value)).is_file()


def test_a_page_without_a_browser_runs_no_script(run: Path) -> None:
    assert not list(elements(run, "script"))
    (policy,) = [e for e in elements(run, "meta") if "http-equiv" in e.attrib]
    assert "script-src" not in policy.attrib["content"]
    assert "runs no script" in text_of(page(run))


def test_without_scripts_every_unit_stands_in_a_plain_table(dissected: Path) -> None:
    (plain,) = elements(dissected, "noscript")
    rows = [[text_of(cell) for cell in row] for row in plain.iter("tr")]
    headers, *cells = rows
    units = [row for row in read(dissected, "dissection") if row["images"] == "real"]
    assert len(cells) == len(units)
    for found, row in zip(cells, units, strict=True):
        shown = dict(zip(headers, found, strict=True))
        assert [shown[name] for name in ("Model", "Layer", "Unit", "Concept", "IoU")] == [
            row["model"],
            row["layer"],
            row["unit"],
            row["concept"] or "–",
            f"{float(row['iou']):.4f}",
        ]
    assert len(list(plain.iter("a"))) == 2  # one pictured unit of each model


def test_a_discrepancy_map_stands_below_its_picture(dissected: Path) -> None:
    cells = [list(e.iter("img")) for e in elements(dissected, "figure")]
    maps = [found[1] for found in cells if len(found) == 2]
    assert len(maps) == 2 * 8
    assert {e.attrib["alt"] for e in maps} == {"Discrepancy map of the picture above"}
    alts = [e.attrib["alt"] for e in elements(dissected, "img")]
    assert any(
        re.fullmatch(
            r"Adversarial image, predicted as truck \(before the attack: \w+\), framed", alt
        )
        for alt in alts
    )
    assert "stands its discrepancy map" in text_of(page(dissected))


def test_rows_of_pictures_have_alt_texts_and_their_models_colors(explained: Path) -> None:
    rows = [e for e in elements(explained, "div") if e.attrib.get("class", "") == "row"]
    assert len(rows) == 2 * 2 + 2 * 2 + 2 * 1 + 4
    assert all(row.attrib["role"] == "group" and row.attrib["aria-label"] for row in rows)
    for row in rows:
        images = list(row.iter("img"))
        assert len(images) >= 3
        assert all(len(image.attrib["alt"]) > 10 for image in images)
    shown = [text_of(e) for e in rows[0].iter("span") if "model m1" in e.attrib.get("class", "")]
    assert shown == ["robust"]
    wrong = [e for e in elements(explained, "figcaption") if e.attrib.get("class") == "predicted"]
    assert [text_of(e) for e in wrong] == 2 * ["dog → truck 81.2%, gap 31.0%"]
    assert len([e for e in elements(explained, "span") if e.attrib.get("class") == "heat"]) == 2


def test_measures_without_bounds_have_no_bar(explained: Path) -> None:
    table = next(e for e in elements(explained, "table") if "scores" in e.attrib["class"])
    bars = [
        len([e for e in row.iter("span") if e.attrib.get("class") == "bar"])
        for row in table.iter("tr")
    ]
    assert bars == [0, 2, 0, 0, 0]


def test_a_sentence_ends_before_n(explained: Path) -> None:
    strong = {text_of(e) for e in elements(explained, "strong")}
    assert strong
    assert all(re.fullmatch(r"-?\d+(\.\d+)?%?", text) for text in strong)


@pytest.mark.parametrize("made", ["run", "explained"])
def test_headings_descend_by_one(made: str, request: pytest.FixtureRequest) -> None:
    run: Path = request.getfixturevalue(made)
    levels = [int(e.tag[1]) for e in page(run).iter() if re.fullmatch("h[1-6]", str(e.tag))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_page_holds_what_was_audited_and_how(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    shown = text_of(page(run))
    assert text_of(next(elements(run, "h1"))) == "standard and robust on CIFAR-10 test"
    for model in record["models"]:
        assert model["weights"] in shown
        assert model["spec"] in shown
    wanted = [record["command"], record["data"]["fingerprint"], "272,474", "3, 26", "torch 2.10.0"]
    wanted += [
        "epsilon 0.5",
        "fgsm 0.00392157, 0.0157",
        "limit none",
        "a.b c",
        "812.4",
        "1,403",
        *record["warnings"],
        *record["notes"],
    ]
    for text in wanted:
        assert text in shown
    assert [text_of(e) for e in elements(run, "pre")] == [record["command"]]


def test_every_table_is_linked(run: Path) -> None:
    hrefs = {value for name, value in links(run) if name == "href"}
    assert hrefs >= {f"results/{path.name}" for path in (run / "results").iterdir()}


def test_plots_come_for_light_and_dark_pages_and_for_phones(run: Path) -> None:
    for picture in elements(run, "picture"):
        sources = [child.attrib["srcset"] for child in picture if child.tag == "source"]
        image = picture.find("img")
        assert image is not None
        assert len({*sources, image.attrib["src"]}) == 4
        medias = [child.attrib["media"] for child in picture if child.tag == "source"]
        assert [("dark" in media, "max-width" in media) for media in medias] == [
            (True, True),
            (False, True),
            (True, False),
        ]


# what is shown


def shown_titles(run: Path) -> list[str]:
    return [text_of(e) for e in elements(run, "h2")]


def test_a_section_without_its_tables_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shown=1)
    (run / "results" / "layers.csv").unlink()
    (run / "results" / "accuracy.csv").unlink()
    write_report(run, [accuracy, neurons])
    assert shown_titles(run) == ["Read first", "In short", "What was measured", "How it was made"]
    assert "holds no results" in text_of(page(run))
    assert not (run / "figures" / "accuracy.svg").exists()


def made_up(findings: int) -> Callable[[Results], Section]:
    def section(results: Results) -> Section:
        return Section(
            title="Mine",
            anchor="mine",
            lead="New.",
            blocks=[NoteBlock(title="T", text="Text.")],
            findings=[
                Finding(claim=f"Claim {n}.", note="E.", important=n > 0) for n in range(findings)
            ],
        )

    return section


def test_a_new_stage_needs_only_its_section(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shown=1)
    write_report(run, [made_up(12)])
    titles = ["Read first", "In short", "What was measured", "Mine", "How it was made"]
    assert shown_titles(run) == titles
    claims = next(e for e in elements(run, "ul") if e.attrib.get("class") == "claims")
    assert [text_of(item) for item in claims] == [
        f"Claim {n}. Mine" for n in range(1, IN_SHORT + 1)
    ]


def test_the_page_writes_out_what_a_finding_rests_on(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shown=1)
    one, other = (
        Estimate(value=v, low=v - 0.1, high=v + 0.1, n=n) for v, n in ((0.2, 9), (0.7, 8))
    )
    estimates = [
        Measured(name="how much", estimates={"a": one, "b": other}),
        Measured(name="CS", model="a", estimates={"then": one, "now": one}, counted="units"),
        Measured(name="dead", estimates={"a": Estimate.only(1 / 3, 9)}, form="count"),
        Measured(name="bare", estimates={"a": Estimate.only(0.5, 0)}, form="percent"),
    ]
    finding = Finding(claim="Claim.", estimates=estimates, note="Note.")
    made = Section(title="M", anchor="mine", lead="", blocks=[], findings=[finding])
    write_report(run, [lambda results: made])
    (shown,) = next(
        e
        for e in elements(run, "ul")
        if e.attrib.get("class") == "findings" and len(e) == 1 and "Claim" in text_of(e)
    )
    assert [text_of(part) for part in shown] == [
        "Claim.",
        "How much: b 0.700 (0.600–0.800) and a 0.200 (0.100–0.300) ; the intervals are disjoint "
        "( n = 9 images for a and 8 images for b).",
        "CS of a: 0.200 (0.100–0.300) then and now ( n = 9 units).",
        "Dead: a 3 of 9.",
        "Bare: a 50.0%.",
        "Note.",
    ]


def test_the_top_has_sentences_of_every_section(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shown=1)

    def named(name: str, findings: int) -> Callable[[Results], Section]:
        return lambda results: Section(
            title=name,
            anchor=name,
            lead="",
            blocks=[],
            findings=[
                Finding(claim=f"{name}{n}.", note="E.", important=True) for n in range(findings)
            ],
        )

    write_report(run, [named("a", 9), named("b", 1), named("c", 9)])
    claims = next(e for e in elements(run, "ul") if e.attrib.get("class") == "claims")
    assert [text_of(item).split(".")[0] for item in claims] == [
        "a0",
        "a1",
        "a2",
        "a3",
        "a4",
        "b0",
        "c0",
        "c1",
        "c2",
        "c3",
    ]


def test_the_same_run_gives_the_same_bytes(
    run: Path, dissected: Path, explained: Path, tmp_path: Path
) -> None:
    again, too, three = (write_run(tmp_path / name, shown=1) for name in ("a", "b", "c"))
    write_report(again, [accuracy, neurons])
    write_report(write_dissection(too, **ONE_LAYER), [dissection])
    write_report(write_explained(three), [attribution, features])
    for first, second in ((run, again), (dissected, too), (explained, three)):
        files = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
        assert len(files) > 30
        for path in files:
            assert (second / path).read_bytes() == (first / path).read_bytes()


# pictures


def picture(run: Path) -> Path:
    return run / "figures" / "images" / "0.png"


def grid_only(results: Results) -> Section | None:
    section = neurons(results)
    assert section
    blocks = [block for block in section.blocks if hasattr(block, "grids")]
    return Section(title="Grids", anchor="grids", lead="", findings=[], blocks=blocks)


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", models=("one",), shown=1)


def test_small_pictures_are_embedded_unchanged(fresh: Path) -> None:
    write_report(fresh, [grid_only])
    sources = [e.attrib for e in elements(fresh, "img")]
    assert all(source["src"].startswith("data:image/png;base64,") for source in sources)
    assert all(source["class"] == "small" for source in sources)


def test_large_pictures_are_embedded_smaller(fresh: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (299, 250, 3), dtype=np.uint8)
    Image.fromarray(noise).save(picture(fresh))
    write_report(fresh, [grid_only])
    large = [e.attrib for e in elements(fresh, "img") if "jpeg" in e.attrib["src"]]
    assert len(large) == 1
    assert "class" not in large[0]
    with urllib.request.urlopen(large[0]["src"]) as file, Image.open(file) as image:
        assert max(image.size) == THUMBNAIL


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"<svg/>"])
def test_a_picture_that_is_no_png_is_refused(fresh: Path, content: bytes) -> None:
    picture(fresh).write_bytes(content)
    with pytest.raises(RunError, match=r"cannot read the picture .*0\.png"):
        write_report(fresh, [grid_only])


@pytest.mark.parametrize("kind", ["GIF", "JPEG", "BMP"])
def test_a_picture_of_another_kind_is_refused(fresh: Path, kind: str) -> None:
    Image.new("RGB", (8, 8)).save(picture(fresh), kind)
    with pytest.raises(RunError, match="cannot read the picture"):
        write_report(fresh, [grid_only])


def test_a_cut_picture_is_refused(fresh: Path) -> None:
    picture(fresh).write_bytes(picture(fresh).read_bytes()[:-30])
    with pytest.raises(RunError, match="cannot read the picture"):
        write_report(fresh, [grid_only])


def test_a_picture_of_too_many_pixels_is_refused(fresh: Path) -> None:
    Image.new("1", (5001, 5000)).save(picture(fresh))
    with pytest.raises(RunError, match="more than 2097152 pixels"):
        write_report(fresh, [grid_only])


@pytest.mark.parametrize("file", ["../outside.png", "/etc/hostname", "figures/../../outside.png"])
def test_a_picture_outside_the_run_is_refused(fresh: Path, file: str) -> None:
    Image.new("RGB", (8, 8)).save(fresh.parent / "outside.png")
    table = fresh / "results" / "pictures.csv"
    table.write_text(table.read_text().replace("figures/images/0.png", file))
    with pytest.raises(RunError, match="not in the folder"):
        write_report(fresh, [grid_only])
    assert not (fresh / "report.html").exists()


def test_a_damaged_run_is_refused(fresh: Path) -> None:
    (fresh / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run\.json"):
        write_report(fresh, [accuracy])
