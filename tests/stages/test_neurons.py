"""Curves of CS against LC, the choice of units to show, their classes, pictures and maps."""

import math
import statistics
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from advlens.attacks import LeastLikely
from advlens.attacks.threat import L2
from advlens.auditing.stage import Context
from advlens.auditing.stages.neurons.curves import curve
from advlens.auditing.stages.neurons.pictures import (
    Chosen,
    Seen,
    choose_units,
    picture_rows,
    shown_units,
)
from advlens.auditing.stages.neurons.rows import class_rows
from advlens.consistency import LayerConsistency, layer_consistency
from advlens.datasets import ArrayData
from advlens.maps import DiscrepancyMap, highlighted
from advlens.models import Classifier
from advlens.prepared import prepare
from advlens.runs.folder import Run
from advlens.runs.tables import Row
from advlens.statistics import TopK

ATTACK = LeastLikely(threat=L2(epsilon=0.5), steps=2, seed=3)
METHOD = DiscrepancyMap(patch=3, stride=2, batch_size=10, seed=2)
UNITS = [Chosen(4, 0.5, "highest LC"), Chosen(1, 0.2, "median LC")]
LAYER = "0"


def layer(seed, units=5, *, images=30, top=4, similarity=None):
    """A layer of random responses, and its units' top images, real and adversarial."""
    random = torch.Generator().manual_seed(seed)
    tops = [TopK(top, units), TopK(top, units)]
    for each in tops:
        responses = torch.rand(images, units, generator=random)
        responses[:, 0] -= 2.0 * (each is tops[0])  # the first unit is dead
        each.update(responses, torch.arange(images))
    kept = [[set(ids.tolist()) for ids in each.compute()[1]] for each in tops]
    matrix = SIMILARITY if similarity is None else similarity
    return layer_consistency(*tops, LABELS[:images], TARGETS[:images], matrix), *kept


CLASSES = 5
SIMILARITY = torch.eye(CLASSES).double() * 0.6 + 0.4
LABELS = torch.arange(400) % CLASSES
TARGETS = (LABELS * 3 + 1) % CLASSES


def cosine(first: list[int], second: list[int]) -> float:
    """pᵀCq / (‖p‖_C ‖q‖_C) by sums over pairs of images."""

    def inner(some: list[int], others: list[int]) -> float:
        return sum(SIMILARITY[a, b].item() for a in some for b in others)

    return inner(first, second) / math.sqrt(inner(first, first) * inner(second, second))


def test_bins_hold_every_live_unit_once_with_a_jackknife_over_images() -> None:
    made = [layer(0), layer(1, units=8)]
    rows = curve([each[0] for each in made], bins=3)
    units = [
        (each.values["lc"][unit].item(), real[unit], adversarial[unit])
        for each, real, adversarial in made
        for unit in range(1, len(real))
    ]
    assert sum(row["units"] for row in rows) == len(units) == 11
    assert max(row["units"] for row in rows) > 1
    for row in rows:
        mine = [unit for unit in units if row["bin_low"] <= unit[0] < row["bin_high"]]
        assert row["units"] == len(mine)
        assert row["lc"] == pytest.approx(statistics.fmean(lc for lc, _, _ in mine), rel=1e-12)
        for name, classes in (("cs1", LABELS), ("cs2", TARGETS)):

            def mean(without: int | None, mine=mine, classes=classes) -> float:
                """The mean over the bin's units with an image left out of all top sets."""
                values = [
                    cosine(
                        [int(LABELS[i]) for i in real - {without}],
                        [int(classes[i]) for i in adversarial - {without}],
                    )
                    for _, real, adversarial in mine
                ]
                return statistics.fmean(values)

            whole = mean(None)
            changes = [mean(image) - whole for image in range(30)]
            corrected = whole - 0.75 * sum(changes)
            error = 1.959964 * math.sqrt(0.75 * sum(change**2 for change in changes))
            ends = (max(0, min(whole, corrected) - error), min(1, max(whole, corrected) + error))
            assert row[name] == pytest.approx(whole, rel=1e-12)
            assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(ends, rel=1e-6)


def test_small_values_get_fine_bins_and_dead_layers_none() -> None:
    found, *_ = layer(2, units=40, similarity=(torch.eye(CLASSES).double() * 0.03 + 0.001))
    rows = curve([found])
    assert {round(row["bin_high"] - row["bin_low"], 9) for row in rows} <= {0.001, 0.002, 0.005}
    assert len(rows) <= 11
    assert curve([layer(2, units=1)[0]]) == []


def known(*lc: float, dead: int | None = None) -> LayerConsistency:
    """A layer of which only LC is known."""
    gone = torch.arange(len(lc)) == (-1 if dead is None else dead)
    return SimpleNamespace(values={"lc": torch.tensor(lc)}, dead=gone)


LC = (0.9, 0.1, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.9)


def test_shown_units_are_the_highest_and_the_median_live_ones():
    layer = known(*LC, dead=8)
    chosen = [(unit.unit, unit.chosen) for unit in choose_units(layer)]
    assert chosen[:3] == [(unit, "highest LC") for unit in (0, 2, 3)]
    assert chosen[3:] == [(unit, "median LC") for unit in (4, 5, 6)]
    assert [unit.unit for unit in choose_units(known(0.2, 0.1))] == [0, 1]
    layer = known(*LC)
    fewer = [[unit.unit for unit in choose_units(layer, count)] for count in (1, 2, 3, 5)]
    assert fewer == [[0], [0, 4], [0, 8, 4], [0, 8, 2, 3, 4]]


def test_named_units_are_shown_in_their_order_dead_ones_without_lc():
    lc = (0.75, 0.125, 0.5)
    layers = {"a": known(*lc), "b": known(*lc, dead=1)}
    found = shown_units(layers, ("b:1", "a:2", "b:0", "c:0", "a:3", "b:1"), 6)
    assert {name: [(u.unit, u.lc, u.chosen) for u in units] for name, units in found.items()} == {
        "b": [(1, None, "your choice"), (0, 0.75, "your choice")],
        "a": [(2, 0.5, "your choice")],
    }
    for nothing_there in ((), ("c:0", "a:3")):
        assert shown_units(layers, nothing_there, 2) == {"b": choose_units(layers["b"], 2)}


def test_the_classes_of_a_unit_are_those_of_its_top_images():
    labels, classes = torch.tensor([2, 0, 2, 1, 1, 2, 3, 0]), ("a", "b", "c", "d")
    tops = [TopK(5, 2), TopK(5, 2)]
    responses = torch.arange(16.0).view(8, 2) % 11 - torch.tensor([0.0, 20])  # the second is dead
    for top, given in zip(tops, (responses, responses.flip(0)), strict=True):
        top.update(given, torch.arange(8))
    layer = layer_consistency(*tops, labels, labels.flip(0), torch.eye(4, dtype=torch.float64))
    context = SimpleNamespace(name="m", data=SimpleNamespace(classes=classes))
    rows = list(class_rows(context, "conv", layer, "pgd"))
    kinds = ["real", "adversarial", "target"]
    assert [(row["unit"], row["images"]) for row in rows] == [(0, kind) for kind in kinds]
    assert {row["attacked"] for row in rows} == {"pgd"}
    for row, top, own in zip(rows, (*tops, tops[1]), (labels, labels, labels.flip(0)), strict=True):
        seen = Counter(own[top.compute()[1][0]].tolist())
        ordered = sorted(seen, key=lambda label: (-seen[label], label))
        named = [(row[f"class_{i}"], row[f"share_{i}"]) for i in range(1, 6)]
        wanted = [(classes[label], seen[label] / 5) for label in ordered]
        assert named == wanted + [(None, None)] * (5 - len(wanted))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
        )
        pixels = torch.randint(0, 256, (12, 3, 10, 10), dtype=torch.uint8)
    data = ArrayData(
        pixels, name="noise", classes=("a", "b", "c"), synsets=None, labels=torch.arange(12) % 3
    )
    classifier = Classifier(network, name="tiny", image_size=10, resize=10).eval()
    made = {"classifier": classifier, "prepared": prepare(classifier), "data": data}
    return Context(name="tiny", run=Run(tmp_path, {}), number=0, seed=0, batch_size=5, **made)


def attacked(context: Context, kind: str, numbers: list[int]) -> Tensor:
    (batch,) = context.data.batches(len(numbers), numbers)
    if kind == "real":
        return batch.images
    return ATTACK(context.prepared, batch.images, batch.labels, ids=batch.ids)


def made(context: Context, discrepancy: DiscrepancyMap | None) -> list[Row]:
    kinds = {}
    for kind, attack in {"real": None, "adversarial": ATTACK}.items():
        everything = attacked(context, kind, list(range(12)))
        with torch.no_grad():
            logits, responses = context.prepared.record(everything)
        kinds[kind] = Seen(attack, "pgd", TopK(8, 6), logits.argmax(dim=1))
        kinds[kind].top.update(responses[LAYER], torch.arange(12))
    similarity = torch.eye(3).double()
    return picture_rows(
        context, LAYER, UNITS, kinds, similarity=similarity, discrepancy=discrepancy
    )


def png(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_each_picture_has_the_map_of_its_image_and_unit(context: Context) -> None:
    rows = made(context, METHOD)
    kinds = ("real", "adversarial")
    wanted = [(each.unit, kind, rank) for each in UNITS for kind in kinds for rank in range(8)]
    assert [(row["unit"], row["images"], row["rank"]) for row in rows] == wanted
    assert len({row["map"] for row in rows} | {row["file"] for row in rows}) == 2 * len(rows)
    for row in rows:
        image = attacked(context, row["images"], [row["id"]])
        shown = (image[0] * 255).round().permute(1, 2, 0).numpy()
        assert np.abs(png(context.folder / row["file"]) - shown).max() <= 1
        only = {"units": [[row["unit"]]], "ids": torch.tensor([row["id"]])}
        alone = METHOD(context.classifier, image, layer=LAYER, **only)
        expected = (highlighted(image[0], alone[0, 0]) * 255).round().permute(1, 2, 0).numpy()
        assert np.abs(png(context.folder / row["map"]) - expected).max() <= 1


def test_without_maps_their_column_is_empty(context: Context) -> None:
    rows = made(context, None)
    assert {row["map"] for row in rows} == {""}
    written = {path.name for path in (context.folder / "figures" / "images").iterdir()}
    assert written == {Path(row["file"]).name for row in rows}


def test_no_live_unit_no_picture(context: Context) -> None:
    assert picture_rows(context, LAYER, [], {}, similarity=torch.eye(3).double()) == []
