"""The attribution stage on a tiny network: its tables, its pictures, and that it survives."""

import csv
import dataclasses
import statistics
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from advlens import auditing
from advlens.attribution import (
    IntegratedGradients,
    RandomAttribution,
    sparseness,
    total_variation,
)
from advlens.auditing import audit
from advlens.datasets import ArrayData
from advlens.errors import SettingsError
from advlens.intervals import mean_interval
from advlens.models import Classifier
from advlens.prepared import prepare
from advlens.settings import AuditSettings
from kills import killed

pytestmark = pytest.mark.usefixtures("no_rendering")

SETTINGS = AuditSettings(
    stages=("attribution",),
    explained=5,
    points=4,
    baselines=2,
    samples=4,
    batch_size=2,
    device="cpu",
)
CLASSES = ("cat", "dog", "ship")


def images(count: int = 24) -> ArrayData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 12, 12), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 3
    return ArrayData(pixels, name="noise", classes=CLASSES, synsets=None, labels=labels)


def classifier(seed: int = 0, name: str = "tiny") -> Classifier:
    """Smooth: a ReLU near 0 may switch where another batch rounds otherwise."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3)
    )
    return Classifier(network, name=name, classes=CLASSES, image_size=12, resize=12).eval()


def rows(run: Path, name: str) -> list[dict[str, str]]:
    with open(run / "results" / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def results(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "results").iterdir())}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    audit([classifier(), classifier(1, "other")], images(), out, settings=SETTINGS)
    assert (out / "report.html").stat().st_size > 0
    return out


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "write_report", lambda out: out / "report.html")


def test_every_method_has_every_measure(finished: Path) -> None:
    found = Counter((row["model"], row["method"]) for row in rows(finished, "attribution"))
    assert found == {
        (model, method): 6 if method == "Random" else 7
        for model in ("tiny", "other")
        for method in ("IntegratedGradients", "ExpectedGradients", "Random")
    }
    for row in rows(finished, "attribution"):
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
        assert row["n"] == "5"


def test_the_numbers_are_those_of_the_methods(finished: Path) -> None:
    model, data = classifier(), images()
    ids = data.subset(5, seed=0).positions
    method = IntegratedGradients(steps=4, baselines=2)
    found = method(prepare(model), data.images(ids.tolist()).float() / 255, ids=ids)
    mean, low, high = mean_interval(sparseness(found.maps).tolist())
    (row,) = (
        row
        for row in rows(finished, "attribution")
        if (row["model"], row["method"], row["measure"])
        == ("tiny", "IntegratedGradients", "sparseness")
    )
    assert (float(row["mean"]), float(row["low"]), float(row["high"])) == pytest.approx(
        (mean, low, high), rel=1e-4
    )
    methods = {(row["model"], row["method"]): row for row in rows(finished, "attribution_methods")}
    assert float(methods["tiny", "IntegratedGradients"]["points"]) == 1 + 2 * 4
    assert float(methods["tiny", "ExpectedGradients"]["points"]) == 4
    assert methods["tiny", "ExpectedGradients"]["baseline"] == "19 other images of the data"


def test_each_image_is_compared_with_itself_under_random_numbers(finished: Path) -> None:
    model, data = classifier(), images()
    ids = data.subset(5, seed=0).positions
    pixels = data.images(ids.tolist()).float() / 255
    prepared = prepare(model)
    found = IntegratedGradients(steps=4, baselines=2)(prepared, pixels, ids=ids)
    chance = RandomAttribution()(prepared, pixels, ids=ids)
    apart = [
        total_variation(b[None]).item() - total_variation(a[None]).item()
        for a, b in zip(found.maps, chance.maps, strict=True)
    ]
    half = 2.776445 * statistics.stdev(apart) / 5**0.5  # Student's t with 4 degrees of freedom
    cells = {
        row["method"]: [row["ahead"], row["ahead_low"], row["ahead_high"]]
        for row in rows(finished, "attribution")
        if (row["model"], row["measure"]) == ("tiny", "variation")
    }
    mean = statistics.mean(apart)
    wanted = pytest.approx([mean, mean - half, mean + half], rel=1e-3)
    assert [float(cell) for cell in cells["IntegratedGradients"]] == wanted
    assert cells["Random"] == ["", "", ""]


@pytest.mark.usefixtures("no_report")
def test_captums_methods_stand_beside_ours(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, attribution=("captum:Saliency(abs=False)",))
    audit([classifier()], images(), tmp_path, settings=settings)
    name = "captum:Saliency(abs=False)"
    found = {row["measure"]: row for row in rows(tmp_path, "attribution") if row["method"] == name}
    assert set(found) == {
        "insertion",
        "deletion",
        "sparseness",
        "variation",
        "stability",
        "agreement",
    }
    assert all(row["ahead"] for row in found.values())
    ids = images().subset(5, seed=0).positions
    pixels = (images().images(ids.tolist()).float() / 255).requires_grad_()
    logits = classifier()(pixels)
    (gradient,) = torch.autograd.grad(logits.amax(dim=1).sum(), pixels)
    mean, *_ = mean_interval(sparseness(gradient.sum(dim=1)).tolist())
    assert float(found["sparseness"]["mean"]) == pytest.approx(mean, rel=1e-4)
    (method,) = [r for r in rows(tmp_path, "attribution_methods") if r["method"] == name]
    assert (method["target"], method["baseline"]) == ("logit", "")
    pictures = [r["file"] for r in rows(tmp_path, "attribution_pictures") if r["method"] == name]
    assert len(set(pictures)) == 5
    assert all((tmp_path / file).exists() for file in pictures)


def test_pictures_show_the_same_images_for_all_models(finished: Path) -> None:
    pictures = rows(finished, "attribution_pictures")
    ids = {
        row["model"]: [row["id"] for row in pictures if row["model"] == row["model"]]
        for row in pictures
    }
    assert ids["tiny"] == ids["other"]
    for row in pictures:
        with Image.open(finished / row["file"]) as picture:
            assert picture.size == (120, 120)
    untouched = [row for row in pictures if row["method"] == ""]
    assert len(untouched) == 2 * 5
    assert all(0 <= float(row["probability"]) <= 1 for row in pictures)


@pytest.mark.usefixtures("no_report")
def test_a_killed_run_continues_to_the_same_bytes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [classifier(), classifier(1, "other")]
    with killed(monkeypatch, after=5):
        audit(models, images(), tmp_path, settings=SETTINGS)
    audit(models, images(), tmp_path, settings=SETTINGS)
    assert results(tmp_path) == results(finished)


def test_an_odd_number_of_samples_is_refused() -> None:
    with pytest.raises(SettingsError, match="samples must be an even number, not 5"):
        AuditSettings(samples=5)
