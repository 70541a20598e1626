"""Numbers and comparisons in words, what sections are made of, and the verdict above them."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advlens import words as told
from advlens.report.blocks import BrowserColumn, UnitBrowserBlock
from advlens.report.grids import Cell
from advlens.report.verdict import (
    ENOUGH,
    MARKS,
    TITLES,
    Claim,
    choices,
    in_lines,
    not_measured,
    verdict,
)
from advlens.runs.results import Results, Rows
from advlens.runs.tables import TABLES
from advlens.words import (
    Estimate,
    Says,
    comparison,
    file_name,
    layer_text,
    number,
    ranked,
    ranking,
    shared,
)
from sections import copied, puts, remove
from synthetic_attribution import write_attribution
from synthetic_features import write_features
from synthetic_run import rows_of, write_run, write_table


def estimate(value: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value=value, low=low, high=high, n=100)


def test_numbers_in_words():
    assert [layer_text(name) for name in ("2", "layer4.1.conv2")] == ["layer 2", "layer4.1.conv2"]
    shares = (0.9173, 0.0, 1.0, 0.00049, 0.0005001)
    assert [told.percent(share) for share in shares] == ["91.7%", "0.0%", "100.0%", "0.0%", "0.1%"]
    values = (0.5, 0.001342, 1.0, 0, 4e-12, 0.98765, 123.4)
    assert " ".join(map(number, values)) == "0.500 0.00134 1.00 0.0000 0.0000 0.988 123"
    assert told.count(10000) == "10,000"
    assert [told.listed([*"abc"][:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


def test_intervals_overlap_when_they_share_a_point_and_may_lie_above_a_bound():
    one, ends = estimate(0.5, 0.4, 0.6), ((0.4, 0.6), (0.6, 0.7), (0.61, 0.7), (0.1, 0.3), ())
    others = [estimate(0.5, *each) for each in ends]
    assert [one.overlaps(other) for other in others] == [True, True, False, False, True]
    assert [other.overlaps(one) for other in others] == [True, True, False, False, True]
    assert [estimate(0.5, low, 0.9).above(0.1) for low in (0.1, 0.11, None)] == [False, True, False]


INTERVALS = [
    ((0.9173, 0.9118, 0.9225), True, "91.7% (91.2–92.2)"),
    ((0.0, 0.0, 0.000384), True, "0.0% (0.00–0.04)"),
    ((0.5333, 0.5211, 0.5456), False, "0.533 (0.521–0.546)"),
    ((0.1, -0.2, 0.4), False, "0.100 (-0.200 to 0.400)"),
    ((0.1, -0.2, 0.4), True, "10.0% (-20.0 to 40.0)"),
    ((0.5,), False, "0.500"),
]


def test_an_interval_has_enough_digits_to_be_seen() -> None:
    for ends, as_percent, text in INTERVALS:
        assert estimate(*ends).text(as_percent=as_percent) == text
        assert (estimate(*ends).interval() == "no interval") == (len(ends) == 1)


LOW, HIGH = estimate(0.1, 0.05, 0.15), estimate(0.9, 0.85, 0.95)
CLOSE, WIDE = estimate(0.88, 0.8, 0.9), estimate(0.1, 0.0, 0.2)
FOUR = {"a": LOW, "b": HIGH, "c": estimate(0.7, 0.6, 0.75), "d": estimate(0.5, 0.45, 0.55)}
LOWEST, HIGHEST = "a 0.100 (0.0500–0.150)", "b 0.900 (0.850–0.950)"
COMPARED = [
    ({"a": LOW, "b": HIGH}, f"{HIGHEST} and {LOWEST}; the intervals are disjoint"),
    ({"a": CLOSE, "b": HIGH}, "…; the intervals overlap"),
    (
        {"a": CLOSE, "b": HIGH, "c": WIDE},
        f"{HIGHEST}, a 0.880 (0.800–0.900) and c 0.100 (0.0000–0.200); "
        "the intervals overlap for b and a",
    ),
    ({"a": CLOSE, "b": HIGH, "c": HIGH}, "…; the intervals overlap"),
    (FOUR, f"from {HIGHEST} down to {LOWEST}; the intervals are disjoint"),
    ({"a": estimate(0.25), "b": HIGH}, f"{HIGHEST} and a 0.250"),
    ({"a": HIGH, "b": HIGH}, "0.900 (0.850–0.950) for a and b"),
]


@pytest.mark.parametrize(("given", "text"), COMPARED)
def test_a_comparison_orders_and_names_what_is_open(given, text):
    shown = comparison(given)
    assert shown == text or (text[0] == "…" and shown.endswith(text[1:]))


def test_comparisons_of_other_forms_and_what_all_share():
    given = {"a": estimate(0.25), "b": estimate(0.5, 0.4, 0.6)}
    assert comparison(given, "percent") == "b 50.0% (40.0–60.0) and a 25.0%"
    assert comparison(given, "count") == "b 50 of 100 and a 25 of 100"
    phrases = {"on real images": given["a"], "under attack": given["b"]}
    assert comparison(phrases, phrases=True) == (
        "0.250 on real images and 0.500 (0.400–0.600) under attack"
    )
    three = {"first": given["b"], "then": given["b"], "last": estimate(0.6, 0.5, 0.7)}
    assert comparison(three, phrases=True).endswith("0.600 (0.500–0.700) last")
    assert shared({"a": "1", "b": "1"}) == "1"
    assert shared({"a": "1", "b": "2"}, "in") == "1 in a and 2 in b"
    assert shared({"at rest": "1", "at work": "2"}, "") == "1 at rest and 2 at work"


ENDS = {"a": (0.1, 0.0, 0.2), "b": (0.5, 0.4, 0.6), "c": (0.55, 0.5, 0.7), "d": (0.9,)}
FOUND = {name: estimate(*ends) for name, ends in ENDS.items()}
FOUND |= {name: estimate(n, n, n) for name, n in {"w": 1, "x": 2, "y": 3, "z": 3}.items()}
RANKINGS = [
    ("abcd", False, "bc higher a"),  # d has no interval: it is compared with none
    ("abcd", True, "a lower bc"),
    ("bc", False, "bc open "),
    ("ab", False, "b higher a"),
    ("ad", False, "ad open "),
    ("a", False, ""),
    ("", False, ""),
    ("wxy", False, "y higher wx"),  # the leader alone is named
    ("wxy", True, "w lower xy"),
    ("wxyz", False, "xyz higher w, yz higher x"),
]
SENTENCES = [
    ("wxy", "At equal ε, units of y hold more than those of w and x"),
    ("bc", "At equal ε, no difference in CS1 is established between b and c"),
    (
        "wxyz",
        "At equal ε, units of x, y and z hold more than those of w; those of y and z hold more "
        "than those of x",
    ),
]


def found(models: str) -> dict[str, Estimate]:
    return {model: FOUND[model] for model in models}


@pytest.mark.parametrize(("models", "lower", "says"), RANKINGS)
def test_a_ranking_says_what_disjoint_intervals_establish(models, lower, says):
    wanted = [text.split(" ") for text in filter(None, says.split(", "))]
    assert ranking("m", found(models), lower=lower) == tuple(
        Says("m", tuple(of), direction, tuple(than)) for of, direction, than in wanted
    )


def test_a_ranking_of_several_ways_says_what_all_establish():
    chain = found("wxy")
    turned = chain | {"w": chain["y"], "y": chain["w"]}
    assert ranking("m", chain, chain) == ranking("m", chain)
    assert ranking("m", chain, turned) == (Says("m", ("w", "x", "y"), "open"),)
    assert ranking("m", chain, found("wx")) == (Says("m", ("x",), "higher", ("w",)),)


@pytest.mark.parametrize(("models", "text"), SENTENCES)
def test_a_ranking_is_one_sentence_in_each_case(models, text):
    says = ranking("CS1", found(models))
    assert ranked(says, "units of", "hold more", where="At equal ε, ") == text
    if models == "bc":
        words = "No difference in the share is established between b and c"
        assert ranked(says, "units of", "hold more", what="the share") == words


def test_changes_are_told_by_direction():
    says = [
        told.changed("m", "a", FOUND["a"], FOUND["b"]),
        told.changed("m", "b", FOUND["b"], FOUND["c"]),
        told.changed("m", "c", FOUND["c"], FOUND["a"], "the start"),
        told.changed("m", "d", FOUND["a"], FOUND["c"]),
    ]
    assert [said.direction for said in says] == ["higher", "open", "lower", "higher"]
    assert says[2] == Says("m", ("c",), "lower", ("the start",))
    assert told.moves(says, more={"a": " (a lot)"}) == (
        "falls in c, rises in a (a lot) and d and is not shown to change in b"
    )


NAMED = {
    "natural images": ("natural", "", 0.0, 0),
    "FGSM, L∞ ε = 4/255": ("Fgsm", "Linf", 0.0156863, 1),
    "PGD-20, L2 ε = 0.5": ("Pgd", "L2", 0.5, 20),
    "PGD-5, L∞ ε = 0.03": ("Pgd", "Linf", 0.03, 5),
    "Mine, L1 ε = 2": ("Mine", "L1", 2.0, 1),
    "Mine, ε = 2": ("Mine", "", 2.0, 1),
    "Adam attack, 20 steps, λ = 2": ("AdamAttack", "", None, 20, "weight=2"),
    "Adam attack, 9 steps, λ = 0.5 (step_size=0.1, targeted=False)": (
        *("AdamAttack", "", None, 9, "weight=0.5, step_size=0.1, targeted=False"),
    ),
    "Adam attack towards targets, 20 steps, λ = 2": (
        *("AdamAttack", "", None, 20, "weight=2, label=target"),
    ),
    "Adam attack, 20 steps (targeted=False)": ("AdamAttack", "", None, 20, "targeted=False"),
    "PGD-5 (restarts=2), L2 ε = 1": ("Pgd", "L2", 1.0, 5, "restarts=2"),
    "PGD-5 towards targets, L2 ε = 1": ("Pgd", "L2", 1.0, 5, "label=target"),
    "PGD-5 towards targets (restarts=2, seed=3), L2 ε = 1": (
        *("Pgd", "L2", 1.0, 5, "restarts=2, label=target, seed=3"),
    ),
}


def test_attack_name() -> None:
    columns = ("attack", "norm", "epsilon", "steps", "settings")
    for text, values in NAMED.items():
        assert told.attack_name(dict(zip(columns, values, strict=False))) == text


@given(st.lists(st.tuples(st.text(), st.text()), min_size=2, max_size=6, unique=True))
def test_file_names_are_safe_and_differ(parts):
    parts = [(a.replace("/", ""), b.replace("/", "")) for a, b in parts]
    names = {part: file_name(*part) for part in parts}
    assert all(re.fullmatch(r"[a-z0-9-]{6,67}", name) for name in names.values())
    assert len(set(names.values())) == len(set(parts))


def test_cells_and_browsers():
    assert Cell(file="", label="cat", predicted="cat").caption == "cat"
    assert Cell(file="", label="cat", predicted="dog").caption == "cat → dog"
    kinds = ("model", "unit", "text", "number")
    columns = [BrowserColumn(header="H", kind=kind) for kind in kinds]
    rows = [["a", 7, "", 0.123456], ["a", 12, "dog", None]]
    named = {"title": "", "caption": "", "file": ""}
    block = UnitBrowserBlock(columns=columns, grids=["", "a-grid"], rows=rows, **named)
    assert block.data == {
        "kinds": list(kinds),
        "texts": ["a", "", "dog"],
        "rows": [[0, 7, 1, 0.1235], [0, 12, 2, None]],
        "grids": {1: "a-grid"},
    }
    texts = [[c.text(cell) for c, cell in zip(columns, row, strict=True)] for row in block.rows]
    assert texts == [["a", "7", "–", "0.1235"], ["a", "12", "dog", "–"]]


def test_rows_are_found_by_their_columns_and_have_estimates():
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
    ends = {"low": 0.1, "high": 0.3, "units": 7}
    wanted = Estimate(value=0.2, low=0.1, high=0.3, n=7)
    assert Estimate.of({"mean": 0.2, **ends}, n="units") == wanted
    assert Estimate.of({"share": 0.2, **ends}, "share", "units") == wanted
    ends = {"cs1_low": 0.1, "cs1_high": 0.3, "low": 9, "n": 7}
    assert Estimate.of({"cs1": 0.2, **ends}, "cs1") == wanted


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("run"), classes=tuple("abcdefghij"))
    write_attribution(run)
    return write_features(run)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return copied(made, tmp_path)


def claims(run: Path, model: str) -> dict[str, Claim]:
    each = verdict(Results.read(run))[model]
    assert all(claim.text.endswith(".") and claim.mark in MARKS for claim in each)
    assert all(claim.about in TITLES for claim in each)
    return {claim.about: claim for claim in each}


PGD = "accuracy model=robust attack=Pgd"
ENDS = f"{PGD}: top1_low"
KID = "generation: mean=0.55 low=0.5 high=0.56; generation images=generated measure=kid: "
LINF = "sweep model=robust norm=Linf"
UNITS = "consistency model=robust images=equal-success"
CASES = {
    # robust, not robust, partly
    "robust": (
        f"accuracy model=robust attack=natural: top1=0.8; {PGD}: top1=0.4",
        *("L2", "holds", "at least half of its"),
    ),
    "less": (f"{PGD}: top1=0.38", "L2", "partly", "less than half of its"),
    "half": (f"{PGD}: top1=0.2", "L2", "partly", "less than half of its"),
    "broken": (f"{PGD}: top1=0.19", "L2", "fails", "less than a quarter of its"),
    "one image": (
        f"{ENDS}=0.19 top1_high=1 top1=1 n=1",
        "L2",
        "unknown",
        "of 1 image, too few to tell",
    ),
    "wide below": (f"{ENDS}=0 top1_high=0.41 top1=0.1", "L2", "unknown", "images, too few to tell"),
    "wide": (f"{PGD}: top1=0.3±0.11", "L2", "unknown", "images, too few to tell"),
    "less wide": (f"{PGD}: top1=0.3±0.09", "L2", "partly", "less than half of its"),
    "guessing": (f"{PGD}: top1=0.1", "L2", "fails", "no more than guessing"),
    "radius": (f"{LINF}: top1=0.5", "Linf", "holds", "Under PGD-10, L∞ ε = 8/255"),
    # masked gradients
    "masked": (f"{PGD}: top1=0.7; checks: passed=false", "L2", "unknown", "a check failed"),
    "broken all the same": (f"{PGD}: top1=0.1; checks: passed=false", "L2", "fails", "guessing"),
    # chance, too few
    "above chance": ("accuracy attack=natural: top1=0.2±0.09", "natural", "holds", "gives 10.0%."),
    "chance": ("accuracy attack=natural: top1=0.2±0.11", "natural", "fails", "nothing to trust"),
    "few": ("accuracy attack=natural: top1=0.4±0.31 n=5", "natural", "unknown", "too few to tell"),
    # units
    "success": (f"{UNITS}: success=0.79", "units", "unknown", "reaches 79.0% of images"),
    "kept": (f"{UNITS}: mean=0.9701; floors: value=0.91", "units", "holds", "units stand for what"),
    "some": (f"{UNITS}: mean=0.9699; floors: value=0.91", "units", "partly", "partly stand"),
    "few left": (f"{UNITS}: mean=0.9401; floors: value=0.91", "units", "partly", "partly stand"),
    "lost": (f"{UNITS}: mean=0.9399; floors: value=0.91", "units", "fails", "no longer stand"),
    "all alike": (f"{UNITS}: mean=1; floors: value=1", "units", "unknown", "too few to tell"),
    # attributions
    "faith": ("attribution: ahead_low=0.01", "attributions", "holds", "what its predictions rest"),
    "one": (
        "attribution: ahead_low=0.01; attribution measure=deletion: ahead_low=0",
        *("attributions", "partly", "beat random ones in 3 of 6 comparisons ("),
    ),
    "none": (
        f"attribution: ahead_low=-0.1 n={ENOUGH}",
        *(
            "attributions",
            "fails",
            f"not shown to beat random ones (insertion and deletion, {ENOUGH} images)",
        ),
    ),
    "none of few": (
        f"attribution: ahead_low=-0.1 n={ENOUGH - 1}",
        *("attributions", "unknown", f"{ENOUGH - 1} images: too few to judge"),
    ),
    "all of few": (
        f"attribution: ahead=0.2 ahead_low=0.1 n={ENOUGH - 1}",
        *("attributions", "unknown", f"{ENOUGH - 1} images: too few to judge"),
    ),
    # features
    "made": ("generation: mean=0.55", "features", "holds", "the class in 55.0%"),
    "half made": ("generation: mean=0.54", "features", "partly", "the class in 54.0%"),
    "quarter": ("generation: mean=0.325", "features", "partly", "the class in 32.5%"),
    "farther": (f"{KID}mean=0.6 low=0.57", "features", "partly", "They lie farther from"),
    "no farther": (f"{KID}mean=0.6 low=0.56", "features", "holds", "guessing gives 10.0%."),
    "nearer": (f"{KID}mean=0.4 low=0.3 high=0.49", "features", "holds", "guessing gives 10.0%."),
    "unmade": ("generation: mean=0.32", "features", "fails", "the class in 32.0%"),
}


@pytest.mark.parametrize(("changes", "about", "mark", "words"), CASES.values(), ids=CASES)
def test_each_claim_has_its_mark(run: Path, changes: str, about: str, mark: str, words: str):
    puts(run, changes)
    claim = claims(run, "robust")[about]
    assert (claim.mark, words in claim.text) == (mark, True), claim


def test_a_single_step_is_no_worst_case_but_may_break_a_model(run: Path):
    remove(run, "sweep")
    puts(run, "accuracy attack=Fgsm: top1=0.6; accuracy model=standard attack=Fgsm: top1=0.1±0.05")
    robust, standard = (claims(run, model)["Linf"] for model in ("robust", "standard"))
    assert robust.mark == "unknown"
    assert "one step is no worst case in L∞" in robust.text
    assert standard.mark == "fails"


def test_the_worst_of_several_attacks_counts_and_one_without_a_ball_does_not(run: Path):
    rows = rows_of(run, "accuracy")
    (pgd,) = [row for row in rows if (row["attack"], row["model"]) == ("Pgd", "robust")]
    own = {"attack": "AutoAttack", "steps": "0", "top1_low": "0.65", "top1_high": "0.75"}
    aa, less = pgd | own | {"top1": "0.7"}, {"top1": "0.6", "top1_low": "0.5"}
    adam = pgd | {"attack": "AdamAttack", "norm": "", "epsilon": "", "top1": "0", "top1_low": "0"}
    write_table(run, "accuracy", [*rows, adam])
    assert "PGD-20" in claims(run, "robust")["L2"].text
    for high, epsilon, named in ((0.66, 0.5, "AutoA"), (0.64, 0.5, "PGD-"), (0.64, 0.6, "AutoA")):
        pgd |= less | {"top1_high": str(high), "epsilon": str(epsilon)}
        write_table(run, "accuracy", [*rows, adam, aa])
        assert named in claims(run, "robust")["L2"].text
        assert [*claims(run, "robust")][1] == ("L2" if named == "AutoA" else "Linf")
    assert "AutoAttack" not in not_measured(Results.read(run))


def test_what_was_not_measured_is_said(run: Path):
    assert not_measured(Results.read(run)) == ["AutoAttack", "the concepts that units detect"]
    remove(run, "attribution", "generation", "layers", "consistency")
    assert {*claims(run, "robust")} == {"natural", "Linf", "L2"}
    assert not_measured(Results.read(run))[2:] == [
        *("the concepts that units detect", "attributions", "generated images")
    ]
    remove(run, "accuracy")
    assert claims(run, "robust") == {}


def test_losers_are_named_as_winners_are(made: Path):
    """Each model has a claim about each thing."""
    about = [[claim.about for claim in each] for each in verdict(Results.read(made)).values()]
    assert about[0] == about[1] == ["natural", "Linf", "L2", "units", "attributions", "features"]


STRONG = "accuracy attack=natural: top1=0.8; accuracy attack=Pgd: top1=0.6±0.02"
ROBUST = "accuracy model=robust attack=Pgd"
CHOSEN = {  # which models are chosen where images may be changed in L2
    "one holds": (f"{ROBUST}: top1=0.7", ("robust",)),
    "one is ahead": (f"{STRONG}; {ROBUST}: top1=0.7±0.02", ("robust",)),
    "intervals overlap": (f"{STRONG}; {ROBUST}: top1=0.61±0.02", ("standard", "robust")),
    "none holds": ("accuracy attack=Pgd: top1=0.05", ()),
    "masked": (f"{STRONG}; checks model=robust: passed=false", ("standard",)),
    "guesses": (f"{STRONG}; accuracy model=robust attack=natural: top1=0.1±0.05", ("standard",)),
}


@pytest.mark.parametrize(("changes", "chosen"), CHOSEN.values(), ids=CHOSEN)
def test_a_model_is_chosen_that_keeps_its_accuracy_and_that_no_other_is_ahead_of(
    run: Path, changes: str, chosen: tuple[str, ...]
):
    puts(run, changes)
    results = Results.read(run)
    found = {each.about: each for each in choices(results, verdict(results))}
    assert found["L2"].models == chosen
    assert all(name in found["L2"].text for name in chosen)


def test_paired_differences_decide_where_intervals_overlap(run: Path):
    puts(run, f"{STRONG}; {ROBUST}: top1=0.61±0.02")
    (row,) = rows_of(run, "accuracy", model="robust", attack="Pgd")
    named = {name: row[name] for name in ("attack", "norm", "epsilon", "steps", "settings")}
    about = {"measure": "accuracy", "model": "standard", "other": "robust", "n": 1000} | named
    for p, chosen in ((0.049, ("robust",)), (0.051, ("standard", "robust"))):
        ends = {"difference": -0.01, "low": -0.02, "high": -0.001, "p": 0.01, "p_holm": p}
        whole = dict.fromkeys(TABLES["differences"].columns, "") | about | ends
        write_table(run, "differences", [whole])
        results = Results.read(run)
        assert choices(results, verdict(results))[-1].models == chosen


def test_a_single_model_is_not_chosen(run: Path):
    results = Results.read(run)
    assert choices(results, {"robust": verdict(results)["robust"]}) == []


def test_the_terminal_says_the_same(made: Path):
    results = Results.read(made)
    lines = in_lines(results)
    said = [each.text for each in choices(results, verdict(results))]
    assert (lines[: len(said)], len(said)) == (said, 3)
    lines = lines[len(said) :]
    assert lines[0] == "standard"
    assert lines[7] == "robust"
    assert lines[-1] == "Not measured: AutoAttack, the concepts that units detect."
    claim = claims(made, "standard")["L2"]
    assert lines[3] == f"  ✗ Accuracy under attack in L2: does not hold. {claim.text}"
