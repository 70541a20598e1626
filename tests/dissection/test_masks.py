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
    result.index_put_(
        (image, found.units.long(), places % (shape[0] * shape[1])),
        torch.ones(1, dtype=torch.int64),
        accumulate=True,
    )
    assert result.max() <= 1  # no pixel twice
    return result.view(images, units, *shape) > 0


sides = st.tuples(st.integers(1, 7), st.integers(1, 7))


@given(
    sides,
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.integers(8, 40),
    st.integers(-40, 20),
    st.integers(1, 90),
    st.integers(1, 9),
    st.integers(0, 10_000),
)
def test_cells_give_the_masks_of_dense_upsampling(
    side: tuple[int, int],
    shape: tuple[int, int],
    image: int,
    start: int,
    size: int,
    stride: int,
    seed: int,
) -> None:
    fields = Fields((start, start + 1), (size, size + 2), (stride, stride + 1))
    random = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 3, *side, generator=random).relu()
    thresholds = torch.rand(3, generator=random)
    upsampling = Upsampling.of(side, shape, (image, image), fields)
    found = masks(Cells.above(maps, thresholds), thresholds, upsampling)
    centers = tuple(
        c + np.arange(n) * s for c, n, s in zip(fields.center, side, fields.stride, strict=True)
    )
    values = maps.double().numpy()
    expected = (
        np.array([[by_hand.upsampled(v, shape, centers, image) for v in units] for units in values])
        > thresholds.double().numpy()[:, None, None]
    )
    assert np.array_equal(dense(found, 2, 3, shape).numpy(), expected)


@given(sides, st.tuples(st.integers(7, 20), st.integers(7, 20)), st.integers(0, 10_000))
def test_plain_upsampling_is_torchs(
    side: tuple[int, int], shape: tuple[int, int], seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    maps = torch.randn(1, 4, *side, generator=random).relu()
    thresholds = torch.rand(4, generator=random)
    found = masks(
        Cells.above(maps, thresholds), thresholds, Upsampling.of(side, shape, (32, 32), None)
    )
    values = F.interpolate(maps.double(), shape, mode="bilinear", align_corners=False)
    near = (values - thresholds[:, None, None]).abs() < 1e-9
    expected = values > thresholds[:, None, None]
    assert torch.equal(dense(found, 1, 4, shape)[~near], expected[~near])


def test_a_lower_bound_keeps_what_a_higher_threshold_needs() -> None:
    maps = torch.rand(3, 5, 6, 6, generator=torch.Generator().manual_seed(0))
    low, high = torch.full((5,), 0.5), torch.linspace(0.6, 0.95, 5)
    upsampling = Upsampling.of((6, 6), (13, 13), (30, 30), None)
    kept, direct = Cells.above(maps, low), Cells.above(maps, high)
    assert len(direct.images) < len(kept.images)
    selected = kept.select(high)
    for ours, theirs in zip(selected.tensors, direct.tensors, strict=True):
        assert torch.equal(ours, theirs)
    assert kept.nbytes == 28 * len(kept.images)
    for cells in (kept, selected):
        found = masks(cells, high, upsampling)
        assert torch.equal(
            dense(found, 3, 5, (13, 13)), dense(masks(direct, high, upsampling), 3, 5, (13, 13))
        )


def test_a_position_at_its_threshold_is_not_in_the_mask() -> None:
    """Label pixels lie on the positions, so that many values are exactly their unit's threshold."""
    maps = torch.randint(4, (5, 3, 6, 6), generator=torch.Generator().manual_seed(2)).float()
    thresholds = torch.tensor([0.0, 1.0, 2.0])
    above = masks(
        Cells.above(maps, thresholds),
        thresholds,
        Upsampling.of((6, 6), (6, 6), (6, 6), None),
    )
    assert torch.equal(dense(above, 5, 3, (6, 6)), maps > thresholds[:, None, None])


@pytest.mark.parametrize(("small", "covered"), [(2.0**-40, True), (0.0, False)])
def test_a_value_above_its_threshold_by_less_than_float32_can_tell(
    small: float, covered: bool
) -> None:
    """In the middle between 1 and 2⁻⁴⁰ the map is ½ + 2⁻⁴¹; in float32, 2⁻⁴⁰ − ½ is −½."""
    maps, thresholds = torch.tensor([[[[1.0, small], [1.0, small]]]]), torch.tensor([0.5])
    middle = Upsampling.of((2, 2), (1, 1), (2, 2), None)
    above = masks(Cells.above(maps, thresholds), thresholds, middle)
    assert dense(above, 1, 1, (1, 1)).item() is covered


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    limits = torch.full((3,), 0.7)
    upsampling = Upsampling.of((5, 5), (11, 11), (20, 20), None)
    cells = Cells.above(maps, limits)
    whole = masks(cells, limits, upsampling)
    monkeypatch.setattr(module, "CHUNK", 40)
    for ours, theirs in zip(
        vars(masks(cells, limits, upsampling)).values(), vars(whole).values(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_nothing_above_the_threshold_is_an_empty_mask() -> None:
    upsampling = Upsampling.of((5, 5), (11, 11), (20, 20), None)
    limits = torch.ones(3)
    found = masks(Cells.above(torch.zeros(2, 3, 5, 5), limits), limits, upsampling)
    assert (len(found.images), len(found.units), len(found.places)) == (0, 0, 0)
