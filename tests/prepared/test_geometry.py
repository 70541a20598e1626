"""Receptive fields against the gradient: which pixels change the value at a position."""

from itertools import chain

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
        self.branch, self.narrow = nn.Conv2d(4, 4, 5, padding=2), nn.Conv2d(4, 4, 1)
        self.gate, self.last = nn.Linear(4, 4), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        stem = F.relu(self.stem((images + 0.5) / 2))
        gate = torch.sigmoid(self.gate(F.adaptive_avg_pool2d(stem, 1).flatten(1)))
        mixed = F.relu(stem + self.branch(stem)) * gate[:, :, None, None]
        return F.relu(self.last(torch.cat([mixed, self.narrow(stem)], dim=1)))


class Two(nn.Module):  # two convolutions
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)


class Functions(Two):  # pooling called as a function, by position and by name
    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(self.first(images).relu(), 3, 2, padding=1)
        return self.last(F.avg_pool2d(x, kernel_size=2, padding=0)).relu()


class Resized(Two):
    def forward(self, images: Tensor) -> Tensor:
        return self.last(F.interpolate(self.first(images).relu(), scale_factor=1.5)).relu()


class Untraceable(Two):
    def forward(self, images: Tensor) -> Tensor:
        return self.first(images) if images.sum() > 0 else images


DILATED = nn.Conv2d(3, 4, 3, dilation=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)
ALEXNET = (
    (nn.Conv2d(3, 4, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
    (nn.Conv2d(4, 4, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
    (nn.Conv2d(4, 4, 3, padding=1),),
)
NETWORKS = {
    "plain": nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 5, padding=2), nn.ReLU()),
    "dilated": nn.Sequential(
        *DILATED, nn.Conv2d(4, 4, (3, 1), stride=(2, 1), padding="valid"), nn.ReLU()
    ),
    "same": nn.Sequential(
        nn.Conv2d(3, 4, 4, padding="same"), nn.GELU(), nn.Conv2d(4, 4, 3, padding="same")
    ),
    # where maxima or gates blur the edges of a field
    "alexnet": nn.Sequential(*chain(*ALEXNET)),
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


def by_gradient(model: Prepared, layer: str) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """First and last row, and column, that some position in the middle depends on."""
    images = torch.rand(1, 3, 120, 120, generator=torch.Generator().manual_seed(0)).requires_grad_()
    maps, found = model.features(images, layer), {}
    for y, x in ((maps.shape[2] // 2, maps.shape[3] // 2), (maps.shape[2] // 2 + 1,) * 2):
        (gradient,) = torch.autograd.grad(maps[0, :, y, x].sum(), images, retain_graph=True)
        # pooled gates reach every pixel, but faintly; maxima pass the gradient to one pixel only
        reached = (gradient[0].abs().sum(dim=0) > 1e-3 * gradient.abs().max()).nonzero()
        ends = reached.amin(dim=0).tolist(), reached.amax(dim=0).tolist()
        found[y, x] = list(zip(*ends, strict=True))
    return found


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", NETWORKS)
def test_fields_are_the_pixels_that_count(name: str) -> None:
    """Where edges are blurred, within the field, around its center: by hand below."""
    model = prepared(name)
    for layer in model.layers:
        fields = model.fields(layer)
        assert fields is not None
        for position, ends in by_gradient(model, layer).items():
            for axis, (low, high) in enumerate(ends):
                moved, size = position[axis] * fields.stride[axis], fields.size[axis]
                first, last = fields.start[axis] + moved, fields.start[axis] + moved + size - 1
                if name in ("plain", "dilated", "same"):
                    assert (low, high) == (first, last)
                elif name != "branches":
                    assert first <= low <= high <= last
                assert abs((low + high) / 2 - fields.center[axis] - moved) <= size / 4


def test_centers_by_hand() -> None:
    # convolution 11/4, padded by 2: center 5 − 2 = 3; pooling 3/2: the second of three, 3 + 4;
    # pooling again: 7 + 8; padded convolutions of odd size keep the place
    fields = [prepared("alexnet").fields(layer) for layer in ("0", "3", "6")]
    places = [((3, 3), (4, 4)), ((7, 7), (8, 8)), ((15, 15), (16, 16))]
    assert [(f.center, f.stride) for f in fields if f] == places
    # where branches meet, the larger field (3 + 2 · 4 pixels, then 2 · 2 more) counts
    assert prepared("branches").fields("last") == Fields((-7, -7), (15, 15), (2, 2))
    assert prepared("functions").fields("first") == Fields((0, 0), (3, 3), (1, 1))
    # 3/1 (3 pixels), pooling 3/2 padded by 1 (3 + 2), pooling 2/2 (5 + 2), 3/1 (7 + 2 · 4)
    assert prepared("functions").fields("last") == Fields((-1, -1), (15, 15), (4, 4))


def test_operations_whose_place_is_not_known() -> None:
    model = prepare(Resized())
    assert model.fields("first") == Fields((0, 0), (3, 3), (1, 1))
    assert model.fields("last") is None
    assert prepare(Untraceable()).fields("first") is None
