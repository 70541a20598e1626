"""features.steps: batches, what is kept of long work, and what is left behind."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from advlens.errors import NumericError, RunError, SettingsError
from advlens.features import ClassGeneration, FeatureVisualization, Inversion
from advlens.models.resnet import CifarResNet
from smooth_network import state_of

STARTS, TARGETS = torch.rand(2, 7, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NUMBERS = torch.tensor([0, 7, 1, 1, 4, 2, 6])
METHODS = {
    "visualization": (FeatureVisualization(steps=5, batch_size=3), NUMBERS),
    "inversion": (Inversion(steps=5, batch_size=3, step_size=0.1), TARGETS),
    "generation": (ClassGeneration(steps=5, batch_size=3), NUMBERS),
}


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CifarResNet((1, 1), (4, 8), "projection", classes=8).eval()


@pytest.mark.parametrize(("method", "targets"), METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("stops", [[0], [3], [5], [7, 8, 14], [15]])
def test_taken_up_from_what_was_kept_it_ends_in_the_same_bits(stops, method, targets, resnet):
    expected = method(resnet, STARTS, targets)
    kept, counted = None, []
    for stop in [*stops, None]:
        work = method.begin(resnet, STARTS.contiguous(memory_format=torch.channels_last), targets)
        assert len(work) == 15  # 3 batches of 5 steps
        if kept is not None:
            work.restore(load(kept))
        if stop != work.done:
            for done in work:
                counted.append(done)
                if done == stop:
                    break
        kept = save(work.state())
    assert counted == list(range(1, 16))
    found = work.result()
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.objective, expected.objective)


def test_a_state_stays_and_serves_its_own_work_alone(resnet):
    work = Inversion(steps=2).begin(resnet, STARTS, TARGETS)
    steps = iter(work)
    next(steps)
    state = work.state()
    before = save(state)
    with pytest.raises(SettingsError, match="1 steps are left"):
        work.result()
    assert work.objective.isfinite().all()
    next(steps)
    assert save(state) == before != save(work.state())
    state = Inversion(steps=2).begin(resnet, STARTS, TARGETS).state()
    with pytest.raises(RunError, match=r"remove it to start again"):
        Inversion(steps=2).begin(resnet, STARTS[:3], TARGETS[:3]).restore(state)
    state["done"] = torch.tensor(3)
    with pytest.raises(RunError, match=r"step 3 .* is not one of 2 steps"):
        Inversion(steps=2).begin(resnet, STARTS, TARGETS).restore(state)


def test_images_do_not_feel_their_batch_nor_inputs_and_model_the_work(resnet):
    for method, targets in METHODS.values():
        first, *others = (
            replace(method, batch_size=size)(resnet, STARTS, targets) for size in (1, 4, 64)
        )
        for other in others:
            torch.testing.assert_close(other.images, first.images, rtol=0, atol=1e-4)
            torch.testing.assert_close(other.objective, first.objective, rtol=1e-4, atol=1e-4)
    starts, before = STARTS.clone().requires_grad_(), state_of(resnet.train())
    found = ClassGeneration(steps=3)(resnet, starts, NUMBERS)
    assert torch.equal(starts, STARTS)
    assert starts.grad is None
    assert not found.images.requires_grad
    assert state_of(resnet) == before
    resnet.eval()


class Breaking(nn.Module):
    """Logits that become NaN once an image is brighter than .55 on average."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -(0.55 - x.mean(dim=(1, 2, 3))).sqrt().unsqueeze(1)


def test_nan_stops_with_its_step_and_is_never_kept():
    """Each step adds .02 to every pixel: .5, .52, .54, and NaN at the fourth."""
    starts, targets = torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 0])
    method = ClassGeneration(steps=6, step_size=0.02 * 48**0.5)
    with pytest.raises(NumericError, match="ClassGeneration: the gradient at step 4 is not finite"):
        method(Breaking(), starts, targets)
    work = method.begin(Breaking(), starts, targets)
    for done in work:
        if done == 3:
            assert work.state()["images"].isfinite().all()
        if done == 4:
            break
    with pytest.raises(NumericError, match="at step 4"):
        work.state()
