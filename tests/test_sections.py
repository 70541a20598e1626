"""Numbers in words, and run folders that are whole or refused with the place of the damage."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advlens.errors import RunError
from advlens.report.blocks import BrowserColumn, Cell, UnitBrowserBlock
from advlens.runs.results import Results, Rows
from advlens.words import (
    Estimate,
    Says,
    attack_name,
    changed,
    comparison,
    count,
    file_name,
    listed,
    moves,
    number,
    percent,
    ranked,
    ranking,
    shared,
)
from synthetic_run import write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", shown=1)


def estimate(value: float, low: float | None, high: float | None) -> Estimate:
    return Estimate(value=value, low=low, high=high, n=100)


# words


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9173, "91.7%"), (0.0, "0.0%"), (1.0, "100.0%"), (0.00049, "0.0%"), (0.0005001, "0.1%")],
)
def test_percent_has_one_decimal(value: float, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.500"),
        (0.001342, "0.00134"),
        (1.0, "1.00"),
        (0, "0.0000"),
        (4e-12, "0.0000"),
        (0.98765, "0.988"),
        (123.4, "123"),
    ],
)
def test_number_has_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_count_and_listed() -> None:
    assert count(10000) == "10,000"
    assert [listed(["a", "b", "c"][:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


@pytest.mark.parametrize(
    ("low", "high", "overlap"),
    [(0.4, 0.6, True), (0.6, 0.7, True), (0.61, 0.7, False), (0.1, 0.3, False), (None, None, True)],
)
def test_intervals_overlap_when_they_share_a_point(
    low: float | None, high: float | None, overlap: bool
) -> None:
    one, other = estimate(0.5, 0.4, 0.6), estimate(0.5, low, high)
    assert one.overlaps(other) is overlap
    assert other.overlaps(one) is overlap


def test_estimate_shows_its_interval_with_enough_digits_to_see_it() -> None:
    assert estimate(0.9173, 0.9118, 0.9225).text(as_percent=True) == "91.7% (91.2–92.2)"
    assert estimate(0.0, 0.0, 0.000384).text(as_percent=True) == "0.0% (0.00–0.04)"
    assert estimate(0.5333, 0.5211, 0.5456).text() == "0.533 (0.521–0.546)"
    assert estimate(0.1, -0.2, 0.4).text() == "0.100 (-0.200 to 0.400)"
    assert estimate(0.1, -0.2, 0.4).text(as_percent=True) == "10.0% (-20.0 to 40.0)"
    assert estimate(0.5, None, None).text() == "0.500"
    assert estimate(0.5, None, None).interval() == "no interval"


def test_comparison_orders_and_names_what_is_open() -> None:
    found = {"a": estimate(0.1, 0.05, 0.15), "b": estimate(0.9, 0.85, 0.95)}
    assert comparison(found) == (
        "b 0.900 (0.850–0.950) and a 0.100 (0.0500–0.150); the intervals are disjoint"
    )
    close = found | {"a": estimate(0.88, 0.8, 0.9)}
    assert comparison(close).endswith("; the intervals overlap")
    three = close | {"c": estimate(0.1, 0.0, 0.2)}
    assert comparison(three) == (
        "b 0.900 (0.850–0.950), a 0.880 (0.800–0.900) and c 0.100 (0.0000–0.200); the intervals "
        "overlap for b and a"
    )
    assert comparison(three | {"c": found["b"]}).endswith("; the intervals overlap")
    four = found | {"c": estimate(0.7, 0.6, 0.75), "d": estimate(0.5, 0.45, 0.55)}
    assert comparison(four) == (
        "from b 0.900 (0.850–0.950) down to a 0.100 (0.0500–0.150); the intervals are disjoint"
    )


def test_comparison_of_other_forms() -> None:
    found = {"a": estimate(0.25, None, None), "b": estimate(0.5, 0.4, 0.6)}
    assert comparison(found) == "b 0.500 (0.400–0.600) and a 0.250"
    assert comparison(found, "percent") == "b 50.0% (40.0–60.0) and a 25.0%"
    assert comparison(found, "count") == "b 50 of 100 and a 25 of 100"
    assert comparison({"a": found["b"], "b": found["b"]}) == "0.500 (0.400–0.600) for a and b"
    phrases = {"on real images": found["a"], "under attack": found["b"]}
    assert comparison(phrases, phrases=True) == (
        "0.250 on real images and 0.500 (0.400–0.600) under attack"
    )
    three = {"first": found["b"], "then": found["b"], "last": estimate(0.6, 0.5, 0.7)}
    assert comparison(three, phrases=True).endswith("0.600 (0.500–0.700) last")


FOUND = {
    "a": estimate(0.1, 0.0, 0.2),
    "b": estimate(0.5, 0.4, 0.6),
    "c": estimate(0.55, 0.5, 0.7),
    "d": estimate(0.9, None, None),
}
CHAIN = {name: estimate(value, value, value) for name, value in (("a", 1), ("b", 2), ("c", 3))}


@pytest.mark.parametrize(
    ("models", "lower", "says"),
    [
        ("abcd", False, [("bc", "higher", "a")]),  # d has no interval: it is compared with none
        ("abcd", True, [("a", "lower", "bc")]),
        ("bc", False, [("bc", "open", "")]),
        ("ab", False, [("b", "higher", "a")]),
        ("ad", False, [("ad", "open", "")]),
        ("a", False, []),
        ("", False, []),
    ],
)
def test_a_ranking_says_what_disjoint_intervals_establish(
    models: str, lower: bool, says: list[Any]
) -> None:
    found = ranking("m", {model: FOUND[model] for model in models}, lower=lower)
    assert found == tuple(Says("m", tuple(of), way, tuple(than)) for of, way, than in says)


def test_a_ranking_names_the_leader_alone() -> None:
    assert ranking("m", CHAIN) == (Says("m", ("c",), "higher", ("a", "b")),)
    assert ranking("m", CHAIN, lower=True) == (Says("m", ("a",), "lower", ("b", "c")),)
    two = CHAIN | {"d": CHAIN["c"]}
    assert ranking("m", two) == (
        Says("m", ("b", "c", "d"), "higher", ("a",)),
        Says("m", ("c", "d"), "higher", ("b",)),
    )


def test_a_ranking_of_several_ways_says_what_all_establish() -> None:
    turned = CHAIN | {"a": CHAIN["c"], "c": CHAIN["a"]}
    assert ranking("m", CHAIN, CHAIN) == ranking("m", CHAIN)
    assert ranking("m", CHAIN, turned) == (Says("m", ("a", "b", "c"), "open"),)
    part = {name: CHAIN[name] for name in "ab"}
    assert ranking("m", CHAIN, part) == (Says("m", ("b",), "higher", ("a",)),)


def test_a_ranking_is_one_sentence_in_each_case() -> None:
    def text(**found: Estimate) -> str:
        return ranked(ranking("CS1", found), "units of", "hold more", where="At equal ε, ")

    assert text(**CHAIN) == "At equal ε, units of c hold more than those of a and b"
    assert text(b=FOUND["b"], c=FOUND["c"]) == (
        "At equal ε, no difference in CS1 is established between b and c"
    )
    assert text(**CHAIN, d=CHAIN["c"]) == (
        "At equal ε, units of b, c and d hold more than those of a; those of c and d hold more "
        "than those of b"
    )
    says = [Says("m", ("a", "b"), "open")]
    assert ranked(says, "units of", "hold more", what="the share") == (
        "No difference in the share is established between a and b"
    )


def test_changes_are_told_by_direction() -> None:
    says = [
        changed("m", "a", FOUND["a"], FOUND["b"]),
        changed("m", "b", FOUND["b"], FOUND["c"]),
        changed("m", "c", FOUND["c"], FOUND["a"], "the start"),
        changed("m", "d", FOUND["a"], FOUND["c"]),
    ]
    assert [said.direction for said in says] == ["higher", "open", "lower", "higher"]
    assert says[2] == Says("m", ("c",), "lower", ("the start",))
    assert moves(says, more={"a": " (a lot)"}) == (
        "falls in c, rises in a (a lot) and d and stays within its intervals in b"
    )


def test_what_all_share_is_said_once() -> None:
    assert shared({"a": "1", "b": "1"}) == "1"
    assert shared({"a": "1", "b": "2"}, "in") == "1 in a and 2 in b"
    assert shared({"at rest": "1", "at work": "2"}, "") == "1 at rest and 2 at work"


@pytest.mark.parametrize(("low", "above"), [(0.1, False), (0.11, True), (None, False)])
def test_above_a_bound_needs_an_interval(low: float | None, above: bool) -> None:
    assert estimate(0.5, low, 0.9).above(0.1) is above


# rows


def test_rows_are_found_by_their_columns() -> None:
    rows = Rows(
        {"model": model, "k": k, "lc_mean": lc, "lc_low": 0.1, "lc_high": 0.3, "n": 5}
        for model, k, lc in (("b", 1, 0.2), ("a", 1, None), ("b", 2, 0.25))
    )
    assert rows.where(model="b", k=2) == [rows[2]]
    assert rows.where(model="b").where(k=1) == rows.where(model="b", k=1) == [rows[0]]
    assert rows.where() == rows
    assert rows.one(k=1) is rows[0]
    assert rows.one(k=3) is None
    assert rows.known("lc_mean") == [rows[0], rows[2]]
    assert rows.values("model") == ["b", "a"]
    assert rows.values("model", "k") == [("b", 1), ("a", 1), ("b", 2)]
    assert rows.split("model") == [[rows[0], rows[2]], [rows[1]]]
    assert rows.split("k", "model") == [[row] for row in rows]
    assert rows.by("model") == {"b": rows[2], "a": rows[1]}
    assert rows.estimates("lc") == {"b": Estimate(value=0.25, low=0.1, high=0.3, n=5)}
    assert rows.where(k=1).estimates("lc", by="k", n="k") == {}


def test_estimates_take_the_columns_that_a_table_has() -> None:
    ends = {"low": 0.1, "high": 0.3, "units": 7}
    wanted = Estimate(value=0.2, low=0.1, high=0.3, n=7)
    assert Estimate.of({"mean": 0.2, **ends}, n="units") == wanted
    assert Estimate.of({"share": 0.2, **ends}, "share", "units") == wanted
    ends = {"cs1_low": 0.1, "cs1_high": 0.3, "low": 9, "n": 7}
    assert Estimate.of({"cs1": 0.2, **ends}, "cs1") == wanted


@pytest.mark.parametrize(
    ("attack", "norm", "epsilon", "steps", "text"),
    [
        ("natural", "", 0.0, 0, "natural images"),
        ("Fgsm", "Linf", 0.0156863, 1, "FGSM, L∞ ε = 4/255"),
        ("Pgd", "L2", 0.5, 20, "PGD-20, L2 ε = 0.5"),
        ("Pgd", "Linf", 0.03, 5, "PGD-5, L∞ ε = 0.03"),
        ("Mine", "L1", 2.0, 1, "Mine, L1 ε = 2"),
        ("Mine", "", 2.0, 1, "Mine, ε = 2"),
    ],
)
def test_attack_name(attack: str, norm: str, epsilon: float, steps: int, text: str) -> None:
    row = {"attack": attack, "norm": norm, "epsilon": epsilon, "steps": steps}
    assert attack_name(row) == text


@given(st.lists(st.tuples(st.text(), st.text()), min_size=2, max_size=6, unique=True))
def test_file_names_are_safe_and_differ(parts: list[tuple[str, str]]) -> None:
    parts = [(a.replace("/", ""), b.replace("/", "")) for a, b in parts]
    names = {part: file_name(*part) for part in parts}
    assert all(re.fullmatch(r"[a-z0-9-]{6,67}", name) for name in names.values())
    assert len(set(names.values())) == len(set(parts))


def test_cell_caption_names_the_prediction_only_where_it_differs() -> None:
    assert Cell(file="", label="cat", predicted="cat").caption == "cat"
    assert Cell(file="", label="cat", predicted="dog").caption == "cat → dog"


def test_browser_holds_each_text_once_and_rounds_numbers() -> None:
    columns = [
        BrowserColumn(header="Model", kind="model"),
        BrowserColumn(header="Unit", kind="unit"),
        BrowserColumn(header="Concept", kind="text"),
        BrowserColumn(header="IoU", kind="number"),
    ]
    block = UnitBrowserBlock(
        title="",
        caption="",
        file="",
        columns=columns,
        grids=["", "a-grid"],
        rows=[["a", 7, "", 0.123456], ["a", 12, "dog", None]],
    )
    assert block.data == {
        "kinds": ["model", "unit", "text", "number"],
        "texts": ["a", "", "dog"],
        "rows": [[0, 7, 1, 0.1235], [0, 12, 2, None]],
        "grids": {1: "a-grid"},
    }
    texts = [[c.text(cell) for c, cell in zip(columns, row, strict=True)] for row in block.rows]
    assert texts == [["a", "7", "–", "0.1235"], ["a", "12", "dog", "–"]]


# the run folder


def test_results_reads_the_record(run: Path) -> None:
    results = Results.read(run)
    assert results.models == ("standard", "robust")
    assert results.chance == 0.25
    assert results.record["seed"] == 0


def change(run: Path, alter: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((run / "run.json").read_text())
    alter(record)
    (run / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("alter", "named"),
    [
        (lambda r: r.pop("models"), "the record has no models"),
        (lambda r: r.update(models=[]), "at least one model"),
        (lambda r: r.update(models={}), "the record's models is not a list"),
        (lambda r: r["models"][0].pop("parameters"), "the record's models has no parameters"),
        (lambda r: r["models"][1].update(name="standard"), "under its own name"),
        (lambda r: r["models"][0]["layers"][0].update(units="6"), "layers's units is '6'"),
        (lambda r: r["data"].update(classes=[]), "needs classes"),
        (lambda r: r["data"].update(classes=["a", 1]), "classes is '1'"),
        (lambda r: r.update(seed=True), "seed is 'True'"),
        (lambda r: r.update(settings=[]), "settings is '[]'"),
        (lambda r: r["stages"][0].update(seconds=None), "seconds is 'None'"),
        (lambda r: r["stages"][0].update(seconds=float("nan")), "NaN"),
    ],
)
def test_a_damaged_record_is_refused(
    run: Path, alter: Callable[[dict[str, Any]], object], named: str
) -> None:
    change(run, alter)
    with pytest.raises(RunError, match=re.escape(named)) as caught:
        Results.read(run)
    assert "run.json" in str(caught.value)
    assert "advlens audit" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff", b"[]", b"null"])
def test_a_record_that_is_no_record_is_refused(run: Path, content: bytes) -> None:
    (run / "run.json").write_bytes(content)
    with pytest.raises(RunError, match=r"run\.json"):
        Results.read(run)


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="it is not there; name a folder made by"):
        Results.read(tmp_path)


COLUMNS = {"model": str, "unit": int, "lc": float | None, "dead": bool}


def table(run: Path, text: str | bytes) -> Rows:
    content = text.encode() if isinstance(text, str) else text
    (run / "results" / "mine.csv").write_bytes(content)
    return Results.read(run).table("mine", COLUMNS)


def test_table_types_its_values_and_leaves_other_columns(run: Path) -> None:
    text = 'model,extra,unit,dead,lc\nrobust,x,1e+06,true,\nstandard,"a,\nb",2,false,0.25\n'
    assert table(run, text) == [
        {"model": "robust", "unit": 1_000_000, "lc": None, "dead": True},
        {"model": "standard", "unit": 2, "lc": 0.25, "dead": False},
    ]


def test_an_absent_table_has_no_rows(run: Path) -> None:
    assert Results.read(run).table("nothing", COLUMNS) == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "it has no column model"),
        ("model,unit,dead\n", "it has no column lc"),
        ("model,unit,lc,dead\nrobust,1,0.5\n", "line 2 has 3 cells, not 4"),
        (
            "model,unit,lc,dead\nrobust,1.5,0.5,true\n",
            "unit in line 2 is '1.5', not a whole number",
        ),
        ("model,unit,lc,dead\nrobust,,0.5,true\n", "unit in line 2 is '', not a number"),
        ("model,unit,lc,dead\nrobust,1,nan,true\n", "lc in line 2 is 'nan', not finite"),
        ("model,unit,lc,dead\nrobust,1,-inf,true\n", "lc in line 2 is '-inf', not finite"),
        ("model,unit,lc,dead\nrobust,1,x,true\n", "lc in line 2 is 'x', not a number"),
        ("model,unit,lc,dead\nrobust,1,0.5,True\n", "dead in line 2 is 'True', not true or false"),
        ("model,unit,lc,dead\nother,1,0.5,true\n", "'other', which run.json does not name"),
        ('model,unit,lc,dead\n"robust,1,0.5,true\n', "mine.csv is damaged"),
        (b"model,unit,lc,dead\n\xff,1,0.5,true\n", "mine.csv is damaged"),
        ("model,unit,lc,dead\n" + "x" * 200_000, "mine.csv is damaged"),
    ],
)
def test_a_damaged_table_is_refused(run: Path, text: str | bytes, named: str) -> None:
    with pytest.raises(RunError, match=re.escape(named)) as caught:
        table(run, text)
    assert "mine.csv" in str(caught.value)


def test_file_stays_in_the_run_folder(run: Path, tmp_path: Path) -> None:
    results = Results.read(run)
    assert results.file("figures/images/0.png").is_file()
    (tmp_path / "outside.png").write_bytes(b"")
    (run / "link.png").symlink_to(tmp_path / "outside.png")
    absolute = str(tmp_path / "outside.png")
    for name in ("../outside.png", absolute, "link.png", "a\0b", "x" * 5000, "none.png", "", "."):
        with pytest.raises(RunError, match="not in the folder"):
            results.file(name)


def test_invisible_characters_are_marked(run: Path) -> None:
    """Control and direction characters, and half a surrogate pair, which no file could hold."""
    change(run, lambda record: record["models"][0].update(name="a\x00b\u202ec\ud800d"))
    assert Results.read(run).models == ("a\ufffdb\ufffdc\ufffdd", "robust")
