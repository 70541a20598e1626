"""Dissection of tiny models from the command's settings to the tables, and that it survives."""

import csv
import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tiny_broden
import together
from advlens import auditing
from advlens.auditing import audit, dissect
from advlens.datasets import ArrayData, BrodenData
from advlens.distributed import joined
from advlens.errors import ModelError, SettingsError
from advlens.intervals import wilson
from advlens.models import Classifier
from advlens.settings import AuditSettings, DissectSettings
from kills import killed

pytestmark = pytest.mark.usefixtures("no_rendering")

SETTINGS = DissectSettings(
    layers=("all",),
    quantile=0.03,
    minimum=0.01,
    steps=2,
    epsilon=2.0,
    units=4,
    batch_size=8,
    device="cpu",
)
CATEGORIES = ["color", "object", "part", "material", "scene", "texture"]


def classifier(name: str = "tiny", seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(6, 5, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )
    return Classifier(
        network,
        name=name,
        classes=("cat", "dog", "ship"),
        image_size=32,
        resize=32,
        synsets=("n02121620", "n02084071", "n04194289"),
    ).eval()


def stack(name: str = "stack") -> Classifier:
    return Classifier(classifier().network[:5], name=name, image_size=32, resize=32)


def rows(run: Path, name: str) -> list[dict[str, str]]:
    with open(run / "results" / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def results(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "results").iterdir())}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> BrodenData:
    folder = tmp_path_factory.mktemp("data") / "tiny"
    return BrodenData(tiny_broden.write_tiny_broden(folder, images=40))


@pytest.fixture(scope="module")
def finished(data: BrodenData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    assert dissect([classifier(), stack()], data, out, settings=SETTINGS) == out / "report.html"
    assert (out / "report.html").stat().st_size > 0
    return out


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the figures, which take most of a tiny run's time."""
    monkeypatch.setattr(auditing, "write_report", lambda out: out / "report.html")


def test_every_unit_has_a_row_for_each_kind_of_images(finished: Path) -> None:
    found = Counter(
        (row["model"], row["layer"], row["images"]) for row in rows(finished, "dissection")
    )
    kinds = ("real", "adversarial", "adversarial-reestimated")
    assert found == {
        **{("tiny", "0", kind): 6 for kind in kinds},
        **{("tiny", "3", kind): 5 for kind in kinds},
        ("stack", "0", "real"): 6,
        ("stack", "3", "real"): 5,
    }
    header = list(rows(finished, "dissection")[0])
    assert header == [
        "model",
        "layer",
        "unit",
        "images",
        "label",
        "concept",
        "category",
        "iou",
        "threshold",
        "permuted_iou",
        "dead",
    ]


def test_a_stack_is_dissected_as_the_classifier_that_it_belongs_to(finished: Path) -> None:
    units = rows(finished, "dissection")
    real = [row for row in units if row["images"] == "real"]
    first, second = ([r for r in real if r["model"] == model] for model in ("tiny", "stack"))
    assert [{**row, "model": ""} for row in first] == [{**row, "model": ""} for row in second]
    assert "stack returns no logits" in (finished / "run.json").read_text()


def of_unit(finished: Path, model: str, kind: str, least: float) -> dict[tuple[str, str], str]:
    """Layer and unit → category of the concept that it detects."""
    return {
        (row["layer"], row["unit"]): row["category"] if float(row["iou"]) > least else "none"
        for row in rows(finished, "dissection")
        if (row["model"], row["images"]) == (model, kind)
    }


def test_shares_are_counted_from_the_units(finished: Path) -> None:
    shares = rows(finished, "dissection_shares")
    assert {row["layer"] for row in shares} == {"0", "3", "all layers"}
    assert {float(row["minimum"]) for row in shares} == {0.01, *(i / 100 for i in range(2, 11))}
    some = 0
    for row in shares:
        units = [
            category
            for (layer, _), category in of_unit(
                finished, row["model"], row["images"], float(row["minimum"])
            ).items()
            if row["layer"] in (layer, "all layers")
        ]
        wanted = CATEGORIES if row["category"] == "all" else [row["category"]]
        count = sum(category in wanted for category in units)
        assert (int(row["detectors"]), int(row["units"])) == (count, len(units))
        assert float(row["share"]) == pytest.approx(count / len(units), abs=1e-5)
        low, high = wilson(count, len(units))
        assert (float(row["low"]), float(row["high"])) == pytest.approx((low, high), abs=1e-5)
        some += count
    assert some > 0
    chance = [row for row in shares if (row["category"], row["layer"]) == ("all", "3")]
    for row in chance:
        permuted = sum(
            float(unit["permuted_iou"]) > float(row["minimum"])
            for unit in rows(finished, "dissection")
            if (unit["model"], unit["layer"], unit["images"]) == (row["model"], "3", row["images"])
        )
        assert int(row["permuted_detectors"]) == permuted


def test_transitions_are_counted_from_the_units(finished: Path) -> None:
    transitions = rows(finished, "dissection_transitions")
    assert len(transitions) == 3 * 2 * 7 * 7  # layers and all, thresholds, categories and none
    concepts = {
        kind: {
            (row["layer"], row["unit"]): row["concept"]
            for row in rows(finished, "dissection")
            if (row["model"], row["images"]) == ("tiny", kind)
        }
        for kind in ("real", "adversarial", "adversarial-reestimated")
    }
    before = of_unit(finished, "tiny", "real", 0.01)
    for row in transitions:
        after = of_unit(finished, "tiny", row["images"], 0.01)
        units = [
            unit
            for unit in before
            if row["layer"] in (unit[0], "all layers")
            and (before[unit], after[unit]) == (row["before"], row["after"])
        ]
        same = sum(
            before[unit] != "none" and concepts["real"][unit] == concepts[row["images"]][unit]
            for unit in units
        )
        assert (int(row["units"]), int(row["same_concept"])) == (len(units), same)
    together = [row for row in transitions if row["layer"] == "all layers"]
    assert sum(int(row["units"]) for row in together) == 2 * 11


def test_how_the_images_were_attacked_is_recorded(finished: Path) -> None:
    tiny, bare = rows(finished, "dissection_images")
    assert (tiny["attack"], tiny["norm"], tiny["epsilon"], tiny["steps"]) == (
        "LeastLikely",
        "L2",
        "2",
        "2",
    )
    assert 0 <= float(tiny["success_low"]) <= float(tiny["success"]) <= float(tiny["success_high"])
    assert (bare["attack"], bare["success"], bare["n"], bare["passes"]) == ("", "", "40", "1")


def test_pictures_show_the_strongest_images_with_their_masks(finished: Path) -> None:
    pictures = rows(finished, "dissection_pictures")
    found = Counter((row["model"], row["layer"], row["unit"], row["images"]) for row in pictures)
    assert set(found.values()) == {8}
    units = {row["unit"] for row in pictures if row["model"] == "tiny"}
    assert len(units) == 4
    for row in pictures:
        with Image.open(finished / row["file"]) as picture:
            assert (picture.format, picture.size) == ("PNG", (128, 128))
            yellow = (np.asarray(picture) == (255, 217, 0)).all(axis=2).sum()
        assert row["map"] == ""
        if row["images"] == "real" and row["rank"] == "0":
            assert yellow > 0  # the strongest image holds masked pixels
            assert row["predicted"] == row["label"]
    assert {row["label"] for row in pictures if row["model"] == "stack"} == {""}
    responses = [
        float(row["response"])
        for row in pictures
        if (row["model"], row["unit"], row["images"]) == ("tiny", pictures[0]["unit"], "real")
    ]
    assert responses == sorted(responses, reverse=True)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("killed_after", [2, 6])
def test_a_killed_dissection_continues_to_the_same_bytes(
    data: BrodenData,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_after: int,
) -> None:
    with killed(monkeypatch, after=killed_after):
        dissect([classifier(), stack()], data, tmp_path, settings=SETTINGS)
    dissect([classifier(), stack()], data, tmp_path, settings=SETTINGS)
    assert results(tmp_path) == results(finished)
    assert not list((tmp_path / "parts").glob("*.state.*"))


def _process(folder: Path, out: Path) -> None:
    with joined(torch.device("cpu")) as processes:
        settings = dataclasses.replace(SETTINGS, batch_size=5)
        data = BrodenData(folder)
        auditing.write_report = lambda out: out / "report.html"
        dissect([classifier(), stack()], data, out, settings=settings, processes=processes)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("count", [2, 3])
def test_processes_write_the_tables_of_one(data: BrodenData, tmp_path: Path, count: int) -> None:
    assert together.end(together.start(count, _process, data.root, tmp_path / "all")) == [0] * count
    settings = dataclasses.replace(SETTINGS, batch_size=5)
    dissect([classifier(), stack()], data, tmp_path / "one", settings=settings)
    assert results(tmp_path / "all") == results(tmp_path / "one")
    assert not list((tmp_path / "all" / "parts").glob("*.state.*"))


@pytest.mark.usefixtures("no_report")
def test_the_adam_attack_is_calibrated_and_its_weight_survives(
    data: BrodenData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(
        SETTINGS, attack="adam", epsilon=None, layers=("last",), steps=3, discrepancy=True, units=1
    )
    dissect([classifier()], data, tmp_path / "a", settings=settings)
    (row,) = rows(tmp_path / "a", "dissection_images")
    assert (row["attack"], row["norm"], row["epsilon"]) == ("AdamAttack", "", "")
    assert float(row["weight"]) > 0
    for picture in rows(tmp_path / "a", "dissection_pictures"):
        with Image.open(tmp_path / "a" / picture["map"]) as drawn:
            assert drawn.size == (128, 128)


@pytest.mark.usefixtures("no_report")
def test_an_audit_dissects_too_where_concepts_are_given(data: BrodenData, tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (24, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    images = ArrayData(
        pixels.byte(),
        name="noise",
        classes=("cat", "dog", "ship"),
        synsets=None,
        labels=torch.arange(24) % 3,
    )
    settings = AuditSettings(
        steps=1,
        sweep_images=6,
        sweep_steps=1,
        neuron_steps=1,
        batch_size=8,
        top=0.1,
        explained=2,
        points=2,
        baselines=1,
        samples=2,
        visualized=1,
        visualization_steps=1,
        inverted=2,
        inversion_steps=1,
        generated=1,
        generation_steps=1,
        concepts=f"broden:{data.root}",
    )
    audit([classifier()], images, tmp_path, settings=settings)
    assert {row["layer"] for row in rows(tmp_path, "dissection")} == {"3"}
    assert {row["layer"] for row in rows(tmp_path, "units")} == {"0", "3"}


def test_wrong_use_is_one_sentence(data: BrodenData, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"labeled pixels.*broden:DIR"):
        dissect([classifier()], "sample", tmp_path / "a")
    with pytest.raises(SettingsError, match=r"belong to no classes.*--concepts"):
        audit([classifier()], data, tmp_path / "a")
    with pytest.raises(ModelError, match="no convolution named 'x'; there are: 0, 3"):
        dissect([classifier()], data, tmp_path / "b", settings=DissectSettings(layers=("x",)))
    with pytest.raises(SettingsError, match="at least one model"):
        dissect([], data, tmp_path / "c")
    for wrong in (
        {"quantile": 1.0},
        {"minimum": 0.0},
        {"layers": ()},
        {"units": 0},
        {"attack": "adam", "epsilon": 1.0},
    ):
        with pytest.raises(SettingsError, match=next(iter(wrong)) + "|epsilon"):
            DissectSettings(**wrong)
