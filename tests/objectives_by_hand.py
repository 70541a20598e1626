"""A batch for training objectives, and their formulas in naive float64."""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlens.arrays import Images
from advlens.prepared import Prepared, live_features
from advlens.seeding import Stream
from advlens.training.objectives import (
    Adversarial,
    FeatureConsistency,
    Objective,
    Standard,
    Trades,
    TrainingBatch,
    Unrelaxed,
)
from steps_by_hand import stream

SEED = 11
IDS = torch.tensor([4, 17, 2, 900, 31, 8])
LABELS = torch.tensor([0, 1, 2, 2, 1, 0])

OBJECTIVES: dict[str, Objective] = {
    "standard": Standard(),
    "adversarial": Adversarial(),
    "mixed": FeatureConsistency(beta=0.0),
    "mixed shared": FeatureConsistency(beta=0.0, clean_pass="shared"),
    "trades": Trades(),
    "consistency": FeatureConsistency(),
    "consistency shared": FeatureConsistency(clean_pass="shared"),
    "consistency shared attacked": FeatureConsistency(clean_pass="shared", gradient="attacked"),
    "cosine": FeatureConsistency(distance="cosine", layer="representation"),
    "unrelaxed": Unrelaxed(),
}


class Network(nn.Module):
    """Smooth, so that finite differences mean something."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 5, 3, 2)
        self.head = nn.Linear(5, 3)

    def forward(self, images: Images) -> Tensor:
        features = F.softplus(self.second(torch.tanh(self.norm(self.first(images)))))
        return self.head(features.mean(dim=(2, 3)))


class Untraceable(Network):
    def forward(self, images: Images) -> Tensor:
        return super().forward(images if images.mean() > 0 else 2 * images)


def batch_of(
    kind: type[Network] = Network, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> TrainingBatch:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = kind().to(dtype)
        network.norm.running_mean.uniform_(-0.1, 0.1)
        network.norm.running_var.uniform_(0.5, 2)
        images = torch.rand(6, 3, 7, 7, dtype=torch.float64).to(device, dtype)
    prepared, labels = Prepared(network.to(device), dtype), LABELS.to(device)
    features = functools.cache(lambda layer: live_features(network, layer))
    return TrainingBatch(network.train(), lambda: prepared, features, images, labels, IDS, SEED)


def step(objective: Objective, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and all gradients, as the training loop takes them."""
    parameters, loss = dict(batch.network.named_parameters()), objective(batch)
    torch.autograd.backward(loss, inputs=list(parameters.values()))
    return loss.detach(), {k: v.grad for k, v in parameters.items() if v.grad is not None}


def by_hand(network: nn.Module, loss: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """A loss and its gradients, as `step` gives them."""
    names, values = zip(*network.named_parameters(), strict=True)
    return loss.detach(), dict(zip(names, torch.autograd.grad(loss, values), strict=True))


def cross_entropy(logits: Tensor) -> Tensor:
    """Mean over images of log Σ exp(z) − z_y, written out; differentiable."""
    rows = [row.exp().sum().log() - row[label] for row, label in zip(logits, LABELS, strict=True)]
    return torch.stack(rows).mean()


def forward(network: nn.Module, images: Tensor, training: bool) -> tuple[Tensor, dict]:
    """Logits and features, written out; in training, normalized by the batch's own statistics."""
    hidden, norm = F.conv2d(images, network.first.weight, padding=1), network.norm
    mean, variance = norm.running_mean, norm.running_var
    if training:
        mean, variance = hidden.mean(dim=(0, 2, 3)), hidden.var(dim=(0, 2, 3), correction=0)
    scale = norm.weight / (variance + norm.eps).sqrt()
    normal = (hidden - mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
    hidden = torch.tanh(normal)
    features = F.conv2d(hidden, network.second.weight, network.second.bias, stride=2)
    features = torch.log1p(features.exp())
    pooled = features.mean(dim=(2, 3))
    layers = {"first": hidden.clamp(min=0), None: features, "representation": pooled}
    return network.head(pooled), layers


def radii(low: float, high: float) -> Tensor:
    """One uniform radius per image, from the image's own stream of random numbers."""
    draws = [stream(SEED, n, Stream.EPSILON).random((), dtype=np.float32) for n in IDS.tolist()]
    return low + (high - low) * torch.tensor(np.array(draws)).double().view(-1, 1, 1, 1)


def fgsm(batch: TrainingBatch, low: float, high: float, training: bool) -> Tensor:
    images = batch.images.clone().requires_grad_()
    loss = cross_entropy(forward(batch.network, images, training)[0])
    (gradient,) = torch.autograd.grad(loss, images)
    return (batch.images + radii(low, high) * gradient.sign()).clamp(0, 1)


def distance(features: Tensor, others: Tensor, kind: str) -> Tensor:
    """Mean over images of the distance, with sums over elements written out."""
    found = []
    for one, other in zip(features.flatten(1), others.flatten(1), strict=True):
        if kind == "cosine":
            found.append(1 - (one * other).sum() / ((one**2).sum() * (other**2).sum()).sqrt())
        else:
            size = (one - other).abs() if kind == "absolute" else (one - other) ** 2
            found.append(size.sum() / (1 if kind == "summed" else size.numel()))
    return torch.stack(found).mean()


def kl(logits: Tensor, others: Tensor) -> Tensor:
    """Mean over images of Σ p (log p − log q), written out."""
    p, q = (z.exp() / z.exp().sum(dim=1, keepdim=True) for z in (logits, others))
    return (p * (p.log() - q.log())).sum(dim=1).mean()
