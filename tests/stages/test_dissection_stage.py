"""Dissection of tiny models from the command's settings to the tables, and that it survives."""

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
from advlens import Classifier, ModelError, SettingsError, audit, dissect
from advlens.datasets import BrodenData
from advlens.distributed import joined
from advlens.intervals import wilson
from advlens.settings import AuditSettings, DissectSettings
from kills import killed
from small_runs import CLASSES, SYNSETS, audited, noise, results, rows, small, unreported

SMALL = {"quantile": 0.03, "minimum": 0.01, "steps": 2, "units": 4, "batch_size": 8}
SETTINGS = DissectSettings(layers=("all",), epsilon=2.0, device="cpu", **SMALL)
BY_FIVE = dataclasses.replace(SETTINGS, batch_size=5)
CATEGORIES = ["color", "object", "part", "material", "scene", "texture"]
KINDS = ("real", "adversarial", "adversarial-reestimated")
HEADER = "model layer unit images label concept category iou threshold permuted_iou dead"


def network() -> nn.Sequential:
    first = nn.Conv2d(3, 6, 5, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)
    second = nn.Conv2d(6, 5, 3, padding=1), nn.ReLU()
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))


def models() -> list[Classifier]:
    """A classifier, and its layers up to the last rectifier."""
    stack = small(lambda: network()[:5], "stack", size=32, classes=None)
    return [small(network, size=32, synsets=SYNSETS), stack]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tiny"
    return BrodenData(tiny_broden.write_tiny_broden(folder, images=40))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory, no_rendering):
    out = tmp_path_factory.mktemp("run")
    assert dissect(models(), data, out, settings=SETTINGS) == out / "report.html"
    assert (out / "report.html").stat().st_size > 0
    return out


@pytest.fixture(scope="module")
def units(finished):
    return rows(finished, "dissection")


def of_unit(units, model, kind, least):
    """Layer and unit → category and name of the concept that it detects."""
    mine = [row for row in units if (row["model"], row["images"]) == (model, kind)]
    return {
        (row["layer"], row["unit"]): (category, row["concept"])
        for row in mine
        for category in [row["category"] if float(row["iou"]) > least else "none"]
    }


def test_every_unit_has_a_row_for_each_kind_of_images(units):
    found = Counter((row["model"], row["layer"], row["images"]) for row in units)
    tiny = {("tiny", layer, kind): n for layer, n in (("0", 6), ("3", 5)) for kind in KINDS}
    assert found == {**tiny, ("stack", "0", "real"): 6, ("stack", "3", "real"): 5}
    assert list(units[0]) == HEADER.split()


def test_a_stack_is_dissected_as_the_classifier_that_it_belongs_to(finished, units):
    first, second = (
        [row | {"model": ""} for row in units if (row["model"], row["images"]) == (model, "real")]
        for model in ("tiny", "stack")
    )
    assert first == second
    assert "stack returns no logits" in (finished / "run.json").read_text()


def test_shares_are_counted_from_the_units(finished, units):
    shares = rows(finished, "dissection_shares")
    assert {row["layer"] for row in shares} == {"0", "3", "all layers"}
    assert {float(row["minimum"]) for row in shares} == {0.01, *(i / 100 for i in range(2, 11))}
    some = 0
    for row in shares:
        minimum = float(row["minimum"])
        detected = of_unit(units, row["model"], row["images"], minimum)
        found = [
            c for (layer, _), (c, _) in detected.items() if row["layer"] in (layer, "all layers")
        ]
        wanted = CATEGORIES if row["category"] == "all" else [row["category"]]
        count = sum(category in wanted for category in found)
        assert (int(row["detectors"]), int(row["units"])) == (count, len(found))
        numbers = [float(row[column]) for column in ("share", "low", "high")]
        assert numbers == pytest.approx([count / len(found), *wilson(count, len(found))], abs=1e-5)
        some += count
        if (row["category"], row["layer"]) == ("all", "3"):
            place = [row["model"], "3", row["images"]]
            assert int(row["permuted_detectors"]) == sum(
                float(unit["permuted_iou"]) > minimum
                for unit in units
                if [unit["model"], unit["layer"], unit["images"]] == place
            )
    assert some > 0


def test_transitions_are_counted_from_the_units(finished, units):
    transitions = rows(finished, "dissection_transitions")
    assert len(transitions) == 3 * 2 * 7 * 7  # layers and all, thresholds, categories and none
    before = of_unit(units, "tiny", "real", 0.01)
    for row in transitions:
        after = of_unit(units, "tiny", row["images"], 0.01)
        moved = [
            unit
            for unit in before
            if row["layer"] in (unit[0], "all layers")
            and (before[unit][0], after[unit][0]) == (row["before"], row["after"])
        ]
        same = sum(
            before[unit][0] != "none" and before[unit][1] == after[unit][1] for unit in moved
        )
        assert (int(row["units"]), int(row["same_concept"])) == (len(moved), same)
    whole = [int(row["units"]) for row in transitions if row["layer"] == "all layers"]
    assert sum(whole) == 2 * 11


def test_how_the_images_were_attacked_is_recorded(finished):
    tiny, bare = rows(finished, "dissection_images")
    attack = [tiny[column] for column in ("attack", "norm", "epsilon", "steps")]
    assert attack == ["LeastLikely", "L2", "2", "2"]
    assert 0 <= float(tiny["success_low"]) <= float(tiny["success"]) <= float(tiny["success_high"])
    assert (bare["attack"], bare["success"], bare["n"], bare["passes"]) == ("", "", "40", "1")


def test_pictures_show_the_strongest_images_with_their_masks(finished):
    pictures = rows(finished, "dissection_pictures")
    found = Counter((row["model"], row["layer"], row["unit"], row["images"]) for row in pictures)
    assert {*found.values()} == {8}
    assert len({row["unit"] for row in pictures if row["model"] == "tiny"}) == 4
    for row in pictures:
        with Image.open(finished / row["file"]) as picture:
            assert (picture.format, picture.size) == ("PNG", (128, 128))
            yellow = (np.asarray(picture) == (255, 217, 0)).all(axis=2).sum()
        assert row["map"] == ""
        if row["images"] == "real" and row["rank"] == "0":
            assert yellow > 0  # the strongest image holds masked pixels
            assert row["predicted"] == row["label"]
    assert {row["label"] for row in pictures if row["model"] == "stack"} == {""}
    one = ("tiny", pictures[0]["unit"], "real")
    shown = [row for row in pictures if (row["model"], row["unit"], row["images"]) == one]
    responses = [float(row["response"]) for row in shown]
    assert responses == sorted(responses, reverse=True)


@pytest.mark.parametrize("killed_after", [2, 6])
def test_a_killed_run_continues_to_the_same_bytes(
    data, finished, tmp_path, monkeypatch, killed_after
):
    with unreported():
        with killed(monkeypatch, after=killed_after):
            dissect(models(), data, tmp_path, settings=SETTINGS)
        dissect(models(), data, tmp_path, settings=SETTINGS)
    assert results(tmp_path) == results(finished)
    assert not list((tmp_path / "parts").glob("*.state.*"))


def _process(folder: Path, out: Path) -> None:
    with unreported(), joined(torch.device("cpu")) as processes:
        dissect(models(), BrodenData(folder), out, settings=BY_FIVE, processes=processes)


def test_processes_write_the_tables_of_one(data, tmp_path):
    """Of eight batches, two processes have three each, the third one has two."""
    assert together.end(together.start(3, _process, data.root, tmp_path / "all")) == [0, 0, 0]
    with unreported():
        dissect(models(), data, tmp_path / "one", settings=BY_FIVE)
    assert results(tmp_path / "all") == results(tmp_path / "one")
    assert not list((tmp_path / "all" / "parts").glob("*.state.*"))


def test_the_adam_attack_is_calibrated_and_discrepancy_is_drawn(data, tmp_path):
    adam = {"attack": "adam", "epsilon": None, "steps": 3}
    settings = dataclasses.replace(SETTINGS, layers=("last",), discrepancy=True, units=1, **adam)
    with unreported():
        dissect(models()[:1], data, tmp_path, settings=settings)
    (row,) = rows(tmp_path, "dissection_images")
    assert (row["attack"], row["norm"], row["epsilon"]) == ("AdamAttack", "", "")
    assert float(row["weight"]) > 0
    for picture in rows(tmp_path, "dissection_pictures"):
        with Image.open(tmp_path / picture["map"]) as drawn:
            assert drawn.size == (128, 128)


def test_an_audit_dissects_too_where_concepts_are_given(data, tmp_path):
    asked = {"stages": ("neurons", "dissection"), "concepts": f"broden:{data.root}"}
    settings = AuditSettings(**asked, neuron_steps=1, batch_size=8, top=0.1)
    audited(models()[:1], noise(24, CLASSES, size=32), tmp_path, settings=settings)
    assert {row["layer"] for row in rows(tmp_path, "dissection")} == {"3"}
    assert {row["layer"] for row in rows(tmp_path, "units")} == {"0", "3"}


def test_wrong_use_is_one_sentence(data, tmp_path):
    whole = models()[:1]
    with pytest.raises(SettingsError, match=r"labeled pixels.*broden:DIR"):
        dissect(whole, "sample", tmp_path / "a")
    with pytest.raises(SettingsError, match=r"belong to no classes.*--concepts"):
        audit(whole, data, tmp_path / "a")
    with pytest.raises(ModelError, match="no convolution named 'x'; there are: 0, 3"):
        dissect(whole, data, tmp_path / "b", settings=DissectSettings(layers=("x",)))
    with pytest.raises(SettingsError, match="at least one model"):
        dissect([], data, tmp_path / "c")
