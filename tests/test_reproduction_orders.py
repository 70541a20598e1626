"""The paper's values beside ours: where ours are found, and whether an order holds."""

import math
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import norm

from advlens.errors import RunError
from advlens.intervals import wilson
from advlens.report.reproduction import Reproduction, Shown, write_reproduction
from advlens.runs.results import Results
from advlens.runs.tables import Row
from advlens.workflows.reproduction.comparing import compared, conditions, orders
from advlens.workflows.reproduction.content import Conditions, Entry, Wanted
from advlens.workflows.reproduction.showing import sentence, table
from advlens.workflows.reproduction.work import Audited
from pages import parsed, text_of
from synthetic_run import around, row, write_run, write_table

NATURAL = {"attack": "natural", "norm": "", "epsilon": None, "steps": 0, "settings": ""}
TOP1 = {"what": "natural", "table": "accuracy", "column": "top1", "percent": True}
TOP1 |= {
    "where": {"attack": "natural"},
    "paired": {"measure": ["none", "accuracy"], "attack": "natural"},
}
PAIRED = [
    ("ab", 0.1, 0.001, "holds here (difference 10 (8 to 13), on the same images)."),
    ("ba", -0.1, 0.001, "holds here (difference 10 (7 to 12), on the same images)."),
    ("ab", -0.1, 0.04, "does not hold here (difference -10 (-12 to -7), on the same images)."),
    ("ab", 0.1, 0.05, "cannot be told with n = 480 (difference 10 (8 to 13), on the"),
    ("ab", -0.1, 0.2, "cannot be told with n = 480 (difference -10"),
    ("ab", 0.0, 1.0, "cannot be told with n = 480 (difference 0"),
]
APART = [
    (0.5, 0.4, 0.04, "holds here (difference 10 (4.34 to 15.7), by the two intervals)."),
    (0.5, 0.4, 0.075, "cannot be told with n = 500"),  # each interval excludes the other value
    (0.4, 0.5, 0.04, "does not hold here (difference -10 (-15.7 to -4.34), by the two"),
    (0.5, 0.5, 0.04, "cannot be told with n = 500 (difference 0"),
]


def wanted(**changes: Any) -> Wanted:
    return Wanted(**{**TOP1, "paper": {"standard": 93.2, "l2": 85.0}, **changes})


def entry(*rows: Wanted, **more: Any) -> Entry:
    return Entry(name="Table 1", caption="accuracy", rows=rows, **more)


def accuracy(model: str, top1: float, half: float, n: int = 500) -> Row:
    ends = {"top1": top1, "top1_low": top1 - half, "top1_high": top1 + half, "top5": 0.9}
    return {"model": model, **NATURAL, **ends, "n": n, "draws": None, "top1_spread": None}


def paired(first: str, other: str, difference: float, p: float) -> Row:
    named = row(measure="accuracy", images="", method="", **NATURAL, model=first, other=other)
    ends = row(difference=difference, low=difference - 0.02, high=difference + 0.03)
    return named | ends | row(p=p, p_holm=p, n=480)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path, models=("a", "b"))


def audits(run: Path, **tables: list[Row]) -> dict[str, Audited]:
    """An audit of a and b, the paper's standard and l2, with these tables."""
    for name, rows in tables.items():
        write_table(run, name, rows)
    return {"audit": Audited(Results.read(run), {"standard": "a", "l2": "b", "again": "a"})}


def told(*made: Any) -> list[str]:
    return [sentence(order.row("Table 1")) for order in made]


@pytest.mark.parametrize(("pair", "difference", "p", "said"), PAIRED)
def test_the_audits_paired_difference_decides(run, pair, difference, p, said):
    rows = [(paired("a", "b", 0.5, 0.0) | {"attack": "Pgd"}), paired(*pair, difference, p)]
    apart = [accuracy("a", 0.2, 0.01), accuracy("b", 0.9, 0.01)]  # says nothing beside it
    (made,) = told(*orders(entry(wanted()), audits(run, accuracy=apart, differences=rows)))
    assert made.startswith(f"natural: standard > l2 {said}")


@pytest.mark.parametrize(("standard", "robust", "half", "said"), APART)
def test_else_the_two_intervals_decide(run, standard, robust, half, said):
    rows = [accuracy("a", standard, half), accuracy("b", robust, half)]
    (made,) = told(*orders(entry(wanted(paired={})), audits(run, accuracy=rows)))
    assert made.startswith(f"natural: standard > l2 {said}")


def test_p_of_two_intervals_is_corrected_for_their_number(run: Path) -> None:
    runs = audits(run, accuracy=[accuracy("a", 0.5, 0.065), accuracy("b", 0.4, 0.065)])
    one = orders(entry(wanted(paired={})), runs)
    assert [order.verdict for order in one] == ["holds here"]
    assert one[0].p == pytest.approx(2 * norm.sf(0.1 / (0.065 * math.sqrt(2) / 1.959964)), rel=1e-5)
    two = orders(entry(wanted(paired={}), wanted(what="again", paired={})), runs)
    assert [order.p for order in two] == [pytest.approx(2 * one[0].p)] * 2
    assert {order.verdict for order in two} == {"cannot be told with n = 500"}


def test_models_without_an_order_have_no_sentence(run: Path) -> None:
    runs = audits(run, accuracy=[accuracy("a", 0.5, 0.01), accuracy("b", 0.4, 0.01)])
    silent = (
        wanted(what="claimed by nobody", ordered=False),
        wanted(what="equal", paper={"standard": 1.0, "l2": 1.0}),
        wanted(what="alone", paper={"l2": 1.0}),
        wanted(what="not audited", paper={"l2": 1.0, "l3": 2.0}),
        wanted(what="of no model", paper=5.0),
        wanted(what="elsewhere", audit="other"),
    )
    assert orders(entry(*silent), runs) == []
    three = wanted(paired={}, paper={"standard": 3.0, "l2": 2.0, "again": 1.0})
    found = [order.models for order in orders(entry(three), runs)]
    assert found == [("standard", "l2"), ("l2", "again")]
    groups = {"compare": [["standard", "l2"], ["again"]]}
    assert [o.models for o in orders(entry(three, **groups), runs)] == [("standard", "l2")]


def generated(model: str, measure: str, value: float, half: float | None) -> Row:
    ends = around(value, half or 0.0) if half else row(mean=value, low=None, high=None)
    named = row(model=model, images="generated", measure=measure, features="net", dimension=64)
    sets = row(set="made", real_set="real", fitted_set="real", n_fitted=100)
    return named | ends | sets | row(resize="", n=50, n_real=100)


def test_a_value_without_an_interval_is_decided_by_another_one_or_not_at_all(run: Path) -> None:
    rows = [generated("a", "fid", 40.0, None), generated("b", "fid", 30.0, None)]
    rows += [generated("a", "kid", 4.0, 0.5), generated("b", "kid", 3.0, 0.5)]
    runs = audits(run, generation=rows)
    fid = {"what": "FID", "table": "generation", "column": "mean", "percent": False, "paired": {}}
    fid["where"] = {"measure": "fid", "images": "generated"}
    (alone,) = told(*orders(entry(wanted(**fid)), runs))
    assert alone == (
        "FID: standard > l2 cannot be told without an interval "
        "(difference 10, by the two intervals)."
    )
    decided = wanted(**fid, decided_by={"KID": {"measure": "kid"}})
    (by,) = told(*orders(entry(decided), runs))
    assert by.startswith("FID: standard > l2 holds here (difference 1 (0.293 to 1.71), by KID and")
    found = compared(entry(decided, wanted(**{**fid, "paper": 5.39})), runs)
    assert [(one["model"], one["ours"], one["n"]) for one in found] == [
        *(("standard", 40.0, 50), ("l2", 30.0, 50), ("", 40.0, 50))
    ]
    assert all(math.isnan(one["low"]) for one in found)
    columns = ["features", "dimension", "resize", "low", "n"]
    measured = Conditions(table="generation", columns=columns, where={"measure": ["none", "kid"]})
    assert conditions(entry(decided, conditions=measured), runs) == [
        *("features: net", "dimension: 64", "low: 3.5, 2.5", "n: 50")
    ]
    assert conditions(entry(decided), runs) == []


def test_an_attack_is_told_with_its_radius_and_its_success(run: Path) -> None:
    measured = Conditions(
        table="consistency",
        columns=["attack", "success"],
        where={"images": "least-likely", "measure": "cs1"},
    )
    units = entry(audit="audit", models=["standard"], figures=["*"], conditions=measured)
    assert conditions(units, audits(run)) == [
        *("attack: least-likely PGD-10, L2 ε = 1", "success: 100.0%")
    ]
    assert conditions(units, {}) == []


def test_our_values_are_found_and_written_as_they_are(run: Path) -> None:
    runs = audits(run, accuracy=[accuracy("a", 0.556, 0.04), accuracy("b", 0.3, 0.04)])
    top5 = wanted(what="top 5", column="top5", paper={"l2": 95.0})
    far = wanted(what="d", percent=False, wordnet=("n02123394", "n02090475"), paper=4.0)
    found = compared(entry(wanted(), top5, far, wanted(what="elsewhere", audit="other")), runs)
    assert {one["entry"] for one in found} == {"Table 1"}
    assert [one["ours"] for one in found] == pytest.approx([55.6, 30.0, 90.0, 6.0])
    low, high = wilson(450, 500)
    assert (found[2]["low"], found[2]["high"]) == pytest.approx((100 * low, 100 * high))
    assert table(found) == [
        "|         | model    | paper | ours (95 % interval) | n          |",
        "| ------- | -------- | ----- | -------------------- | ---------- |",
        "| natural | standard | 93.2  | 55.6 (51.6 to 59.6)  | 500 images |",
        "| natural | l2       | 85    | 30 (26 to 34)        | 500 images |",
        "| top 5   | l2       | 95    | 90 (87.1 to 92.3)    | 500 images |",
        "| d       |          | 4     | 6                    | –          |",
    ]


@pytest.mark.parametrize("count", [0, 2])
def test_results_without_the_one_row_are_refused(run: Path, count: int) -> None:
    runs = audits(run, accuracy=[accuracy("b", 0.5, 0.1), *[accuracy("a", 0.5, 0.1)] * count])
    with pytest.raises(RunError, match=f"has {count} rows for a .*; remove .* and start again"):
        compared(entry(wanted(paper={"standard": 1.0})), runs)


def test_what_the_data_do_not_have_and_dead_layers_leave_a_place_empty(run: Path) -> None:
    share = row(layer="x", images="real", minimum=0.04, category="color", units=9, detectors=3)
    share |= row(share=1 / 3, low=0.1, high=0.6, permuted_detectors=0, permuted_share=0.0)
    dead = row(model="a", layer="x", **dict.fromkeys(("consis", "consis_low", "consis_high")))
    dead |= dict.fromkeys(("consis_adv", "consis_adv_low", "consis_adv_high", "epsilon"))
    dead |= row(attack="Fgsm", norm="", steps=1, success=1.0, success_low=0.9, success_high=1.0)
    dead |= row(units=0, n=9)
    shares = [row(model=m) | share for m in "ab"]
    runs = audits(run, dissection_shares=shares, table1_d19=[dead, dead | {"model": "b"}])
    concepts = {"table": "dissection_shares", "column": "share", "n": "units", "paired": {}}
    rows = (
        wanted(**concepts, what="color", where={"category": "color", "minimum": 0.04}),
        wanted(**concepts, what="texture", where={"category": "texture"}),
        wanted(what="dead", table="table1_d19", column="consis", where={}),
    )
    color, _, *rest = compared(entry(*rows), runs)
    assert (color["ours"], color["n"]) == (pytest.approx(100 / 3, rel=1e-5), 9)
    assert "| 9 units |" in table([color])[2]
    assert [str(one["ours"]) for one in rest] == ["nan"] * 4
    assert [one["n"] for one in rest] == [None, None, 9, 9]
    assert "none" in table(rest)[2]
    (order,) = told(*orders(entry(*rows), runs))
    assert order.startswith("color: standard > l2 cannot be told with n = 9 units (difference 0")


def test_a_page_shows_a_figure_once_and_where_else_it_belongs(run: Path) -> None:
    given = {"title": "t", "facts": "f", "warnings": ["w <b>"], "summary": ["s"], "models": []}
    given |= {"reports": {"audit": "audit/report.html"}, "version": "1", "command": "advlens x"}
    (file,) = {found.relative_to(run) for found in sorted(run.rglob("*.png"))[:1]}
    entries = [
        Shown(name="Figure 2", caption="some images", figures=[str(file)], notes=["Differs."]),
        Shown(name="Figure 10", caption="more", figures=[str(file)]),
    ]
    path = write_reproduction(run, Reproduction(**given, entries=entries))
    page = path.read_text(encoding="utf-8")
    assert page.count("data:image/png") == 1
    assert "default-src 'none'" in page
    body = text_of(parsed(page))
    for part in ("Some images.", f"Ours: {file.stem}. PNG", "Differs.", "w <b>", "advlens x"):
        assert part in body
    assert f"Ours: {file.stem}, shown at Figure 2." in body
    assert (
        path.read_bytes()
        == write_reproduction(run, Reproduction(**given, entries=entries)).read_bytes()
    )
