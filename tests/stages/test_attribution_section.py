"""What the report says of attributions: random ones beside all, and only what is established."""

from pathlib import Path

import pytest

from advlens.report.blocks import FigureBlock, PictureRowsBlock, TableBlock
from advlens.report.sections.attribution import section
from advlens.words import Estimate
from sections import Maker, estimate, in_words, number, remove
from synthetic_attribution import MEASURES, METHODS, paired, write_attribution
from synthetic_run import BOTH, around, put, rows_of, write_run, write_table

attributions = Maker(section)
GRADIENTS = METHODS[:2]
NAMES = dict(zip(METHODS, ("Integrated Gradients", "Expected Gradients", "Random"), strict=True))
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
EVERY = "insertion by every method"
VARIATION = "total variation"
LEAST = "smallest lead over random attributions"
GAP = "completeness gap, Integrated Gradients"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_attribution(write_run(tmp_path_factory.mktemp("run"), shown=0))


def value(run: Path, model: str, method: str, measure: str) -> Estimate:
    (row,) = rows_of(run, "attribution", model=model, method=method, measure=measure)
    return estimate(row)


def set_means(run: Path, text: str) -> None:
    """Other means ±0.01: "robust insertion 0.8", of the gradient methods or of those named."""
    for each in filter(None, text.split(", ")):
        model, measure, mean, *methods = each.split()
        for method in methods or GRADIENTS:
            where = {"model": model, "measure": measure, "method": method}
            put(run, "attribution", where, **around(float(mean)))
    write_table(run, "attribution", paired(rows_of(run, "attribution")))


def test_tables_may_be_absent(run: Path) -> None:
    remove(run, "attribution_methods", "attribution_pictures")
    assert not attributions.blocks(run, PictureRowsBlock)
    assert [b.file for b in attributions.blocks(run, TableBlock)] == ["attribution.csv"]
    remove(run, "attribution")
    assert attributions.absent(run)


def test_all_texts_are_finished(made: Path) -> None:
    found = attributions.check(made)
    assert (len(found.findings), len(found.terms)) == (9, 11)


def test_the_better_model_is_named_with_all_that_is_established(made: Path) -> None:
    for words in WORDS.values():
        assert attributions.told(made, f"{words} by every method") == BETTER
    found = attributions.finding(made, EVERY)
    assert found.important
    assert found.claim == (
        "Attributions of robust are more faithful by insertion and deletion, smoother, sparser, "
        "more stable and more alike between methods than those of standard."
    )
    assert "Not established" not in found.note


def test_each_measure_says_how_far_ahead_of_random_each_model_is(made: Path) -> None:
    for measure, words in WORDS.items():
        found = attributions.finding(made, words)
        assert attributions.told(made, words) == BETTER
        better = MEASURES[measure][0]
        sign = 1 if better == "higher" else -1
        chance = {model: value(made, model, "Random", measure) for model in BOTH}
        methods = GRADIENTS[:1] if measure == "agreement" else GRADIENTS  # it counts once
        for method, measured in zip(methods, found.estimates[:-1], strict=True):
            assert measured.name == f"lead over random attributions in {words}, {NAMES[method]}"
            assert measured.n == "100 images"
            for model, lead in measured.estimates.items():
                mine = value(made, model, method, measure)
                ahead, arm = sign * (mine.value - chance[model].value), mine.value - (mine.low or 0)
                wanted = (ahead, ahead - arm, ahead + arm)
                assert (lead.value, lead.low, lead.high) == pytest.approx(wanted, abs=1e-5)
        assert found.estimates[-1].estimates == chance
        assert found.note.startswith(f"A lead is how much {better} the ")


INTEGRATED, EXPECTED = (f"{VARIATION}, {NAMES[method]}" for method in GRADIENTS)
SURE = "robust insertion 0.8, standard insertion 0.6"
ALIKE = f"{SURE}, robust insertion 0.6 Random, standard insertion 0.4 Random"
SAME = "standard variation 0.9 ExpectedGradients, robust variation 0.9 ExpectedGradients"
UNKNOWN = "attribution: ahead_low= ahead_high="
BETTER, OPEN = "robust higher than standard", "standard, robust open"
SAID = [
    ("insertion", SURE, BETTER, ""),
    # a confident model has a larger insertion area with any attribution
    ("insertion", ALIKE, OPEN, ""),
    (EVERY, ALIKE, OPEN, "Not established: insertion."),
    # methods that disagree are told apart
    (INTEGRATED, "standard variation 0.2 ExpectedGradients", BETTER, "By Integrated Gradients"),
    (EXPECTED, "standard variation 0.2 ExpectedGradients", "standard higher than robust", ""),
    (EXPECTED, SAME, OPEN, "By Expected Gradients, no difference in total variation is estab"),
    (
        VARIATION,
        "standard variation 3.5, robust variation 3.0",
        f"{BETTER}; robust open than Random",
        " In robust, they are not established to beat random ones.",
    ),
    (
        f"{VARIATION} by every method",
        "standard variation 0.2",
        "standard higher than robust",
        " than those of standard; those of standard are smoother than those of robust.",
    ),
    (LEAST, "", "standard, robust higher than Random", ""),
    (
        LEAST,
        "standard deletion 0.4 ExpectedGradients",
        "warning: robust higher than Random; standard open than Random",
        ": deletion by Expected Gradients.",
    ),
    (GAP, "standard gap 0.099 IntegratedGradients", "", " within 9.9% for the median image."),
    (
        GAP,
        "standard gap 0.101 IntegratedGradients",
        "warning: standard higher than 0.1",
        " explain: Integrated Gradients in standard.",
    ),
    *((measure, UNKNOWN, OPEN, "") for measure in WORDS.values()),
    (EVERY, UNKNOWN, OPEN, "No difference between the models' attributions is established"),
    (LEAST, UNKNOWN, "warning: standard, robust open than Random", ""),
    # a measure of one's own goes by its name
    ("entropy", "attribution measure=sparseness: measure=entropy", BETTER, "are better by ent"),
]
DAMAGED = [
    ("attribution", "mean", "", "mean in line 2 is ''"),
    ("attribution", "low", "nan", "low in line 2 is 'nan', not finite"),
    ("attribution", "better", "up", "better in line 2 is 'up', not 'higher' or 'lower' or ''"),
    ("attribution", "n", "0", "n in line 2 is '0', less than 1"),
    ("attribution_methods", "points", "", "points in line 2 is ''"),
    ("attribution_pictures", "rank", "1.5", "not a whole number"),
]


@pytest.mark.parametrize(("measure", "changes", "told", "words"), SAID)
def test_what_is_said(run: Path, measure: str, changes: str, told: str, words: str) -> None:
    others = changes.startswith("attribution")
    set_means(run, "" if others else changes)
    attributions.tells(run, changes if others else "", measure, told, words)


def test_the_smallest_lead_is_that_over_random_attributions(made: Path) -> None:
    for model, least in attributions.finding(made, LEAST).estimates[0].estimates.items():
        leads = [
            sign
            * (value(made, model, method, name).value - value(made, model, "Random", name).value)
            for method in GRADIENTS
            for name, sign in (("insertion", 1), ("deletion", -1))
        ]
        assert least.value == pytest.approx(min(leads), abs=1e-5)


def test_models_that_are_alike_are_named_together(tmp_path: Path) -> None:
    """No model leads here, and yet two are established to be better than the third."""
    models = ("plain", "one", "other")
    run = write_attribution(write_run(tmp_path, models=models, shown=0), models=models, shown=0)
    set_means(run, "one variation 0.9, other variation 0.9")
    assert attributions.told(run, VARIATION) == "one, other higher than plain"


def test_without_random_attributions_nothing_is_compared(tmp_path: Path) -> None:
    run = write_attribution(write_run(tmp_path, shown=0), methods=GRADIENTS, shown=0)
    (found,) = attributions.made(run).findings
    assert found.estimates[0].name == GAP
    assert [score.notes for score in attributions.made(run).scores] == 2 * [
        dict.fromkeys(BOTH, "Integrated Gradients")
    ]


def test_one_model_is_compared_with_random_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path, models=("one",), shown=0)
    write_attribution(run, models=("one",), shown=0)
    assert attributions.told(run, VARIATION) == "one higher than Random"
    assert not attributions.findings(run, EVERY)
    set_means(run, "one variation 2.9")
    words = "Attributions of one are not established to be smoother than random ones."
    attributions.tells(run, "", VARIATION, "one open than Random", words)


def test_the_tables_have_every_measure_and_how_it_was_computed(made: Path) -> None:
    (rows,) = attributions.cells(made, "attribution.csv")
    assert len(rows) == 2 * len(MEASURES)
    for row in rows:
        (measure,) = [name for name, title in TITLES.items() if title == row["Measure"]]
        for method in METHODS:
            wanted = "–"
            if (measure, method) != ("gap", "Random"):
                wanted = in_words(value(made, row["Model"], method, measure))
            assert row[NAMES[method]] == wanted
    (rows,) = attributions.cells(made, "attribution_methods.csv")
    assert [" ".join(row.values()) for row in rows] == [
        f"{text.replace('MODEL', model)} 100"
        for text in (
            "Integrated Gradients MODEL probability 10 noise images trapezoid 510",
            "Expected Gradients MODEL logit training images – 200",
        )
        for model in BOTH
    ]


def test_the_figure_has_all_measures_but_the_gap(made: Path) -> None:
    (block,) = attributions.blocks(made, FigureBlock)
    titles = [axes.get_title("left") for axes in block.draw().axes]
    assert sorted(titles) == sorted(title for name, title in TITLES.items() if name != "gap")
    mean = value(made, "robust", "ExpectedGradients", "variation").value
    assert f"Total variation, Expected, robust: {number(mean)}" in block.alt


def test_scores_stand_beside_random_ones(made: Path) -> None:
    scores = attributions.made(made).scores
    for score, measure in zip(scores, ("insertion", "variation"), strict=True):
        for model, found in score.estimates.items():
            assert found == value(made, model, "IntegratedGradients", measure)
            chance = value(made, model, "Random", measure).value
            assert score.notes[model] == f"Integrated Gradients; random {number(chance)}"


def test_a_row_is_one_image_as_all_models_see_it(made: Path) -> None:
    blocks = attributions.blocks(made, PictureRowsBlock)
    assert [b.title for b in blocks] == [NAMES[method] for method in GRADIENTS]
    assert all(block.heat for block in blocks)
    for text in ("the probability of the predicted class", "10 noise images", "510 gradients"):
        assert text in blocks[0].caption
    for block, method in zip(blocks, GRADIENTS, strict=True):
        assert len(block.rows) == 3
        for rank, row in enumerate(block.rows):
            image, *models = row.columns
            mine = rows_of(made, "attribution_pictures", rank=str(rank), method=method)
            assert (image.heading, image.pictures[0].alt) == ("Image", f"Image of {row.title}")
            assert [(c.heading, c.pictures[0].file) for c in models] == [
                (p["model"], p["file"]) for p in mine
            ]
            for column, p in zip(models, mine, strict=True):
                (picture,) = column.pictures
                wrong = p["label"] != p["predicted"]
                words = f"{p['predicted']} {100 * float(p['probability']):.1f}%"
                words = f"{p['label']} → {words}, gap 31.0%" if wrong else words
                assert (picture.caption, picture.wrong) == (words, wrong)
                start = f"{NAMES[method]} of {p['model']} over an image of {p['label']}: "
                assert picture.alt.startswith(f"{start}what speaks for {p['predicted']}, red")


def test_a_method_that_is_not_known_goes_by_its_own_name(run: Path) -> None:
    put(run, "attribution_pictures", {"method": "IntegratedGradients"}, method="captum:X")
    block = next(b for b in attributions.blocks(run, PictureRowsBlock) if b.title == "captum:X")
    assert (block.caption, block.name) == ("captum:X.", "attributions-captum-x")


def test_images_without_labels_go_by_their_number(run: Path) -> None:
    put(run, "attribution_pictures", {}, label="", probability="", gap="")
    (block, _) = attributions.blocks(run, PictureRowsBlock)
    assert [row.title for row in block.rows] == ["image 0", "image 10", "image 20"]
    assert block.rows[2].columns[1].pictures[0].caption == "truck"
    assert not any(p.wrong for row in block.rows for c in row.columns for p in c.pictures)


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_tables_are_refused(run: Path, damage: tuple[str, ...]) -> None:
    attributions.refuses(run, *damage)
