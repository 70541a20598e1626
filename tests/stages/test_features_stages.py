"""Visualization, inversion and generation on a tiny network: tables, pictures, and survival."""

import csv
import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from advlens import auditing
from advlens.auditing import audit
from advlens.datasets import ArrayData
from advlens.errors import DataError, ModelError
from advlens.models import Classifier
from advlens.models.zoo import CIFAR10_CLASSES
from advlens.settings import AuditSettings
from kills import killed

pytestmark = pytest.mark.usefixtures("no_rendering")

SETTINGS = AuditSettings(
    stages=("visualization", "inversion", "generation"),
    visualized=2,
    visualization_steps=6,
    inverted=3,
    inversion_steps=5,
    generated=2,
    generation_steps=4,
    batch_size=16,
    device="cpu",
)


def images(count: int = 60) -> ArrayData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 12, 12), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 10
    return ArrayData(pixels, name="noise", classes=CIFAR10_CLASSES, synsets=None, labels=labels)


def classifier() -> Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 10)
    )
    return Classifier(
        network, name="tiny", classes=CIFAR10_CLASSES, image_size=12, resize=12
    ).eval()


def rows(run: Path, name: str) -> list[dict[str, str]]:
    with open(run / "results" / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def results(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "results").iterdir())}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    audit([classifier()], images(), out, settings=SETTINGS)
    assert (out / "report.html").stat().st_size > 0
    return out


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "write_report", lambda out: out / "report.html")


def test_components_stand_beside_the_images_that_raise_them_most_and_least(finished: Path) -> None:
    pictures = rows(finished, "visualization_pictures")
    kinds = Counter((row["component"], row["kind"]) for row in pictures)
    components = {row["component"] for row in pictures}
    assert len(components) == 2
    assert kinds == {
        (c, kind): count
        for c in components
        for kind, count in (("visualized", 1), ("most", 4), ("least", 4))
    }
    model, data = classifier(), images()
    pixels = data.images(range(60)).float() / 255
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


def test_inversions_come_nearer_than_their_starts(finished: Path) -> None:
    found = {(row["start"], row["measure"]): row for row in rows(finished, "inversion")}
    assert {start for start, _ in found} == {"noise", "image"}
    measures = {measure for _, measure in found}
    assert measures == {"representation", "pixels", "representation (64 features)"}
    for row in found.values():
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
        assert (row["n"], row["steps"]) == ("3", "5")
    own = found["image", "representation"]
    assert float(own["high"]) < float(own["untouched"])
    data = images()
    ids = data.subset(3, seed=0).positions.tolist()
    others = [next(o for o in [*ids[i + 1 :], *ids[:i]] if o % 10 != ids[i] % 10) for i in range(3)]
    apart = (data.images(ids).double() - data.images(others).double()) / 255
    untouched = [(one**2).sum().item() ** 0.5 for one in apart]
    assert float(found["image", "pixels"]["untouched"]) == pytest.approx(sum(untouched) / 3)
    pictures = rows(finished, "inversion_pictures")
    for row in pictures:
        for column in ("start_file", "target_file", "file"):
            with Image.open(finished / row[column]) as picture:
                assert picture.size == (120, 120)
        if row["start"] == "image":
            assert row["start_label"] not in ("", row["target_label"])


def test_generated_images_are_scored_against_images_that_their_starts_have_not_seen(
    finished: Path,
) -> None:
    found = {(row["images"], row["measure"]): row for row in rows(finished, "generation")}
    assert set(found) == {
        ("real", "fid"),
        ("real", "kid"),
        *(
            (kind, measure)
            for kind in ("start", "generated")
            for measure in ("fid", "kid", "confidence", "recognized")
        ),
    }
    for kind in ("start", "generated"):
        row = found[kind, "fid"]
        assert (row["n"], row["n_real"], row["dimension"]) == ("20", "30", "64")
        assert row["features"] == "cifar10-reference"
        assert found[kind, "recognized"]["features"] == "cifar10-reference"
    start, made = (float(found[k, "confidence"]["mean"]) for k in ("start", "generated"))
    assert made > start
    kinds = Counter(row["kind"] for row in rows(finished, "generation_pictures"))
    assert kinds == {"real": 20, "start": 10, "generated": 20}


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("killed_after", [2, 9, 14, 22])
def test_a_killed_run_continues_to_the_same_bytes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    with killed(monkeypatch, after=killed_after):
        audit([classifier()], images(), tmp_path, settings=SETTINGS)
    audit([classifier()], images(), tmp_path, settings=SETTINGS)
    assert results(tmp_path) == results(finished)
    assert not list((tmp_path / "parts").glob("*.state.*"))


@pytest.mark.usefixtures("no_report")
def test_a_model_without_a_representation_has_no_features_to_show(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = Classifier(network, name="bare", classes=CIFAR10_CLASSES, image_size=12, resize=12)
    with pytest.raises(ModelError, match=r"stage \w+ cannot run on bare: .* no linear layer"):
        audit([model], images(), tmp_path, settings=SETTINGS)
    settings = dataclasses.replace(SETTINGS, stages=("generation",))
    audit([model], images(), tmp_path, settings=settings)
    assert set(results(tmp_path)) == {"generation.csv", "generation_pictures.csv"}


@pytest.mark.usefixtures("no_report")
def test_classes_of_too_few_images_generate_nothing(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, stages=("generation", "visualization"))
    with pytest.raises(DataError, match="noise has no class of 4 images or more"):
        audit([classifier()], images(20), tmp_path, settings=settings)
    assert not (tmp_path / "results").exists()
