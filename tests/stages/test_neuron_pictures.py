"""The neuron stage's pictures with their discrepancy maps, each against a map made alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from advlens.attacks import LeastLikely
from advlens.attacks.threat import L2
from advlens.auditing.stage import Context
from advlens.auditing.stages.neurons.pictures import Chosen, picture_rows
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
    tops, predicted = {}, {}
    for kind in ("real", "adversarial"):
        everything = attacked(context, kind, list(range(12)))
        with torch.no_grad():
            logits, responses = context.prepared.record(everything)
        tops[kind], predicted[kind] = TopK(8, 6), logits.argmax(dim=1)
        tops[kind].update(responses[LAYER], torch.arange(12))
    seen = {"tops": tops, "predicted": predicted, "similarity": torch.eye(3).double()}
    return picture_rows(context, LAYER, UNITS, ATTACK, "pgd", **seen, discrepancy=discrepancy)


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
    seen = {"tops": {}, "predicted": {}, "similarity": torch.eye(3).double()}
    assert picture_rows(context, LAYER, [], ATTACK, "pgd", **seen) == []
