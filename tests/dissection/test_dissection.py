"""The whole dissection against its second derivation, one way of counting against the other."""

import dataclasses
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import dissection_by_hand as by_hand
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tiny_broden
import together
from advlens.attacks import LeastLikely
from advlens.attacks.threat import L2
from advlens.datasets import BrodenData
from advlens.dissection import Concepts, Dissection, Dissector
from advlens.distributed import joined
from advlens.errors import ModelError, SettingsError
from advlens.models import load_model
from advlens.prepared import prepare

QUANTILE = 0.03  # a share of so few positions that thresholds and masks differ from unit to unit
ATTACK = LeastLikely(threat=L2(epsilon=2.0), steps=2)
Maps = Callable[[int], dict[str, dict[str, np.ndarray]]]


def network() -> nn.Module:
    """With a stride, padding and pooling, so that receptive fields are not where they seem."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(6, 5, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 4),
    ).eval()


# Convolution: positions 1, 3, 5 …; pooling: the middle of three of these.
CENTERS = {"0": (1 + 2 * np.arange(15),) * 2, "3": (3 + 4 * np.arange(7),) * 2}
BILINEAR = {
    "0": ((np.arange(15) + 0.5) * 32 / 15 - 0.5,) * 2,
    "3": ((np.arange(7) + 0.5) * 32 / 7 - 0.5,) * 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_broden.write_tiny_broden(tmp_path_factory.mktemp("broden") / "tiny", images=40)


@pytest.fixture(scope="module")
def maps(folder: Path) -> Maps:
    """The activations of all images, real and adversarial, taken in batches of a size.

    A convolution over another number of images rounds otherwise: values next to a threshold would
    lie on its other side.
    """
    model, data = prepare(network()), BrodenData(folder)

    @cache
    def taken(size: int) -> dict[str, dict[str, np.ndarray]]:
        parts: dict[str, dict[str, list]] = {}
        for batch in data.batches(size):
            attacked = ATTACK(model, batch.images, ids=batch.ids)
            for kind, images in (("real", batch.images), ("adversarial", attacked)):
                for name, values in model.maps(images, ["0", "3"])[1].items():
                    parts.setdefault(kind, {}).setdefault(name, []).append(values.double().numpy())
        return {
            kind: {name: np.concatenate(values) for name, values in layers.items()}
            for kind, layers in parts.items()
        }

    return taken


def check(found: Concepts, thresholds: np.ndarray, ious: np.ndarray) -> None:
    np.testing.assert_allclose(found.thresholds, thresholds, rtol=1e-6)
    np.testing.assert_allclose(found.ious, ious[:, : found.ious.shape[1]], atol=1e-6)
    assert not ious[:, found.ious.shape[1] :].any()
    for unit, (label, iou) in enumerate(
        zip(found.labels.tolist(), found.iou.tolist(), strict=True)
    ):
        assert iou == pytest.approx(ious[unit].max(), abs=1e-6)
        assert label == int(np.flatnonzero(ious[unit] == ious[unit].max())[0])


@pytest.mark.parametrize("upsampling", ["receptive-field", "bilinear"])
@pytest.mark.parametrize("counting", ["category", "netdissect-lite"])
def test_every_iou_equals_the_definition(
    folder: Path, maps: Maps, upsampling: str, counting: str
) -> None:
    data = BrodenData(folder)
    found = Dissection(
        layers=("0", "3"), quantile=QUANTILE, upsampling=upsampling, counting=counting, batch_size=7
    )(network(), data)
    centers = CENTERS if upsampling == "receptive-field" else BILINEAR
    for name in ("0", "3"):
        values = maps(7)["real"][name]
        thresholds = np.array([by_hand.threshold(v, QUANTILE) for v in values.swapaxes(0, 1)])
        ious = by_hand.dissect(
            folder,
            values,
            thresholds,
            centers[name],
            32,
            list(data.categories),
            lite=counting == "netdissect-lite",
        )
        check(found[name]["real"], thresholds, ious)
        assert (ious > 0).sum() > 20


def test_under_attack_with_both_thresholds(folder: Path, maps: Maps) -> None:
    data = BrodenData(folder)
    found = Dissection(quantile=QUANTILE, batch_size=16)(network(), data, ATTACK)["3"]
    real, attacked = (maps(16)[kind]["3"] for kind in ("real", "adversarial"))
    for kind, source in (("adversarial", real), ("adversarial-reestimated", attacked)):
        thresholds = np.array([by_hand.threshold(v, QUANTILE) for v in source.swapaxes(0, 1)])
        ious = by_hand.dissect(
            folder, attacked, thresholds, CENTERS["3"], 32, list(data.categories)
        )
        check(found[kind], thresholds, ious)
    assert not torch.equal(found["real"].ious, found["adversarial"].ious)


def test_chance_is_the_same_count_with_the_labels_of_other_images(folder: Path, maps: Maps) -> None:
    data, settings = BrodenData(folder), Dissection(quantile=QUANTILE, seed=5)
    found = settings(network(), data)["3"]["real"]
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(5)).tolist()
    assert sorted(order) == list(range(len(data)))
    ious = by_hand.dissect(
        folder,
        maps(settings.batch_size)["real"]["3"],
        found.thresholds.numpy(),
        CENTERS["3"],
        32,
        list(data.categories),
        order=order,
    )
    np.testing.assert_allclose(found.permuted_iou, ious.max(axis=1), atol=1e-6)
    assert not np.allclose(found.permuted_iou, found.iou)


FIELDS = ("labels", "iou", "thresholds", "permuted_labels", "permuted_iou", "dead", "ious")


def test_real_images_and_a_real_network(shared_data: Path, tmp_path: Path) -> None:
    """AlexNet's last convolution on 40 of the images of mini-broden."""
    real = shared_data / "mini-broden"
    for path in real.glob("*.csv"):
        shutil.copy(path, tmp_path)
    lines = (real / "index.csv").read_text().splitlines(keepends=True)[:41]
    (tmp_path / "index.csv").write_text("".join(lines))
    for name in re.findall(r"[^,;\n]+\.(?:jpg|png)", "".join(lines)):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(real / "images" / name, tmp_path / "images" / name)
    weights = shared_data / "backbones" / "alexnet-features.safetensors"
    model = load_model(f"torchvision:alexnet.features@{weights}")
    data = BrodenData(tmp_path, size=224)
    found = Dissection()(model, data)["features.10"]["real"]
    (batch,) = data.batches(40)
    _, layers = prepare(model).maps(batch.images, ["features.10"], logits=False)
    maps = layers["features.10"].double().numpy()
    thresholds = np.array([by_hand.threshold(v, 0.005) for v in maps.swapaxes(0, 1)])
    np.testing.assert_allclose(found.thresholds, thresholds, rtol=1e-6)
    some = [0, 108, 139, 174]
    centers = (15 + 16 * np.arange(13),) * 2  # see tests/prepared/test_geometry.py
    ious = by_hand.dissect(
        tmp_path, maps[:, some], thresholds[some], centers, 224, list(data.categories)
    )
    np.testing.assert_allclose(found.ious[some], ious[:, : data.label_count], atol=1e-6)
    assert ious.max() > 0.1


def equal(one: dict, other: dict) -> bool:
    return all(
        torch.equal(getattr(one[name][kind], field), getattr(other[name][kind], field))
        for name in one
        for kind in one[name]
        for field in FIELDS
    ) and all(
        torch.equal(one[name][kind].top.kept(), other[name][kind].top.kept())
        for name in one
        for kind in one[name]
    )


def close(one: dict, other: dict) -> bool:
    """Up to the rounding of a convolution over another number of images."""
    return all(
        torch.allclose(first.thresholds, second.thresholds, rtol=1e-5)
        and torch.allclose(first.ious, second.ious, atol=2e-3)
        and torch.allclose(first.permuted_iou, second.permuted_iou, atol=2e-3)
        for name in one
        for first, second in ((one[name][kind], other[name][kind]) for kind in one[name])
    )


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict:
    return Dissection(quantile=QUANTILE, layers=("0", "3"))(network(), BrodenData(folder), ATTACK)


def test_neither_batches_nor_passes_change_anything(folder: Path, whole: dict) -> None:
    data, settings = BrodenData(folder), Dissection(quantile=QUANTILE, layers=("0", "3"))
    for changed in ({"batch_size": 3}, {"memory": 0, "batch_size": 9}):
        assert close(dataclasses.replace(settings, **changed)(network(), data, ATTACK), whole)
    assert equal(dataclasses.replace(settings, memory=0)(network(), data, ATTACK), whole)


def dissector(data: BrodenData, memory: int = 2**31, **more: object) -> Dissector:
    return Dissector(
        prepare(network()),
        data,
        ATTACK,
        layers=("0", "3"),
        quantile=QUANTILE,
        upsampling="receptive-field",
        counting="category",
        top=8,
        memory=memory,
        seed=0,
        **more,
    )


@pytest.mark.parametrize("memory", [2**31, 0])
def test_a_killed_dissection_goes_on(folder: Path, whole: dict, memory: int) -> None:
    data = BrodenData(folder)
    walk, again = dissector(data, memory), True
    while again:
        for start in range(0, len(data), 8):
            ids = range(start, start + 8)
            if start in (8, 24):  # as if killed here, and started again
                state = walk.state()
                walk = dissector(data, memory)
                walk.restore({key: value.clone() for key, value in state.items()})
            (batch,) = data.batches(8, ids)
            walk.update(batch.ids, batch.images)
        again = walk.again()
    assert walk.passes == (1 if memory else 2)
    assert equal(walk.compute(), whole)


def _share(folder: Path, out: Path, memory: int) -> None:
    with joined(torch.device("cpu")) as processes:
        data = BrodenData(folder)
        walk, again = dissector(data, memory, processes=processes), True
        while again:
            for batch in data.batches(5, processes.deal(len(data), 5)):
                walk.update(batch.ids, batch.images)
            again = walk.again()
        found = walk.compute()
    kept = {
        f"{name}.{kind}.{field}": getattr(concepts, field)
        for name, kinds in found.items()
        for kind, concepts in kinds.items()
        for field in FIELDS
    }
    kept |= {f"predicted.{kind}": values for kind, values in walk.predicted.items()}
    kept["targets"] = walk.targets
    torch.save(kept, out / f"{processes.rank}.pt")


@pytest.mark.parametrize(("count", "memory"), [(2, 2**31), (2, 0), (3, 2**31)])
def test_processes_share_the_images_and_agree_with_one(
    folder: Path, tmp_path: Path, count: int, memory: int
) -> None:
    assert together.end(together.start(count, _share, folder, tmp_path, memory)) == [0] * count
    one, again = dissector(BrodenData(folder), memory), True
    while again:
        for batch in one.data.batches(5):
            one.update(batch.ids, batch.images)
        again = one.again()
    whole = one.compute()
    kept = [torch.load(tmp_path / f"{rank}.pt") for rank in range(count)]
    for key, value in kept[0].items():
        assert all(torch.equal(value, other[key]) for other in kept), key
    for name, kinds in whole.items():
        for kind, concepts in kinds.items():
            for field in FIELDS:
                found, expected = kept[0][f"{name}.{kind}.{field}"], getattr(concepts, field)
                assert torch.equal(found, expected)
    assert torch.equal(kept[0]["targets"], one.targets)
    assert torch.equal(kept[0]["predicted.adversarial"], one.predicted["adversarial"])


def test_a_stack_without_a_classifier_and_one_that_cannot_be_traced(folder: Path) -> None:
    stack = network()[:5]
    found = Dissection(quantile=QUANTILE)(stack, BrodenData(folder))

    class Untraceable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stack = stack

        def forward(self, images: Tensor) -> Tensor:
            return self.stack(images) if images.sum() > 0 else images

    hooked = Dissection(quantile=QUANTILE, upsampling="bilinear")(Untraceable(), BrodenData(folder))
    plain = Dissection(quantile=QUANTILE, upsampling="bilinear")(stack, BrodenData(folder))
    assert torch.equal(hooked["stack.3"]["real"].ious, plain["3"]["real"].ious)
    assert not torch.equal(found["3"]["real"].ious, plain["3"]["real"].ious)


def test_dead_units_detect_nothing(folder: Path) -> None:
    model = network()
    with torch.no_grad():
        model[3].bias[2] = -1e3
    found = Dissection(quantile=QUANTILE)(model, BrodenData(folder))["3"]["real"]
    assert found.dead.tolist() == [False, False, True, False, False]
    assert (found.labels[2], found.iou[2], found.thresholds[2]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Dissection(quantile=0), SettingsError, "quantile"),
        (lambda: Dissection(quantile=1), SettingsError, "quantile"),
        (lambda: Dissection(top=0), SettingsError, "top"),
        (lambda: Dissection(batch_size=0), SettingsError, "batch_size"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_thresholds_that_cannot_fit_are_refused_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysconf = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 7}
    monkeypatch.setattr("os.sysconf", sysconf.__getitem__)
    # 40 · 15 · 15 and 40 · 7 · 7 positions: 271 values of 6 units and 59 of 5,
    # of real and of adversarial images, are 3 842 floats, and as many wait: 30 736 bytes
    with pytest.raises(SettingsError, match=r"2 layers on 40 images .* fewer layers at a time"):
        Dissection(quantile=QUANTILE, layers=("0", "3"))(network(), BrodenData(folder), ATTACK)
    sysconf["SC_PHYS_PAGES"] = 9
    Dissection(quantile=QUANTILE, layers=("0", "3"))(network(), BrodenData(folder), ATTACK)


def test_layers_that_are_not_there_are_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="no convolution named '9'; there are: 0, 3"):
        Dissection(layers=("9",))(network(), BrodenData(folder))
    with pytest.raises(ModelError, match="no convolution"):
        Dissection()(nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), BrodenData(folder))
