"""What the report says of dissection: chance beside shares, and only what intervals establish."""

import re
from pathlib import Path
from typing import Any

import pytest

from advlens.attacks import adam
from advlens.report.blocks import FigureBlock, NoteBlock, UnitBrowserBlock
from advlens.report.grids import GridBlock
from advlens.report.sections.dissection import section
from advlens.report.sections.dissection.findings import HEAVIEST
from advlens.words import Estimate
from sections import Maker, puts, remove, texts
from synthetic_dissection import counted, fate, share, units, write_dissection
from synthetic_run import BOTH, LAST, change, put, rows_of, write_run

dissection = Maker(section)
KINDS = {
    "on real images": "real",
    "under attack": "adversarial",
    "under attack, thresholds estimated again": "adversarial-reestimated",
}
REAL, UNDER = "share of detectors on real images", "share of detectors"
CHANCE = "share of detectors by chance on real images"
KEPT, SUCCESS = "detectors that keep their concept", "attack success"
WEIGHT, SMALL = "weight λ of the attack", "images and labels"
ZERO = "units with a threshold of 0"
ATTACKS = [
    ("LeastLikely", "L2", "2", "least-likely PGD-20, L2 ε = 2 on"),
    ("Mine", "", "", "Mine, 20"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dissection(write_run(tmp_path_factory.mktemp("run"), shown=0))


def near(found: Estimate, wanted: Estimate) -> bool:
    """Equal, but for the digits of a table."""
    pairs = ((found.value, wanted.value), (found.low, wanted.low), (found.high, wanted.high))
    return found.n == wanted.n and all(a == pytest.approx(b, abs=1e-5) for a, b in pairs)


def browser(run: Path) -> UnitBrowserBlock:
    (found,) = dissection.blocks(run, UnitBrowserBlock)
    return found


def headers(run: Path) -> list[str]:
    return [column.header for column in browser(run).columns]


def test_tables_may_be_absent(run: Path) -> None:
    remove(run, *(f"dissection{name}" for name in ("_shares", "_transitions", "_images")))
    remove(run, "dissection_pictures", "units")
    charts = dissection.blocks(run, FigureBlock)
    assert [block.name.split("-")[0] for block in charts] == ["concepts", "concepts"]
    (found,) = dissection.made(run).findings
    assert found.estimates[0].name == "units that are never positive"
    assert not any(score.estimates for score in dissection.made(run).scores)
    assert "LC" not in headers(run)
    remove(run, "dissection")
    assert dissection.absent(run)


def test_all_texts_are_finished_and_say_what_was_measured(made: Path) -> None:
    found = dissection.check(made)
    assert len(found.findings) == 7
    behind = (
        "1,200 images of mini-broden with 68 labels; attack: Adam attack, 20 steps, λ = 0.5, at a "
        "mean L2 distance of 0.710 on standard (success 98.0%) and robust (success 95.0%)."
    )
    assert sum(text.endswith(behind) for text in texts(found)) == 7


@pytest.mark.parametrize(("attack", "norm", "epsilon", "words"), ATTACKS)
def test_any_attack_is_named(run: Path, attack: str, norm: str, epsilon: str, words: str) -> None:
    put(run, "dissection_images", {}, attack=attack, norm=norm, epsilon=epsilon, weight="")
    assert words in dissection.tables(run, "dissection_shares.csv")[0].caption


# of .3, against 10 of 100 units by chance, whose interval ends at .174 (Wilson)
SHARE = "dissection_shares: permuted_detectors=10 permuted_share=0.1 units=100 share=0.3 high=0.4 "
LEAD = "dissection_shares model=robust images=real category=all: share=0.97±0.02"
PART = "dissection_shares model=robust images=real category=part: share=0.5±0.02"
COLOR = "dissection_shares model=robust images=adversarial category=color: share=0.7±0.02"
ATTACK = "dissection_images model=standard: success=0.9±0.01; dissection_images model=robust: "
HEAVY = "dissection_images model=robust: weight="
WEAK = "warning: standard, robust lower than 0.5"
FEW = "warning: mini-broden lower than half of Broden 1.0"
DATA = "dissection_images: labels=599 n="
SAID = [
    (REAL, LEAD, "robust higher than standard", "of robust detect a concept more often than"),
    (UNDER, "", "standard lower than real images; robust open than real images", ""),
    ("part detectors", PART, "robust lower than real images", "fewer part detectors in rob"),
    ("color detectors", COLOR, "robust higher than real images", "more color detectors in ro"),
    (CHANCE, f"{SHARE}low=0.17", f"warning: standard, robust open than {UNDER}", ""),
    (CHANCE, f"{SHARE}low=0.18", f"standard, robust lower than {UNDER}", ""),
    (
        SUCCESS,
        "dissection_images: success=0.499±0.01",
        WEAK,
        "on less than 50% of the images of standard and robust",
    ),
    (SUCCESS, "dissection_images: success=0.501±0.01", "", ""),
    (SUCCESS, f"{ATTACK}success=0.801±0.01", "", ""),
    (SUCCESS, f"{ATTACK}success=0.799±0.01", "warning: standard higher than robust", ""),
    (KEPT, f"{ATTACK}success=0.801±0.01", "robust higher than standard", ""),
    (KEPT, f"{ATTACK}success=0.799±0.01", "", ""),  # then keeping a concept is no merit
    (WEIGHT, f"{HEAVY}1e+06", "warning: robust higher than 1e+06", ""),
    (WEIGHT, f"{HEAVY}9.9e+05", "", ""),
    # less than half of Broden's 63,305 images, or of its 1,197 labels
    (SMALL, f"{DATA}31653", "", ""),
    (SMALL, f"{DATA}31652", FEW, "mini-broden has 31,652 images and 599 labels"),
    (SMALL, f"{DATA}31653 labels=598", FEW, "mini-broden has 31,653 images and 598 labels"),
]
CHOSEN = [
    ("highest IoU", ". Units were chosen for the highest IoU, half of them because their"),
    ("your choice", ". Units were named by the user (--units); units of two"),
    ("", ". Units were chosen for the highest IoU, half"),  # an older run: the column is absent
]
DAMAGED = [
    ("dissection", "iou", "much", "iou in line 2 is 'much', not a number"),
    ("dissection", "dead", "no", "dead in line 2 is 'no', not true or false"),
    ("dissection_shares", "low", "", "low in line 2 is '', not a number"),
    ("dissection_shares", "permuted_detectors", "999", "has counts beyond its 40 units"),
    ("dissection_shares", "share", "1.01", "share in line 2 is '1.01', more than 1"),
    ("dissection_shares", "detectors", "-1", "detectors in line 2 is '-1', less than 0"),
    ("dissection_shares", "detectors", "999", "layer1.0.conv2 of standard has counts beyond"),
    ("dissection_transitions", "same_concept", "999", "has counts beyond its "),
    ("dissection_images", "labels", "", "labels in line 2 is ''"),
    ("dissection_pictures", "framed", "maybe", "framed in line 2 is 'maybe'"),
]


@pytest.mark.parametrize(("measure", "changes", "told", "words"), SAID)
def test_what_is_said(run: Path, measure: str, changes: str, told: str, words: str) -> None:
    assert HEAVIEST == adam.HEAVIEST  # the report does not import the attack, with PyTorch
    dissection.tells(run, changes, measure, told, words)


def test_the_share_on_real_images_carries_its_interval(made: Path) -> None:
    found = dissection.finding(made, REAL)
    assert dissection.told(made, REAL) == "standard, robust open"
    assert found.important
    everywhere = dissection.measured(made, f"{REAL}, all dissected layers")
    for model in BOTH:
        assert near(found.estimates[0].estimates[model], share(units(made, "real", model)))
        assert near(everywhere.estimates[model], share(units(made, "real", model, None)))
    assert f"The last dissected layer is {LAST};" in found.note
    assert found.estimates[0].n == "48 units"


def test_one_model_and_one_layer(tmp_path: Path) -> None:
    run = write_run(tmp_path, models=("one",), shown=0)
    names = [f"concept {n}" for n in range(200)]
    write_dissection(run, models=("one",), layers=(LAST,), units=(150,), concepts=names)
    found = dissection.finding(run, REAL)
    value = share(units(run, "real")).value
    start = f"{100 * value:.1f}% of the units of {LAST} in one detect a concept, by chance "
    assert found.claim.startswith(start)
    assert not found.says
    assert len(found.estimates) == 1
    assert [c.filter for c in browser(run).columns][:3] == ["", "", ""]  # nothing to choose
    first, *others = dissection.tables(run, "dissection_shares.csv")
    assert "Table 2 of D19" in first.caption
    assert not any("Table 1 of D22" in block.caption for block in others)
    (chart,) = [b for b in dissection.blocks(run, FigureBlock) if b.name.startswith("concepts")]
    each = [units(run, kind) for kind in ("real", "adversarial")]
    concepts = {value[0] for kind in each for value in kind.values()} - {"0"}
    assert f"Not shown: {len(concepts) - 24} rarer ones, with at most " in chart.caption


def test_the_fall_under_attack_is_named_where_it_is_established(made: Path) -> None:
    found = dissection.finding(made, UNDER, "standard")
    for model in BOTH:
        estimates = dissection.measured(made, UNDER, model).estimates
        assert list(estimates) == list(KINDS)
        for name, kind in KINDS.items():
            assert near(estimates[name], share(units(made, kind, model)))
    before, after = (
        f"{100 * share(units(made, kind, 'standard')).value:.1f}%"
        for kind in ("real", "adversarial")
    )
    assert f"falls in standard (from {before} to {after}) and" in found.claim
    assert "The attack is Adam attack, 20 steps, λ = 0.5" in found.note
    assert found.important


@pytest.mark.parametrize(("detectors", "said"), [(20, False), (46, True)])
def test_a_rise_that_chance_gives_too_is_told(run: Path, detectors: int, said: bool) -> None:
    """Where an attack makes units respond everywhere, large masks meet some concept or other."""
    where = f"dissection_shares images=adversarial category=all layer={LAST}: "
    chance = f"permuted_detectors={detectors} permuted_share={detectors / 48}"
    puts(run, f"{where}share=0.95 low=0.9 high=0.97 {chance}")
    told = "standard higher than real images; robust higher than real images"
    assert dissection.told(run, UNDER) == told
    claim = dissection.finding(run, UNDER, "robust").claim
    assert claim.count(" to 95.0%") == 2
    assert claim.count(", by chance 95.8%)") == 2 * said


def test_chance_stands_beside_the_shares(made: Path) -> None:
    assert dissection.told(made, CHANCE) == f"standard, robust lower than {UNDER}"
    for model in BOTH:
        mine = rows_of(made, "dissection", model=model, layer=LAST, images="real")
        wanted = counted(sum(float(row["permuted_iou"]) > 0.04 for row in mine), len(mine))
        assert near(dissection.measured(made, CHANCE).estimates[model], wanted)
    found = dissection.finding(made, CHANCE)
    assert found.claim.startswith("On real images, more units detect a concept than by chance.")


def test_shares_not_above_chance_are_a_warning(run: Path) -> None:
    def alike(row: dict[str, Any]) -> None:
        if row["model"] == "robust":
            row.update(permuted_detectors=row["detectors"], permuted_share=row["share"])

    change(run, "dissection_shares", alike)
    found = dissection.finding(run, CHANCE)
    told = f"warning: standard lower than {UNDER}; robust open than {UNDER}"
    assert dissection.told(run, CHANCE) == told
    assert found.claim.startswith("In robust, more detectors than by chance are not established")
    assert found.important


def test_what_becomes_of_detectors_is_counted(made: Path) -> None:
    found = dissection.finding(made, KEPT)
    assert found.important
    for model in BOTH:
        mine = fate(made, model)
        detectors = mine["kept"] + mine["lost"] + mine["changed"]
        assert near(found.estimates[0].estimates[model], counted(mine["kept"], detectors))
        fates = dissection.measured(made, "detectors", model)
        assert fates.form == "count"
        numbers = [round(each.value * each.n) for each in fates.estimates.values()]
        assert numbers == [mine["kept"], mine["changed"], mine["lost"]]
        assert f"{mine['gained']} in {model}" in found.note


def test_without_an_attack_only_real_images_are_spoken_of(tmp_path: Path) -> None:
    run = write_dissection(write_run(tmp_path, shown=0), attack="")
    found = dissection.check(run)
    said = [found.lead, *texts(found), *(m.name for f in found.findings for m in f.estimates)]
    said += [b.text for b in dissection.blocks(run, NoteBlock)]
    assert len(said) > 15
    assert not [text for text in said if re.search("attack|adversarial|re-estimated", text)]
    assert not dissection.tables(run, "dissection_transitions.csv")
    assert ", ".join(headers(run)) == (
        "Model, Layer, Unit, Concept, Category, IoU, By chance, LC, CS1"
    )
    grids = [grid for block in dissection.blocks(run, GridBlock) for grid in block.grids]
    assert all([*grid.kinds] == ["real"] for grid in grids)
    assert list(grids[0].measures) == ["Real"]
    assert not found.scores[1].estimates


@pytest.mark.parametrize(("chosen", "said"), CHOSEN)
def test_why_units_are_shown_is_said(run: Path, chosen: str, said: str) -> None:
    change(run, "dissection_pictures", lambda row: row.update(chosen=chosen))
    if not chosen:
        table = run / "results" / "dissection_pictures.csv"
        lines = [line.split(",") for line in table.read_text(encoding="utf-8").splitlines()]
        column = lines[0].index("chosen")
        kept = [",".join(line[:column] + line[column + 1 :]) for line in lines]
        table.write_text("\n".join(kept), encoding="utf-8")
    note = next(b for b in dissection.blocks(run, NoteBlock) if b.title.startswith("What chosen"))
    assert said in note.text


def test_dead_units_and_thresholds_of_zero_are_counted(run: Path) -> None:
    found = dissection.finding(run, ZERO)
    assert "never respond to these images: 4; " in found.claim
    assert found.warning
    for measured in found.estimates:
        for each in measured.estimates.values():
            assert (round(each.value * each.n), each.n) == (2, 88)
    put(run, "dissection", {}, threshold=1)
    assert not dissection.finding(run, ZERO).warning
    put(run, "dissection", {}, dead="false")
    assert not dissection.findings(run, ZERO)


def test_scores_are_the_shares_of_the_last_layer(made: Path) -> None:
    for score, kind in zip(dissection.made(made).scores, ("real", "adversarial"), strict=True):
        assert score.counted == "units"
        for model, found in score.estimates.items():
            assert near(found, share(units(made, kind, model)))
            assert score.notes[model].startswith(f"{LAST}; by chance ")


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_tables_are_refused(run: Path, damage: tuple[str, ...]) -> None:
    dissection.refuses(run, *damage)
