"""What the report says of units: success beside every CS, and only what intervals establish."""

from pathlib import Path
from typing import Any

import pytest

from advlens.report.blocks import FigureBlock, GridBlock, NoteBlock
from advlens.report.sections.neurons import section
from advlens.words import Says
from sections import BOTH, Maker, around, cells, estimate, higher, nothing, number
from synthetic_run import change, put, read, write_run, write_table

neurons = Maker(section)
LAST = "layer2.0.conv2"
EQUAL, MATCHED = "CS1 at equal ε", "CS1 at equal attack success"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", shown=2)


def rows(run: Path, images: str, measure: str) -> dict[str, dict[str, str]]:
    """For each model its row of the last convolution."""
    return {
        row["model"]: row
        for row in read(run, "consistency")
        if (row["images"], row["measure"], row["layer"]) == (images, measure, LAST)
    }


def test_without_its_table_there_is_no_section(run: Path) -> None:
    neurons.check(run)
    (run / "results" / "layers.csv").unlink()
    assert neurons.absent(run)


def test_other_tables_may_be_absent(run: Path) -> None:
    for name in ("units", "consistency", "floors", "table1_d19", "curves", "pictures"):
        (run / "results" / f"{name}.csv").unlink()
    found = neurons.check(run)
    assert [b.name for b in neurons.blocks(run, FigureBlock)] == ["consistency-by-depth"]
    assert [f.estimates[0].name for f in found.findings] == ["LC", "dead units"]


def test_measures_are_explained(run: Path) -> None:
    names = " ".join(term.name for term in neurons.made(run).terms)
    for measure in ("LC", "consis_adv", "CS1", "CS2"):
        assert measure in names


# FGSM: Table 1 of D19


def test_consistency_under_fgsm_says_by_how_much_it_falls(run: Path) -> None:
    found = neurons.finding(run, "consistency")
    for row in read(run, "table1_d19"):
        real, adversarial = estimate(row, "consis"), estimate(row, "consis_adv")
        fall = round(100 * (real.value - adversarial.value) / real.value)
        assert f"{row['model']} (by {fall}%)" in found.claim
        assert neurons.measured(run, "consistency", row["model"]).estimates == {
            "on real images": real,
            "under FGSM, L∞ ε = 1/255": adversarial,
        }
        success = neurons.measured(run, "images misclassified under FGSM")
        assert success.estimates[row["model"]] == estimate(row, "success")
    assert found.says == [
        Says("consistency", (model,), "lower", ("real images",)) for model in BOTH
    ]
    assert "less can change" in found.note  # 62 % of one model misclassified, 25 % of the other
    assert found.important
    put(run, "consistency", {"images": "fgsm"}, **around(0.6, name="success"))
    assert not neurons.finding(run, "consistency").note


def test_overlapping_intervals_are_no_change(run: Path) -> None:
    put(run, "table1_d19", {"model": "robust"}, consis_low=0, consis_adv_high=1)
    assert [said.direction for said in neurons.says(run, "consistency")] == ["lower", "open"]
    claim = neurons.finding(run, "consistency").claim
    assert claim.endswith(" and stays within its intervals in robust.")


def test_a_rise_is_called_a_rise(run: Path) -> None:
    values = around(0.2, name="consis") | around(0.4, name="consis_adv")
    put(run, "table1_d19", {}, **values)
    assert [said.direction for said in neurons.says(run, "consistency")] == ["higher"] * 2
    assert "rises in standard (by 100%)" in neurons.finding(run, "consistency").claim


# CS and success


def test_different_success_forbids_the_comparison_at_equal_epsilon(run: Path) -> None:
    found = neurons.finding(run, EQUAL)
    assert found.says == [nothing(EQUAL)]
    assert "cannot be compared" in found.claim
    success, cs1, cs2 = found.estimates
    for measured, images, measure in ((cs1, "least-likely", "cs1"), (cs2, "least-likely", "cs2")):
        wanted = {model: estimate(row) for model, row in rows(run, images, measure).items()}
        assert measured.estimates == wanted
    for model, row in rows(run, "least-likely", "cs1").items():
        assert success.estimates[model] == estimate(row, "success")
    assert "least-likely PGD-10, L2 ε = 1" in found.note
    assert found.warning
    assert found.important


@pytest.mark.parametrize(("success", "apart"), [(0.801, False), (0.799, True)])
@pytest.mark.parametrize("measure", [EQUAL, MATCHED])
def test_success_counts_as_equal_within_ten_points(
    run: Path, measure: str, success: float, apart: bool
) -> None:
    put(run, "consistency", {}, **around(0.9, name="success"))
    put(run, "consistency", {"model": "robust"}, **around(success, name="success"))
    found = neurons.finding(run, measure)
    assert found.warning == apart
    assert list(found.says) == [nothing(measure) if apart else higher(measure, "robust")]
    if not apart:
        where = "equal ε" if measure == EQUAL else "equal attack success"
        assert found.claim == (
            f"At {where}, units of robust keep more of the classes they stand for (higher CS1) "
            "than those of standard."
        )


def test_success_within_its_intervals_counts_as_equal(run: Path) -> None:
    put(run, "consistency", {}, **around(0.9, 0.2, name="success"))
    put(run, "consistency", {"model": "robust"}, **around(0.6, 0.2, name="success"))
    assert not neurons.finding(run, EQUAL).warning


def test_equal_success_that_was_not_reached_is_a_warning(run: Path) -> None:
    put(run, "consistency", {"model": "robust"}, **around(0.5, name="success"))
    found = neurons.finding(run, MATCHED)
    assert found.claim == "Equal success was not reached, so CS does not compare the models."


def test_overlapping_cs_establishes_nothing(run: Path) -> None:
    put(run, "consistency", {}, low=0, high=1)
    assert neurons.says(run, MATCHED) == [nothing(MATCHED)]


def test_equal_success_gives_each_models_own_epsilon(run: Path) -> None:
    found = neurons.finding(run, MATCHED)
    assert found.note.startswith(
        "The attack is least-likely PGD-10, L2 ε = 0.31 for standard and least-likely PGD-10, L2 "
        "ε = 2.51 for robust;"
    )
    for measured, measure in zip(found.estimates[1:], ("cs1", "cs2"), strict=True):
        wanted = rows(run, "equal-success", measure)
        assert measured.estimates == {model: estimate(row) for model, row in wanted.items()}


def test_one_model_has_its_cs1_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", models=("one",), shown=1)
    found = neurons.finding(run, EQUAL)
    value = number(float(rows(run, "least-likely", "cs1")["one"]["mean"]))
    assert found.claim == f"Under the targeted attack, CS1 of one is {value}."
    assert not found.says
    assert not neurons.findings(run, MATCHED)


def curve(
    model: str, bins: list[tuple[float, float, int]], cs2: float = 0.5
) -> list[dict[str, Any]]:
    """Bins of LC with a mean CS1, ± .05, and a number of units."""
    return [
        {"model": model, "images": "equal-success", "bin_low": lc, "bin_high": lc + 0.1, "lc": lc}
        | around(cs1, 0.05, "cs1")
        | around(cs2, 0.05, "cs2")
        | {"units": units}
        for lc, cs1, units in bins
    ]


def test_a_lead_that_only_less_specific_units_make_is_named(run: Path) -> None:
    robust = curve("robust", [(0.1, 0.8, 40), (0.2, 0.5, 10), (0.3, 0.9, 9)])
    standard = curve("standard", [(0.1, 0.9, 20), (0.2, 0.4, 30), (0.3, 0.1, 50)])
    write_table(run, "curves", [*robust, *standard])
    found = neurons.finding(run, "CS1 at equal LC")
    assert found.says == [Says("CS1 at equal LC", ("robust",), "open")]
    lead = (20 * (0.8 - 0.9) + 10 * (0.5 - 0.4)) / 30  # the third bin has too few units
    assert f"CS1 of robust less that of standard is {lead:+.3f} (bins" in found.note
    assert "these units are less specific" in found.claim


@pytest.mark.parametrize(("cs1", "weak"), [(0.951, False), (0.949, True)])
def test_noise_is_the_control(run: Path, cs1: float, weak: bool) -> None:
    put(run, "consistency", {"images": "noise", "model": "standard", "layer": LAST}, mean=cs1)
    found = neurons.finding(run, "CS1 under noise")
    models, direction = (("standard",), "lower") if weak else (BOTH, "higher")
    assert found.says == [Says("CS1 under noise", models, direction, ("0.95",))]
    assert found.warning == weak
    assert found.estimates[0].estimates["standard"].value == cs1
    assert found.claim == (
        "Noise alone changes what units of standard respond to."
        if weak
        else "Noise of the same length changes little: the effect is the attack's."
    )


# the rest


def test_trends_follow_the_first_and_the_last_bin_with_enough_units(run: Path) -> None:
    bins = [(0.05, 0.1, 9), (0.1, 0.9, 10), (0.5, 0.7, 30), (0.8, 0.2, 10), (0.9, 0.9, 9)]
    write_table(run, "curves", curve("robust", bins))
    assert neurons.says(run, "CS1") == [Says("CS1", ("robust",), "lower", ("units of low LC",))]
    assert neurons.says(run, "CS2") == [Says("CS2", ("robust",), "open", ("units of low LC",))]
    found = neurons.measured(run, "CS1", "robust")
    first, last = found.estimates.items()
    assert [name for name, _ in (first, last)] == ["at LC 0.100", "at LC 0.800"]
    assert [each.value for _, each in (first, last)] == [0.9, 0.2]
    assert found.n == "10 units"
    assert neurons.finding(run, "CS1").claim == (
        "From units of low LC to units of high LC, CS1 falls in robust; CS2 stays within its "
        "intervals in robust."
    )
    write_table(run, "curves", curve("robust", [(0.1, 0.9, 9), (0.5, 0.7, 30)]))
    assert not neurons.findings(run, "CS1")


def test_chance_stands_beside_the_measures(run: Path) -> None:
    lc, cs1 = (neurons.measured(run, f"{name} of random images") for name in ("LC", "CS1"))
    assert {each.value for each in lc.estimates.values()} == {0.13}
    assert {each.value for each in cs1.estimates.values()} == {0.91}
    (run / "results" / "floors.csv").unlink()
    assert not neurons.findings(run, "LC of random images")


def test_the_bias_of_lc_is_corrected(run: Path) -> None:
    """(k·LC − 1)/(k − 1) = LC − (1 − LC)/(k − 1)."""
    biases = []
    corrected = neurons.measured(run, "LC, corrected").estimates
    for row in [row for row in read(run, "layers") if row["layer"] == LAST]:
        k, lc = int(row["top"]), float(row["lc_mean"])
        biases.append((1 - lc) / (k - 1))
        assert corrected[row["model"]].value == pytest.approx(lc - biases[-1], rel=1e-5)
        assert neurons.measured(run, "LC").estimates[row["model"]].value == lc
    found = neurons.finding(run, "LC, corrected")
    assert f"up to {number(max(biases))} " in found.claim
    assert "k = 10" in found.note


@pytest.mark.parametrize(
    ("dead", "claim"), [(0, "No units are dead."), (1, "6 units are dead."), (2, "12 units are")]
)
def test_dead_units_are_counted(run: Path, dead: int, claim: str) -> None:
    put(run, "layers", {}, dead=dead)
    found = neurons.finding(run, "dead units")
    assert found.claim.startswith(claim)
    for each in found.estimates[0].estimates.values():
        assert round(each.value * each.n) == 3 * dead
        assert each.n == 26


def test_a_single_dead_unit_is_singular(run: Path) -> None:
    put(run, "layers", {}, dead=0)
    put(run, "layers", {"model": "robust", "layer": "conv1"}, dead=1)
    assert neurons.finding(run, "dead units").claim == "1 unit is dead."


def test_a_layer_without_a_live_unit_has_dashes(run: Path) -> None:
    empty = dict.fromkeys([name for name in read(run, "layers")[0] if "_" in name], "")
    put(run, "layers", {"layer": LAST}, **empty)
    (block,) = neurons.tables(run, "layers.csv")
    assert list(cells(block)[2].values())[5:] == ["–"] * 5
    assert neurons.made(run).scores[0].estimates == {}


def test_the_table_of_changes_has_success_beside_each_cs(run: Path) -> None:
    (block,) = neurons.tables(run, "consistency.csv")
    assert len(block.rows) == 8
    shown = [list(row.values()) for row in cells(block)]
    headers = ["Attack", "Model", "Radius ε", "Success", "consis_adv", "CS1", "CS2"]
    assert list(cells(block)[0]) == headers
    assert shown[1][:4] == ["Equal ε", "robust", "L2 1", "3.1% (2.0–4.2)"]
    assert shown[4][0::6] == ["FGSM", "–"]  # no target, no CS2
    assert shown[7][2] == "L2 1"


# pictures


def grids(run: Path) -> list[GridBlock]:
    return neurons.blocks(run, GridBlock)


def test_units_of_the_models_stand_side_by_side(run: Path) -> None:
    blocks = grids(run)
    assert [block.title for block in blocks] == ["Units of highest LC", "Units of median LC"]
    for block in blocks:
        assert [grid.model for grid in block.grids] == ["standard", "robust"] * 2
        for grid in block.grids:
            assert len(grid.real) == len(grid.adversarial) == 8
            assert list(grid.measures) == ["LC", "consis_adv", "CS1", "CS2"]
    values = {(r["model"], r["unit"]): r for r in read(run, "units") if r["layer"] == LAST}
    grid = blocks[0].grids[1]
    assert grid.measures["CS1"] == f"{float(values['robust', str(grid.unit)]['cs1']):.3f}"
    assert len({grid.name for block in blocks for grid in block.grids}) == 8


def test_only_misclassified_adversarial_images_are_framed(run: Path) -> None:
    """The fixture marks all adversarial images, as a table that counts right predictions would."""
    framed = dict.fromkeys(BOTH, 0)
    for block in grids(run):
        for grid in block.grids:
            assert not any(cell.framed for cell in grid.real)
            for cell in grid.adversarial:
                assert cell.framed == (cell.label != cell.predicted)
                framed[grid.model] += cell.framed
    found = neurons.finding(run, "framed pictures")
    shares = {model: each.value * each.n for model, each in found.estimates[0].estimates.items()}
    assert shares == pytest.approx(framed)
    assert framed["standard"] > 0 == framed["robust"]
    assert f" {framed['standard']} are mistaken" in found.claim


def test_pictures_come_in_the_order_of_response(run: Path) -> None:
    pictures = read(run, "pictures")
    write_table(run, "pictures", [dict(row) for row in reversed(pictures)])
    grid = next(g for block in grids(run) for g in block.grids if g.model == "standard")
    mine = [r for r in pictures if (r["model"], r["unit"]) == ("standard", str(grid.unit))]
    assert [cell.file for cell in grid.real] == [r["file"] for r in mine if r["images"] == "real"]


def test_maps_are_shown_and_explained_where_they_were_made(run: Path) -> None:
    def note() -> str:
        notes = neurons.blocks(run, NoteBlock)
        return next(b.text for b in notes if b.title == "What excites a unit")

    assert "discrepancy" not in note()
    assert not any(cell.map for block in grids(run) for grid in block.grids for cell in grid.real)
    change(run, "pictures", lambda r: r.update(map=r["file"].replace(".png", "-map.png")))
    assert "discrepancy" in note()
    for grid in (grid for block in grids(run) for grid in block.grids):
        for cell in (*grid.real, *grid.adversarial):
            assert cell.map == cell.file.replace(".png", "-map.png")


# scores


def test_scores_explain_the_four_measures(run: Path) -> None:
    lc, adversarial, cs1, cs2 = neurons.made(run).scores
    last = {r["model"]: r for r in read(run, "layers") if r["layer"] == LAST}
    assert lc.estimates["robust"].value == float(last["robust"]["lc_mean"])
    assert lc.estimates["robust"].n == 1000
    assert adversarial.notes["standard"] == "FGSM, L∞ ε = 1/255; success 62.0%"
    assert cs1.notes["robust"] == "least-likely PGD-10, L2 ε = 2.51; success 95.0%"
    for score, measure in ((cs1, "cs1"), (cs2, "cs2")):
        wanted = rows(run, "equal-success", measure)["robust"]
        assert score.estimates["robust"] == estimate(wanted)
