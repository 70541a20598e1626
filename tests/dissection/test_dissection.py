"""Dissection: every IoU equals its definition, every mask that of dense upsampling."""

import re
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import dissection_by_hand as by_hand
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import tiny_broden
import together
from advlens import L2, LeastLikely, ModelError, SettingsError, load_model
from advlens.datasets import BrodenData
from advlens.dissection import Concepts, Dissection, Dissector, Upsampling
from advlens.dissection import masks as module
from advlens.dissection.masks import Cells, masks
from advlens.distributed import joined
from advlens.prepared import Fields, prepare
from smooth_network import Untraceable

QUANTILE = 0.03  # a share of so few positions that thresholds and masks differ from unit to unit
ATTACK = LeastLikely(threat=L2(epsilon=2.0), steps=2)
LAYERS = ("0", "3")
# Convolution: positions 1, 3, 5 …; pooling: the middle of three of these.
CENTERS = {"0": (1 + 2 * np.arange(15),) * 2, "3": (3 + 4 * np.arange(7),) * 2}
BILINEAR = {
    "0": ((np.arange(15) + 0.5) * 32 / 15 - 0.5,) * 2,
    "3": ((np.arange(7) + 0.5) * 32 / 7 - 0.5,) * 2,
}
FIELDS = ("labels", "iou", "thresholds", "permuted_labels", "permuted_iou", "dead", "ious")


def network() -> nn.Module:
    """With a stride, padding and pooling, so that receptive fields are not where they seem."""
    torch.manual_seed(3)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(5, 4)),
    ).eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broden") / "tiny"
    return BrodenData(tiny_broden.write_tiny_broden(folder, images=40))


@pytest.fixture(scope="module")
def maps(data):
    """The activations of all images, real and adversarial, taken in batches of a size.

    A convolution over another number of images rounds otherwise: values next to a threshold would
    lie on its other side.
    """
    model = prepare(network())

    @cache
    def taken(size: int, attacked: bool, layer: str) -> np.ndarray:
        parts = []
        for batch in data.batches(size):
            images = ATTACK(model, batch.images, ids=batch.ids) if attacked else batch.images
            parts.append(model.maps(images, [layer])[1][layer].double())
        return torch.cat(parts).numpy()

    return taken


def by_loops(data, *given, **more) -> np.ndarray:
    return by_hand.dissect(data.root, *given, 32, list(data.categories), **more)


def check(found: Concepts, thresholds: np.ndarray, ious: np.ndarray) -> None:
    np.testing.assert_allclose(found.thresholds, thresholds, rtol=1e-6)
    np.testing.assert_allclose(found.ious, ious[:, : found.ious.shape[1]], atol=1e-6)
    assert not ious[:, found.ious.shape[1] :].any()
    np.testing.assert_allclose(found.iou, ious.max(axis=1), atol=1e-6)
    assert found.labels.tolist() == ious.argmax(axis=1).tolist()  # of equal ones the first


@pytest.mark.parametrize("upsampling", ["receptive-field", "bilinear"])
@pytest.mark.parametrize("counting", ["category", "netdissect-lite"])
def test_every_iou_equals_the_definition(data, maps, upsampling, counting):
    settings = {"upsampling": upsampling, "counting": counting, "batch_size": 7}
    found = Dissection(layers=LAYERS, quantile=QUANTILE, **settings)(network(), data)
    centers = CENTERS if upsampling == "receptive-field" else BILINEAR
    for name in LAYERS:
        values = maps(7, False, name)
        thresholds, lite = by_hand.thresholds(values, QUANTILE), counting == "netdissect-lite"
        ious = by_loops(data, values, thresholds, centers[name], lite=lite)
        check(found[name]["real"], thresholds, ious)
        assert (ious > 0).sum() > 20


def test_under_attack_with_both_thresholds_and_by_chance(data, maps):
    found = Dissection(quantile=QUANTILE, batch_size=16)(network(), data, ATTACK)["3"]
    real, attacked = maps(16, False, "3"), maps(16, True, "3")
    for kind, source in (("adversarial", real), ("adversarial-reestimated", attacked)):
        thresholds = by_hand.thresholds(source, QUANTILE)
        check(found[kind], thresholds, by_loops(data, attacked, thresholds, CENTERS["3"]))
    assert not torch.equal(found["real"].ious, found["adversarial"].ious)
    settings = Dissection(quantile=QUANTILE, seed=5)
    found = settings(network(), data)["3"]["real"]
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(5)).tolist()
    assert sorted(order) == list(range(len(data)))
    given = maps(settings.batch_size, False, "3"), found.thresholds.numpy(), CENTERS["3"]
    ious = by_loops(data, *given, order=order)
    np.testing.assert_allclose(found.permuted_iou, ious.max(axis=1), atol=1e-6)
    assert not np.allclose(found.permuted_iou, found.iou)


def test_real_images_and_a_real_network(shared_data, tmp_path):
    """AlexNet's last convolution on 20 of the images of mini-broden."""
    real = shared_data / "mini-broden"
    for path in real.glob("*.csv"):
        shutil.copy(path, tmp_path)
    lines = (real / "index.csv").read_text().splitlines(keepends=True)[:21]
    (tmp_path / "index.csv").write_text("".join(lines))
    for name in re.findall(r"[^,;\n]+\.(?:jpg|png)", "".join(lines)):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(real / "images" / name, tmp_path / "images" / name)
    weights = shared_data / "backbones" / "alexnet-features.safetensors"
    model = load_model(f"torchvision:alexnet.features@{weights}")
    data = BrodenData(tmp_path, size=224)
    found = Dissection()(model, data)["features.10"]["real"]
    (batch,) = data.batches(20)
    _, layers = prepare(model).maps(batch.images, ["features.10"], logits=False)
    maps = layers["features.10"].double().numpy()
    thresholds = by_hand.thresholds(maps, 0.005)
    np.testing.assert_allclose(found.thresholds, thresholds, rtol=1e-6)
    some = [0, 108, 139, 174]
    centers = (15 + 16 * np.arange(13),) * 2  # see tests/prepared/test_geometry.py
    given = maps[:, some], thresholds[some], centers, 224
    ious = by_hand.dissect(tmp_path, *given, list(data.categories))
    np.testing.assert_allclose(found.ious[some], ious[:, : data.label_count], atol=1e-6)
    assert ious.max() > 0.1


def pairs(one: dict, other: dict):
    return [(one[name][kind], other[name][kind]) for name in one for kind in one[name]]


def equal(one: dict, other: dict) -> bool:
    return all(
        torch.equal(first.top.kept(), second.top.kept())
        and all(torch.equal(getattr(first, field), getattr(second, field)) for field in FIELDS)
        for first, second in pairs(one, other)
    )


def close(one: dict, other: dict) -> bool:
    """Up to the rounding of a convolution over another number of images."""
    return all(
        torch.allclose(first.thresholds, second.thresholds, rtol=1e-5)
        and torch.allclose(first.ious, second.ious, atol=2e-3)
        and torch.allclose(first.permuted_iou, second.permuted_iou, atol=2e-3)
        for first, second in pairs(one, other)
    )


@pytest.fixture(scope="module")
def whole(data) -> dict:
    return Dissection(quantile=QUANTILE, layers=LAYERS)(network(), data, ATTACK)


def test_neither_batches_nor_passes_change_anything(data, whole):
    settings = Dissection(quantile=QUANTILE, layers=LAYERS)
    for changed in ({"batch_size": 3}, {"memory": 0, "batch_size": 9}):
        assert close(replace(settings, **changed)(network(), data, ATTACK), whole)
    assert equal(replace(settings, memory=0)(network(), data, ATTACK), whole)


def dissector(data, memory: int = 2**31, **more) -> Dissector:
    ways = {"upsampling": "receptive-field", "counting": "category"}
    settings = {"layers": LAYERS, "quantile": QUANTILE, "top": 8, "memory": memory, "seed": 0}
    return Dissector(prepare(network()), data, ATTACK, **ways, **settings, **more)


def walked(walk: Dissector, batches) -> dict:
    again = True
    while again:
        for batch in batches():
            walk.update(batch.ids, batch.images)
        again = walk.again()
    return walk.compute()


@pytest.mark.parametrize("memory", [2**31, 0])
def test_a_killed_dissection_goes_on(data, whole, memory):
    walk, again = dissector(data, memory), True
    while again:
        for start in range(0, len(data), 8):
            if start in (8, 24):  # as if killed here, and started again
                state, walk = walk.state(), dissector(data, memory)
                walk.restore({key: value.clone() for key, value in state.items()})
            (batch,) = data.batches(8, range(start, start + 8))
            walk.update(batch.ids, batch.images)
        again = walk.again()
    assert walk.passes == (1 if memory else 2)
    assert equal(walk.compute(), whole)


def _share(folder: Path, out: Path) -> None:
    """Both with and without memory for all activations."""
    with joined(torch.device("cpu")) as processes:
        data = BrodenData(folder)
        for memory in (2**31, 0):
            walk = dissector(data, memory, processes=processes)
            found = walked(walk, lambda: data.batches(5, processes.deal(len(data), 5)))
            torch.save(flat(walk, found), out / f"{processes.rank} {memory}.pt")


def flat(walk: Dissector, found: dict) -> dict[str, Tensor]:
    kept = {
        f"{name}.{kind}.{field}": getattr(concepts, field)
        for name, kinds in found.items()
        for kind, concepts in kinds.items()
        for field in FIELDS
    }
    kept |= {f"predicted.{kind}": values for kind, values in walk.predicted.items()}
    return kept | {"reached": walk.reached}


def test_processes_share_the_images_and_agree_with_one(data, tmp_path):
    assert together.end(together.start(3, _share, data.root, tmp_path)) == [0] * 3
    for memory in (2**31, 0):
        one = dissector(data, memory)
        expected = flat(one, walked(one, lambda: data.batches(5)))
        assert "predicted.adversarial" in expected
        for rank in range(3):
            kept = torch.load(tmp_path / f"{rank} {memory}.pt")
            assert kept.keys() == expected.keys()
            for key, value in expected.items():
                assert torch.equal(kept[key], value), key


def test_stacks_untraceable_models_and_dead_units(data):
    stack = network()[:5]
    found = Dissection(quantile=QUANTILE)(stack, data)
    bilinear = Dissection(quantile=QUANTILE, upsampling="bilinear")
    hooked, plain = bilinear(Untraceable(stack), data), bilinear(stack, data)
    assert torch.equal(hooked["network.3"]["real"].ious, plain["3"]["real"].ious)
    assert not torch.equal(found["3"]["real"].ious, plain["3"]["real"].ious)
    model = network()
    model[3].bias.data[2] = -1e3
    found = Dissection(quantile=QUANTILE)(model, data)["3"]["real"]
    assert found.dead.tolist() == [False, False, True, False, False]
    assert (found.labels[2], found.iou[2], found.thresholds[2]) == (0, 0, 0)


def test_what_cannot_be_meant_is_refused(data, monkeypatch):
    for wrong in ("broden:set", (torch.rand(2, 3, 32, 32), torch.arange(2))):
        with pytest.raises(SettingsError, match="images with labeled pixels"):
            Dissection()(network(), wrong)
    with pytest.raises(ModelError, match="no convolution named '9'; there are: 0, 3"):
        Dissection(layers=("9",))(network(), data)
    with pytest.raises(ModelError, match="no convolution"):
        Dissection()(nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), data)
    with pytest.raises(ModelError, match=r"returns .5, 7, 7. for each .* needs a row of logits"):
        Dissection()(network()[:5], data, ATTACK)
    sysconf = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 7}
    monkeypatch.setattr("os.sysconf", sysconf.__getitem__)
    # 40 · 15 · 15 and 40 · 7 · 7 positions: 271 values of 6 units and 59 of 5,
    # of real and of adversarial images, are 3 842 floats, and as many wait: 30 736 bytes
    method = Dissection(quantile=QUANTILE, layers=LAYERS)
    with pytest.raises(SettingsError, match=r"2 layers on 40 images .* fewer layers at a time"):
        method(network(), data, ATTACK)
    sysconf["SC_PHYS_PAGES"] = 9
    method(network(), data, ATTACK)


def dense(found: module.Masks, images: int, units: int, shape: tuple[int, int]) -> Tensor:
    result = torch.zeros(images, units, shape[0] * shape[1], dtype=torch.int64)
    places = found.places.long()
    image = places // (shape[0] * shape[1])
    assert torch.equal(image, found.images.long())
    where = image, found.units.long(), places % (shape[0] * shape[1])
    result.index_put_(where, torch.ones(1, dtype=torch.int64), accumulate=True)
    assert result.max() <= 1  # no pixel twice
    return result.view(images, units, *shape) > 0


def above(maps: Tensor, thresholds: Tensor, upsampling: Upsampling) -> module.Masks:
    return masks(Cells.above(maps, thresholds), thresholds, upsampling)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def plain(side: int, pixels: int, image: int) -> Upsampling:
    return Upsampling.of((side, side), (pixels, pixels), (image, image), None)


sides = st.tuples(st.integers(1, 7), st.integers(1, 7))
PATCHES = st.tuples(st.integers(-40, 20), st.integers(1, 90), st.integers(1, 9))
SEEDS = st.integers(0, 10_000)


@given(sides, st.tuples(st.integers(1, 20), st.integers(1, 20)), st.integers(8, 40), PATCHES, SEEDS)
def test_cells_give_the_masks_of_dense_upsampling(side, shape, image, field, seed):
    start, size, stride = field
    fields = Fields((start, start + 1), (size, size + 2), (stride, stride + 1))
    random = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 3, *side, generator=random).relu()
    thresholds = torch.rand(3, generator=random)
    found = above(maps, thresholds, Upsampling.of(side, shape, (image, image), fields))
    centers = tuple(
        c + np.arange(n) * s for c, n, s in zip(fields.center, side, fields.stride, strict=True)
    )
    values = [
        [by_hand.upsampled(unit, shape, centers, image) for unit in units]
        for units in maps.double().numpy()
    ]
    expected = np.array(values) > thresholds.double().numpy()[:, None, None]
    assert np.array_equal(dense(found, 2, 3, shape).numpy(), expected)


@given(sides, st.tuples(st.integers(7, 20), st.integers(7, 20)), SEEDS)
def test_plain_upsampling_is_torchs(side, shape, seed):
    random = torch.Generator().manual_seed(seed)
    maps = torch.randn(1, 4, *side, generator=random).relu()
    thresholds = torch.rand(4, generator=random)
    found = above(maps, thresholds, Upsampling.of(side, shape, (32, 32), None))
    values = F.interpolate(maps.double(), shape, mode="bilinear", align_corners=False)
    near = (values - thresholds[:, None, None]).abs() < 1e-9
    expected = values > thresholds[:, None, None]
    assert torch.equal(dense(found, 1, 4, shape)[~near], expected[~near])


def test_a_lower_bound_keeps_what_a_higher_threshold_needs():
    maps = uniform(3, 5, 6, 6)
    low, high = torch.full((5,), 0.5), torch.linspace(0.6, 0.95, 5)
    kept, direct = Cells.above(maps, low), Cells.above(maps, high)
    assert len(direct.images) < len(kept.images)
    selected = kept.select(high)
    for ours, theirs in zip(selected.tensors, direct.tensors, strict=True):
        assert torch.equal(ours, theirs)
    assert kept.nbytes == 28 * len(kept.images)
    wide, few, expected = (
        dense(masks(cells, high, plain(6, 13, 30)), 3, 5, (13, 13))
        for cells in (kept, selected, direct)
    )
    assert torch.equal(wide, expected)
    assert torch.equal(few, expected)


def test_a_position_at_its_threshold_is_not_in_the_mask():
    """Label pixels lie on the positions, so that many values are exactly their unit's threshold."""
    maps = torch.randint(4, (5, 3, 6, 6), generator=torch.Generator().manual_seed(2)).float()
    thresholds = torch.tensor([0.0, 1.0, 2.0])
    found = dense(above(maps, thresholds, plain(6, 6, 6)), 5, 3, (6, 6))
    assert torch.equal(found, maps > thresholds[:, None, None])


@pytest.mark.parametrize(("small", "covered"), [(2.0**-40, True), (0.0, False)])
def test_a_value_above_its_threshold_by_less_than_float32_can_tell(small, covered):
    """In the middle between 1 and 2⁻⁴⁰ the map is ½ + 2⁻⁴¹; in float32, 2⁻⁴⁰ − ½ is −½."""
    maps = torch.tensor([[[[1.0, small], [1.0, small]]]])
    assert dense(above(maps, torch.tensor([0.5]), plain(2, 1, 2)), 1, 1, (1, 1)).item() is covered


def test_chunks_change_nothing_and_nothing_above_is_an_empty_mask(monkeypatch):
    given = uniform(4, 3, 5, 5, seed=1), torch.full((3,), 0.7), plain(5, 11, 20)
    whole, nothing = above(*given), above(torch.zeros(2, 3, 5, 5), torch.ones(3), given[2])
    assert (len(nothing.images), len(nothing.units), len(nothing.places)) == (0, 0, 0)
    monkeypatch.setattr(module, "CHUNK", 40)
    for ours, theirs in zip(vars(above(*given)).values(), vars(whole).values(), strict=True):
        assert torch.equal(ours, theirs)
