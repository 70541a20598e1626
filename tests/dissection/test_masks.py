"""Masks from cells against masks from dense upsampling, for maps of any shape."""

import dissection_by_hand as by_hand
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advlens.dissection import Upsampling
from advlens.dissection import masks as module
from advlens.dissection.masks import Cells, masks
from advlens.prepared import Fields


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
FIELDS = st.tuples(st.integers(-40, 20), st.integers(1, 90), st.integers(1, 9))
SEEDS = st.integers(0, 10_000)


@given(sides, st.tuples(st.integers(1, 20), st.integers(1, 20)), st.integers(8, 40), FIELDS, SEEDS)
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
