"""Discrepancy maps against plain loops in float64, their passes counted; heat maps by pixel."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advlens.colors import AGAINST, FOR
from advlens.drawing import heat_map
from advlens.errors import DataError, ModelError, NumericError, SettingsError
from advlens.maps import DiscrepancyMap, highlighted, marked
from advlens.prepared import prepare
from advlens.seeding import Stream
from flops import flops
from smooth_network import Counting
from steps_by_hand import stream

UNITS = [[4, 0], [1, 1], [2, 4]]
THREE = "each of the 3 images"
WRONG = [
    ({"patch": 10}, {}, DataError, "9 × 14 pixels are smaller than the occluder of 10"),
    ({}, {"units": [[0], [1], [5]]}, SettingsError, "units are 0 to 4, but units 0 to 5"),
    ({}, {"units": [[0], [1], [-1]]}, SettingsError, "units are 0 to 4, but units -1 to 1"),
    ({}, {"units": [[0], [1]]}, SettingsError, THREE),
    ({}, {"units": [[0], [1], [1, 2]]}, SettingsError, THREE),
    ({}, {"units": [0, 1, 2]}, SettingsError, THREE),
    ({}, {"units": [[0.5]] * 3}, SettingsError, "whole numbers"),
    ({}, {"units": [["a"]] * 3}, SettingsError, "whole numbers"),
    ({}, {"layer": "9"}, ModelError, "no convolution named '9'"),
]
IMAGE = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(1))
ATTRIBUTION = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(33)  # most units respond to most of the images below
        return nn.Sequential(
            *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
            *(nn.Conv2d(6, 5, 3, stride=2), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)),
        ).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 9, 14, generator=torch.Generator().manual_seed(1))


def by_hand(maps, image: Tensor, unit: int, patch: int, stride: int, seed: int, number: int):
    """The map by loops, and whether some occluder raised the response."""
    height, width = image.shape[1:]
    occluder = stream(seed, number, Stream.OCCLUDER).random((patch, patch, 3), dtype=np.float32)
    original = maps(image[None])[0, unit]
    places = list(itertools.product(range(original.shape[0]), range(original.shape[1])))
    y, x = max(places, key=lambda place: original[place].item())
    tops, lefts = (
        [p for p in range(length) if p % stride == 0 and p + patch < length] + [length - patch]
        for length in (height, width)
    )
    change, raised = {}, False
    for top, left in itertools.product(tops, lefts):
        covered = image.clone()
        for row, column, channel in itertools.product(range(patch), range(patch), range(3)):
            covered[channel, top + row, left + column] = float(occluder[row, column, channel])
        difference = (maps(covered[None])[0, unit, y, x] - original[y, x]).item()
        difference *= original[y, x].item() > 0
        raised |= difference > 1e-3
        change[top + (patch - 1) / 2, left + (patch - 1) / 2] = abs(difference)
    centers = [sorted({place[axis] for place in change}) for axis in (0, 1)]

    def around(pixel: int, line: list[float]) -> list[tuple[float, float]]:
        """The centers next to a pixel, with their weights."""
        pixel = min(max(pixel, line[0]), line[-1])
        low = max(center for center in line if center <= pixel)
        high = min(center for center in line if center >= pixel)
        share = 0.0 if high == low else (pixel - low) / (high - low)
        return [(low, 1 - share), (high, share)]

    def read(row: int, column: int) -> float:
        near = itertools.product(around(row, centers[0]), around(column, centers[1]))
        return sum(down * right * change[y, x] for (y, down), (x, right) in near)

    return [[read(row, column) for column in range(width)] for row in range(height)], raised


SIZES_OF = [(3, 2), (2, 5), (4, 1), (9, 3)]
CASES = [*((network, *sizes) for sizes in SIZES_OF), (lambda: Counting(network()), 3, 2)]


@pytest.mark.parametrize(("build", "patch", "stride"), CASES)
def test_equals_loops(build: type, patch: int, stride: int, images: Tensor) -> None:
    model = build().double()
    layers = model.network if isinstance(model, Counting) else model
    method = DiscrepancyMap(patch=patch, stride=stride, batch_size=7, seed=5)
    ids, rises, found_any = torch.tensor([11, 3, 8]), [], []
    found = method(prepare(model, dtype=torch.float64), images.double(), units=UNITS, ids=ids)
    assert found.shape == (3, 2, 9, 14)
    for image, units, number, ours in zip(images.double(), UNITS, ids.tolist(), found, strict=True):
        for unit, one in zip(units, ours, strict=True):
            with torch.no_grad():
                given = image, unit, patch, stride, 5, number
                expected, raised = by_hand(lambda x: layers[:4](x).relu(), *given)
            np.testing.assert_allclose(one.numpy(), expected, rtol=1e-9, atol=1e-12)
            rises.append(raised)
            found_any.append(bool(one.any()))
    assert any(rises) or patch == 9  # so that the sign would show
    assert 0 < sum(found_any) < 6  # one unit does not respond to one image
    single = method(model.float(), images, units=UNITS, ids=ids)
    torch.testing.assert_close(single, found.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("units", [1, 4])
def test_passes_are_one_per_place_and_one_more(units: int, images: Tensor) -> None:
    model = prepare(network(), images)
    method, places = DiscrepancyMap(patch=3, stride=2, batch_size=10), 4 * 7
    forward = flops(lambda: model.features(images[:1]))  # nothing behind the layer
    lines = torch.rand(3, 4, 7, units), torch.rand(9, 4), torch.rand(14, 7)
    upsampling = flops(lambda: torch.einsum("npqk,yp,xq->nkyx", *lines))
    taken = flops(lambda: method(model, images, units=[list(range(units))] * 3))
    assert forward < flops(lambda: model(images[:1]))
    assert taken == 3 * (places + 1) * forward + upsampling


@pytest.mark.parametrize(("shape", "places"), [((32, 32), 31**2), ((160, 128), 78 * 62)])
def test_sizes_follow_the_image(shape: tuple[int, int], places: int) -> None:
    """At 224 the paper's 11 and 3; at 32 the smallest, 2 and 1; at 128 pixels 6 and 2."""
    patch, *lines = DiscrepancyMap()._places(224, 224)
    assert (patch, [line.tolist() for line in lines]) == (11, [[*range(0, 214, 3)]] * 2)
    model, image = Counting(nn.Conv2d(3, 2, 1, stride=50)), torch.rand(1, 3, *shape)
    prepared = prepare(model, image)
    Counting.seen.clear()
    assert DiscrepancyMap()(prepared, image, units=[[1]]).shape == (1, 1, *shape)
    assert sum(Counting.seen) == places + 1


def test_any_batch_and_an_earlier_layer_by_its_name_give_the_same(images):
    model, ids = prepare(network()), torch.tensor([4, 9, 2])
    whole = DiscrepancyMap(patch=2, stride=3)(model, images, units=UNITS, ids=ids)
    for size in (1, 5, 64):
        parts = DiscrepancyMap(patch=2, stride=3, batch_size=size)
        found = parts(model, images, units=UNITS, ids=ids)
        torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)
        alone = parts(model, images[1:2], units=torch.tensor(UNITS[1:2]), ids=ids[1:2])
        torch.testing.assert_close(alone, whole[1:2], rtol=1e-5, atol=1e-6)
    model = network()
    found = DiscrepancyMap(patch=3, stride=2)(model, images[:1], layer="0", units=[[5]])
    with torch.no_grad():
        given = images[0].double(), 5, 3, 2, 0, 0
        expected, _ = by_hand(lambda x: model[:3](x.float()).double(), *given)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, rtol=1e-4, atol=1e-6)


def test_each_image_and_seed_has_its_own_occluder(images: Tensor) -> None:
    model, same = network(), images[:1].expand(2, -1, -1, -1)
    method = DiscrepancyMap(patch=3, stride=2)
    maps = method(model, same, units=[[2], [2]])
    assert torch.equal(maps, method(model, same, units=[[2], [2]]))
    assert not torch.allclose(maps[0], maps[1], rtol=0.01)
    other = DiscrepancyMap(patch=3, stride=2, seed=1)(model, same, units=[[2], [2]])
    assert not torch.allclose(maps, other, rtol=0.01)


def test_pixels_and_responses_are_checked_and_there_may_be_none(images):
    method = DiscrepancyMap(patch=3)
    assert method(network(), images[:0], units=torch.empty(0, 2, dtype=int)).shape == (0, 2, 9, 14)
    assert method(network(), images, units=[[], [], []]).shape == (3, 0, 9, 14)
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        DiscrepancyMap()(network(), images + 1, units=UNITS)
    model = network()
    model[3].bias.data[4] = torch.inf
    with pytest.raises(NumericError, match="not finite"):
        DiscrepancyMap()(model, images, units=UNITS)


@pytest.mark.parametrize(("settings", "call", "error", "words"), WRONG)
def test_wrong_use_is_one_sentence(settings, call, error, words, images: Tensor) -> None:
    with pytest.raises(error, match=words):
        DiscrepancyMap(**settings)(network(), images, **({"units": UNITS} | call))


@pytest.mark.parametrize("side", [12, 224])
def test_a_region_keeps_its_colors_within_a_line(side: int) -> None:
    image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(2))
    region = torch.zeros(side, side, dtype=torch.bool)
    region[3:7, 2:9] = True
    region[0, side - 1] = True
    shown = marked(image, region)
    width = 2 if side == 224 else 1
    for y, x in itertools.product(range(min(side, 40)), range(side)):
        near = region[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1].any()
        if region[y, x]:
            expected = image[:, y, x].tolist()
        elif near:
            expected = [1, 0.85, 0]
        else:
            red, green, blue = image[:, y, x].tolist()
            expected = [0.5 * (0.299 * red + 0.587 * green + 0.114 * blue)] * 3
        assert shown[:, y, x].tolist() == pytest.approx(expected, abs=1e-6)


def test_highlighted_is_what_reaches_a_share_of_the_maximum() -> None:
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(3))
    discrepancy = torch.arange(64.0).view(8, 8)
    for share in (0.5, 0.9):
        expected = marked(image, discrepancy >= share * 63)
        assert torch.equal(highlighted(image, discrepancy, share), expected)
    nothing = highlighted(image, torch.zeros(8, 8))
    assert torch.equal(nothing, marked(image, torch.zeros(8, 8, dtype=torch.bool)))


def test_each_pixel_is_covered_by_its_share_of_the_scale() -> None:
    assert (FOR[1:3] > FOR[5:], AGAINST[1:3] < AGAINST[5:]) == (True, True)  # red and blue
    found = heat_map(IMAGE, ATTRIBUTION, 1.25)
    assert found.shape == IMAGE.shape
    for y in range(6):
        for x in range(5):
            red, green, blue = IMAGE[:, y, x].double().tolist()
            faint = 0.7 + 0.3 * (0.299 * red + 0.587 * green + 0.114 * blue)
            share = min(abs(float(ATTRIBUTION[y, x])) / 1.25, 1.0)
            color = FOR if ATTRIBUTION[y, x] > 0 else AGAINST
            for channel, start in enumerate((1, 3, 5)):
                wanted = share * (int(color[start : start + 2], 16) / 255) + (1 - share) * faint
                assert float(found[channel, y, x]) == pytest.approx(wanted, abs=1e-6)


def test_pixels_stay_in_their_range_and_zeros_leave_the_faint_gray_image():
    for scale in (1e-30, 0.01, 1e30):
        found = heat_map(IMAGE, ATTRIBUTION, scale)
        assert found.min() >= 0
        assert found.max() <= 1
    nothing = torch.zeros(6, 5)
    found = heat_map(IMAGE, nothing, 0.0)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found, heat_map(IMAGE, nothing, 1.0))
    assert found.min() >= 0.7


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    with pytest.raises(SettingsError, match="scale must be finite"):
        heat_map(IMAGE, torch.zeros(6, 5), scale)
