"""What the step of every objective needs, and what it leaves as it was."""

import dataclasses
import functools

import pytest
import torch
import torch.nn.functional as F

from advlens.attacks import Attack
from advlens.prepared import Prepared, live_features
from advlens.training import objectives
from advlens.training.network import mixed
from advlens.training.objectives import FeatureConsistency, Objective, TrainingBatch
from objectives_by_hand import IDS, LABELS, SEED, Untraceable, batch_of, step


@pytest.fixture
def batch() -> TrainingBatch:
    return batch_of()


ALL: dict[str, Objective] = {
    "standard": objectives.Standard(),
    "adversarial": objectives.Adversarial(),
    "mixed": FeatureConsistency(beta=0.0),
    "mixed shared": FeatureConsistency(beta=0.0, clean_pass="shared"),
    "trades": objectives.Trades(),
    "consistency": FeatureConsistency(),
    "consistency shared": FeatureConsistency(clean_pass="shared"),
    "consistency shared attacked": FeatureConsistency(clean_pass="shared", gradient="attacked"),
    "cosine": FeatureConsistency(distance="cosine", layer="representation"),
    "unrelaxed": objectives.Unrelaxed(),
}
each_objective = pytest.mark.parametrize("objective", ALL.values(), ids=ALL)


@each_objective
def test_networks_that_cannot_be_traced(objective):
    """Their features are read by hooks."""
    untraceable, batch = batch_of(Untraceable), batch_of()
    loss, gradients = step(objective, untraceable)
    hooked = functools.partial(live_features, batch.network, traced=False)
    batch = dataclasses.replace(batch, prepared=untraceable.prepared, features=hooked)
    expected, traced = step(objective, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients, traced, rtol=1e-9, atol=1e-12)


@each_objective
def test_mixed_precision(objective):
    """Loss and terms in float32, near those of full precision, and a gradient that goes along."""
    full = step(objective, batch_of(dtype=torch.float32))
    batch = batch_of(dtype=torch.float32)
    prepared = Prepared(batch.network, torch.bfloat16)
    batch = dataclasses.replace(batch, prepared=lambda: prepared)
    batch.network.zero_grad()
    with mixed(torch.device("cpu"), "bf16"):
        assert not torch.is_autocast_cache_enabled()  # casts of the attack are not the step's
        loss = objective(batch)
    torch.autograd.backward(loss, inputs=list(batch.network.parameters()))
    assert loss.dtype == torch.float32
    assert {value.dtype for value in batch.terms.values()} == {torch.float32}
    assert loss.item() == pytest.approx(full[0].item(), rel=0.05)
    gradient = torch.cat([p.grad.flatten() for p in batch.network.parameters()])
    expected = torch.cat([part.flatten() for part in full[1].values()])
    assert F.cosine_similarity(gradient, expected, dim=0) > 0.95


def state_of(batch: TrainingBatch) -> list:
    tensors = {**dict(batch.network.named_parameters()), **dict(batch.network.named_buffers())}
    return [
        [(name, m.training, len(m._forward_hooks)) for name, m in batch.network.named_modules()],
        [(name, t.requires_grad, t.tolist(), t.grad is None) for name, t in tensors.items()],
        torch.get_rng_state().tolist(),
    ]


UNRELAXED = objectives.Unrelaxed()
ATTACKS: list[Attack] = [
    *(kind().attack for kind in (objectives.Adversarial, FeatureConsistency, objectives.Trades)),
    *(UNRELAXED.attack, UNRELAXED.feature_attack),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: type(a).__name__)
def test_the_attack_sees_evaluation_mode_and_leaves_no_trace(attack, batch):
    before, attacked = state_of(batch), batch.attacked(attack)
    assert state_of(batch) == before
    assert not attacked.requires_grad
    seeded, fresh = dataclasses.replace(attack, seed=SEED), Prepared(batch.network, torch.float64)
    assert torch.equal(attacked, seeded(fresh, batch.images, LABELS, ids=IDS))


@each_objective
def test_a_step_leaves_gradients_and_counted_batches_alone(objective, batch):
    """Each pass of the live network counts once in the running statistics, attacks never do."""
    before = [(p.requires_grad, p.clone()) for p in batch.network.parameters()]
    batch.network.second.bias.requires_grad_(False)
    objective(batch)
    passes = {"Standard": 1, "Adversarial": 1, "Unrelaxed": 3}.get(type(objective).__name__, 2)
    assert batch.network.norm.num_batches_tracked == passes
    assert all(module.training for module in batch.network.modules())
    assert not batch.images.requires_grad
    assert batch.images.grad is None
    for parameter, (_, value) in zip(batch.network.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        early = getattr(objective, "clean_pass", "") == "shared" and objective.gradient != "both"
        assert (parameter.grad is not None) == (early and parameter.requires_grad)
    assert not batch.network.second.bias.requires_grad


@each_objective
def test_the_share_of_a_process_weighs_what_is_in_the_gradient_early(objective, batch):
    """The loop multiplies the loss returned by the share; the other part has it already."""
    whole, part = step(objective, batch), dataclasses.replace(batch_of(), share=0.25)
    loss = objective(part)
    torch.autograd.backward(loss * part.share, inputs=list(part.network.parameters()))
    torch.testing.assert_close(loss, whole[0], check_dtype=False)
    for name, parameter in part.network.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[1][name] / 4, rtol=1e-9, atol=1e-12)
