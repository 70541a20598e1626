"""What the report says of attributions: random ones beside all, and only what is established."""

import re
from pathlib import Path

import pytest

from advlens.errors import RunError
from advlens.report.blocks import FigureBlock, PictureRowsBlock, TableBlock
from advlens.report.sections.attribution import section
from advlens.runs.results import Results
from advlens.words import Estimate, Says
from sections import BOTH, Maker, around, cells, estimate, higher, nothing, number
from synthetic_attribution import MEASURES, METHODS, paired, write_attribution
from synthetic_run import put, read, write_run, write_table

attributions = Maker(section)
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
WORDS = {name: title[:-2].lower() for name, title in TITLES.items() if name != "gap"}
LEAST = "smallest lead over random attributions"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_attribution(write_run(tmp_path / "run", shown=1))


def value(run: Path, model: str, method: str, measure: str) -> Estimate:
    (row,) = [
        row
        for row in read(run, "attribution")
        if (row["model"], row["method"], row["measure"]) == (model, method, measure)
    ]
    return estimate(row)


def text(found: Estimate) -> str:
    assert found.low is not None
    assert found.high is not None
    to = "–" if found.low >= 0 else " to "
    return f"{number(found.value)} ({number(found.low)}{to}{number(found.high)})"


def set_mean(run: Path, model: str, measure: str, mean: float, method: str = "") -> None:
    """Another mean, with an interval of ±0.01, for the gradient methods or for one method."""
    for name in [method] if method else GRADIENTS:
        where = {"model": model, "measure": measure, "method": name}
        put(run, "attribution", where, **around(mean))
    write_table(run, "attribution", paired(read(run, "attribution")))


def test_without_its_table_there_is_no_section(run: Path) -> None:
    (run / "results" / "attribution.csv").unlink()
    assert attributions.absent(run)


def test_other_tables_may_be_absent(run: Path) -> None:
    for name in ("attribution_methods", "attribution_pictures"):
        (run / "results" / f"{name}.csv").unlink()
    assert not attributions.blocks(run, PictureRowsBlock)
    assert [b.file for b in attributions.blocks(run, TableBlock)] == ["attribution.csv"]


def test_all_texts_are_finished(run: Path) -> None:
    found = attributions.check(run)
    assert len(found.findings) == 9
    assert len(found.terms) == 9


# findings


def test_the_better_model_is_named_with_all_that_is_established(run: Path) -> None:
    for words in WORDS.values():
        measure = f"{words} by every method"
        assert attributions.says(run, measure) == [higher(measure, "robust")]
        found = attributions.finding(run, measure)
    assert found.important
    assert found.claim == (
        "Attributions of robust are more faithful by insertion and deletion, smoother, sparser, "
        "more stable and more alike between methods than those of standard."
    )
    assert "Not established" not in found.note


def test_each_measure_says_how_far_ahead_of_random_each_model_is(run: Path) -> None:
    for measure, words in WORDS.items():
        found = attributions.finding(run, words)
        assert list(found.says) == [higher(words, "robust")]
        better = MEASURES[measure][0]
        sign = 1 if better == "higher" else -1
        for method, measured in zip(GRADIENTS, found.estimates, strict=False):
            assert measured.name == f"lead in {words}, {NAMES[method]}"
            assert measured.n == "100 images"
            for model, lead in measured.estimates.items():
                mine, chance = (value(run, model, m, measure) for m in (method, "Random"))
                ahead, half = sign * (mine.value - chance.value), mine.value - (mine.low or 0)
                assert lead.value == pytest.approx(ahead, abs=1e-5)
                assert lead.low == pytest.approx(ahead - half, abs=1e-5)
                assert lead.high == pytest.approx(ahead + half, abs=1e-5)
        chance = {model: value(run, model, "Random", measure) for model in BOTH}
        assert found.estimates[-1].estimates == chance
        assert found.note.endswith(f"; {better} is better.")


def test_a_lead_that_random_attributions_share_is_none(run: Path) -> None:
    """A confident model has a larger insertion area with any attribution."""
    set_mean(run, "robust", "insertion", 0.8)
    set_mean(run, "standard", "insertion", 0.6)
    assert attributions.says(run, "insertion") == [higher("insertion", "robust")]
    set_mean(run, "robust", "insertion", 0.6, "Random")
    set_mean(run, "standard", "insertion", 0.4, "Random")
    assert attributions.says(run, "insertion") == [nothing("insertion")]
    every = "insertion by every method"
    assert attributions.says(run, every) == [nothing(every)]
    assert "Not established: insertion." in attributions.finding(run, every).note


def test_methods_that_disagree_are_told_apart(run: Path) -> None:
    def says() -> list[Says]:
        names = [f"total variation, {NAMES[method]}" for method in GRADIENTS]
        return [said for name in names for said in attributions.says(run, name)]

    integrated, expected = (f"total variation, {NAMES[method]}" for method in GRADIENTS)
    set_mean(run, "standard", "variation", 0.2, "ExpectedGradients")
    assert says() == [higher(integrated, "robust"), higher(expected, "standard")]
    set_mean(run, "standard", "variation", 0.9, "ExpectedGradients")
    set_mean(run, "robust", "variation", 0.9, "ExpectedGradients")
    assert says() == [higher(integrated, "robust"), nothing(expected)]
    assert attributions.finding(run, expected).claim == (
        "By Integrated Gradients, attributions of robust are smoother than those of standard. By "
        "Expected Gradients, no difference in total variation is established between standard and "
        "robust."
    )


def test_a_model_that_is_no_better_than_random_says_so(run: Path) -> None:
    set_mean(run, "standard", "variation", 3.5)
    set_mean(run, "robust", "variation", 3.0)
    assert attributions.says(run, "total variation") == [
        higher("total variation", "robust"),
        Says("total variation", ("robust",), "open", ("Random",)),
    ]
    claim = attributions.finding(run, "total variation").claim
    assert claim.endswith(" In robust, they are not established to beat random ones.")


def test_two_winners_are_named_apart(run: Path) -> None:
    set_mean(run, "standard", "variation", 0.2)
    found = attributions.finding(run, "sparseness by every method")
    assert higher("total variation by every method", "standard") in found.says
    assert found.claim.endswith(
        " than those of standard; those of standard are smoother than those of robust."
    )


def test_models_that_are_alike_are_named_together(tmp_path: Path) -> None:
    """No model leads here, and yet two are established to be better than the third."""
    models = ("plain", "one", "other")
    run = write_run(tmp_path / "run", models=models, shown=1)
    write_attribution(run, models=models)
    for model in ("one", "other"):
        set_mean(run, model, "variation", 0.9)
    assert attributions.says(run, "total variation") == [
        Says("total variation", ("one", "other"), "higher", ("plain",))
    ]


def test_attributions_no_better_than_random_are_a_warning(run: Path) -> None:
    assert attributions.says(run, LEAST) == [Says(LEAST, BOTH, "higher", ("Random",))]
    assert not attributions.finding(run, LEAST).warning
    set_mean(run, "standard", "deletion", 0.4, "ExpectedGradients")
    assert attributions.says(run, LEAST) == [
        Says(LEAST, ("robust",), "higher", ("Random",)),
        Says(LEAST, ("standard",), "open", ("Random",)),
    ]
    found = attributions.finding(run, LEAST)
    assert found.warning
    assert found.important
    mine, chance = (
        value(run, "standard", method, "deletion") for method in ("ExpectedGradients", "Random")
    )
    lead = found.estimates[0].estimates["standard"]
    assert lead.value == pytest.approx(chance.value - mine.value, abs=1e-5)
    assert found.note.endswith(": deletion by Expected Gradients.")


def test_without_an_interval_nothing_is_established(run: Path) -> None:
    put(run, "attribution", {}, ahead_low="", ahead_high="")
    for words in WORDS.values():
        assert attributions.says(run, words) == [nothing(words)]
    claim = attributions.finding(run, "insertion by every method").claim
    assert claim.startswith("No difference between the models' attributions is established")
    assert attributions.says(run, LEAST) == [Says(LEAST, BOTH, "open", ("Random",))]


def test_without_random_attributions_nothing_is_compared(tmp_path: Path) -> None:
    run = write_attribution(write_run(tmp_path / "run", shown=1), methods=GRADIENTS)
    (found,) = attributions.made(run).findings
    assert found.estimates[0].name == "completeness gap, Integrated Gradients"
    assert [score.notes for score in attributions.made(run).scores] == 2 * [dict.fromkeys(BOTH, "")]


def test_one_model_is_compared_with_random_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", models=("one",), shown=1)
    write_attribution(run, models=("one",))
    (said,) = attributions.says(run, "total variation")
    assert said == Says("total variation", ("one",), "higher", ("Random",))
    assert not attributions.findings(run, "insertion by every method")
    set_mean(run, "one", "variation", 2.9)
    (said,) = attributions.says(run, "total variation")
    assert said.direction == "open"
    claim = attributions.finding(run, "total variation").claim
    assert claim == "Attributions of one are not established to be smoother than random ones."


def test_large_gaps_are_a_warning(run: Path) -> None:
    measure = "completeness gap, Integrated Gradients"
    set_mean(run, "standard", "gap", 0.099, "IntegratedGradients")
    found = attributions.finding(run, measure)
    assert not found.says
    assert not found.warning
    assert ", within 9.9% on average." in found.claim
    set_mean(run, "standard", "gap", 0.101, "IntegratedGradients")
    found = attributions.finding(run, measure)
    assert found.says == [Says(measure, ("standard",), "higher", ("0.1",))]
    assert found.claim.endswith(" explain: Integrated Gradients in standard.")
    assert found.warning
    assert found.estimates[0].estimates["standard"].value == 0.101


def test_a_measure_of_ones_own_goes_by_its_name(run: Path) -> None:
    put(run, "attribution", {"measure": "sparseness"}, measure="entropy")
    assert attributions.says(run, "entropy") == [higher("entropy", "robust")]
    assert "are better by entropy than" in attributions.finding(run, "entropy").claim


# table, figure, scores


def test_the_table_has_every_measure_of_every_model(run: Path) -> None:
    (table,) = attributions.tables(run, "attribution.csv")
    rows = cells(table)
    assert len(rows) == 2 * len(MEASURES)
    for row in rows:
        (measure,) = [name for name, title in TITLES.items() if title == row["Measure"]]
        for method in METHODS:
            if (measure, method) == ("gap", "Random"):
                assert row["Random"] == "–"
            else:
                assert row[NAMES[method]] == text(value(run, row["Model"], method, measure))


def test_the_methods_table_says_how_they_were_computed(run: Path) -> None:
    (table,) = attributions.tables(run, "attribution_methods.csv")
    rows = [list(row.values()) for row in cells(table)]
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
    (block,) = attributions.blocks(run, FigureBlock)
    titles = [axes.get_title("left") for axes in block.draw(6.4).axes]
    assert sorted(titles) == sorted(title for name, title in TITLES.items() if name != "gap")
    mean = value(run, "robust", "ExpectedGradients", "variation").value
    assert f"Total variation, Expected, robust: {number(mean)}" in block.alt


def test_scores_stand_beside_random_ones(run: Path) -> None:
    for score, measure in zip(
        attributions.made(run).scores, ("insertion", "variation"), strict=True
    ):
        for model, found in score.estimates.items():
            assert found == value(run, model, "IntegratedGradients", measure)
            chance = value(run, model, "Random", measure).value
            assert score.notes[model] == f"random {number(chance)}"


# pictures


def test_a_row_is_one_image_as_all_models_see_it(run: Path) -> None:
    blocks = attributions.blocks(run, PictureRowsBlock)
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
    put(run, "attribution_pictures", {}, label="", probability="", gap="")
    (block, _) = attributions.blocks(run, PictureRowsBlock)
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
    put(run, table, {}, **{column: value})
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
