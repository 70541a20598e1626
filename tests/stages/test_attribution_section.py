"""What the report says of attributions: random ones beside all, and only what is established."""

import math
import re
from pathlib import Path

import pytest

from advlens.errors import RunError
from advlens.report.blocks import FigureBlock, Finding, PictureRowsBlock, Section, TableBlock
from advlens.report.sections.attribution import section
from advlens.runs.results import Results
from synthetic_attribution import MEASURES, METHODS, paired, write_attribution
from synthetic_run import change, read, write_run, write_table

GRADIENTS = METHODS[:2]
NAMES = {
    "IntegratedGradients": "Integrated Gradients",
    "ExpectedGradients": "Expected Gradients",
    "Random": "Random",
}
TITLES = {
    "insertion": "Insertion ↑",
    "deletion": "Deletion ↓",
    "sparseness": "Sparseness ↑",
    "variation": "Total variation ↓",
    "stability": "Instability ↓",
    "agreement": "Agreement ↑",
    "gap": "Completeness gap ↓",
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_attribution(write_run(tmp_path / "run", shown=1))


def made(run: Path) -> Section:
    found = section(Results.read(run))
    assert found
    return found


def finding(run: Path, words: str) -> Finding:
    (found,) = [f for f in made(run).findings if re.search(words, f.claim)]
    return found


def has(run: Path, words: str) -> bool:
    return any(re.search(words, f.claim) for f in made(run).findings)


def value(run: Path, model: str, method: str, measure: str) -> tuple[float, float, float]:
    (row,) = [
        row
        for row in read(run, "attribution")
        if (row["model"], row["method"], row["measure"]) == (model, method, measure)
    ]
    return float(row["mean"]), float(row["low"]), float(row["high"])


def number(x: float) -> str:
    """Three significant digits, derived a second time."""
    if abs(x) < 5e-5:
        return "0.0000"
    digits = 2 - math.floor(math.log10(abs(x)))
    return f"{x:.{max(digits, 0)}f}"


def text(mean: float, low: float, high: float) -> str:
    return f"{number(mean)} ({number(low)}{'–' if low >= 0 else ' to '}{number(high)})"


def set_mean(run: Path, model: str, measure: str, mean: float, method: str = "") -> None:
    """Another mean, with an interval of ±0.01, for the gradient methods or for one method."""

    def alter(row: dict[str, str]) -> None:
        wanted = [method] if method else GRADIENTS
        if (row["model"], row["measure"]) == (model, measure) and row["method"] in wanted:
            row.update(mean=f"{mean}", low=f"{mean - 0.01}", high=f"{mean + 0.01}")

    change(run, "attribution", alter)
    write_table(run, "attribution", paired(read(run, "attribution")))


def test_without_its_table_there_is_no_section(run: Path) -> None:
    (run / "results" / "attribution.csv").unlink()
    assert section(Results.read(run)) is None


def test_other_tables_may_be_absent(run: Path) -> None:
    for name in ("attribution_methods", "attribution_pictures"):
        (run / "results" / f"{name}.csv").unlink()
    assert not [b for b in made(run).blocks if isinstance(b, PictureRowsBlock)]
    assert [b.file for b in made(run).blocks if isinstance(b, TableBlock)] == ["attribution.csv"]


def test_all_texts_are_finished(run: Path) -> None:
    found = made(run)
    texts = [f"{f.claim} {f.evidence}" for f in found.findings]
    texts += [b.caption for b in found.blocks if hasattr(b, "caption")]
    texts += [b.alt for b in found.blocks if isinstance(b, FigureBlock)]
    texts += [term.meaning for term in found.terms]
    assert len(found.findings) == 9
    assert len(found.terms) == 9
    for one in texts:
        assert not re.search(r"[{}]|None|nan|\(\)|  |\.\.|:\.", one), one
        assert one.endswith("."), one


# findings


def test_the_better_model_is_named_with_all_that_is_established(run: Path) -> None:
    (found,) = [f for f in made(run).findings if "smoother, sparser" in f.claim]
    assert found.claim.startswith("Attributions of robust are more faithful by insertion and del")
    assert found.important
    assert found.claim.endswith(" than those of standard.")
    assert "n = 100 images" in found.evidence
    assert "Not established" not in found.evidence


def test_each_measure_says_how_far_ahead_of_random_each_model_is(run: Path) -> None:
    for measure, (better, *_) in MEASURES.items():
        if measure == "gap":
            continue
        words = {
            "insertion": "by insertion",
            "deletion": "by deletion",
            "sparseness": "sparser",
            "variation": "smoother",
            "stability": "more stable",
            "agreement": "more alike",
        }[measure]
        found = finding(run, f"^Attributions of robust are [a-z ]*{words}[a-z ]* than those")
        sign = 1 if better == "higher" else -1
        for method in GRADIENTS:
            for model in ("standard", "robust"):
                mean, low, _ = value(run, model, method, measure)
                chance, *_ = value(run, model, "Random", measure)
                ahead, half = sign * (mean - chance), mean - low
                assert f"{model} {text(ahead, ahead - half, ahead + half)}" in found.evidence
        assert f"{better.capitalize()} is better; n = 100 images." in found.evidence


def test_a_lead_that_random_attributions_share_is_none(run: Path) -> None:
    """A confident model has a larger insertion area with any attribution."""
    set_mean(run, "robust", "insertion", 0.8)
    set_mean(run, "standard", "insertion", 0.6)
    assert has(run, "^Attributions of robust are more faithful by insertion")
    set_mean(run, "robust", "insertion", 0.6, "Random")
    set_mean(run, "standard", "insertion", 0.4, "Random")
    assert finding(run, "^Insertion: no difference between the models is established")
    best = finding(run, "^Attributions of robust are more faithful by deletion, ")
    assert "Not established: insertion." in best.evidence


def test_methods_that_disagree_are_told_apart(run: Path) -> None:
    set_mean(run, "standard", "variation", 0.2, "ExpectedGradients")
    assert has(
        run,
        "^Total variation: by Integrated Gradients robust smoother than standard; by Expected "
        "Gradients standard smoother than robust.$",
    )
    set_mean(run, "standard", "variation", 0.9, "ExpectedGradients")
    set_mean(run, "robust", "variation", 0.9, "ExpectedGradients")
    assert has(
        run,
        "^Total variation: by Integrated Gradients robust smoother than standard; by Expected "
        "Gradients no difference is established.$",
    )


def test_a_model_that_is_no_better_than_random_says_so(run: Path) -> None:
    set_mean(run, "standard", "variation", 3.5)
    set_mean(run, "robust", "variation", 3.0)
    assert has(
        run,
        "^Attributions of robust are smoother than those of standard; in robust this is not "
        "established beyond random ones.$",
    )


def test_two_winners_are_named_apart(run: Path) -> None:
    set_mean(run, "standard", "variation", 0.2)
    (found,) = [f for f in made(run).findings if "insertion and deletion" in f.claim]
    assert found.claim == (
        "Attributions of robust are more faithful by insertion and deletion, sparser, more stable "
        "and more alike between methods than those of standard; those of standard are smoother "
        "than those of robust."
    )


def test_models_that_are_alike_are_named_together(tmp_path: Path) -> None:
    """No model leads here, and yet two are established to be better than the third."""
    models = ("plain", "one", "other")
    run = write_run(tmp_path / "run", models=models, shown=1)
    write_attribution(run, models=models)
    for model in ("one", "other"):
        set_mean(run, model, "variation", 0.9)
    assert has(run, "^Attributions of one and other are smoother than those of plain.$")


def test_attributions_no_better_than_random_are_a_warning(run: Path) -> None:
    assert not finding(run, "find what the prediction rests on better than random").warning
    set_mean(run, "standard", "deletion", 0.4, "ExpectedGradients")
    found = finding(run, "in standard is not established for every method")
    assert found.warning
    assert found.important
    assert "In robust, attributions find what" in found.claim
    mean, low, _ = value(run, "standard", "ExpectedGradients", "deletion")
    chance, *_ = value(run, "standard", "Random", "deletion")
    ahead, half = chance - mean, mean - low
    words = text(ahead, ahead - half, ahead + half)
    assert f"standard {words} (deletion, Expected Gradients)" in found.evidence


def test_without_an_interval_nothing_is_established(run: Path) -> None:
    change(run, "attribution", lambda row: row.update(ahead_low="", ahead_high=""))
    assert has(run, "^No difference between the models' attributions is established")
    assert not has(run, "than those of")
    assert finding(run, "rests on in standard and robust is not established").warning


def test_without_random_attributions_nothing_is_compared(tmp_path: Path) -> None:
    run = write_attribution(write_run(tmp_path / "run", shown=1), methods=GRADIENTS)
    assert [f.claim.split(" to ")[0] for f in made(run).findings] == ["Attributions add up"]
    assert [score.notes for score in made(run).scores] == 2 * [{"standard": "", "robust": ""}]


def test_one_model_is_compared_with_random_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", models=("one",), shown=1)
    write_attribution(run, models=("one",))
    assert has(run, "^Attributions of one are smoother than random ones")
    assert not has(run, "those of")
    set_mean(run, "one", "variation", 2.9)
    assert has(run, "^Attributions of one are not established to be smoother than random ones")


def test_large_gaps_are_a_warning(run: Path) -> None:
    assert not finding(run, "^Attributions add up .*, within").warning
    set_mean(run, "standard", "gap", 0.25, "IntegratedGradients")
    found = finding(run, "^Attributions do not add up .*: Integrated Gradients in standard.$")
    assert found.warning
    assert "Integrated Gradients, standard 25.0% (24.0–26.0)" in found.evidence


def test_a_measure_of_ones_own_goes_by_its_name(run: Path) -> None:
    change(
        run,
        "attribution",
        lambda row: row["measure"] == "sparseness" and row.update(measure="entropy"),
    )
    assert has(run, "^Attributions of robust are better by entropy than those of standard")


# table, figure, scores


def test_the_table_has_every_measure_of_every_model(run: Path) -> None:
    (table,) = [
        b for b in made(run).blocks if isinstance(b, TableBlock) and b.file == "attribution.csv"
    ]
    rows = [{c.header: c.cell(row) for c in table.columns} for row in table.rows]
    assert len(rows) == 2 * len(MEASURES)
    for row in rows:
        (measure,) = [name for name, title in TITLES.items() if title == row["Measure"]]
        for method in METHODS:
            if (measure, method) == ("gap", "Random"):
                assert row["Random"] == "–"
            else:
                assert row[NAMES[method]] == text(*value(run, row["Model"], method, measure))


def test_the_methods_table_says_how_they_were_computed(run: Path) -> None:
    (table,) = [
        b
        for b in made(run).blocks
        if isinstance(b, TableBlock) and b.file == "attribution_methods.csv"
    ]
    rows = [[c.cell(row) for c in table.columns] for row in table.rows]
    assert rows[0] == [
        "Integrated Gradients",
        "standard",
        "probability",
        "10 noise images",
        "trapezoid",
        "510",
        "100",
    ]
    assert rows[3][3:5] == ["training images", "–"]
    assert len(rows) == 4


def test_the_figure_has_all_measures_but_the_gap(run: Path) -> None:
    (block,) = [b for b in made(run).blocks if isinstance(b, FigureBlock)]
    titles = [axes.get_title("left") for axes in block.draw(6.4).axes]
    assert sorted(titles) == sorted(title for name, title in TITLES.items() if name != "gap")
    mean, *_ = value(run, "robust", "ExpectedGradients", "variation")
    assert f"Total variation, Expected, robust: {number(mean)}" in block.alt


def test_scores_stand_beside_random_ones(run: Path) -> None:
    for score, measure in zip(made(run).scores, ("insertion", "variation"), strict=True):
        for model, estimate in score.estimates.items():
            assert estimate.text() == text(*value(run, model, "IntegratedGradients", measure))
            chance, *_ = value(run, model, "Random", measure)
            assert score.notes[model] == f"random {number(chance)}"


# pictures


def test_a_row_is_one_image_as_all_models_see_it(run: Path) -> None:
    blocks = [b for b in made(run).blocks if isinstance(b, PictureRowsBlock)]
    pictures = read(run, "attribution_pictures")
    assert [b.title for b in blocks] == [NAMES[method] for method in GRADIENTS]
    assert all(block.heat for block in blocks)
    assert blocks[0].caption == (
        "What is explained: the probability of the predicted class; baseline: 10 noise images; "
        "510 gradients an image."
    )
    for block, method in zip(blocks, GRADIENTS, strict=True):
        assert len(block.rows) == 3
        for rank, row in enumerate(block.rows):
            image, *models = row.columns
            mine = [p for p in pictures if (p["rank"], p["method"]) == (str(rank), method)]
            assert (image.heading, image.pictures[0].alt) == ("Image", f"Image of {row.title}")
            assert [(c.heading, c.pictures[0].file) for c in models] == [
                (p["model"], p["file"]) for p in mine
            ]
            for column, p in zip(models, mine, strict=True):
                (picture,) = column.pictures
                wrong = p["label"] != p["predicted"]
                share = f"{100 * float(p['probability']):.1f}%"
                words = f"{p['predicted']} {share}"
                words = f"{p['label']} → {words}, gap 31.0%" if wrong else words
                assert (picture.caption, picture.wrong) == (words, wrong)
                assert picture.alt == (
                    f"{NAMES[method]} of {p['model']} over an image of {p['label']}: what speaks "
                    f"for {p['predicted']}, red, and against it, blue"
                )


def test_images_without_labels_go_by_their_number(run: Path) -> None:
    change(run, "attribution_pictures", lambda row: row.update(label="", probability="", gap=""))
    (block, _) = [b for b in made(run).blocks if isinstance(b, PictureRowsBlock)]
    assert [row.title for row in block.rows] == ["image 0", "image 10", "image 20"]
    assert block.rows[2].columns[1].pictures[0].caption == "truck"
    assert not any(p.wrong for row in block.rows for c in row.columns for p in c.pictures)


# damage


@pytest.mark.parametrize(
    ("table", "column", "value", "named"),
    [
        ("attribution", "mean", "much", "mean in line 2 is 'much', not a number"),
        ("attribution", "mean", "", "mean in line 2 is ''"),
        ("attribution", "low", "nan", "low in line 2 is 'nan', not finite"),
        ("attribution", "model", "other", "'other', which run.json does not name"),
        ("attribution", "better", "up", "is better 'up', not higher, lower or nothing"),
        ("attribution", "n", "0", "insertion of standard has n = 0"),
        ("attribution_methods", "points", "", "points in line 2 is ''"),
        ("attribution_pictures", "rank", "1.5", "not a whole number"),
        ("attribution_pictures", "probability", "inf", "not finite"),
    ],
)
def test_damaged_tables_are_refused(
    run: Path, table: str, column: str, value: str, named: str
) -> None:
    change(run, table, lambda row: row.update({column: value}))
    with pytest.raises(RunError, match=re.escape(named)) as caught:
        section(Results.read(run))
    assert f"{table}.csv is damaged" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("table", ["attribution", "attribution_methods", "attribution_pictures"])
def test_a_table_without_a_column_is_refused(run: Path, table: str) -> None:
    path = run / "results" / f"{table}.csv"
    path.write_text(path.read_text().replace("method", "way", 1))
    with pytest.raises(RunError, match="it has no column method"):
        section(Results.read(run))
