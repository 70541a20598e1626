"""Visualization, inversion and generation on a tiny network: tables, pictures, and survival."""

import dataclasses
from collections import Counter

import pytest
import torch
from PIL import Image
from torch import nn

from advlens import AuditSettings, Classifier, DataError, ModelError, audit
from advlens.models.zoo import CIFAR10_CLASSES
from kills import killed
from small_runs import audited, convolution, noise, results, rows, small

SETTINGS = AuditSettings(
    stages=("visualization", "inversion", "generation"),
    **{"visualized": 2, "visualization_steps": 6, "inverted": 3, "inversion_steps": 5},
    **{"generated": 2, "generation_steps": 4, "batch_size": 16, "device": "cpu"},
)
DATA = noise(60, CIFAR10_CLASSES)


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
            found = [
                float(row["activation"])
                for row in pictures
                if (row["component"], row["kind"]) == (component, kind)
            ]
            # means of rectified sums of 27 products, which round by up to 2 ε of 1
            wanted = pytest.approx(expected.tolist(), rel=1e-5, abs=2 * torch.finfo().eps)
            assert found == wanted


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


def test_a_model_without_a_representation_has_no_features_to_show(tmp_path):
    def headless() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    model = small(headless, "bare", classes=CIFAR10_CLASSES)
    with pytest.raises(ModelError, match=r"stage \w+ cannot run on bare: .* no linear layer"):
        audit(model, DATA, tmp_path, settings=SETTINGS)
    settings = dataclasses.replace(SETTINGS, stages=("generation",))
    found = results(audited(model, DATA, tmp_path, settings=settings))
    assert {*found} == {"generation.csv", "generation_pictures.csv"}


def test_classes_of_too_few_images_generate_nothing(tmp_path):
    settings = dataclasses.replace(SETTINGS, stages=("generation", "visualization"))
    with pytest.raises(DataError, match="noise has no class of 4 images or more"):
        audit(classifier(), noise(20, CIFAR10_CLASSES), tmp_path, settings=settings)
    assert not (tmp_path / "results").exists()
