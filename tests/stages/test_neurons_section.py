"""What the report says of units: success beside every CS, and only what intervals establish."""

import re
from pathlib import Path
from typing import Any

import pytest

from advlens.report.blocks import FigureBlock, Finding, GridBlock, NoteBlock, Section, TableBlock
from advlens.report.sections.neurons import section
from advlens.report.sections.neurons.findings import _highest
from advlens.runs.results import Results
from synthetic_run import change, read, write_run, write_table


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", shown=2)


def made(run: Path) -> Section:
    found = section(Results.read(run))
    assert found
    return found


def finding(run: Path, words: str) -> Finding:
    (found,) = [f for f in made(run).findings if re.search(words, f.claim)]
    return found


def has(run: Path, words: str) -> bool:
    return any(re.search(words, f.claim) for f in made(run).findings)


def test_without_its_table_there_is_no_section(run: Path) -> None:
    (run / "results" / "layers.csv").unlink()
    assert section(Results.read(run)) is None


def test_other_tables_may_be_absent(run: Path) -> None:
    for name in ("units", "consistency", "floors", "table1_d19", "curves", "pictures"):
        (run / "results" / f"{name}.csv").unlink()
    found = made(run)
    assert [b.name for b in found.blocks if isinstance(b, FigureBlock)] == ["consistency-by-depth"]
    assert len(found.findings) == 2  # dead units; the bias of LC


def test_all_texts_are_finished(run: Path) -> None:
    found = made(run)
    texts = [f"{f.claim} {f.evidence}" for f in found.findings]
    texts += [b.caption for b in found.blocks if hasattr(b, "caption")]
    texts += [b.alt for b in found.blocks if isinstance(b, FigureBlock)]
    for text in texts:
        assert not re.search(r"[{}]|None|nan|\(\)|  ", text)
        assert text.endswith(".")


def test_measures_are_explained(run: Path) -> None:
    names = " ".join(term.name for term in made(run).terms)
    for measure in ("LC", "consis_adv", "CS1", "CS2"):
        assert measure in names


# FGSM: Table 1 of D19


def test_consistency_under_fgsm_says_by_how_much_it_falls(run: Path) -> None:
    found = finding(run, "^Under FGSM")
    for row in read(run, "table1_d19"):
        real, adversarial = float(row["consis"]), float(row["consis_adv"])
        fall = round(100 * (real - adversarial) / real)
        assert f"falls by {fall}% in {row['model']}" in found.claim
        for text in (
            f"{real:.3f} (",
            f"{adversarial:.3f} (",
            f"{100 * float(row['success']):.1f}%",
        ):
            assert text in found.evidence
    assert "FGSM, L∞ ε = 1/255" in found.evidence
    assert "n = 1,000" in found.evidence
    assert "less can change" in found.evidence  # 62 % of one model misclassified, 25 % of the other
    assert found.important


def test_overlapping_intervals_are_no_change(run: Path) -> None:
    change(run, "table1_d19", lambda row: row.update(consis_low="0", consis_adv_high="1"))
    claim = finding(run, "^Under FGSM").claim
    assert claim.count("does not change beyond its intervals") == 2


def test_a_rise_is_called_a_rise(run: Path) -> None:
    change(
        run,
        "table1_d19",
        lambda row: row.update(
            consis="0.2",
            consis_low="0.1",
            consis_high="0.3",
            consis_adv="0.4",
            consis_adv_low="0.35",
            consis_adv_high="0.45",
        ),
    )
    assert "rises by 100% in standard" in finding(run, "^Under FGSM").claim


# CS and success


def test_different_success_forbids_the_comparison_at_equal_epsilon(run: Path) -> None:
    found = finding(run, "^At equal ε")
    assert "cannot be compared" in found.claim
    assert "100.0% (" in found.evidence
    assert "3.1% (" in found.evidence
    assert "least-likely PGD-10, L2 ε = 1" in found.evidence
    assert found.warning
    assert found.important


def same_success(row: dict[str, Any]) -> None:
    row.update(success="0.9", success_low="0.88", success_high="0.92")


def test_with_equal_success_the_models_are_compared_at_equal_epsilon(run: Path) -> None:
    change(run, "consistency", same_success)
    found = finding(run, "^At equal ε")
    assert found.claim == (
        "At equal ε, the units of robust best keep the classes they stand for (highest CS1)."
    )
    assert not found.warning


def test_overlapping_cs_establishes_nothing(run: Path) -> None:
    change(run, "consistency", lambda row: row.update(low="0", high="1"))
    claim = finding(run, "^At equal attack success").claim
    assert (
        claim == "At equal attack success, no difference in CS1 between the models is established."
    )


def test_equal_success_gives_each_models_own_epsilon(run: Path) -> None:
    evidence = finding(run, "^At equal attack success").evidence
    assert "95.0% for standard by least-likely PGD-10, L2 ε = 0.31" in evidence
    assert "95.0% for robust by least-likely PGD-10, L2 ε = 2.51" in evidence
    for row in read(run, "consistency"):
        if (row["images"], row["layer"]) == ("equal-success", "layer2.0.conv2"):
            value = f"{float(row['mean']):.3f}"
            assert (f"{row['model']} {value} (" in evidence) == (row["measure"] in ("cs1", "cs2"))


def test_a_lead_that_only_less_specific_units_make_is_named(run: Path) -> None:
    def curve(model: str, units: list[int], cs1: list[float]) -> list[dict[str, Any]]:
        return [
            {
                "model": model,
                "images": "equal-success",
                "bin_low": low,
                "bin_high": low + 0.1,
                "lc": low + 0.05,
                "cs1": value,
                "cs1_low": "",
                "cs1_high": "",
                "cs2": 0.5,
                "cs2_low": "",
                "cs2_high": "",
                "units": number,
            }
            for low, number, value in zip((0.1, 0.2, 0.3), units, cs1, strict=True)
        ]

    best = finding(run, "^At equal attack success").claim
    assert best.endswith("the units of robust best keep the classes they stand for (highest CS1).")
    robust = curve("robust", [40, 10, 9], [0.8, 0.5, 0.9])
    write_table(run, "curves", [*robust, *curve("standard", [20, 30, 50], [0.9, 0.4, 0.1])])
    found = finding(run, "^At equal attack success CS1 is higher in robust, but not among units")
    lead = (20 * (0.8 - 0.9) + 10 * (0.5 - 0.4)) / 30  # the third bin has too few units
    assert f"CS1 of robust less that of standard is {lead:+.3f} (bins" in found.evidence


def test_equal_success_that_was_not_reached_is_a_warning(run: Path) -> None:
    change(
        run,
        "consistency",
        lambda r: (
            r["model"] == "robust"
            and r.update(success="0.5", success_low="0.4", success_high="0.6")
        ),
    )
    found = finding(run, "^Equal success was not reached")
    assert found.warning


def test_noise_is_the_control(run: Path) -> None:
    assert not finding(run, "^Noise of the same length changes little").warning
    change(
        run,
        "consistency",
        lambda r: r["images"] == "noise" and r["model"] == "standard" and r.update(mean="0.8"),
    )
    found = finding(run, "^Noise alone changes what units of standard respond to")
    assert found.warning
    assert "0.800 (" in found.evidence


# the rest


def test_trends_follow_the_first_and_the_last_bin_with_enough_units(run: Path) -> None:
    def rows(values: list[tuple[float, float, int]]) -> list[dict[str, Any]]:
        return [
            {
                "model": "robust",
                "images": "equal-success",
                "bin_low": lc,
                "bin_high": lc + 0.1,
                "lc": lc,
                "cs1": cs1,
                "cs1_low": cs1 - 0.05,
                "cs1_high": cs1 + 0.05,
                "cs2": 0.5,
                "cs2_low": 0.4,
                "cs2_high": 0.6,
                "units": units,
            }
            for lc, cs1, units in values
        ]

    write_table(
        run, "curves", rows([(0.1, 0.9, 20), (0.5, 0.7, 30), (0.8, 0.2, 10), (0.9, 0.9, 9)])
    )
    found = finding(run, "^From units of low LC")
    assert "CS1 falls and CS2 stays within its intervals in robust" in found.claim
    assert "CS1 0.900 (0.850–0.950) to 0.200 (0.150–0.250)" in found.evidence
    assert "from LC 0.100 (20 units) to 0.800 (10 units)" in found.evidence
    write_table(run, "curves", rows([(0.1, 0.9, 9), (0.5, 0.7, 30)]))
    assert not has(run, "^From units of low LC")


def test_chance_stands_beside_the_measures(run: Path) -> None:
    evidence = finding(run, "well above the floor").evidence
    assert "LC 0.130" in evidence
    assert "CS1 0.910" in evidence
    change(run, "floors", lambda r: r["model"] == "robust" and r.update(value="0.2"))
    assert "0.130 for standard and 0.200 for robust" in finding(run, "above the floor").evidence


def test_the_bias_of_lc_is_corrected(run: Path) -> None:
    """(k·LC − 1)/(k − 1) = LC − (1 − LC)/(k − 1)."""
    found = finding(run, "^LC from so few images")
    last = [row for row in read(run, "layers") if row["layer"] == "layer2.0.conv2"]
    biases = []
    for row in last:
        k, lc = int(row["top"]), float(row["lc_mean"])
        biases.append((1 - lc) / (k - 1))
        assert (
            f"{lc:.3f} becomes {lc - biases[-1]:.3f} for {row['model']} (k = 10)" in found.evidence
        )
    assert f"up to {max(biases):.4f}" in found.claim


@pytest.mark.parametrize(("dead", "claim"), [(0, "No units are dead."), (2, "12 units are dead.")])
def test_dead_units_are_counted(run: Path, dead: int, claim: str) -> None:
    change(run, "layers", lambda row: row.update(dead=str(dead)))
    assert has(run, f"^{re.escape(claim)}")
    assert f"{3 * dead} of 26 in robust" in finding(run, "dead").evidence


def test_a_single_dead_unit_is_singular(run: Path) -> None:
    change(
        run,
        "layers",
        lambda r: r.update(dead=str(int((r["model"], r["layer"]) == ("robust", "conv1")))),
    )
    assert has(run, "^1 unit is dead")


def test_a_layer_without_a_live_unit_has_dashes(run: Path) -> None:
    empty = dict.fromkeys([name for name in read(run, "layers")[0] if "_" in name], "")
    change(run, "layers", lambda r: r["layer"] == "layer2.0.conv2" and r.update(empty))
    found = made(run)
    (block,) = [b for b in found.blocks if isinstance(b, TableBlock) and b.file == "layers.csv"]
    assert [column.cell(block.rows[2]) for column in block.columns][5:] == ["–"] * 5
    assert found.scores[0].estimates == {}


def test_the_table_of_changes_has_success_beside_each_cs(run: Path) -> None:
    (block,) = [
        b for b in made(run).blocks if isinstance(b, TableBlock) and b.file == "consistency.csv"
    ]
    assert len(block.rows) == 8
    headers = [column.header for column in block.columns]
    assert headers == ["Attack", "Model", "Radius ε", "Success", "consis_adv", "CS1", "CS2"]
    cells = [[column.cell(row) for column in block.columns] for row in block.rows]
    assert cells[1][:4] == ["Equal ε", "robust", "L2 1", "3.1% (2.0–4.2)"]
    assert cells[4][0::6] == ["FGSM", "–"]  # no target, no CS2
    assert cells[7][2] == "L2 1"


# pictures


def grids(run: Path) -> list[GridBlock]:
    return [block for block in made(run).blocks if isinstance(block, GridBlock)]


def test_units_of_the_models_stand_side_by_side(run: Path) -> None:
    blocks = grids(run)
    assert [block.title for block in blocks] == ["Units of highest LC", "Units of median LC"]
    for block in blocks:
        assert [grid.model for grid in block.grids] == ["standard", "robust"] * 2
        for grid in block.grids:
            assert len(grid.real) == len(grid.adversarial) == 8
            assert list(grid.measures) == ["LC", "consis_adv", "CS1", "CS2"]
    values = {
        (r["model"], r["unit"]): r for r in read(run, "units") if r["layer"] == "layer2.0.conv2"
    }
    grid = blocks[0].grids[1]
    assert grid.measures["CS1"] == f"{float(values['robust', str(grid.unit)]['cs1']):.3f}"
    assert len({grid.name for block in blocks for grid in block.grids}) == 8


def test_only_misclassified_adversarial_images_are_framed(run: Path) -> None:
    """The fixture marks all adversarial images, as a table that counts right predictions would."""
    framed = 0
    for block in grids(run):
        for grid in block.grids:
            assert not any(cell.framed for cell in grid.real)
            for cell in grid.adversarial:
                assert cell.framed == (cell.label != cell.predicted)
                framed += cell.framed and grid.model == "standard"
    assert f"{framed} of 32 for standard and 0 of 32 for robust" in finding(run, "pictures").claim


def test_pictures_come_in_the_order_of_response(run: Path) -> None:
    rows = read(run, "pictures")
    write_table(run, "pictures", [dict(row) for row in reversed(rows)])
    grid = next(g for block in grids(run) for g in block.grids if g.model == "standard")
    mine = [r for r in rows if (r["model"], r["unit"]) == ("standard", str(grid.unit))]
    assert [cell.file for cell in grid.real] == [r["file"] for r in mine if r["images"] == "real"]


def test_maps_are_shown_and_explained_where_they_were_made(run: Path) -> None:
    def note() -> str:
        notes = (b for b in made(run).blocks if isinstance(b, NoteBlock))
        return next(b.text for b in notes if b.title == "What excites a unit")

    assert "discrepancy" not in note()
    assert not any(cell.map for block in grids(run) for grid in block.grids for cell in grid.real)
    rows = [dict(row) for row in read(run, "pictures")]
    for row in rows:
        row["map"] = row["file"].replace(".png", "-map.png")
    write_table(run, "pictures", rows)
    assert "discrepancy" in note()
    for grid in (grid for block in grids(run) for grid in block.grids):
        for cell in (*grid.real, *grid.adversarial):
            assert cell.map == cell.file.replace(".png", "-map.png")


# scores


def test_scores_explain_the_four_measures(run: Path) -> None:
    lc, adversarial, cs1, cs2 = made(run).scores
    last = {r["model"]: r for r in read(run, "layers") if r["layer"] == "layer2.0.conv2"}
    assert lc.estimates["robust"].value == float(last["robust"]["lc_mean"])
    assert lc.estimates["robust"].n == 1000
    assert adversarial.notes["standard"] == "FGSM, L∞ ε = 1/255; success 62.0%"
    assert cs1.notes["robust"] == "least-likely PGD-10, L2 ε = 2.51; success 95.0%"
    rows = {
        r["measure"]: float(r["mean"])
        for r in read(run, "consistency")
        if (r["model"], r["layer"], r["images"]) == ("robust", "layer2.0.conv2", "equal-success")
    }
    assert cs1.estimates["robust"].value == rows["cs1"]
    assert cs2.estimates["robust"].value == rows["cs2"]


def test_two_models_that_tie_above_a_third_are_no_lack_of_difference() -> None:
    def row(model: str, value: float) -> dict[str, object]:
        return {"model": model, "mean": value, "low": value - 0.05, "high": value + 0.05, "n": 9}

    rows = [row("a", 0.1), row("b", 0.5), row("c", 0.52)]
    assert _highest(rows, "At equal attack success") == (
        "At equal attack success, units keep the classes they stand for to different degrees: "
        "those of b and c more than those of a."
    )
    assert "no difference" in _highest(rows[1:], "At equal attack success")
