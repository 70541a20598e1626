"""Learning rates against numpy's interpolation, a cosine and torch's plateau scheduler."""

import numpy as np
import pytest
import torch

from advlens.training.schedule import PATIENCE, plateaus, rate


def test_one_cycle_cosine_and_constant():
    progress = np.linspace(0, 1, 101)
    expected = np.interp(progress, [0, 0.25, 1], [0, 1, 0])
    rates = [rate("one-cycle", p, []) for p in progress]
    np.testing.assert_allclose(rates, expected, atol=1e-15)
    progress = np.linspace(0, 1, 11)
    rates = [rate("cosine", p, []) for p in progress]
    np.testing.assert_allclose(rates, np.cos(progress * np.pi / 2) ** 2, atol=1e-15)
    assert [rate("constant", p, [1.0, 2.0]) for p in progress] == [1.0] * 11


@pytest.mark.parametrize("seed", range(5))
def test_plateaus_are_those_of_torch(seed: int) -> None:
    losses = (2 + np.cumsum(np.random.default_rng(seed).normal(-0.02, 0.3, 60))).clip(0.1).tolist()
    losses[9] = min(losses[:9]) * 0.9
    losses[10:14] = [losses[9] * 0.99995] * 4  # a fall too small to count
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.1, patience=PATIENCE, min_lr=0.0, eps=0.0
    )
    count = 0
    for end, loss in enumerate(losses, start=1):
        optimizer.step()
        scheduler.step(loss)
        (group,) = optimizer.param_groups
        count = plateaus(losses[:end])
        assert group["lr"] == pytest.approx(0.1**count, rel=1e-9)
        assert rate("plateau", 0.5, losses[:end]) == 0.1**count
    assert count >= 2
