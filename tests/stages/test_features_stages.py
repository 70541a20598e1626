"""Visualization, inversion and generation on a tiny network: tables, pictures, and survival."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import small_runs
from advlens import AuditSettings, Classifier, DataError, ModelError, RunError, audit, load_model
from advlens.datasets import ImageData
from advlens.fid.distances import FeatureStatistics, frechet_distance, kid
from advlens.fid.representations import Features, Representation
from advlens.intervals import mean_interval
from advlens.models.zoo import CIFAR10_CLASSES
from advlens.runs.folder import read_json
from advlens.seeding import Stream, normal
from kills import killed
from small_runs import audited, convolution, noise, results, rows, small, with_training

SETTINGS = AuditSettings(
    stages=("visualization", "inversion", "generation"),
    **{"visualized": 2, "visualization_steps": 6, "inverted": 3, "inversion_steps": 5},
    **{"generated": 2, "generation_steps": 4, "batch_size": 16, "device": "cpu"},
)
DATA = noise(60, CIFAR10_CLASSES)
SPLIT = with_training(noise(60, CIFAR10_CLASSES), 300)  # 30 of a class, for 27 values of blocks
GENERATION = dataclasses.replace(SETTINGS, stages=("generation",))
PAPER = dataclasses.replace(GENERATION, gaussians="paper")
NETWORK = Representation(load_model("cifar10-reference"))


def classifier() -> Classifier:
    return small(lambda: convolution(6, 2, 10), classes=CIFAR10_CLASSES)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, no_rendering):
    out = tmp_path_factory.mktemp("run")
    audit(classifier(), DATA, out, settings=SETTINGS)
    assert (out / "report.html").stat().st_size > 0
    return out


def test_components_stand_beside_the_images_that_raise_them_most_and_least(finished):
    pictures = rows(finished, "visualization_pictures")
    components = {row["component"] for row in pictures}
    assert len(components) == 2
    kinds = {"visualized": 1, "most": 4, "least": 4}
    assert Counter((row["component"], row["kind"]) for row in pictures) == {
        (component, kind): count for component in components for kind, count in kinds.items()
    }
    model = classifier()
    pixels = DATA.images(range(60)).float() / 255
    with torch.no_grad():
        values = model.network[:4]((pixels - model.mean) / model.std)
    for component in components:
        own = values[:, int(component)].sort(descending=True).values
        for kind, expected in (("most", own[:4]), ("least", own.flip(0)[:4])):
            mine = rows(finished, "visualization_pictures", component=component, kind=kind)
            found = [float(row["activation"]) for row in mine]
            # means of rectified sums of 27 products, which round by up to 2 ε of 1
            assert found == pytest.approx(expected.tolist(), rel=1e-5, abs=2 * torch.finfo().eps)


def test_inversions_come_nearer_than_their_starts(finished):
    found = {(row["start"], row["measure"]): row for row in rows(finished, "inversion")}
    measures = ("representation", "pixels", "representation (64 features)")
    assert {*found} == {(start, measure) for start in ("noise", "image") for measure in measures}
    for row in found.values():
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
        assert (row["n"], row["steps"]) == ("3", "5")
    own = found["image", "representation"]
    assert float(own["high"]) < float(own["untouched"])
    ids = DATA.subset(3, seed=0).positions.tolist()
    others = [next(o for o in [*ids[i + 1 :], *ids[:i]] if o % 10 != ids[i] % 10) for i in range(3)]
    apart = (DATA.images(ids).double() - DATA.images(others).double()) / 255
    untouched = [(one**2).sum().item() ** 0.5 for one in apart]
    assert float(found["image", "pixels"]["untouched"]) == pytest.approx(sum(untouched) / 3)
    for (start, measure), row in found.items():
        (each,) = rows(finished, "inversion_images", start=start, measure=measure)
        values = [float(value) for value in each["values"].split()]
        assert len(values) == 3
        cells = [float(row[name]) for name in ("mean", "low", "high", "spread")]
        wanted = [*mean_interval(values, least=0), float(np.std(values, ddof=1))]
        assert cells == pytest.approx(wanted, rel=1e-4)
    for row in rows(finished, "inversion_pictures"):
        for column in ("start_file", "target_file", "file"):
            with Image.open(finished / row[column]) as picture:
                assert picture.size == (120, 120)
        if row["start"] == "image":
            assert row["start_label"] not in ("", row["target_label"])


def test_generated_images_are_scored_against_images_that_their_starts_have_not_seen(finished):
    found = {(row["images"], row["measure"]): row for row in rows(finished, "generation")}
    made, measures = ("start", "generated"), ("fid", "kid", "confidence", "recognized")
    scored = {(kind, measure) for kind in made for measure in measures}
    assert {*found} == {("real", "fid"), ("real", "kid"), *scored}
    for kind in made:
        row = found[kind, "fid"]
        assert (row["n"], row["n_real"], row["dimension"]) == ("20", "30", "64")
        for measure in ("fid", "recognized"):
            assert found[kind, measure]["features"] == "cifar10-reference"
    start, generated = (float(found[kind, "confidence"]["mean"]) for kind in made)
    assert generated > start
    kinds = Counter(row["kind"] for row in rows(finished, "generation_pictures"))
    assert kinds == {"real": 20, "start": 10, "generated": 20}


@pytest.mark.parametrize("killed_after", [2, 9, 14, 22])
def test_a_killed_run_continues_to_the_same_bytes(finished, tmp_path, monkeypatch, killed_after):
    with killed(monkeypatch, after=killed_after):
        audited(classifier(), DATA, tmp_path, settings=SETTINGS)
    assert results(audited(classifier(), DATA, tmp_path, settings=SETTINGS)) == results(finished)
    assert not list((tmp_path / "parts").glob("*.state.*"))


def test_images_of_one_class_are_inverted_from_noise_alone(tmp_path):
    settings = dataclasses.replace(SETTINGS, stages=("inversion",))
    out = audited(classifier(), DATA.part([0, 10, 20]), tmp_path, settings=settings)
    assert {row["start"] for row in rows(out, "inversion_pictures")} == {"noise"}
    assert "one class" in read_json(out / "run.json")["warnings"][0]


def test_a_model_without_a_representation_has_no_features_to_show(tmp_path):
    def headless() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    model = small(headless, "bare", classes=CIFAR10_CLASSES)
    with pytest.raises(ModelError, match=r"stage \w+ cannot run on bare: .* no linear layer"):
        audit(model, DATA, tmp_path, settings=SETTINGS)
    assert not (tmp_path / "results").exists()
    settings = dataclasses.replace(SETTINGS, stages=("generation",))
    found = results(audited(model, DATA, tmp_path, settings=settings))
    assert {*found} == {"generation.csv", "generation_pictures.csv"}


# which real images starts come from, and generated ones are compared with


def features(data: ImageData) -> Features:
    return NETWORK(data.images(range(len(data))).float() / 255)["representation"]


def between(first: Features, second: Features) -> float:
    """FID, from moments by numpy."""
    moments = []
    for part in (first, second):
        seen = FeatureStatistics(NETWORK.sources["representation"])
        seen.update(part)
        values = part.double().numpy()
        covariance = torch.from_numpy(np.cov(values.T))
        mean = torch.from_numpy(values.mean(axis=0))
        moments.append(dataclasses.replace(seen.compute(), mean=mean, covariance=covariance))
    return frechet_distance(*moments)


def starts(data: ImageData) -> Tensor:
    """Two of each class, drawn from the Gaussian of its images' 4×4 blocks, by numpy."""
    pixels = data.images(range(len(data))).numpy().astype(float) / 255
    blocks = pixels.reshape(len(data), 3, 3, 4, 3, 4).mean(axis=(3, 5)).reshape(len(data), 27)
    drawn = []
    for number in range(20):
        own = blocks[data.labels.numpy() == number // 2]
        covariance = np.cov(own.T) + 1e-4 * np.eye(27)
        noise = normal(0, torch.tensor([number]), (27,), Stream.START).double().numpy()[0]
        drawn.append(own.mean(axis=0) + np.linalg.cholesky(covariance) @ noise)
    small = np.clip(np.stack(drawn), 0, 1).reshape(20, 3, 3, 3)
    return torch.from_numpy(small.repeat(4, axis=2).repeat(4, axis=3)).float()


def two_models() -> list[Classifier]:
    other = small(lambda: convolution(6, 2, 10), "other", seed=1, classes=CIFAR10_CLASSES)
    return [classifier(), other]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two models, and data with training images."""
    return audited(two_models(), SPLIT, tmp_path_factory.mktemp("run"), settings=GENERATION)


def row_of(run: Path, images: str, measure: str, model: str) -> dict[str, str]:
    (row,) = rows(run, "generation", images=images, measure=measure, model=model)
    return row


def value(run: Path, images: str, measure: str = "fid") -> float:
    return float(row_of(run, images, measure, "tiny")["mean"])


def sets(run: Path, images: str, measure: str = "fid", model: str = "tiny") -> tuple[str, ...]:
    """Name and size of both sets, and of the images behind the Gaussians."""
    columns = ("set", "n", "real_set", "n_real", "fitted_set", "n_fitted")
    return tuple(row_of(run, images, measure, model)[column] for column in columns)


def test_gaussians_come_from_the_training_images_and_all_test_images_are_compared_with(trained):
    training = SPLIT.training
    like = training.subset(60, seed=0)
    for measure in ("fid", "kid"):
        named = ("noise to train on", "60", "noise", "60", "", "")
        assert sets(trained, "real", measure) == sets(trained, "real", measure, "other") == named
        for kind in ("start", "generated"):
            named = (f"{kind} images", "20", "noise", "60", "noise to train on", "300")
            assert sets(trained, kind, measure) == named
    assert sets(trained, "start", "confidence")[2:] == ("", "0", "noise to train on", "300")
    real, begun = features(SPLIT), NETWORK(starts(training))["representation"]
    assert value(trained, "real") == pytest.approx(between(features(like), real), rel=1e-5)
    assert value(trained, "start") == pytest.approx(between(begun, real), rel=1e-4)
    within = kid(features(like), real, NETWORK.sources["representation"], classes=like.labels)
    assert value(trained, "real", "kid") == pytest.approx(within.value, rel=1e-4)
    record = read_json(trained / "run.json")["training_images"]
    assert [(part["name"], part["images"]) for part in record] == [("noise to train on", 300)]


def test_gaussians_of_the_paper_come_from_the_images_that_are_compared_with(tmp_path):
    run = audited(classifier(), SPLIT, tmp_path / "split", settings=PAPER)
    assert sets(run, "real") == ("noise to train on", "60", "noise", "60", "", "")
    assert sets(run, "generated") == ("generated images", "20", "noise", "60", "noise", "60")
    many = noise(300, CIFAR10_CLASSES, seed=1)
    run = audited(classifier(), many, tmp_path / "alone", settings=PAPER)
    assert sets(run, "real") == ("half of noise", "150", "the other half of noise", "150", "", "")
    assert sets(run, "generated") == ("generated images", "20", "noise", "300", "noise", "300")
    begun = NETWORK(starts(many))["representation"]
    assert value(run, "start") == pytest.approx(between(begun, features(many)), rel=1e-4)


def test_without_training_images_halves_serve(finished):
    half = DATA.subset(30, seed=0)
    rest = DATA.part([i for i in range(60) if i not in half.positions])
    wanted = between(features(half), features(rest))
    assert value(finished, "real") == pytest.approx(wanted, rel=1e-5)
    halves = ("half of noise", "the other half of noise")
    assert sets(finished, "real") == (halves[0], "30", halves[1], "30", "", "")
    assert sets(finished, "start") == ("start images", "20", halves[1], "30", halves[0], "30")
    assert read_json(finished / "run.json")["training_images"] == []


def test_real_images_and_starts_are_looked_at_once_for_all_models(trained, tmp_path, monkeypatch):
    seen, look = [], Representation.__call__

    def counted(network: Representation, images: Tensor) -> dict[str, Features]:
        seen.append(len(images))
        return look(network, images)

    monkeypatch.setattr(Representation, "__call__", counted)
    audited(two_models(), SPLIT, tmp_path, settings=GENERATION)
    assert sum(seen) == 60 + 60 + 20 + 2 * 20  # of training and test, starts, generated
    assert results(tmp_path) == results(trained)


@pytest.mark.parametrize("killed_after", [5, 21, 24, 29, 41])
def test_a_killed_comparison_ends_in_the_same_bytes(trained, tmp_path, monkeypatch, killed_after):
    with killed(monkeypatch, after=killed_after):
        audited(two_models(), SPLIT, tmp_path, settings=GENERATION)
    assert list((tmp_path / "parts").glob("shared-*.state.*"))
    assert results(audited(two_models(), SPLIT, tmp_path, settings=GENERATION)) == results(trained)
    assert not list((tmp_path / "parts").glob("*.state.*"))


def test_other_training_images_and_damaged_states_are_refused(trained, tmp_path, monkeypatch):
    other = with_training(noise(60, CIFAR10_CLASSES), 200)
    with pytest.raises(RunError, match="training images differ"):
        audit(two_models(), other, trained, settings=GENERATION)
    with killed(monkeypatch, after=29):
        audited(two_models(), SPLIT, tmp_path, settings=GENERATION)
    states = sorted((tmp_path / "parts").glob("shared-*.state.*"))
    bytes_of = {path: path.read_bytes() for path in states}
    assert len({path.name.split("-")[1] for path in states}) == 3
    for path in states:
        other = next(each for each in states if each.name.split("-")[1] != path.name.split("-")[1])
        path.write_bytes(bytes_of[other])
        with pytest.raises(RunError, match=f"{path.name} is damaged .*remove it to start this"):
            audit(two_models(), SPLIT, tmp_path, settings=GENERATION)
        path.write_bytes(bytes_of[path])


def test_damaged_training_images_end_a_run_before_it_begins_or_are_left_out(tmp_path):
    small_runs.write_pictures(tmp_path / "data", 5)
    bad = tmp_path / "data" / "train" / "dog" / "3.png"
    bad.write_bytes(bad.read_bytes()[:60])
    spec, run = f"folder:{tmp_path / 'data'}", tmp_path / "run"
    model = small(lambda: convolution(4, 1, 3), size=8)
    settings = dataclasses.replace(GENERATION, stages=("attribution", "generation"), samples=2)
    told = "^1 of 15 images of folder data/train cannot be used: .*3.png.*--skip-damaged$"
    with pytest.raises(DataError, match=told):
        audit(model, spec, run, settings=settings)
    unasked = dataclasses.replace(settings, stages=("visualization",))
    audited(model, spec, tmp_path / "other", settings=unasked)
    settings = dataclasses.replace(settings, skip_damaged=True)
    audited(model, spec, run, settings=settings)
    (row,) = rows(run, "skipped")
    assert row["data"] == "folder data/train"
    assert sets(run, "real") == ("folder data/train", "14", "folder data/val", "15", "", "")
    assert sets(run, "start")[-2:] == ("folder data/train", "14")
    (method,) = rows(run, "attribution_methods", method="ExpectedGradients")
    assert method["baseline"] == "14 images of folder data/train"
