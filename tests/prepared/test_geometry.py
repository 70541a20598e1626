"""Receptive fields against the gradient: which pixels change the value at a position."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlens.prepared import Fields, Prepared, prepare


class Branches(nn.Module):
    """A residual branch of a larger field, a gate from pooled values, and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.branch = nn.Conv2d(4, 4, 5, padding=2)
        self.narrow = nn.Conv2d(4, 4, 1)
        self.gate = nn.Linear(4, 4)
        self.last = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        stem = F.relu(self.stem((images + 0.5) / 2))
        gate = torch.sigmoid(self.gate(F.adaptive_avg_pool2d(stem, 1).flatten(1)))
        mixed = F.relu(stem + self.branch(stem)) * gate[:, :, None, None]
        return F.relu(self.last(torch.cat([mixed, self.narrow(stem)], dim=1)))


class Functions(nn.Module):
    """Pooling called as a function, by position and by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(self.first(images).relu(), 3, 2, padding=1)
        return self.last(F.avg_pool2d(x, kernel_size=2, padding=0)).relu()


NETWORKS = {
    "plain": nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 5, padding=2), nn.ReLU()),
    "alexnet": nn.Sequential(
        nn.Conv2d(3, 4, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(4, 4, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(4, 4, 3, padding=1),
    ),
    "dilated": nn.Sequential(
        nn.Conv2d(3, 4, 3, dilation=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 4, (3, 1), stride=(2, 1), padding="valid"),
        nn.ReLU(),
    ),
    "same": nn.Sequential(
        nn.Conv2d(3, 4, 4, padding="same"), nn.GELU(), nn.Conv2d(4, 4, 3, padding="same")
    ),
    "branches": Branches(),
    "functions": Functions(),
}


def prepared(name: str) -> Prepared:
    """Positive weights: no value is cut to zero, none cancels another."""
    torch.manual_seed(0)
    network = NETWORKS[name]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(0.1, 1)
    return prepare(network.eval())


def by_gradient(model: Prepared, layer: str) -> dict[tuple[int, int], list[int]]:
    """First and last row and column that some position in the middle depends on, by position."""
    images = torch.rand(1, 3, 120, 120, generator=torch.Generator().manual_seed(0)).requires_grad_()
    maps = model.features(images, layer)
    found = {}
    for y, x in ((maps.shape[2] // 2, maps.shape[3] // 2), (maps.shape[2] // 2 + 1,) * 2):
        (gradient,) = torch.autograd.grad(maps[0, :, y, x].sum(), images, retain_graph=True)
        # pooled gates reach every pixel, but faintly; maxima pass the gradient to one pixel only
        reached = (gradient[0].abs().sum(dim=0) > 1e-3 * gradient.abs().max()).nonzero()
        found[y, x] = [*reached.amin(dim=0).tolist(), *reached.amax(dim=0).tolist()]
    return found


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", ["plain", "dilated", "same"])
def test_fields_are_the_pixels_that_count(name: str) -> None:
    model = prepared(name)
    for layer in model.layers:
        fields = model.fields(layer)
        assert fields is not None
        for position, (top, left, bottom, right) in by_gradient(model, layer).items():
            first = [
                s + p * t for s, p, t in zip(fields.start, position, fields.stride, strict=True)
            ]
            last = [f + n - 1 for f, n in zip(first, fields.size, strict=True)]
            assert [top, left] == first
            assert [bottom, right] == last


@pytest.mark.parametrize("name", ["alexnet", "branches", "functions"])
def test_what_counts_lies_within_the_field_around_its_center(name: str) -> None:
    """Where maxima or gates blur the edges of a field; the arithmetic is by hand below."""
    model = prepared(name)
    for layer in model.layers:
        fields = model.fields(layer)
        assert fields is not None
        for position, (top, left, bottom, right) in by_gradient(model, layer).items():
            for axis, (low, high) in enumerate(((top, bottom), (left, right))):
                first = fields.start[axis] + position[axis] * fields.stride[axis]
                if name != "branches":
                    assert first <= low
                    assert high <= first + fields.size[axis] - 1
                center = fields.center[axis] + position[axis] * fields.stride[axis]
                assert abs((low + high) / 2 - center) <= fields.size[axis] / 4


def test_centers_by_hand() -> None:
    # convolution 11/4, padded by 2: center 5 − 2 = 3; pooling 3/2: the second of three, 3 + 4;
    # pooling again: 7 + 8; padded convolutions of odd size keep the place
    fields = {layer: prepared("alexnet").fields(layer) for layer in ("0", "3", "6")}
    assert [(f.center, f.stride) for f in fields.values() if f] == [
        ((3, 3), (4, 4)),
        ((7, 7), (8, 8)),
        ((15, 15), (16, 16)),
    ]
    # where branches meet, the larger field (3 + 2 · 4 pixels, then 2 · 2 more) counts
    assert prepared("branches").fields("last") == Fields((-7, -7), (15, 15), (2, 2))
    assert prepared("functions").fields("first") == Fields((0, 0), (3, 3), (1, 1))
    # 3/1 (3 pixels), pooling 3/2 padded by 1 (3 + 2), pooling 2/2 (5 + 2), 3/1 (7 + 2 · 4)
    assert prepared("functions").fields("last") == Fields((-1, -1), (15, 15), (4, 4))


def test_operations_whose_place_is_not_known() -> None:
    class Resized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.last(F.interpolate(self.first(images).relu(), scale_factor=1.5)).relu()

    class Untraceable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.first(images) if images.sum() > 0 else images

    model = prepare(Resized())
    assert model.fields("first") == Fields((0, 0), (3, 3), (1, 1))
    assert model.fields("last") is None
    assert prepare(Untraceable()).fields("first") is None
