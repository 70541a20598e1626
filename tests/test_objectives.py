"""Training objectives against naive float64 versions."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlens.arrays import Images
from advlens.attacks import Pgd
from advlens.objectives import Adversarial, FeatureConsistency, Objective, Standard, TrainingBatch
from advlens.prepared import Prepared, live_features
from advlens.threat import L2

SEED = 11
IDS = torch.tensor([4, 17, 2, 900, 31, 8])


class Network(nn.Module):
    """Smooth, so that finite differences mean something; float64."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 5, 3, 2)
        self.head = nn.Linear(5, 3)

    def forward(self, images: Images) -> Tensor:
        hidden = torch.tanh(self.norm(self.first(images)))
        features = F.softplus(self.second(hidden))
        return self.head(features.mean(dim=(2, 3)))


@pytest.fixture
def batch() -> TrainingBatch:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network().double()
        network.norm.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
        network.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        images = torch.rand(6, 3, 7, 7, dtype=torch.float64)
    prepared = Prepared(network, torch.float64)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    return TrainingBatch(
        network.train(), lambda: prepared, lambda: live_features(network), images, labels, IDS, SEED
    )


def cross_entropy(logits: Tensor, labels: Tensor) -> float:
    rows = [
        math.log(math.fsum(math.exp(v) for v in row)) - row[label]
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    return math.fsum(rows) / len(rows)


def forward(network: Network, images: Tensor, training: bool) -> tuple[Tensor, Tensor]:
    """Logits and features, written out; in training, normalized by the batch's own statistics."""
    hidden = F.conv2d(images, network.first.weight, padding=1)
    norm = network.norm
    if training:
        mean = hidden.mean(dim=(0, 2, 3))
        variance = hidden.var(dim=(0, 2, 3), correction=0)
    else:
        mean, variance = norm.running_mean, norm.running_var  # type: ignore[assignment]
    scale = norm.weight / (variance + norm.eps).sqrt()
    hidden = (hidden - mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
    hidden = torch.tanh(hidden)
    features = F.conv2d(hidden, network.second.weight, network.second.bias, stride=2)
    features = torch.log1p(features.exp())
    return network.head(features.mean(dim=(2, 3))), features


def radii(low: float, high: float) -> list[float]:
    """One uniform radius per image, from the image's own stream of random numbers."""
    found = []
    for number in IDS.tolist():
        bits = np.random.Philox(key=[SEED, number], counter=[0, 0, 0, 3])
        found.append(low + (high - low) * np.random.Generator(bits).random((), dtype=np.float32))
    return found


@pytest.mark.parametrize(
    "objective",
    [FeatureConsistency(), FeatureConsistency(alpha=0.2, beta=7.0, low=0.01, high=0.3)],
)
def test_feature_consistency_equals_the_formula(
    objective: FeatureConsistency, batch: TrainingBatch
) -> None:
    network, images = batch.network, batch.images
    assert isinstance(network, Network)
    frozen = images.clone().requires_grad_()
    logits, _ = forward(network, frozen, training=False)
    F.cross_entropy(logits, batch.labels, reduction="sum").backward()
    assert frozen.grad is not None
    radius = torch.tensor(radii(objective.low, objective.high), dtype=torch.float64)
    attacked = (images + radius.view(-1, 1, 1, 1) * frozen.grad.sign()).clamp(0, 1)
    logits, features = forward(network, images, training=True)
    attacked_logits, attacked_features = forward(network, attacked, training=True)
    distance = math.fsum(((features - attacked_features) ** 2).flatten().tolist())
    expected = (
        objective.alpha * cross_entropy(logits, batch.labels)
        + (1 - objective.alpha) * cross_entropy(attacked_logits, batch.labels)
        + objective.beta * distance / features.numel()
    )
    assert distance > 0
    assert objective(batch).item() == pytest.approx(expected, rel=1e-7)  # radii are float32 draws


@pytest.mark.parametrize(
    "objective",
    [Standard(), FeatureConsistency(beta=3.0), Adversarial()],
    ids=["standard", "consistency", "adversarial"],
)
def test_gradients_are_those_of_the_loss(objective: Objective, batch: TrainingBatch) -> None:
    """Through both sides of the distance, the attacked images held fixed (gradcheck)."""

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = batch.network

        def forward(self) -> Tensor:
            return objective(batch)

    names = ["network.first.weight", "network.second.weight", "network.norm.bias"]
    loss = Loss()
    parameters = dict(loss.named_parameters())

    def of(*values: Tensor) -> Tensor:
        replaced: Tensor = torch.func.functional_call(
            loss, dict(zip(names, values, strict=True)), ()
        )
        return replaced

    inputs = tuple(parameters[name].detach().clone().requires_grad_() for name in names)
    assert torch.autograd.gradcheck(of, inputs, eps=1e-6, atol=1e-7)


def test_adversarial_is_the_loss_on_images_that_the_attack_changed(batch: TrainingBatch) -> None:
    attack = Pgd(threat=L2(epsilon=0.5), steps=2, step_size=0.3, select="last", seed=SEED)
    attacked = attack(batch.prepared(), batch.images, batch.labels, ids=IDS)
    assert isinstance(batch.network, Network)
    logits, _ = forward(batch.network, attacked, training=True)
    expected = cross_entropy(logits, batch.labels)
    assert Adversarial()(batch).item() == pytest.approx(expected, rel=1e-10)
    natural, _ = forward(batch.network, batch.images, training=True)
    assert Standard()(batch).item() == pytest.approx(
        cross_entropy(natural, batch.labels), rel=1e-10
    )
    assert expected > cross_entropy(natural, batch.labels)


def test_the_attack_sees_evaluation_mode_and_leaves_no_trace(batch: TrainingBatch) -> None:
    network = batch.network
    assert isinstance(network, Network)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    batch.attacked(Adversarial().attack)
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())
    assert all(module.training for module in network.modules())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
