"""The attribution stage on a tiny network: its tables, its pictures, and that it survives."""

import dataclasses
import statistics
from collections import Counter

import pytest
import torch
from PIL import Image
from torch import nn

from advlens import AuditSettings, Classifier, ExpectedGradients, IntegratedGradients, audit
from advlens.attribution import RandomAttribution, sparseness, total_variation
from advlens.auditing.needs import PROBED
from advlens.intervals import mean_interval
from advlens.prepared import Prepared, prepare
from kills import killed
from small_runs import audited, convolution, noise, results, rows, small, with_training

SMALL = {"explained": 5, "points": 4, "baselines": 2, "samples": 4, "batch_size": 2}
SETTINGS = AuditSettings(stages=("attribution",), device="cpu", **SMALL)
MEASURES = "insertion deletion sparseness variation stability agreement"
DATA = noise(24)
IDS = DATA.subset(5, seed=0).positions
PIXELS = DATA.images(IDS.tolist()).float() / 255


def classifier(seed: int = 0, name: str = "tiny") -> Classifier:
    """Smooth: a ReLU near 0 may switch where another batch rounds otherwise."""
    return small(lambda: convolution(6, 2, 3, nn.Tanh), name, seed=seed)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, no_rendering):
    out = tmp_path_factory.mktemp("run")
    audit([classifier(), classifier(1, "other")], DATA, out, settings=SETTINGS)
    assert (out / "report.html").stat().st_size > 0
    return out


def test_every_method_has_every_measure(finished):
    table = rows(finished, "attribution")
    methods = {"IntegratedGradients": 7, "ExpectedGradients": 7, "Random": 6}
    assert Counter((row["model"], row["method"]) for row in table) == {
        (model, method): count for model in ("tiny", "other") for method, count in methods.items()
    }
    for row in table:
        if row["measure"] == "gap":  # the median of five images has no interval
            assert (row["low"], row["high"]) == ("", "")
        else:
            assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
        assert row["n"] == "5"


def test_the_numbers_are_those_of_the_methods(finished):
    """And each image is compared with itself under random numbers."""
    prepared = prepare(classifier())
    ours = IntegratedGradients(steps=4, baselines=2)(prepared, PIXELS, ids=IDS).maps
    chance = RandomAttribution()(prepared, PIXELS, ids=IDS).maps
    tiny = rows(finished, "attribution", model="tiny")
    found = {(row["method"], row["measure"]): row for row in tiny}
    row = found["IntegratedGradients", "sparseness"]
    wanted = mean_interval(sparseness(ours).tolist())
    assert [float(row[c]) for c in ("mean", "low", "high")] == pytest.approx(wanted, rel=1e-4)
    apart = (total_variation(chance) - total_variation(ours)).tolist()
    mean = statistics.mean(apart)
    half = 2.776445 * statistics.stdev(apart) / 5**0.5  # Student's t with 4 degrees of freedom
    columns = ("ahead", "ahead_low", "ahead_high")
    cells = [float(found["IntegratedGradients", "variation"][column]) for column in columns]
    assert cells == pytest.approx([mean, mean - half, mean + half], rel=1e-3)
    assert [found["Random", "variation"][column] for column in columns] == ["", "", ""]
    methods = {(row["model"], row["method"]): row for row in rows(finished, "attribution_methods")}
    assert float(methods["tiny", "IntegratedGradients"]["points"]) == 1 + 2 * 4
    assert float(methods["tiny", "ExpectedGradients"]["points"]) == 4
    assert methods["tiny", "ExpectedGradients"]["baseline"] == "19 other images of the data"


def test_no_pass_is_larger_than_a_batch(tmp_path, monkeypatch):
    sizes, filled = [], Prepared._filled

    def noted(prepared, call, images):
        sizes.append(len(images))
        return filled(prepared, call, images)

    monkeypatch.setattr(Prepared, "_filled", noted)
    stages = ("attribution", "visualization", "inversion")
    few = {"visualized": 9, "visualization_steps": 1, "inverted": 9, "inversion_steps": 1}
    settings = dataclasses.replace(SETTINGS, stages=stages, **few)
    audited(classifier(), DATA, tmp_path, settings=settings)
    assert max(sizes) == PROBED  # before the stages


def test_the_background_comes_from_the_training_images_where_there_are_some(tmp_path):
    data = with_training(noise(24), 150)
    audited(classifier(), data, tmp_path, settings=SETTINGS)
    background = data.training.subset(100, seed=0).images(range(100)).float() / 255
    model, name = prepare(classifier()), "ExpectedGradients"
    made = ExpectedGradients(samples=4)(model, PIXELS, ids=IDS, background=background)
    (row,) = rows(tmp_path, "attribution", method=name, measure="sparseness")
    mean, *_ = mean_interval(sparseness(made.maps).tolist())
    assert float(row["mean"]) == pytest.approx(mean, rel=1e-4)
    (method,) = rows(tmp_path, "attribution_methods", method=name)
    assert method["baseline"] == "100 images of noise to train on"


def test_captums_methods_stand_beside_ours(tmp_path):
    name = "captum:Saliency(abs=False)"
    asked = dataclasses.replace(SETTINGS, attribution=(name,))
    audited(classifier(), DATA, tmp_path, settings=asked)
    found = {row["measure"]: row for row in rows(tmp_path, "attribution", method=name)}
    assert {*found} == {*MEASURES.split()}
    assert all(row["ahead"] for row in found.values())
    pixels = PIXELS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(classifier()(pixels).amax(dim=1).sum(), pixels)
    mean, *_ = mean_interval(sparseness(gradient.sum(dim=1)).tolist())
    assert float(found["sparseness"]["mean"]) == pytest.approx(mean, rel=1e-4)
    (method,) = rows(tmp_path, "attribution_methods", method=name)
    assert (method["target"], method["baseline"]) == ("logit", "")
    pictures = {row["file"] for row in rows(tmp_path, "attribution_pictures", method=name)}
    assert len(pictures) == 5
    assert all((tmp_path / file).exists() for file in pictures)


def test_pictures_show_the_same_images_for_all_models(finished):
    pictures = rows(finished, "attribution_pictures")
    ids = {name: [r["id"] for r in pictures if r["model"] == name] for name in ("tiny", "other")}
    assert ids["tiny"] == ids["other"]
    for row in pictures:
        with Image.open(finished / row["file"]) as picture:
            assert picture.size == (120, 120)
    assert sum(row["method"] == "" for row in pictures) == 2 * 5  # untouched
    assert all(0 <= float(row["probability"]) <= 1 for row in pictures)


def test_a_killed_run_continues_to_the_same_bytes(finished, tmp_path, monkeypatch):
    models = [classifier(), classifier(1, "other")]
    with killed(monkeypatch, after=5):
        audited(models, DATA, tmp_path, settings=SETTINGS)
    assert results(audited(models, DATA, tmp_path, settings=SETTINGS)) == results(finished)
