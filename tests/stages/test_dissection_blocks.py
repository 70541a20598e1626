"""Tables, figures, pictures and the unit browser of dissection, against the rows of the units."""

import re
from collections import Counter
from pathlib import Path

import pytest

from advlens.report.blocks import FigureBlock, UnitBrowserBlock
from advlens.report.grids import GridBlock
from advlens.report.sections.dissection import section
from sections import Maker, copied
from synthetic_dissection import CATEGORIES, fate, share, units, write_dissection
from synthetic_run import BOTH, LAST, LAYERS, put, rows_of, write_run

dissection = Maker(section)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dissection(write_run(tmp_path_factory.mktemp("run"), shown=0))


def figures(run: Path, name: str) -> list[FigureBlock]:
    return [block for block in dissection.blocks(run, FigureBlock) if block.name.startswith(name)]


def test_the_table_of_shares_has_each_category_with_its_chance(made: Path) -> None:
    last, together = dissection.cells(made, "dissection_shares.csv")
    for rows, layer in ((last, LAST), (together, None)):
        assert [(r["Model"], r["Images"]) for r in rows] == [
            (model, images) for model in BOTH for images in ("Real", "Adversarial", "Re-estimated")
        ]
        for row, kind in zip(
            rows, 2 * ["real", "adversarial", "adversarial-reestimated"], strict=True
        ):
            mine = units(made, kind, row["Model"], layer)
            assert row["Detectors"] == share(mine).text(as_percent=True)
            chance = [
                r["category"]
                for r in rows_of(made, "dissection", model=row["Model"], images=kind)
                if layer in (r["layer"], None) and float(r["permuted_iou"]) > 0.04
            ]
            for category in CATEGORIES:
                by_chance = f"{100 * chance.count(category) / len(mine):.1f}"
                value = f"{100 * share(mine, category).value:.1f}"
                assert row[category.capitalize()] == f"{value} / {by_chance}"


def test_the_tables_of_fates_count_units_from_category_to_category(made: Path) -> None:
    rows, matrix, _ = dissection.cells(made, "dissection_transitions.csv")
    assert len(rows) == 8
    for row in [row for row in rows if row["Images"] == "Adversarial"]:
        mine = fate(made, row["Model"], LAST if row["Layer"] == LAST else None)
        assert row["Gained"] == str(mine["gained"])
        names = {"Same concept": "kept", "Another concept": "changed", "None": "lost"}
        for header, name in names.items():
            assert row[header].startswith(f"{mine[name]}: ")
    adversarial = units(made, "adversarial")
    for row in matrix:
        before = row["On real images"]
        real = units(made, "real", row["Model"])
        mine = {key: label for key, (label, category, _) in real.items() if category == before}
        assert row["Units"] == str(len(mine))
        for after in (*CATEGORIES, "none"):
            here = [key for key in mine if adversarial[key][1] == after]
            same = sum(adversarial[key][0] == mine[key] for key in here)
            text = str(len(here)) if here else "·"
            if here and after == before != "none":
                text += f" ({same})"
            assert row[f"→ {after}"] == text
    folded = [b.folded for b in dissection.tables(made, "dissection_transitions.csv")]
    assert folded == [False, False, True]


def test_charts_count_the_detectors_of_each_concept(made: Path) -> None:
    for block, model in zip(figures(made, "concepts"), BOTH, strict=True):
        real, adversarial = (
            Counter(value[0] for value in units(made, kind, model).values() if value[0] != "0")
            for kind in ("real", "adversarial")
        )
        assert f"{len(real)} concepts have a detector on real images" in block.caption
        assert f"{len(adversarial)} under attack" in block.caption
        listed = re.findall(r"concept (\d+) \(\w+\): (\d+), under attack (\d+)", block.alt)
        for label, before, after in listed:
            assert (real[label], adversarial[label]) == (int(before), int(after))
        totals = [int(before) + int(after) for _, before, after in listed]
        assert totals == sorted(totals, reverse=True)


def test_the_sweep_needs_several_thresholds(made: Path, tmp_path: Path) -> None:
    assert figures(made, "dissection-sweep")
    run = copied(made, tmp_path)
    put(run, "dissection_shares", {}, minimum=0.04)
    assert not figures(run, "dissection-sweep")


def test_with_many_layers_the_figure_shows_the_last_of_each(tmp_path: Path) -> None:
    layers = [f"conv{n}" for n in range(5)]
    run = write_run(tmp_path, layers=layers, units=[4] * 5, shown=0)
    write_dissection(run, layers=layers, units=[6] * 5, shown=0)
    (block,) = figures(run, "dissection-shares")
    assert "The last dissected layer of each model." in block.caption
    assert block.alt.count("conv4") == 4
    assert "conv3" not in block.alt


def test_units_stand_side_by_side_with_their_concepts(made: Path) -> None:
    blocks = dissection.blocks(made, GridBlock)
    assert [block.title for block in blocks] == [f"Units of {LAST}", f"Units of {LAYERS[1]}"]
    for block in blocks:
        assert block.labels == "predicted"
        assert [(grid.model, grid.unit) for grid in block.grids] == [
            (model, unit) for unit in (3, 4) for model in BOTH
        ]
        for grid in block.grids:
            unit = {"model": grid.model, "layer": grid.layer, "unit": str(grid.unit)}
            (row,) = rows_of(made, "dissection", images="adversarial", **unit)
            concept, value = grid.measures["Adversarial"].split(", IoU ")
            assert concept == row["concept"]
            assert float(value) == pytest.approx(float(row["iou"]), rel=0.006)
            mine = rows_of(made, "dissection_pictures", **unit)
            for cell, picture in zip(grid.cells, mine, strict=True):
                assert (cell.file, cell.map) == (picture["file"], picture["map"])
                assert cell.framed == (picture["framed"] == "true")


def test_the_browser_has_every_unit_with_all_its_measures(made: Path) -> None:
    (block,) = dissection.blocks(made, UnitBrowserBlock)
    assert ", ".join(column.header for column in block.columns) == (
        "Model, Layer, Unit, Concept, Category, IoU, By chance, Under attack, IoU then, Change, "
        "LC, CS1"
    )
    real, attacked = (rows_of(made, "dissection", images=i) for i in ("real", "adversarial"))
    neurons = {(r["model"], r["layer"], r["unit"]): r for r in rows_of(made, "units")}
    assert len(block.rows) == len(real) == 2 * 88
    for row, before, after, grid in zip(block.rows, real, attacked, block.grids, strict=True):
        neuron = neurons.get((before["model"], before["layer"], before["unit"]), {})
        assert list(row[3:9]) == [
            *(before["concept"], before["category"], float(before["iou"])),
            *(float(before["permuted_iou"]), after["concept"], float(after["iou"])),
        ]
        assert row[10] == (float(neuron["lc"]) if neuron.get("lc") else None)
        assert bool(grid) == (before["unit"] in ("3", "4"))
    for model in BOTH:
        assert Counter(row[9] for row in block.rows if row[0] == model) == fate(made, model, None)
