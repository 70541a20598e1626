"""What the report says of units: success beside every CS, and only what intervals establish."""

from pathlib import Path
from typing import Any

import pytest

from advlens.report.blocks import FigureBlock, NoteBlock
from advlens.report.grids import GridBlock
from advlens.report.sections.neurons import section
from advlens.report.verdict import verdict
from advlens.runs.results import Results
from advlens.words import Estimate
from sections import Maker, cells, estimate, number, puts, remove
from synthetic_run import BOTH, LAST, MEASURES, around, change, put, rows_of, write_run, write_table

neurons = Maker(section)
EQUAL, MATCHED = "CS1 at equal ε", "CS1 at equal attack success"
AT_LC, NOISE = "CS1 at equal LC", "CS1 under noise"
FALL, FALLS = "consistency", "standard lower than real images; robust "
HIGHER = "robust higher than standard"
WIDE = "consistency: success=0.8±0.2; consistency model=robust: success=0.6±0.2"
SUCCESS = "consistency: success=0.9±0.01; consistency model=robust: success="
CONTROL = "consistency images=noise model=standard layer=layer2.0.conv2: mean="
SAID = [
    (FALL, "", f"{FALLS}lower than real images", "falls in standard (by "),
    (
        FALL,
        "table1_d19 model=robust: consis_low=0 consis_adv_high=1",
        f"{FALLS}open than real images",
        "and is not shown to change in robust.",
    ),
    (
        FALL,
        "table1_d19: consis=0.2±0.01 consis_adv=0.4±0.01",
        "standard higher than real images; robust higher than real images",
        "rises in standard (by 100%)",
    ),
    # success counts as equal within ten points, or within its intervals
    (EQUAL, "", "", ""),  # the attack failed on one model
    (EQUAL, f"{SUCCESS}0.499±0.01", "", ""),
    (EQUAL, f"{SUCCESS}0.5±0.01", "warning: standard, robust open", "cannot be compared"),
    (EQUAL, f"{SUCCESS}0.799±0.01", "warning: standard, robust open", "cannot be compared"),
    (EQUAL, f"{SUCCESS}0.801±0.01", HIGHER, "At equal ε, units of robust keep more of"),
    (EQUAL, WIDE, HIGHER, ""),
    (MATCHED, f"{SUCCESS}0.799±0.01", "warning: standard, robust open", "was not reached"),
    (MATCHED, f"{SUCCESS}0.801±0.01", HIGHER, "At equal attack success, units of robust keep"),
    (MATCHED, "consistency: low=0 high=1", "standard, robust open", ""),
    (NOISE, f"{CONTROL}0.951", "standard, robust higher than 0.95", "changes little"),
    (NOISE, f"{CONTROL}0.949", "warning: standard lower than 0.95", "what units of standard"),
]
BESIDE = [
    (EQUAL, "least-likely", "is least-likely PGD-10, L2 ε = 1;"),
    (MATCHED, "equal-success", "L2 ε = 0.31 for standard and least-likely PGD-10, L2 ε = 2.51"),
]
DEAD = [
    (1, {"model": "robust", "layer": "conv1"}, "1 unit is dead."),
    (2, {}, "12 units are"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


def means(run: Path, images: str, measure: str, name: str = "") -> dict[str, Estimate]:
    """For each model that of the last convolution."""
    rows = rows_of(run, "consistency", images=images, measure=measure, layer=LAST)
    return {row["model"]: estimate(row, name) for row in rows}


def test_tables_may_be_absent(run: Path) -> None:
    names = " ".join(term.name for term in neurons.check(run).terms)
    assert all(measure in names for measure in ("LC", "consis_adv", "CS1", "CS2"))
    remove(run, "units", "consistency", "floors", "table1_d19", "curves", "pictures")
    found = neurons.check(run)
    assert [b.name for b in neurons.blocks(run, FigureBlock)] == [
        "consistency-by-depth-least-likely"
    ]
    assert [f.estimates[0].name for f in found.findings] == ["LC", "dead units"]
    remove(run, "layers")
    assert neurons.absent(run)


@pytest.mark.parametrize(("measure", "changes", "told", "words"), SAID)
def test_what_is_said(run: Path, measure: str, changes: str, told: str, words: str) -> None:
    neurons.tells(run, changes, measure, told, words)


def test_consistency_under_fgsm_says_by_how_much_it_falls(run: Path) -> None:
    found = neurons.finding(run, FALL)
    for row in rows_of(run, "table1_d19"):
        real, adversarial = estimate(row, "consis"), estimate(row, "consis_adv")
        fall = round(100 * (real.value - adversarial.value) / real.value)
        assert f"{row['model']} (by {fall}%)" in found.claim
        assert neurons.measured(run, FALL, row["model"]).estimates == {
            "on real images": real,
            "under FGSM, L∞ ε = 1/255": adversarial,
        }
        success = neurons.measured(run, "images misclassified under FGSM")
        assert success.estimates[row["model"]] == estimate(row, "success")
    assert "less can change" in found.note  # 62 % of one model misclassified, 25 % of the other
    assert found.important
    puts(run, "consistency images=fgsm: success=0.6±0.01")
    assert not neurons.finding(run, FALL).note


@pytest.mark.parametrize(("measure", "images", "attacks"), BESIDE)
def test_success_and_attack_stand_beside_every_cs(run, measure, images, attacks):
    puts(run, "consistency: success=0.9±0.01")
    found = neurons.finding(run, measure)
    assert found.important
    assert attacks in found.note
    success, *scores = found.estimates
    assert success.name == "attack success"
    assert success.estimates == means(run, images, "cs1", "success")
    for measured, name in zip(scores, ("cs1", "cs2"), strict=True):
        assert measured.estimates == means(run, images, name)
    put(run, "consistency", {}, targeted="false")
    assert neurons.finding(run, measure).estimates[0].name == "misclassified"


def test_a_change_longer_than_that_of_noise_has_no_control(run: Path) -> None:
    name, equal = "CS1 under noise", {"images": "equal-success", "model": "robust"}
    put(run, "consistency", {}, distance="1")
    for distance, beyond in (("1.09", False), ("1.11", True)):
        put(run, "consistency", equal, distance=distance)
        assert ("robust: a part of" in neurons.finding(run, name).note) == beyond
        texts = [claim.text for claim in verdict(Results.read(run))["robust"]]
        assert any("Noise of that length was not measured" in text for text in texts) == beyond


def test_one_model_has_its_cs1_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path, models=("one",), shown=0)
    found = neurons.finding(run, EQUAL)
    assert f" CS1 of one is {number(found.estimates[1].estimates['one'].value)}." in found.claim
    assert not found.says
    assert not neurons.findings(run, MATCHED)


def curve(model: str, *bins: tuple[float, float, int], cs2: float = 0.5) -> list[dict[str, Any]]:
    """Bins of LC with a mean CS1, ± .05, and a number of units."""
    return [
        {"model": model, "images": "equal-success", "bin_low": lc, "bin_high": lc + 0.1, "lc": lc}
        | around(cs1, 0.05, "cs1")
        | around(cs2, 0.05, "cs2")
        | {"units": units}
        for lc, cs1, units in bins
    ]


def test_a_lead_that_only_less_specific_units_make_is_named(run: Path) -> None:
    robust = curve("robust", (0.1, 0.8, 40), (0.2, 0.5, 10), (0.3, 0.9, 9))
    standard = curve("standard", (0.1, 0.9, 20), (0.2, 0.4, 30), (0.3, 0.1, 50))
    write_table(run, "curves", [*robust, *standard])
    found = neurons.finding(run, AT_LC)
    assert neurons.told(run, AT_LC) == "robust open"
    lead = (20 * (0.8 - 0.9) + 10 * (0.5 - 0.4)) / 30  # the third bin has too few units
    assert f"CS1 of robust less that of standard is {lead:+.3f} (bins" in found.note
    assert "these units are less specific" in found.claim


def test_trends_follow_the_first_and_the_last_bin_with_enough_units(run: Path) -> None:
    bins = ((0.05, 0.1, 9), (0.1, 0.9, 10), (0.5, 0.7, 30), (0.8, 0.2, 10), (0.9, 0.9, 9))
    write_table(run, "curves", curve("robust", *bins))
    assert neurons.told(run, "CS1") == "robust lower than units of low LC"
    assert neurons.told(run, "CS2") == "robust open than units of low LC"
    found = neurons.measured(run, "CS1", "robust")
    ends = {name: each.value for name, each in found.estimates.items()}
    assert ends == {"at LC 0.100": 0.9, "at LC 0.800": 0.2}
    assert found.n == "10 units"
    claim = neurons.finding(run, "CS1").claim
    assert "CS1 falls in robust; CS2 is not shown to change in robust." in claim
    write_table(run, "curves", curve("robust", (0.1, 0.9, 9), (0.5, 0.7, 30)))
    assert not neurons.findings(run, "CS1")


@pytest.mark.parametrize(("top", "small"), [(15, ("robust",)), (16, ())])
def test_small_top_sets_speak_of_their_size_alone(run: Path, top: int, small: tuple) -> None:
    puts(run, f"layers: top=16; layers model=robust: top={top}")
    says = [said for each in neurons.check(run).findings for said in each.says]
    assert [said.of for said in says if said.measure == "top images"] == [small] * bool(small)


def test_the_bias_of_lc_is_corrected(made: Path) -> None:
    """(k·LC − 1)/(k − 1) = LC − (1 − LC)/(k − 1)."""
    biases = []
    corrected = neurons.measured(made, "LC, corrected").estimates
    for row in rows_of(made, "layers", layer=LAST):
        k, lc = int(row["top"]), float(row["lc_mean"])
        biases.append((1 - lc) / (k - 1))
        assert corrected[row["model"]].value == pytest.approx(lc - biases[-1], rel=1e-5)
        assert neurons.measured(made, "LC").estimates[row["model"]].value == lc
    found = neurons.finding(made, "LC, corrected")
    assert f"up to {number(max(biases))} " in found.claim
    assert "k = 10" in found.note


@pytest.mark.parametrize(("dead", "where", "claim"), DEAD)
def test_dead_units_are_counted(run: Path, dead: int, where: dict[str, str], claim: str) -> None:
    put(run, "layers", {}, dead=0)
    put(run, "layers", where, dead=dead)
    found = neurons.finding(run, "dead units")
    assert found.claim.startswith(claim)
    each = found.estimates[0].estimates["robust"]
    assert (round(each.value * each.n), each.n) == (dead if where else 3 * dead, 26)
    put(run, "layers", {}, dead=0)
    assert not neurons.findings(run, "dead units")


def test_a_layer_without_a_live_unit_has_dashes(run: Path) -> None:
    empty = dict.fromkeys([name for name in rows_of(run, "layers")[0] if "_" in name], "")
    put(run, "layers", {"layer": LAST}, **empty)
    (rows,) = neurons.cells(run, "layers.csv")
    assert list(rows[2].values())[5:] == ["–"] * 5
    assert neurons.made(run).scores[0].estimates == {}


def test_the_table_of_changes_has_success_beside_each_cs(made: Path) -> None:
    (rows,) = neurons.cells(made, "consistency.csv")
    assert ", ".join(rows[0]) == "Attack, Model, Radius ε, Success, consis_adv, CS1, CS2"
    shown = [list(row.values()) for row in rows]
    assert len(shown) == 8
    assert shown[1][:4] == ["Equal ε", "robust", "L2 1", "3.1% (2.0–4.2)"]
    assert shown[4][0::6] == ["FGSM", "–"]  # no target, no CS2
    assert shown[7][2] == "L2 1"


def test_units_of_the_models_stand_side_by_side(made: Path) -> None:
    blocks = neurons.blocks(made, GridBlock)
    assert [block.title for block in blocks] == ["Units of highest LC", "Units of median LC"]
    for block in blocks:
        assert [grid.model for grid in block.grids] == [*BOTH, *BOTH]
        for grid in block.grids:
            assert len(grid.kinds["real"]) == len(grid.kinds["adversarial"]) == 8
            (row,) = rows_of(made, "units", model=grid.model, unit=str(grid.unit), layer=LAST)
            assert list(grid.measures) == ["LC", "consis_adv", "CS1", "CS2"]
            assert list(grid.measures.values()) == [f"{float(row[name]):.3f}" for name in MEASURES]
    assert len({grid.name for block in blocks for grid in block.grids}) == 8


def test_a_dead_unit_is_shown_as_such_where_it_is_named(run: Path) -> None:
    place = {"model": "robust", "unit": rows_of(run, "pictures", model="robust")[0]["unit"]}
    nothing = dict.fromkeys((*MEASURES, "lc_corrected", "consis_adv_fgsm"), "")
    put(run, "units", {**place, "layer": LAST}, dead="true", **nothing)
    put(run, "pictures", place, chosen="your choice", lc="")
    blocks = neurons.blocks(run, GridBlock)
    assert [block.title for block in blocks][-1] == "Units of your choice"
    (grid,) = blocks[-1].grids
    assert grid.measures == {"Dead": "positive on no real image"}
    note = next(
        b.text for b in neurons.blocks(run, NoteBlock) if b.title == "What a unit responds to"
    )
    assert "for a few units named by the user (--units) or chosen by the same rule in each" in note


def test_only_misclassified_adversarial_images_are_framed(made: Path) -> None:
    """The fixture marks all adversarial images, as a table that counts right predictions would."""
    framed = dict.fromkeys(BOTH, 0)
    for grid in (grid for block in neurons.blocks(made, GridBlock) for grid in block.grids):
        assert not any(cell.framed for cell in grid.kinds["real"])
        for cell in grid.kinds["adversarial"]:
            assert cell.framed == (cell.label != cell.predicted)
            framed[grid.model] += cell.framed
    assert framed["standard"] > 0 == framed["robust"]


def test_pictures_come_in_the_order_of_response(run: Path) -> None:
    rows = rows_of(run, "pictures")
    write_table(run, "pictures", [dict(row) for row in reversed(rows)])
    grids = [grid for block in neurons.blocks(run, GridBlock) for grid in block.grids]
    grid = next(grid for grid in grids if grid.model == "standard")
    mine = [r for r in rows if (r["model"], r["unit"]) == ("standard", str(grid.unit))]
    assert [cell.file for cell in grid.kinds["real"]] == [
        r["file"] for r in mine if r["images"] == "real"
    ]


def test_images_at_equal_success_stand_below_those_of_a_weaker_attack(run: Path) -> None:
    equal, mine = "equal-success", rows_of(run, "pictures", model="robust")
    more = [{**row, "images": equal, "attacked": equal} for row in mine if row["rank"] != "0"]
    write_table(run, "pictures", [*more, *rows_of(run, "pictures")])
    (block, _) = neurons.blocks(run, GridBlock)
    for grid in block.grids:
        kinds = ["real", "adversarial"] + [equal] * (grid.model == "robust")
        assert [*grid.kinds] == kinds
    (row,) = rows_of(run, "consistency", model="robust", images=equal, measure="cs1", layer=LAST)
    assert block.caption.endswith(f"success {100 * float(row['success']):.1f}% on robust.")


def test_maps_are_shown_and_explained_where_they_were_made(run: Path) -> None:
    def found() -> tuple[str, list[tuple[str, str]]]:
        notes = neurons.blocks(run, NoteBlock)
        grids = [grid for block in neurons.blocks(run, GridBlock) for grid in block.grids]
        cells = [cell for grid in grids for cell in grid.cells]
        note = next(b.text for b in notes if b.title == "What a unit responds to")
        return note, [(cell.file, cell.map) for cell in cells]

    note, shown = found()
    assert "discrepancy" not in note
    assert {drawn for _, drawn in shown} == {""}
    change(run, "pictures", lambda r: r.update(map=r["file"].replace(".png", "-map.png")))
    note, shown = found()
    assert "discrepancy" in note
    assert all(drawn == file.replace(".png", "-map.png") for file, drawn in shown)


def test_scores_explain_the_four_measures(made: Path) -> None:
    lc, adversarial, cs1, cs2 = neurons.made(made).scores
    (last,) = rows_of(made, "layers", layer=LAST, model="robust")
    assert lc.estimates["robust"].value == float(last["lc_mean"])
    assert lc.estimates["robust"].n == 1000
    assert adversarial.notes["standard"] == "FGSM, L∞ ε = 1/255; misclassified 62.0%"
    assert cs1.notes["robust"] == "least-likely PGD-10, L2 ε = 2.51; success 95.0%"
    for score, measure in ((cs1, "cs1"), (cs2, "cs2")):
        assert score.estimates == means(made, "equal-success", measure)


def named_main(run: Path, name: str, **values: str) -> Any:
    """The section of a run whose main attack is another one."""
    for table in ("consistency", "curves"):
        put(run, table, {"images": "least-likely"}, images=name)
    put(run, "consistency", {"images": name}, **values)
    return neurons.check(run)


def test_a_calibrated_attack_is_named_and_is_that_of_equal_success(run: Path) -> None:
    adam = {"attack": "AdamAttack", "norm": "", "epsilon": "", "settings": "weight=0.12345"}
    put(run, "consistency", {"images": "equal-success"}, **adam)
    found = named_main(run, "adam-attack", **adam)
    told = "Adam attack, 10 steps, λ = 0.123, at a mean L2 distance of 0.900"
    blocks = {block.name: block for block in neurons.blocks(run, FigureBlock)}
    assert f"Equal success: {told}; success" in blocks["consistency-curves-adam-attack"].caption
    assert told in blocks["consistency-by-depth-adam-attack"].caption
    assert not [finding for finding in found.findings if "at equal ε" in finding.claim]
    notes = [block.text for block in neurons.blocks(run, NoteBlock)]
    assert any(text.startswith("Figure 10 of D22:") for text in notes)
    (table,) = neurons.tables(run, "consistency.csv")
    assert f"The main attack is {told}." in table.caption
    assert {row["Attack"] for row in cells(table)} == {"Equal success", "FGSM", "Noise (control)"}
    put(run, "consistency", {"images": "adam-attack"}, settings="weight=5")
    assert neurons.check(run)
    (table,) = neurons.tables(run, "consistency.csv")
    assert "AdamAttack" in {row["Attack"] for row in cells(table)}


def test_an_attack_that_aims_at_no_class_succeeds_where_images_are_misclassified(run: Path) -> None:
    put(run, "consistency", {"images": "fgsm"}, images="other")
    named_main(run, "fgsm", targeted="false", attack="Fgsm", norm="Linf", steps="1")
    (table,) = neurons.tables(run, "consistency.csv")
    assert "Misclassified" in table.columns[3].header
    assert "Shares of misclassified images count natural errors, too. The main" in table.caption
    notes = [block.text for block in neurons.blocks(run, NoteBlock)]
    assert any(text.startswith("As in Figure 10 of D22, but under another") for text in notes)
    assert {row["Attack"] for row in cells(table)} == {
        *("Equal ε", "Equal success", "Noise (control)")
    }
