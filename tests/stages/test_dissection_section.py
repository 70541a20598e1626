"""What the report says of dissection: chance beside shares, and only what intervals establish."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from advlens.attacks import adam
from advlens.errors import RunError
from advlens.intervals import wilson
from advlens.report.blocks import FigureBlock, GridBlock, NoteBlock, UnitBrowserBlock
from advlens.report.sections.dissection import section
from advlens.report.sections.dissection.findings import HEAVIEST
from advlens.runs.results import Results
from advlens.words import Estimate, Says
from sections import BOTH, Maker, around, cells, higher, nothing, texts
from synthetic_dissection import CATEGORIES, write_dissection
from synthetic_run import change, put, read, write_run

dissection = Maker(section)
LAYERS = ("layer1.0.conv2", "layer2.0.conv2")
LAST = LAYERS[-1]
Found = dict[tuple[str, str, int], tuple[str, str, float]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_dissection(write_run(tmp_path / "run", shown=1))


def units(run: Path, images: str) -> Found:
    """Label, category and IoU of each unit on these images; no label below the threshold."""
    return {
        (row["model"], row["layer"], int(row["unit"])): (
            (row["label"], row["category"], float(row["iou"]))
            if float(row["iou"]) > 0.04
            else ("0", "none", float(row["iou"]))
        )
        for row in read(run, "dissection")
        if row["images"] == images
    }


def at(found: Found, model: str, layer: str | None = LAST) -> Found:
    return {
        key: value for key, value in found.items() if key[0] == model and layer in (key[1], None)
    }


def share(found: Found, category: str = "") -> Estimate:
    """The share of detectors with its interval."""
    hits = sum(value[0] != "0" and category in ("", value[1]) for value in found.values())
    low, high = wilson(hits, len(found))
    return Estimate(value=hits / len(found), low=low, high=high, n=len(found))


def near(found: Estimate, wanted: Estimate) -> bool:
    """Equal, but for the digits of a table."""
    pairs = ((found.value, wanted.value), (found.low, wanted.low), (found.high, wanted.high))
    return found.n == wanted.n and all(a == pytest.approx(b, abs=1e-5) for a, b in pairs)


def browser(run: Path) -> UnitBrowserBlock:
    (found,) = dissection.blocks(run, UnitBrowserBlock)
    return found


def test_without_its_table_there_is_no_section(run: Path) -> None:
    (run / "results" / "dissection.csv").unlink()
    assert dissection.absent(run)


def test_other_tables_may_be_absent(run: Path) -> None:
    for name in ("_shares", "_transitions", "_images", "_pictures"):
        (run / "results" / f"dissection{name}.csv").unlink()
    (run / "results" / "units.csv").unlink()
    charts = dissection.blocks(run, FigureBlock)
    assert [block.name.split("-")[0] for block in charts] == ["concepts", "concepts"]
    (found,) = dissection.made(run).findings
    assert found.estimates[0].name == "units that are never positive"
    assert not any(score.estimates for score in dissection.made(run).scores)
    assert "LC" not in [column.header for column in browser(run).columns]


def test_all_texts_are_finished(run: Path) -> None:
    assert len(dissection.check(run).findings) == 7


def test_what_was_measured_stands_in_every_caption_of_shares_and_pictures(run: Path) -> None:
    behind = (
        "1,200 images of mini-broden with 68 labels; attack: Adam attack, 20 steps, λ = 0.5, at a "
        "mean L2 distance of 0.710 on "
        "standard (success 98.0%) and robust (success 95.0%)."
    )
    assert sum(text.endswith(behind) for text in texts(dissection.made(run))) == 7


@pytest.mark.parametrize(
    ("attack", "norm", "epsilon", "words"),
    [("LeastLikely", "L2", "2", "least-likely PGD-20, L2 ε = 2 on"), ("Mine", "", "", "Mine, 20")],
)
def test_any_attack_is_named(run: Path, attack: str, norm: str, epsilon: str, words: str) -> None:
    put(run, "dissection_images", {}, attack=attack, norm=norm, epsilon=epsilon, weight="")
    assert words in dissection.tables(run, "dissection_shares.csv")[0].caption


# shares: numbers as they follow from the rows of the units

REAL, UNDER = "share of detectors on real images", "share of detectors"
KEPT = "detectors that keep their concept"


def set_share(run: Path, model: str, images: str, category: str, value: float, **more: Any) -> None:
    where = {"model": model, "images": images, "category": category}
    row = {"share": value, "low": value - 0.02, "high": value + 0.02} | more
    put(run, "dissection_shares", where, **row)


def test_the_share_on_real_images_carries_its_interval(run: Path) -> None:
    real = units(run, "real")
    found = dissection.finding(run, REAL)
    assert list(found.says) == [nothing(REAL)]
    assert found.important
    everywhere = dissection.measured(run, f"{REAL}, all dissected layers")
    for model in BOTH:
        assert near(found.estimates[0].estimates[model], share(at(real, model)))
        assert near(everywhere.estimates[model], share(at(real, model, None)))
        assert f"The last dissected layer is {LAST};" in found.note
    assert found.estimates[0].n == "48 units"


def test_a_lead_needs_disjoint_intervals(run: Path) -> None:
    set_share(run, "robust", "real", "all", 0.97)
    assert dissection.says(run, REAL) == [higher(REAL, "robust")]
    assert dissection.finding(run, REAL).claim == (
        "On real images, units of robust detect a concept more often than those of standard."
    )


def test_one_model_and_one_layer(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", models=("one",), shown=1)
    write_dissection(run, models=("one",), layers=(LAST,), units=(48,))
    found = dissection.finding(run, REAL)
    value = share(at(units(run, "real"), "one")).value
    start = f"{100 * value:.1f}% of the units of {LAST} in one detect a concept, by chance "
    assert found.claim.startswith(start)
    assert not found.says
    assert len(found.estimates) == 1
    assert [c.filter for c in browser(run).columns][:3] == ["", "", ""]  # nothing to choose
    first, *others = dissection.tables(run, "dissection_shares.csv")
    assert "Table 2 of D19" in first.caption
    assert not any("Table 1 of D22" in block.caption for block in others)


def test_the_fall_under_attack_is_named_where_it_is_established(run: Path) -> None:
    found = dissection.finding(run, UNDER, "standard")
    assert found.says == [
        Says(UNDER, ("standard",), "lower", ("real images",)),
        Says(UNDER, ("robust",), "open", ("real images",)),
    ]
    kinds = {
        "on real images": "real",
        "under attack": "adversarial",
        "under attack, thresholds estimated again": "adversarial-reestimated",
    }
    for model in BOTH:
        estimates = dissection.measured(run, UNDER, model).estimates
        assert list(estimates) == list(kinds)
        for name, kind in kinds.items():
            assert near(estimates[name], share(at(units(run, kind), model)))
    before, after = (
        100 * share(at(units(run, k), "standard")).value for k in list(kinds.values())[:2]
    )
    assert found.claim == (
        f"Under attack the share of detectors falls in standard (from {before:.1f}% to "
        f"{after:.1f}%) and stays within its intervals in robust."
    )
    assert "The attack is Adam attack, 20 steps, λ = 0.5" in found.note
    assert found.important


@pytest.mark.parametrize(("detectors", "told"), [(20, False), (46, True)])
def test_a_rise_that_chance_gives_too_is_told(run: Path, detectors: int, told: bool) -> None:
    """Where an attack makes units respond everywhere, large masks meet some concept or other."""
    where = {"images": "adversarial", "category": "all", "layer": LAST}
    chance = {"permuted_detectors": detectors, "permuted_share": detectors / 48}
    put(run, "dissection_shares", where, **{"share": 0.95, "low": 0.9, "high": 0.97} | chance)
    assert {said.direction for said in dissection.says(run, UNDER)} == {"higher"}
    claim = dissection.finding(run, UNDER, "robust").claim
    assert claim.count(" to 95.0%") == 2
    assert claim.count(", by chance 95.8%)") == 2 * told


def test_changes_of_categories_are_named_where_established(run: Path) -> None:
    set_share(run, "robust", "real", "part", 0.5)
    set_share(run, "robust", "adversarial", "color", 0.7)
    part, color = "part detectors", "color detectors"
    assert Says(part, ("robust",), "lower", ("real images",)) in dissection.says(run, part)
    assert Says(color, ("robust",), "higher", ("real images",)) in dissection.says(run, color)
    found = dissection.finding(run, part)
    assert "fewer part detectors in robust" in found.claim
    assert "more color detectors in robust" in found.claim
    assert dissection.measured(run, part, "robust").estimates["on real images"].value == 0.5


def test_chance_stands_beside_the_shares(run: Path) -> None:
    measure = "share of detectors by chance on real images"
    assert dissection.says(run, measure) == [Says(measure, BOTH, "lower", (UNDER,))]
    for model in BOTH:
        mine = [
            row
            for row in read(run, "dissection")
            if (row["model"], row["layer"], row["images"]) == (model, LAST, "real")
        ]
        hits = sum(float(row["permuted_iou"]) > 0.04 for row in mine)
        low, high = wilson(hits, len(mine))
        wanted = Estimate(value=hits / len(mine), low=low, high=high, n=len(mine))
        assert near(dissection.measured(run, measure).estimates[model], wanted)
    found = dissection.finding(run, measure)
    assert found.claim.startswith("On real images, more units detect a concept than by chance.")
    assert not found.warning


def test_shares_not_above_chance_are_a_warning(run: Path) -> None:
    change(
        run,
        "dissection_shares",
        lambda row: (
            row["model"] == "robust"
            and row.update(permuted_detectors=row["detectors"], permuted_share=row["share"])
        ),
    )
    measure = "share of detectors by chance on real images"
    assert dissection.says(run, measure) == [
        Says(measure, ("standard",), "lower", (UNDER,)),
        Says(measure, ("robust",), "open", (UNDER,)),
    ]
    found = dissection.finding(run, measure)
    assert found.claim.startswith("In robust, more detectors than by chance are not established")
    assert found.warning
    assert found.important


@pytest.mark.parametrize(("low", "direction"), [(0.17, "open"), (0.18, "lower")])
def test_more_detectors_than_by_chance_hang_on_the_intervals(
    run: Path, low: float, direction: str
) -> None:
    """A share of .3 against 10 of 100 units by chance, whose interval ends at .174 (Wilson)."""
    put(
        run,
        "dissection_shares",
        {},
        **{"share": 0.3, "low": low, "high": 0.4, "units": 100},
        **{"permuted_detectors": 10, "permuted_share": 0.1},
    )
    (said,) = dissection.says(run, "share of detectors by chance on real images")
    assert said.direction == direction


def test_the_table_of_shares_has_each_category_with_its_chance(run: Path) -> None:
    last, together, every = dissection.tables(run, "dissection_shares.csv")
    assert every.folded
    for block, layer in ((last, LAST), (together, None)):
        rows = cells(block)
        assert [(r["Model"], r["Images"]) for r in rows] == [
            (model, images)
            for model in ("standard", "robust")
            for images in ("Real", "Adversarial", "Re-estimated")
        ]
        for row, kind in zip(
            rows, 2 * ["real", "adversarial", "adversarial-reestimated"], strict=True
        ):
            mine = at(units(run, kind), row["Model"], layer)
            assert row["Detectors"] == share(mine).text(as_percent=True)
            chance = [
                r["category"]
                for r in read(run, "dissection")
                if (r["model"], r["images"]) == (row["Model"], kind)
                and layer in (r["layer"], None)
                and float(r["permuted_iou"]) > 0.04
            ]
            for category in CATEGORIES:
                by_chance = f"{100 * chance.count(category) / len(mine):.1f}"
                value = f"{100 * share(mine, category).value:.1f}"
                assert row[category.capitalize()] == f"{value} / {by_chance}"
    assert len(every.rows) == 2 * 3 * 3 * 7


# transitions


def fate(run: Path, model: str, layer: str | None = LAST) -> Counter[str]:
    real, adversarial = (at(units(run, kind), model, layer) for kind in ("real", "adversarial"))
    found: Counter[str] = Counter()
    for unit, (label, _, _) in real.items():
        after = adversarial[unit][0]
        if label == "0":
            found["none" if after == "0" else "gained"] += 1
        else:
            found["kept" if after == label else "lost" if after == "0" else "changed"] += 1
    return found


def test_what_becomes_of_detectors_is_counted(run: Path) -> None:
    assert dissection.says(run, KEPT) == [higher(KEPT, "robust")]
    found = dissection.finding(run, KEPT)
    assert found.important
    for model in BOTH:
        mine = fate(run, model)
        detectors = mine["kept"] + mine["lost"] + mine["changed"]
        low, high = wilson(mine["kept"], detectors)
        wanted = Estimate(value=mine["kept"] / detectors, low=low, high=high, n=detectors)
        assert near(found.estimates[0].estimates[model], wanted)
        fates = dissection.measured(run, "detectors", model)
        assert fates.form == "count"
        counted = [round(each.value * each.n) for each in fates.estimates.values()]
        assert counted == [mine["kept"], mine["changed"], mine["lost"]]
        assert f"{mine['gained']} in {model}" in found.note


def test_the_table_of_fates_has_both_kinds_of_layers(run: Path) -> None:
    rows = cells(dissection.tables(run, "dissection_transitions.csv")[0])
    assert len(rows) == 8
    for row in rows:
        if row["Images"] == "Adversarial":
            mine = fate(run, row["Model"], LAST if row["Layer"] == LAST else None)
            assert row["Gained"] == str(mine["gained"])
            for header, name in (
                ("Same concept", "kept"),
                ("Another concept", "changed"),
                ("None", "lost"),
            ):
                assert row[header].startswith(f"{mine[name]}: ")


def test_the_matrix_counts_units_from_category_to_category(run: Path) -> None:
    _, matrix, together = dissection.tables(run, "dissection_transitions.csv")
    assert together.folded
    assert not matrix.folded
    real, adversarial = (units(run, kind) for kind in ("real", "adversarial"))
    for row in cells(matrix):
        mine = {
            key: label
            for key, (label, category, _) in at(real, row["Model"]).items()
            if category == row["On real images"]
        }
        assert row["Units"] == str(len(mine))
        for after in (*CATEGORIES, "none"):
            here = [key for key in mine if adversarial[key][1] == after]
            same = sum(adversarial[key][0] == mine[key] for key in here)
            text = str(len(here)) if here else "·"
            if here and after == row["On real images"] != "none":
                text += f" ({same})"
            assert row[f"→ {after}"] == text


def test_without_an_attack_only_real_images_are_spoken_of(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shown=1)
    write_dissection(run, attack="")
    found = dissection.check(run)
    said = [found.lead, *texts(found), *(m.name for f in found.findings for m in f.estimates)]
    said += [b.text for b in dissection.blocks(run, NoteBlock) if b.title != "Sources"]
    assert len(said) > 15
    assert not [text for text in said if re.search("attack|adversarial|re-estimated", text)]
    assert not dissection.tables(run, "dissection_transitions.csv")
    headers = [column.header for column in browser(run).columns]
    assert headers == [
        "Model",
        "Layer",
        "Unit",
        "Concept",
        "Category",
        "IoU",
        "By chance",
        "LC",
        "CS1",
    ]
    grids = [grid for b in found.blocks if isinstance(b, GridBlock) for grid in b.grids]
    assert all(grid.real and not grid.adversarial for grid in grids)
    assert list(grids[0].measures) == ["Real"]
    assert not found.scores[1].estimates


# warnings


def set_success(run: Path, model: str, value: float) -> None:
    put(run, "dissection_images", {"model": model}, **around(value, name="success"))


@pytest.mark.parametrize(("success", "weak"), [(0.499, True), (0.501, False)])
def test_a_weak_attack_is_a_warning(run: Path, success: float, weak: bool) -> None:
    assert not dissection.findings(run, "attack success")
    for model in BOTH:
        set_success(run, model, success)
    assert bool(dissection.findings(run, "attack success")) == weak
    if weak:
        found = dissection.finding(run, "attack success")
        assert found.says == [Says("attack success", BOTH, "lower", ("0.5",))]
        assert found.estimates[0].estimates["robust"].value == success
        assert found.warning


@pytest.mark.parametrize(("success", "apart"), [(0.801, False), (0.799, True)])
def test_unequal_success_forbids_the_comparison(run: Path, success: float, apart: bool) -> None:
    set_success(run, "standard", 0.9)
    set_success(run, "robust", success)
    wanted = [higher("attack success", "standard")] if apart else []
    assert dissection.says(run, "attack success") == wanted
    # then keeping a concept is no merit
    assert dissection.says(run, KEPT) == ([] if apart else [higher(KEPT, "robust")])


@pytest.mark.parametrize(("weight", "limit"), [("1e+06", True), ("9.9e+05", False)])
def test_an_attack_of_the_largest_weight_is_a_warning(run: Path, weight: str, limit: bool) -> None:
    """The report does not import the attack, which loads PyTorch."""
    assert HEAVIEST == adam.HEAVIEST
    put(run, "dissection_images", {"model": "robust"}, weight=weight)
    says = dissection.says(run, "weight λ of the attack")
    assert [said.of for said in says] == [("robust",)] * limit
    assert all(f.warning for f in dissection.findings(run, "weight λ of the attack"))


@pytest.mark.parametrize(
    ("n", "labels", "small"), [(31653, 599, False), (31652, 599, True), (31653, 598, True)]
)
def test_a_small_data_set_is_a_warning(run: Path, n: int, labels: int, small: bool) -> None:
    """Less than half of Broden's 63,305 images, or of its 1,197 labels."""
    put(run, "dissection_images", {}, n=n, labels=labels)
    found = dissection.findings(run, "images and labels")
    assert len(found) == small
    for each in found:
        assert each.warning
        assert f"mini-broden has {n:,} images and {labels} labels" in each.note


def test_dead_units_and_thresholds_of_zero_are_counted(run: Path) -> None:
    found = dissection.finding(run, "units with a threshold of 0")
    assert found.claim == (
        "Units that never respond to these images: 4; that respond so rarely that their threshold "
        "is 0: 4."
    )
    assert found.warning
    for measured in found.estimates:
        for each in measured.estimates.values():
            assert (round(each.value * each.n), each.n) == (2, 88)
    put(run, "dissection", {}, threshold=1)
    assert not dissection.finding(run, "units with a threshold of 0").warning
    put(run, "dissection", {}, dead="false")
    assert not dissection.findings(run, "units with a threshold of 0")


# figures


def test_charts_count_the_detectors_of_each_concept(run: Path) -> None:
    charts = [b for b in dissection.blocks(run, FigureBlock) if b.name[:8] == "concepts"]
    for block, model in zip(charts, ("standard", "robust"), strict=True):
        real, adversarial = (
            Counter(value[0] for value in at(units(run, kind), model).values() if value[0] != "0")
            for kind in ("real", "adversarial")
        )
        assert f"{len(real)} concepts have a detector on real images" in block.caption
        assert f"{len(adversarial)} under attack" in block.caption
        listed = re.findall(r"concept (\d+) \(\w+\): (\d+), under attack (\d+)", block.alt)
        for label, before, after in listed:
            assert (real[label], adversarial[label]) == (int(before), int(after))
        totals = [int(before) + int(after) for _, before, after in listed]
        assert totals == sorted(totals, reverse=True)


def test_what_a_chart_cuts_off_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", models=("one",), shown=1)
    names = [f"concept {n}" for n in range(200)]
    write_dissection(run, models=("one",), layers=(LAST,), units=(150,), concepts=names)
    (chart,) = [b for b in dissection.blocks(run, FigureBlock) if b.name[:8] == "concepts"]
    found = [at(units(run, kind), "one") for kind in ("real", "adversarial")]
    concepts = {value[0] for kind in found for value in kind.values()} - {"0"}
    assert f"Not shown: {len(concepts) - 24} rarer ones, with at most " in chart.caption


def test_the_sweep_needs_several_thresholds(run: Path) -> None:
    names = [block.name for block in dissection.blocks(run, FigureBlock)]
    assert "dissection-sweep" in names
    put(run, "dissection_shares", {}, minimum=0.04)
    names = [block.name for block in dissection.blocks(run, FigureBlock)]
    assert "dissection-sweep" not in names


def test_with_many_layers_the_figure_shows_the_last_of_each(tmp_path: Path) -> None:
    layers = [f"conv{n}" for n in range(5)]
    run = write_run(tmp_path / "run", layers=layers, units=[4] * 5, shown=1)
    write_dissection(run, layers=layers, units=[6] * 5, shown=0)
    blocks = dissection.blocks(run, FigureBlock)
    (block,) = [block for block in blocks if block.name == "dissection-shares"]
    assert "The last dissected layer of each model." in block.caption
    assert block.alt.count("conv4") == 4
    assert "conv3" not in block.alt


# pictures


def test_units_stand_side_by_side_with_their_concepts(run: Path) -> None:
    blocks = dissection.blocks(run, GridBlock)
    assert [block.title for block in blocks] == [f"Units of {LAST}", f"Units of {LAYERS[0]}"]
    rows = {
        (r["model"], r["layer"], int(r["unit"]), r["images"]): r for r in read(run, "dissection")
    }
    pictures = read(run, "dissection_pictures")
    for block in blocks:
        assert block.labels == "predicted"
        assert [(grid.model, grid.unit) for grid in block.grids] == [
            (model, unit) for unit in (3, 4) for model in ("standard", "robust")
        ]
        for grid in block.grids:
            row = rows[grid.model, grid.layer, grid.unit, "adversarial"]
            assert grid.measures["Adversarial"].startswith(f"{row['concept']}, IoU ")
            value = grid.measures["Adversarial"].split(" ")[-1]
            assert float(value) == pytest.approx(float(row["iou"]), rel=0.006)
            mine = [
                r
                for r in pictures
                if (r["model"], r["layer"], r["unit"]) == (grid.model, grid.layer, str(grid.unit))
            ]
            for cell, picture in zip((*grid.real, *grid.adversarial), mine, strict=True):
                assert (cell.file, cell.map) == (picture["file"], picture["map"])
                assert cell.framed == (picture["framed"] == "true")


# the browser


def test_the_browser_has_every_unit_with_all_its_measures(run: Path) -> None:
    block = browser(run)
    headers = [column.header for column in block.columns]
    assert headers == [
        "Model",
        "Layer",
        "Unit",
        "Concept",
        "Category",
        "IoU",
        "By chance",
        "Under attack",
        "IoU then",
        "Change",
        "LC",
        "CS1",
    ]
    real = [row for row in read(run, "dissection") if row["images"] == "real"]
    attacked = [row for row in read(run, "dissection") if row["images"] == "adversarial"]
    neurons = {(r["model"], r["layer"], r["unit"]): r for r in read(run, "units")}
    assert len(block.rows) == len(real) == 2 * 88
    for row, before, after, grid in zip(block.rows, real, attacked, block.grids, strict=True):
        found = dict(zip(headers, row, strict=True))
        neuron = neurons.get((before["model"], before["layer"], before["unit"]), {})
        assert found["Concept"] == before["concept"]
        assert found["Under attack"] == after["concept"]
        assert found["IoU"] == float(before["iou"])
        assert found["IoU then"] == float(after["iou"])
        assert found["By chance"] == float(before["permuted_iou"])
        assert found["LC"] == (float(neuron["lc"]) if neuron.get("lc") else None)
        assert bool(grid) == (before["unit"] in ("3", "4"))
    for model in ("standard", "robust"):
        changes = Counter(row[9] for row in block.rows if row[0] == model)
        assert changes == fate(run, model, None)


# scores and damage


def test_scores_are_the_shares_of_the_last_layer(run: Path) -> None:
    real, adversarial = dissection.made(run).scores
    for score, kind in ((real, "real"), (adversarial, "adversarial")):
        assert score.counted == "units"
        for model, estimate in score.estimates.items():
            mine = at(units(run, kind), model)
            assert near(estimate, share(mine))
            assert score.notes[model].startswith(f"{LAST}; by chance ")


@pytest.mark.parametrize(
    ("table", "column", "value", "named"),
    [
        ("dissection", "iou", "much", "iou in line 2 is 'much', not a number"),
        ("dissection", "model", "other", "'other', which run.json does not name"),
        ("dissection", "dead", "no", "dead in line 2 is 'no', not true or false"),
        ("dissection_shares", "low", "", "low in line 2 is '', not a number"),
        ("dissection_shares", "detectors", "1.5", "not a whole number"),
        ("dissection_shares", "permuted_detectors", "999", "has counts beyond its 40 units"),
        ("dissection_shares", "detectors", "-1", "layer1.0.conv2 of standard has counts beyond"),
        ("dissection_transitions", "same_concept", "999", "has counts beyond its "),
        ("dissection_transitions", "units", "nan", "units in line 2 is 'nan', not finite"),
        ("dissection_images", "labels", "", "labels in line 2 is ''"),
        ("dissection_pictures", "framed", "maybe", "framed in line 2 is 'maybe'"),
    ],
)
def test_damaged_tables_are_refused(
    run: Path, table: str, column: str, value: str, named: str
) -> None:
    put(run, table, {}, **{column: value})
    with pytest.raises(RunError, match=re.escape(named)) as caught:
        section(Results.read(run))
    assert f"{table}.csv is damaged" in str(caught.value)


@pytest.mark.parametrize("table", ["dissection", "dissection_shares", "dissection_pictures"])
def test_a_table_without_a_column_is_refused(run: Path, table: str) -> None:
    path = run / "results" / f"{table}.csv"
    path.write_text(path.read_text().replace("layer", "stratum", 1))
    with pytest.raises(RunError, match="it has no column layer"):
        section(Results.read(run))
