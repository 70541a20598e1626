"""The figure files of pictures hold the images of the tables, pixel by pixel and in order."""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advlens.report.blocks import PictureRowsBlock, Section
from advlens.report.figures import style
from advlens.report.figures.pictures import unit_grid
from advlens.report.figures.style import save_figure
from advlens.report.grids import GridBlock
from advlens.report.page import write_report
from advlens.report.sections.attribution import section as attribution
from advlens.report.sections.dissection import section as dissection
from advlens.report.sections.features import section as features
from advlens.report.sections.neurons import section as neurons
from advlens.runs.results import Results
from advlens.words import file_names
from figure_data import GRID
from synthetic_attribution import write_attribution
from synthetic_dissection import write_dissection
from synthetic_features import write_features
from synthetic_run import BOTH, LAYERS, change, rows_of, write_run
from unrendered import unrendered

KINDS = ("real", "adversarial")
DPI, SIDE = 100, 84
"""Half as fine as in a run, for speed; pixels of a picture, which is 0.84 inches wide."""
METHODS = [("IntegratedGradients", "integrated"), ("ExpectedGradients", "expected")]


def pictures_of(results: Results) -> Iterator[Section]:
    """The sections without what shows no pictures."""
    for make in (neurons, dissection, attribution, features):
        section = make(results)
        assert section
        blocks = [b for b in section.blocks if isinstance(b, GridBlock | PictureRowsBlock)]
        yield Section(title="", anchor=section.title, lead="", findings=[], blocks=blocks)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 explained images, two units of each rule, dissected ones with maps, and all features."""
    run = write_run(tmp_path_factory.mktemp("run"), shown=2)
    write_attribution(run, shown=24)
    write_features(run, shown=2, top=2)
    write_dissection(run, shown=1)
    results = Results.read(run)
    with unrendered("svg"), pytest.MonkeyPatch.context() as patched:
        patched.setattr(style, "DPI", DPI)
        write_report(run, [lambda _, made=made: made for made in pictures_of(results)])
    return run


def colors(run: Path, file: str) -> np.ndarray:
    """A picture with one number for each pixel."""
    with Image.open(run / file) as image:
        return np.asarray(image.convert("RGB")).astype(np.int32) @ np.array([1, 256, 65536], "i4")


def shown(run: Path, name: str, files: set[str]) -> list[list[set[str]]]:
    """The rows of a figure, as at each place the files whose pixels are all there."""
    figure = colors(run, f"figures/{name}.png")
    places: dict[tuple[int, int], set[str]] = {}
    for file in files:
        image = colors(run, file)
        step = SIDE / len(image)
        centers = [round((k + 0.5) * step) for k in range(len(image))]
        ys, xs = (figure[:-SIDE, :-SIDE] == image[0, 0]).nonzero()  # of the upper left pixel
        ys, xs = ys - centers[0], xs - centers[0]
        for i, down in enumerate(centers):
            for j, right in enumerate(centers):
                same = figure[ys + down, xs + right] == image[i, j]
                ys, xs = ys[same], xs[same]
        for y, x in zip(ys.tolist(), xs.tolist(), strict=True):
            near = [p for p in places if abs(p[0] - y) < SIDE / 2 and abs(p[1] - x) < SIDE / 2]
            places.setdefault(near[0] if near else (y, x), set()).add(file)
    lines: list[list[tuple[int, int]]] = []
    for place in sorted(places):
        if lines and place[0] - lines[-1][0][0] < SIDE / 2:
            lines[-1].append(place)
        else:
            lines.append([place])
    return [[places[place] for place in sorted(line, key=lambda p: p[1])] for line in lines]


def check(run: Path, name: str, wanted: list[list[str]]) -> None:
    found = shown(run, name, {file for row in wanted for file in row})
    assert [len(row) for row in found] == [len(row) for row in wanted]
    for row, files in zip(found, wanted, strict=True):
        assert all(file in there for there, file in zip(row, files, strict=True))


def of(run: Path, table: str, column: str = "file", **keys: str) -> list[str]:
    return [row[column] for row in rows_of(run, table, **keys)]


@pytest.mark.parametrize(("method", "name"), METHODS)
def test_attributions_stand_beside_their_image_eight_to_a_column(run, method, name):
    """24 of them in three columns, as in figure 10 of B23."""

    def cells(rank: int) -> list[str]:
        image = of(run, "attribution_pictures", rank=str(rank), method="", model=BOTH[0])
        return image + of(run, "attribution_pictures", rank=str(rank), method=method)

    wanted = [cells(rank) + cells(rank + 8) + cells(rank + 16) for rank in range(8)]
    check(run, f"attributions-{name}-gradients", wanted)


@pytest.mark.parametrize("start", ["noise", "image"])
def test_inversions_stand_beside_target_and_start(run: Path, start: str) -> None:
    wanted = []
    for rank in ("0", "1"):
        mine = {"start": start, "rank": rank}
        first = {**mine, "model": BOTH[0]}
        wanted.append(
            of(run, "inversion_pictures", "target_file", **first)
            + of(run, "inversion_pictures", "start_file", **first)
            + of(run, "inversion_pictures", **mine)
        )
    check(run, f"inversions-{start}", wanted)


def test_components_stand_beside_the_images_that_activate_them_most_and_least(run: Path) -> None:
    wanted = [
        [
            file
            for m in BOTH
            for kind in ("visualized", "most", "least")
            for file in of(run, "visualization_pictures", model=m, component=c, kind=kind)
        ]
        for c in ("3", "130")
    ]
    check(run, "visualization", wanted)


def test_generated_classes_stand_beside_real_images_and_starts(run: Path) -> None:
    def cells(name: str) -> list[str]:
        table = "generation_pictures"
        shared = [
            file
            for kind in ("real", "start")
            for file in of(run, table, **{"class": name, "kind": kind, "model": BOTH[0]})
        ]
        return shared + of(run, table, **{"class": name, "kind": "generated"})

    check(run, "generation", [cells(name) for name in ("airplane", "cat", "dog", "ship")])


@pytest.mark.parametrize("model", BOTH)
def test_units_have_real_over_adversarial_images(run: Path, model: str) -> None:
    units = list(dict.fromkeys(of(run, "pictures", "unit", model=model)))
    assert len(units) == 4

    def line(kind: str, *numbers: str) -> list[str]:
        mine = {"model": model, "images": kind}
        return [file for unit in numbers for file in of(run, "pictures", unit=unit, **mine)]

    wanted = [line(kind, *pair) for pair in (units[:2], units[2:]) for kind in KINDS]
    assert {len(row) for row in wanted} == {16}
    check(run, f"units-{model}-{LAYERS[-1].replace('.', '-')}-least-likely", wanted)


@pytest.mark.parametrize("layer", LAYERS[1:])
def test_dissected_units_have_their_maps_below(run: Path, layer: str) -> None:
    table = "dissection_pictures"
    mine = {"model": "robust", "layer": layer}
    wanted = [
        of(run, table, column, unit="3", images=kind, **mine)
        for kind in KINDS
        for column in ("file", "map")
    ]
    check(run, f"dissected-units-robust-{layer.replace('.', '-')}", wanted)


def test_units_of_the_users_choice_are_said_to_be(run: Path, tmp_path: Path) -> None:
    shown = write_run(tmp_path, shown=1)
    change(shown, "pictures", lambda row: row.update(chosen="your choice", lc=""))
    section = neurons(Results.read(shown))
    assert section
    (block,) = [block for block in section.blocks if isinstance(block, GridBlock)]
    assert block.title == "Units of your choice"
    assert len({grid.sheet for grid in block.grids}) == len(BOTH)


def test_names_are_plain_where_they_tell_things_apart() -> None:
    things = [("ResNet", "layer4.1"), ("a", "b-c"), ("a-b", "c"), ("模型", "conv")]
    names = file_names("units", things)
    assert names["ResNet", "layer4.1"] == "units-resnet-layer4-1"
    assert names["模型", "conv"] == "units-conv"
    assert all(re.fullmatch("units-a-b-c-[0-9a-f]{6}", names[thing]) for thing in things[1:3])
    assert len(set(names.values())) == len(things)
    assert file_names("units", things) == names


def test_pictures_in_an_svg_are_as_fine_as_in_a_png(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    _, svg = save_figure(unit_grid(GRID, lambda file: noise), tmp_path, "name")
    found = re.findall(r"data:image/png;base64,\s*([^\"]+)\"", svg.read_text())
    for content in found:
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            assert min(image.size) >= 168
    assert len(found) == 16


def test_a_figure_of_any_height_can_be_written(tmp_path: Path) -> None:
    with unrendered("svg"):
        png, _ = save_figure(style.new_figure(500, width=1), tmp_path, "name")
    with Image.open(png) as image:
        assert image.size == (style.LONGEST / 500, style.LONGEST)
