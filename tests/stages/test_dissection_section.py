"""What the report says of dissection: chance beside shares, and only what intervals establish."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from advlens.attacks import adam
from advlens.errors import RunError
from advlens.intervals import wilson
from advlens.report.blocks import (
    FigureBlock,
    Finding,
    GridBlock,
    NoteBlock,
    Section,
    TableBlock,
    UnitBrowserBlock,
)
from advlens.report.sections.dissection import cautions, section
from advlens.runs.results import Results
from synthetic_dissection import CATEGORIES, write_dissection
from synthetic_run import change, read, write_run

LAYERS = ("layer1.0.conv2", "layer2.0.conv2")
LAST = LAYERS[-1]
Found = dict[tuple[str, str, int], tuple[str, str, float]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_dissection(write_run(tmp_path / "run", shown=1))


def made(run: Path) -> Section:
    found = section(Results.read(run))
    assert found
    return found


def finding(run: Path, words: str) -> Finding:
    (found,) = [f for f in made(run).findings if re.search(words, f.claim)]
    return found


def has(run: Path, words: str) -> bool:
    return any(re.search(words, f.claim) for f in made(run).findings)


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


def share(found: Found, category: str = "") -> str:
    """The share of detectors with its interval, in words."""
    hits = sum(value[0] != "0" and category in ("", value[1]) for value in found.values())
    low, high = (100 * bound for bound in wilson(hits, len(found)))
    return f"{100 * hits / len(found):.1f}% ({low:.1f}–{high:.1f})"


def tables(run: Path, file: str) -> list[TableBlock]:
    return [b for b in made(run).blocks if isinstance(b, TableBlock) and b.file == file]


def cells(block: TableBlock) -> list[dict[str, str]]:
    return [{c.header: c.cell(row) for c in block.columns} for row in block.rows]


def browser(run: Path) -> UnitBrowserBlock:
    (found,) = [b for b in made(run).blocks if isinstance(b, UnitBrowserBlock)]
    return found


def test_without_its_table_there_is_no_section(run: Path) -> None:
    (run / "results" / "dissection.csv").unlink()
    assert section(Results.read(run)) is None


def test_other_tables_may_be_absent(run: Path) -> None:
    for name in ("_shares", "_transitions", "_images", "_pictures"):
        (run / "results" / f"dissection{name}.csv").unlink()
    (run / "results" / "units.csv").unlink()
    found = made(run)
    charts = [block for block in found.blocks if isinstance(block, FigureBlock)]
    assert [block.name.split("-")[0] for block in charts] == ["concepts", "concepts"]
    assert [finding.claim.split(" to ")[0] for finding in found.findings] == [
        "Units that never respond"
    ]
    assert not any(score.estimates for score in found.scores)
    assert "LC" not in [column.header for column in browser(run).columns]


def test_all_texts_are_finished(run: Path) -> None:
    found = made(run)
    texts = [f"{f.claim} {f.evidence}" for f in found.findings]
    texts += [b.caption for b in found.blocks if hasattr(b, "caption")]
    texts += [b.alt for b in found.blocks if isinstance(b, FigureBlock)]
    texts += [term.meaning for term in found.terms]
    assert len(found.findings) == 7
    for text in texts:
        assert not re.search(r"[{}]|None|nan|\(\)|  |\.\.", text)
        assert text.endswith(".")


def test_what_was_measured_stands_in_every_caption_of_shares_and_pictures(run: Path) -> None:
    behind = (
        "1,200 images of mini-broden with 68 labels; attack: Adam attack, 20 steps, λ = 0.5, at a "
        "mean L2 distance of 0.710 on "
        "standard (success 98.0%) and robust (success 95.0%)."
    )
    captions = [block.caption for block in made(run).blocks if hasattr(block, "caption")]
    assert sum(caption.endswith(behind) for caption in captions) == 7


@pytest.mark.parametrize(
    ("attack", "norm", "epsilon", "words"),
    [("LeastLikely", "L2", "2", "least-likely PGD-20, L2 ε = 2 on"), ("Mine", "", "", "Mine, 20")],
)
def test_any_attack_is_named(run: Path, attack: str, norm: str, epsilon: str, words: str) -> None:
    change(
        run,
        "dissection_images",
        lambda row: row.update(attack=attack, norm=norm, epsilon=epsilon, weight=""),
    )
    assert words in tables(run, "dissection_shares.csv")[0].caption


# shares: numbers as they follow from the rows of the units


def test_the_share_on_real_images_carries_its_interval(run: Path) -> None:
    found = finding(run, "^On real images, no difference")
    real = units(run, "real")
    for model in ("standard", "robust"):
        assert f"{model} {share(at(real, model))}" in found.evidence
        assert f"{model} {share(at(real, model, None))}" in found.evidence
        assert f"48 units of {LAST} in {model}" in found.evidence
    assert found.important


def test_a_lead_needs_disjoint_intervals(run: Path) -> None:
    change(
        run,
        "dissection_shares",
        lambda r: r.update(share="0.99", low="0.98", high="1") if r["model"] == "robust" else 0,
    )
    assert has(run, "^On real images, the units of robust detect a concept most often.")


def test_one_model_and_one_layer(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", models=("one",), shown=1)
    write_dissection(run, models=("one",), layers=(LAST,), units=(48,))
    value = share(at(units(run, "real"), "one")).split(" ")[0]
    found = finding(
        run, f"^{value} of the units of {LAST} in one detect a concept, by chance [0-9]"
    )
    assert "Over all" not in found.evidence
    assert [c.filter for c in browser(run).columns][:3] == ["", "", ""]  # nothing to choose
    first, *others = tables(run, "dissection_shares.csv")
    assert "Table 2 of D19" in first.caption
    assert not any("Table 1 of D22" in block.caption for block in others)


def test_the_fall_under_attack_is_named_where_it_is_established(run: Path) -> None:
    real, adversarial, again = (
        units(run, kind) for kind in ("real", "adversarial", "adversarial-reestimated")
    )
    found = finding(run, "^Under attack the share of detectors")
    before, after = (share(at(f, "standard")).split(" ")[0] for f in (real, adversarial))
    assert f"falls from {before} to {after} in standard" in found.claim
    assert "does not change beyond its intervals in robust" in found.claim
    for model in ("standard", "robust"):
        assert (
            f"{model} {share(at(real, model))} before and {share(at(adversarial, model))} after "
            "Adam attack, 20 steps, λ = 0.5, at a mean L2 distance of 0.710 "
            f"({share(at(again, model)).split(' ')[0]} with thresholds estimated again, by chance "
        ) in found.evidence
    assert found.important


def test_a_rise_is_called_a_rise(run: Path) -> None:
    def alter(row: dict[str, Any]) -> None:
        if row["images"] == "adversarial" and row["category"] == "all":
            row.update(share="0.95", low="0.9", high="0.97")

    change(run, "dissection_shares", alter)
    assert "to 95.0% in robust" in finding(run, "rises from").claim


def test_a_rise_that_chance_gives_too_is_told(run: Path) -> None:
    """Where an attack makes units respond everywhere, large masks meet some concept or other."""

    def alter(row: dict[str, Any]) -> None:
        if row["images"] == "adversarial" and row["category"] == "all":
            row.update(share="0.95", low="0.9", high="0.97", permuted_share="0.958333")
            row.update(permuted_detectors=str(int(row["units"]) * 46 // 48))

    change(run, "dissection_shares", alter)
    claim = finding(run, "rises from").claim
    assert claim.count("to 95.0% in ") == claim.count(" (by chance alone 95.8%)") == 2


def test_changes_of_categories_are_named_where_established(run: Path) -> None:
    def alter(row: dict[str, Any]) -> None:
        if (row["model"], row["images"], row["category"]) == ("robust", "real", "part"):
            row.update(share="0.5", low="0.4", high="0.6")
        if (row["model"], row["images"], row["category"]) == ("robust", "adversarial", "color"):
            row.update(share="0.7", low="0.6", high="0.8")

    change(run, "dissection_shares", alter)
    found = finding(run, "^By category")
    assert "fewer detectors of part in robust" in found.claim
    assert "more detectors of color in robust" in found.claim
    assert "part in robust 50.0% (40.0–60.0) to " in found.evidence


def test_chance_stands_beside_the_shares(run: Path) -> None:
    found = finding(run, "^On real images, more units detect a concept than by chance")
    rows = read(run, "dissection")
    for model in ("standard", "robust"):
        mine = [
            row
            for row in rows
            if (row["model"], row["layer"], row["images"]) == (model, LAST, "real")
        ]
        hits = sum(float(row["permuted_iou"]) > 0.04 for row in mine)
        low, high = (100 * bound for bound in wilson(hits, len(mine)))
        assert f"{model} {100 * hits / 48:.1f}% ({low:.1f}–{high:.1f}) on real" in found.evidence
    assert not found.warning


def test_shares_not_above_chance_are_a_warning(run: Path) -> None:
    def alter(row: dict[str, Any]) -> None:
        if row["model"] == "robust":
            row.update(permuted_detectors=row["detectors"], permuted_share=row["share"])

    change(run, "dissection_shares", alter)
    found = finding(run, "^In robust, more detectors than by chance are not established")
    assert found.warning
    assert found.important


def test_the_table_of_shares_has_each_category_with_its_chance(run: Path) -> None:
    last, together, every = tables(run, "dissection_shares.csv")
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
            assert row["Detectors"] == share(mine)
            chance = [
                r["category"]
                for r in read(run, "dissection")
                if (r["model"], r["images"]) == (row["Model"], kind)
                and layer in (r["layer"], None)
                and float(r["permuted_iou"]) > 0.04
            ]
            for category in CATEGORIES:
                by_chance = f"{100 * chance.count(category) / len(mine):.1f}"
                value = share(mine, category).split("%")[0]
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
    found = finding(
        run, "^Under attack, the detectors of robust keep their very concept most often"
    )
    for model in ("standard", "robust"):
        mine = fate(run, model)
        detectors = mine["kept"] + mine["lost"] + mine["changed"]
        low, high = (100 * bound for bound in wilson(mine["kept"], detectors))
        assert (
            f"Of {detectors} detectors on real images in {model}, {mine['kept']} keep their "
            f"concept, {100 * mine['kept'] / detectors:.1f}% ({low:.1f}–{high:.1f}), "
            f"{mine['changed']} detect another one and {mine['lost']} none; {mine['gained']} other "
            "units detect one only under attack."
        ) in found.evidence
    assert found.important


def test_the_table_of_fates_has_both_kinds_of_layers(run: Path) -> None:
    rows = cells(tables(run, "dissection_transitions.csv")[0])
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
    _, matrix, together = tables(run, "dissection_transitions.csv")
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
    found = made(run)
    texts = [found.lead, *(term.meaning for term in found.terms)]
    texts += [f"{f.claim} {f.evidence}" for f in found.findings]
    texts += [block.caption for block in found.blocks if hasattr(block, "caption")]
    texts += [b.text for b in found.blocks if isinstance(b, NoteBlock) and b.title != "Sources"]
    assert len(texts) > 15
    assert not [text for text in texts if re.search("attack|adversarial|re-estimated", text)]
    assert not tables(run, "dissection_transitions.csv")
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


def test_a_weak_attack_is_a_warning(run: Path) -> None:
    assert not has(run, "rarely reached")
    change(
        run,
        "dissection_images",
        lambda r: (
            r.update(success="0.1", success_low="0.08", success_high="0.12")
            if r["model"] == "robust"
            else None
        ),
    )
    found = finding(run, "^The attack rarely reached its target on robust")
    assert found.warning
    assert "10.0% (8.0–12.0) of the images of robust (n = 1,200)" in found.evidence
    # then keeping a concept is no merit
    assert has(run, "^Under attack, .* of the detectors in standard and .* in robust keep")


def test_unequal_success_forbids_the_comparison(run: Path) -> None:
    change(
        run,
        "dissection_images",
        lambda r: (
            r.update(success="0.7", success_low="0.68", success_high="0.72")
            if r["model"] == "robust"
            else None
        ),
    )
    assert finding(run, "^Under attack the models cannot be compared").warning


def test_an_attack_of_the_largest_weight_is_a_warning(run: Path) -> None:
    assert not has(run, "as far as its steps reach")
    change(
        run,
        "dissection_images",
        lambda row: row["model"] == "robust" and row.update(weight="1e+06"),
    )
    assert finding(run, "^On robust the attack changes images as far as its steps reach").warning


def test_a_small_data_set_is_a_warning(run: Path) -> None:
    found = finding(run, "do not compare with published ones")
    assert "mini-broden has 1,200 images and 68 labels" in found.evidence
    assert found.warning
    change(run, "dissection_images", lambda row: row.update(n="63305", labels="1197"))
    assert not has(run, "published")


def test_dead_units_and_thresholds_of_zero_are_counted(run: Path) -> None:
    found = finding(run, "^Units that never respond to these images: 4; .* is 0: 4.")
    assert "2 and 2 of 88 in standard (2 layers)" in found.evidence
    change(run, "dissection", lambda row: row.update(threshold="1", dead="false"))
    assert not has(run, "never respond")


# figures


def test_charts_count_the_detectors_of_each_concept(run: Path) -> None:
    charts = [
        b for b in made(run).blocks if isinstance(b, FigureBlock) and b.name[:8] == "concepts"
    ]
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
    (chart,) = [
        b for b in made(run).blocks if isinstance(b, FigureBlock) and b.name[:8] == "concepts"
    ]
    found = [at(units(run, kind), "one") for kind in ("real", "adversarial")]
    concepts = {value[0] for kind in found for value in kind.values()} - {"0"}
    assert f"Not shown: {len(concepts) - 24} rarer ones, with at most " in chart.caption


def test_the_sweep_needs_several_thresholds(run: Path) -> None:
    names = [block.name for block in made(run).blocks if isinstance(block, FigureBlock)]
    assert "dissection-sweep" in names
    change(run, "dissection_shares", lambda row: row.update(minimum="0.04"))
    names = [block.name for block in made(run).blocks if isinstance(block, FigureBlock)]
    assert "dissection-sweep" not in names


def test_with_many_layers_the_figure_shows_the_last_of_each(tmp_path: Path) -> None:
    layers = [f"conv{n}" for n in range(5)]
    run = write_run(tmp_path / "run", layers=layers, units=[4] * 5, shown=1)
    write_dissection(run, layers=layers, units=[6] * 5, shown=0)
    (block,) = [b for b in made(run).blocks if getattr(b, "name", "") == "dissection-shares"]
    assert isinstance(block, FigureBlock)
    assert "The last dissected layer of each model." in block.caption
    assert block.alt.count("conv4") == 4
    assert "conv3" not in block.alt


# pictures


def test_units_stand_side_by_side_with_their_concepts(run: Path) -> None:
    blocks = [block for block in made(run).blocks if isinstance(block, GridBlock)]
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
    real, adversarial = made(run).scores
    for score, kind in ((real, "real"), (adversarial, "adversarial")):
        assert score.counted == "units"
        for model, estimate in score.estimates.items():
            mine = at(units(run, kind), model)
            assert estimate.text(as_percent=True) == share(mine)
            assert estimate.n == 48
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
    change(run, table, lambda row: row.update({column: value}))
    with pytest.raises(RunError, match=re.escape(named)) as caught:
        section(Results.read(run))
    assert f"{table}.csv is damaged" in str(caught.value)


@pytest.mark.parametrize("table", ["dissection", "dissection_shares", "dissection_pictures"])
def test_a_table_without_a_column_is_refused(run: Path, table: str) -> None:
    path = run / "results" / f"{table}.csv"
    path.write_text(path.read_text().replace("layer", "stratum", 1))
    with pytest.raises(RunError, match="it has no column layer"):
        section(Results.read(run))


def test_the_report_knows_the_largest_weight_of_the_search() -> None:
    assert cautions.HEAVIEST == adam.HEAVIEST  # it does not import the attack, which loads PyTorch
