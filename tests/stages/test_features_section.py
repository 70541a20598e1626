"""What the report says of features: distances beside their bounds, n and network beside both."""

import re
from pathlib import Path

import pytest

from advlens.errors import RunError
from advlens.report.blocks import FigureBlock, PictureRow, PictureRowsBlock, TableBlock
from advlens.report.sections.features import section
from advlens.runs.results import Results
from advlens.words import Estimate, Says
from sections import BOTH, Maker, around, cells, estimate, higher, nothing, number
from synthetic_features import write_features
from synthetic_run import put, read, write_run

features = Maker(section)
TABLES = (
    "inversion",
    "inversion_pictures",
    "visualization_pictures",
    "generation",
    "generation_pictures",
)
CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
LAYER = "192 (192 features)"
NETWORK = "inception, 2048 features, images resized to 299×299"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_features(write_run(tmp_path / "run", shown=1))


def tables(run: Path, file: str) -> list[list[dict[str, str]]]:
    return [cells(block) for block in features.tables(run, file)]


def lower(measure: str, one: str, other: str) -> Says:
    return Says(measure, (one,), "lower", (other,))


def by_model(run: Path, name: str, **wanted: str) -> dict[str, Estimate]:
    return {row["model"]: estimate(row) for row in rows_of(run, name, **wanted)}


def pictures(run: Path, file: str) -> list[PictureRowsBlock]:
    return [b for b in features.blocks(run, PictureRowsBlock) if b.file == file]


def rows_of(run: Path, name: str, **wanted: str) -> list[dict[str, str]]:
    return [row for row in read(run, name) if all(row[k] == v for k, v in wanted.items())]


def text(row: dict[str, str]) -> str:
    value = number(float(row["mean"]))
    if not row["low"]:
        return value
    separator = "–" if float(row["low"]) >= 0 else " to "
    return f"{value} ({number(float(row['low']))}{separator}{number(float(row['high']))})"


def test_without_its_tables_there_is_no_section(run: Path) -> None:
    for name in TABLES:
        (run / "results" / f"{name}.csv").unlink()
    assert features.absent(run)


@pytest.mark.parametrize(
    ("kept", "title"),
    [
        ("inversion", "What does a representation keep of an image?"),
        ("inversion_pictures", "What does a representation keep of an image?"),
        ("visualization_pictures", "What does a component stand for?"),
        ("generation", "What does a class look like to the model?"),
        ("generation_pictures", "What does a class look like to the model?"),
    ],
)
def test_each_table_alone_makes_its_part(run: Path, kept: str, title: str) -> None:
    for name in TABLES:
        if name != kept:
            (run / "results" / f"{name}.csv").unlink()
    titles = [getattr(block, "title", "") for block in features.made(run).blocks]
    assert [t for t in titles if t.endswith("?")] == [title]
    assert bool(features.made(run).findings) == (kept in ("inversion", "generation"))


def test_all_texts_are_finished(run: Path) -> None:
    assert len(features.check(run).findings) == 4


# inversion

INVERTED = "distance by 192 features of inception"
STARTS = {"noise": "noise", "image": "an image of another class"}


def test_the_model_whose_inversions_come_nearest_is_named(run: Path) -> None:
    assert features.says(run, INVERTED) == [lower(INVERTED, "robust", "standard")]
    found = features.finding(run, INVERTED)
    assert found.claim == (
        "Inverted images of robust come nearer to their targets, by 192 features of inception, "
        "than those of standard."
    )
    assert found.important
    for start, words in STARTS.items():
        for name, measure in ((INVERTED, LAYER), ("distance of representations", "representation")):
            measured = features.measured(run, f"{name}, from {words}")
            assert measured.estimates == by_model(run, "inversion", measure=measure, start=start)
            assert measured.n == "24 images"


def test_wide_intervals_establish_nothing(run: Path) -> None:
    put(run, "inversion", {"measure": LAYER}, low=1, high=99)
    assert features.says(run, INVERTED) == [nothing(INVERTED)]
    assert features.finding(run, INVERTED).claim == (
        "No difference in how near inverted images come, by 192 features of inception, is "
        "established between standard and robust."
    )


def test_starts_that_disagree_are_told_apart(run: Path) -> None:
    put(run, "inversion", {"measure": LAYER, "start": "image"}, low=1, high=99)
    noise, image = (f"{INVERTED}, from {words}" for words in STARTS.values())
    found = features.finding(run, noise)
    assert found.says == (lower(noise, "robust", "standard"), nothing(image))
    assert found.claim.startswith("From noise, inverted images of robust come nearer")
    assert "From an image of another class, no difference in how near" in found.claim


def test_without_another_network_pixels_are_compared(run: Path) -> None:
    put(run, "inversion", {"measure": "pixels"}, measure="x")
    put(run, "inversion", {"measure": LAYER}, measure="pixels")
    put(run, "inversion", {"measure": "x"}, measure="representation")
    measure = "distance by pixels"
    assert features.says(run, measure) == [lower(measure, "robust", "standard")]
    assert not any(
        "B23" in row.get("Source", "") for t in tables(run, "inversion.csv") for row in t
    )


def test_one_model_has_its_distances_alone(tmp_path: Path) -> None:
    run = write_features(write_run(tmp_path / "run", models=("one",), shown=1), models=("one",))
    row, other = rows_of(run, "inversion", measure=LAYER)
    found = features.finding(run, f"{INVERTED}, from noise")
    assert not found.says
    assert found.claim == (
        f"Inverted images of one lie at a distance of {text(row)} from noise and {text(other)} "
        "from an image of another class, by 192 features of inception."
    )
    claim = features.finding(run, "KID").claim
    assert claim.startswith("Images generated by one have a KID of 0.150 (")


@pytest.mark.parametrize(("distance", "far"), [(0.499, False), (0.501, True)])
def test_inversions_that_missed_their_target_are_a_warning(
    run: Path, distance: float, far: bool
) -> None:
    where = {"measure": "representation", "model": "standard", "start": "noise"}
    put(run, "inversion", where, **around(distance))
    measure = "distance of representations, from noise"
    wanted = [Says(measure, ("standard",), "higher", ("0.5",))] if far else []
    assert features.says(run, measure) == wanted
    warned = [found for found in features.findings(run, measure) if found.warning]
    assert len(warned) == far
    for found in warned:
        assert found.claim == "Inversions did not reach the representations of standard."
        assert "after 10,000 steps" in found.note


def test_the_inversion_table_has_all_measures(run: Path) -> None:
    (table,) = tables(run, "inversion.csv")
    assert len(table) == 4
    columns = {"representation": "Own representation", "pixels": "Pixels", LAYER: "192 features"}
    for row in table:
        for measure, header in columns.items():
            (wanted,) = rows_of(
                run, "inversion", model=row["Model"], start=row["Start"], measure=measure
            )
            assert row[header] == f"{text(wanted)}; start {number(3 * float(wanted['mean']))}"
        assert row["Images (n)"] == "24"


def files(row: PictureRow) -> dict[str, list[str]]:
    return {column.heading: [p.file for p in column.pictures] for column in row.columns}


def test_triptychs_have_start_target_and_each_models_inversion(run: Path) -> None:
    blocks = pictures(run, "inversion_pictures.csv")
    assert [b.title for b in blocks] == ["From noise", "From an image of another class"]
    for block, start in zip(blocks, ("noise", "image"), strict=True):
        assert "10,000 steps of 1, L2 ε = 1000." in block.caption
        for rank, row in enumerate(block.rows):
            mine = rows_of(run, "inversion_pictures", start=start, rank=str(rank))
            assert files(row) == {
                "Start": [mine[0]["start_file"]],
                "Target": [mine[0]["target_file"]],
                **{r["model"]: [r["file"]] for r in mine},
            }
            for column, wanted in zip(row.columns[2:], mine, strict=True):
                assert column.model
                assert column.pictures[0].caption == number(float(wanted["distance"]))
                assert wanted["target_label"] in column.pictures[0].alt
    assert [row.title for row in blocks[1].rows] == ["cat → airplane", "dog → cat"]


def test_models_of_other_starts_have_rows_of_their_own(run: Path) -> None:
    put(run, "inversion_pictures", {"model": "robust"}, start_label="other")
    assert [len(b.rows) for b in pictures(run, "inversion_pictures.csv")] == [4, 4]


# visualization


def test_components_stand_beside_the_images_that_activate_them(run: Path) -> None:
    (block,) = pictures(run, "visualization_pictures.csv")
    assert [(row.model, row.title) for row in block.rows] == [
        (model, f"component {component}")
        for component in (3, 130)
        for model in ("standard", "robust")
    ]
    for row in block.rows:
        component = row.title.split()[1]
        kinds = {"Visualized": "visualized", "Most active": "most", "Least active": "least"}
        assert list(files(row)) == list(kinds)
        for column in row.columns:
            mine = rows_of(
                run,
                "visualization_pictures",
                model=row.model,
                component=component,
                kind=kinds[column.heading],
            )
            for picture, wanted in zip(column.pictures, mine, strict=True):
                assert picture.file == wanted["file"]
                value = number(float(wanted["activation"]))
                assert picture.caption == f"{wanted['label']} {value}".strip()
                assert picture.alt.endswith(f", activation {value}")


# generation


FID, KID = "FID", "KID"


def test_the_model_of_lowest_kid_is_named(run: Path) -> None:
    assert features.says(run, KID) == [lower(KID, "robust", "standard")]
    found = features.finding(run, KID)
    assert found.claim == (
        "By KID, images generated by robust are nearer to real ones than those of standard."
    )
    assert found.important
    for measured, measure in zip(found.estimates, ("kid", "fid"), strict=True):
        wanted = by_model(run, "generation", images="generated", measure=measure)
        assert measured.estimates == wanted
    assert "FID has no interval" in found.note
    assert f"n = 5,000 generated against 5,000 real images; {NETWORK}." in found.note


@pytest.mark.parametrize(("fid", "otherwise"), [(151, False), (153, True)])
def test_fid_and_kid_that_disagree_are_said_to(run: Path, fid: float, otherwise: bool) -> None:
    """The other model has 152."""
    where = {"model": "robust", "images": "generated", "measure": "fid"}
    put(run, "generation", where, mean=fid)
    claim = features.finding(run, KID).claim
    assert claim.endswith("; FID orders them otherwise.") == otherwise


def test_fid_alone_establishes_nothing(run: Path) -> None:
    put(run, "generation", {"measure": "kid"}, measure="confidence")
    assert features.says(run, FID) == [nothing(FID)]
    assert "KID" not in [term.name for term in features.made(run).terms]


def test_generation_is_measured_against_its_starts(run: Path) -> None:
    measure = "KID of generated images"
    starts = ("start images",)
    standard = Says(measure, ("standard",), "higher", starts)
    assert features.says(run, measure) == [standard, lower(measure, "robust", *starts)]
    found = features.finding(run, measure)
    assert found.claim == (
        "By KID, generation moves start images nearer to real ones in robust and farther from real "
        "ones in standard."
    )
    for measured, images in zip(found.estimates, ("generated", "start", "real"), strict=True):
        assert measured.estimates == by_model(run, "generation", images=images, measure="kid")
    where = {"images": "start", "measure": "kid", "model": "robust"}
    put(run, "generation", where, low=0, high=1)
    assert features.says(run, measure) == [standard, Says(measure, ("robust",), "open", starts)]


def test_without_starts_nothing_is_said_of_them(run: Path) -> None:
    put(run, "generation", {"images": "start"}, images="real")
    assert not features.findings(run, "KID of generated images")


def test_recognition_by_each_other_is_given_for_each_model(run: Path) -> None:
    found = features.finding(run, "recognized by robust")
    assert not found.says
    assert found.claim == (
        "Other networks recognize the wanted class in 20.0% of the images of standard and 80.0% of "
        "the images of robust."
    )
    for other, model in (BOTH, BOTH[::-1]):
        wanted = by_model(
            run, "generation", images="generated", measure="recognized", features=other
        )
        assert list(wanted) == [model]
        assert features.measured(run, f"recognized by {other}").estimates == wanted


def test_a_judge_of_all_models_decides_whose_images_are_recognized(tmp_path: Path) -> None:
    run = write_features(write_run(tmp_path / "run", shown=1), judges=("judge",))
    measure = "recognized by judge"
    assert features.says(run, measure) == [higher(measure, "robust")]
    found = features.finding(run, measure)
    assert found.claim == (
        "Images generated by robust are recognized more often by judge than those of standard."
    )
    starts = by_model(run, "generation", images="start", measure="recognized")
    assert features.measured(run, "start images recognized by judge").estimates == starts
    put(run, "generation", {}, low=0, high=1)
    assert features.says(run, measure) == [nothing(measure)]


@pytest.mark.parametrize(("column", "n"), [("n", 2048), ("n", 2049), ("n_real", 2048)])
def test_fewer_images_than_features_are_a_warning(run: Path, column: str, n: int) -> None:
    """A covariance of 2048 features needs 2049 images."""
    put(run, "generation", {"images": "generated"}, **{column: n})
    found = features.findings(run, "images of FID")
    assert len(found) == (n == 2048)
    for each in found:
        assert each.warning
        assert f"2,048 images, {NETWORK}:" in each.note


def test_other_features_than_inceptions_are_a_warning(run: Path, tmp_path: Path) -> None:
    measure = "features of FID and KID"
    assert not features.findings(run, measure)
    other = write_run(tmp_path / "other", shown=1)
    write_features(other, features="cifar10-reference", dimension=64)
    found = features.finding(other, measure)
    assert found.warning
    assert "cifar10-reference, 64 features" in found.note


def test_the_distance_table_names_n_and_network(run: Path) -> None:
    table, shares = tables(run, "generation.csv")
    assert [(row["Images"], row["Model"]) for row in table] == [
        (kind, model) for kind in ("Generated", "Start", "Real") for model in ("standard", "robust")
    ]
    for row in table:
        for measure in ("fid", "kid"):
            (wanted,) = rows_of(
                run,
                "generation",
                model=row["Model"],
                images=row["Images"].lower(),
                measure=measure,
            )
            assert row[measure.upper()] == text(wanted)
        assert (row["Images (n)"], row["Real images"]) == ("5,000", "5,000")
    captions = [block.caption for block in features.blocks(run, TableBlock)]
    assert sum(NETWORK in caption for caption in captions) == 1
    assert {row["By"] for row in shares} == {"standard", "robust"}


def test_two_networks_stand_in_a_column(run: Path) -> None:
    put(run, "generation", {"measure": "kid"}, features="other", dimension=64)
    table, _ = tables(run, "generation.csv")
    assert len(table) == 12
    assert {row["Features"].split(",")[0] for row in table} == {"inception", "other"}
    assert {row["FID"] for row in table if row["Features"].startswith("other")} == {"–"}


def test_generated_images_stand_beside_real_ones(run: Path) -> None:
    (block,) = pictures(run, "generation_pictures.csv")
    assert [row.title for row in block.rows] == ["airplane", "cat", "dog", "ship"]
    for row in block.rows:
        wanted = {
            heading: [
                r["file"]
                for r in rows_of(
                    run, "generation_pictures", model=model, kind=kind, **{"class": row.title}
                )
            ]
            for heading, model, kind in (
                ("Real", "standard", "real"),
                ("Start", "standard", "start"),
                ("standard", "standard", "generated"),
                ("robust", "robust", "generated"),
            )
        }
        assert files(row) == wanted
        assert [column.model for column in row.columns] == [False, False, True, True]


def test_the_figure_has_the_bounds(run: Path) -> None:
    (block,) = features.blocks(run, FigureBlock)
    assert [axes.get_title("left") for axes in block.draw(6.4).axes] == ["FID ↓", "KID ↓"]
    assert "FID, real, robust: 5.40" in block.alt


# B23's tables


def test_b23_is_a_reference_for_its_classes_only(run: Path) -> None:
    assert not any(
        "Source" in row for name in TABLES for t in tables(run, f"{name}.csv") for row in t
    )


def test_b23_stands_beside_ours_with_what_differs(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", classes=CIFAR10, shown=1)
    write_features(run, classes=CIFAR10, shown=1, top=1, generated=400)
    *_, fid = tables(run, "generation.csv")
    theirs = [(row["Images"], row["FID"], row["Images (n)"]) for row in fid[:3]]
    assert theirs == [
        ("real data", "5.39", "10,000"),
        ("standard ResNet-18", "152.29", "10,000"),
        ("robust ResNet-18", "88.25", "10,000"),
    ]
    assert all(row["Source"] == "B23, Table 2" for row in fid[:3])
    for row, wanted in zip(fid[3:], rows_of(run, "generation", measure="fid"), strict=True):
        assert row["Images"] == f"{wanted['images']}, {wanted['model']}"
        assert (row["Source"], row["FID"], row["Images (n)"]) == ("this run", text(wanted), "400")
    captions = {block.caption for block in features.blocks(run, TableBlock)}
    (caption,) = [c for c in captions if c.startswith("FID in B23 (CIFAR-10)")]
    assert "Values do not compare across the two" in caption
    assert "400 here, 10,000 there" in caption
    assert "in place of Inception" not in caption
    _, inversion = tables(run, "inversion.csv")
    assert [(row["Model"], row["Distance"]) for row in inversion[:4]] == [
        ("standard ResNet-18", "30.1"),
        ("standard ResNet-18", "30.07"),
        ("robust ResNet-18", "20.05"),
        ("robust ResNet-18", "21.18"),
    ]
    ours = rows_of(run, "inversion", measure=LAYER)
    assert [row["Distance"] for row in inversion[4:]] == [number(float(r["mean"])) for r in ours]
    assert any("three images as one vector" in c for c in captions)


def test_small_imagenet_has_its_own_tables(tmp_path: Path) -> None:
    classes = [f"class {n}" for n in range(150)]
    run = write_run(tmp_path / "run", classes=classes, shown=1)
    write_features(run, classes=classes[:2], shown=1, top=1, features="mine", dimension=64)
    *_, fid = tables(run, "generation.csv")
    assert [row["FID"] for row in fid[:3]] == ["7.62", "237.53", "81.2"]
    _, inversion = tables(run, "inversion.csv")
    assert [row["Distance"] for row in inversion[:4]] == ["23.3", "26.75", "12.84", "14.91"]
    captions = [block.caption for block in features.blocks(run, TableBlock)]
    assert any("mine measures here in place of Inception" in caption for caption in captions)


# scores and damage


def test_scores_are_the_main_distances(run: Path) -> None:
    inverted, generated = features.made(run).scores
    assert not inverted.bar
    for score, name, wanted in (
        (inverted, "inversion", {"start": "noise", "measure": LAYER}),
        (generated, "generation", {"images": "generated", "measure": "kid"}),
    ):
        assert score.estimates == by_model(run, name, **wanted)


@pytest.mark.parametrize(
    ("table", "column", "value", "named"),
    [
        ("inversion", "mean", "far", "mean in line 2 is 'far', not a number"),
        ("inversion", "n", "0", "a row of standard has n = 0"),
        ("inversion", "steps", "1.5", "not a whole number"),
        ("inversion_pictures", "distance", "", "distance in line 2 is ''"),
        ("visualization_pictures", "kind", "other", "kind 'other', not one of visualized, most,"),
        ("visualization_pictures", "activation", "inf", "not finite"),
        ("generation", "images", "fake", "images 'fake', not one of generated, start, real"),
        ("generation", "n", "-3", "a row of standard has n = -3"),
        ("generation", "low", "nan", "low in line 2 is 'nan', not finite"),
        ("generation", "model", "other", "'other', which run.json does not name"),
        ("generation_pictures", "kind", "", "kind '', not one of"),
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


@pytest.mark.parametrize("table", TABLES)
def test_a_table_without_a_column_is_refused(run: Path, table: str) -> None:
    path = run / "results" / f"{table}.csv"
    path.write_text(path.read_text().replace("model", "network", 1))
    with pytest.raises(RunError, match="it has no column model"):
        section(Results.read(run))
