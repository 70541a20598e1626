"""Training steps beside the plain step, torchattacks' and robustness': time, passes, loss.

    python benchmarks/training.py --repeats 5 --threads 1

The plain step does only what cannot be avoided, on the live network in contiguous tensors: each
attack's passes in evaluation mode with gradients to the images alone, then the forward and backward
passes of the loss, and SGD. Each contender trains a network of its own; ours folds the prepared
copy anew in every step. Ratios are to the plain step in the same precision, then to the one in
float32. A peer that cannot be imported is named in a line at the top. Passes are counted in units:
a forward pass is 1, a backward pass to the images 1, to the weights 2.
"""

import argparse
import copy
import functools
import importlib
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from unittest import mock

import torch
import torch.nn.functional as F
from peak import Peak
from timing import Times, interleaved
from torch import Tensor, nn

from advlens.attacks import Divergence, FeatureAttack, Fgsm, Pgd
from advlens.attacks.threat import Linf
from advlens.datasets import load_data
from advlens.errors import AdvlensError
from advlens.models import load_model
from advlens.prepared import Prepared, live_features
from advlens.training.objectives import (
    Adversarial,
    FeatureConsistency,
    Objective,
    Standard,
    Trades,
    TrainingBatch,
    Unrelaxed,
)

EPSILON, SIZE = 8 / 255, 2 / 255
BALL = Linf(epsilon=EPSILON)
Loss = Callable[[nn.Module], Tensor]


@dataclass
class Step:
    """A training step of one contender: its loss, the update, the losses so far."""

    network: nn.Module
    loss: Loss
    passes: str
    half: bool
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.network.train()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01, momentum=0.9)

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            loss = self.loss(self.network)
        torch.autograd.backward(loss, inputs=list(self.network.parameters()))
        self.optimizer.step()
        self.losses.append(loss.item())


@dataclass
class Work:
    """What a step is done on."""

    network: nn.Module
    images: Tensor
    labels: Tensor
    half: bool

    def plain(self, passes: str, loss: Loss) -> Step:
        return Step(copy.deepcopy(self.network), loss, passes, self.half)

    def ours(self, passes: str, objective: Objective) -> Step:
        network = copy.deepcopy(self.network).to(memory_format=torch.channels_last).train()
        prepared = Prepared(network, torch.bfloat16 if self.half else torch.float32)
        features = functools.cache(lambda layer: live_features(network, layer))
        images = self.images.contiguous(memory_format=torch.channels_last)
        ids = torch.arange(len(images))

        def refolded() -> Prepared:
            prepared.update(network)
            return prepared

        def loss(network: nn.Module) -> Tensor:
            once = functools.cache(refolded)
            return objective(
                TrainingBatch(network, once, features, images, self.labels, ids, seed=0)
            )

        return Step(network, loss, passes, self.half)

    def climb(
        self,
        network: nn.Module,
        steps: int,
        size: float,
        start: Tensor,
        score: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """The plain attack."""
        network.eval()
        current = start
        for _ in range(steps):
            inputs = current.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(score(inputs), inputs)
            current = current + size * gradient.sign()
            current = self.images + (current - self.images).clamp(-EPSILON, EPSILON)
            current = current.clamp(0, 1)
        network.train()
        return current.detach()

    def start(self) -> Tensor:
        return self.images + EPSILON * (2 * torch.rand_like(self.images) - 1)

    def pgd(self, network: nn.Module, steps: int) -> Tensor:
        def score(x: Tensor) -> Tensor:
            return F.cross_entropy(network(x), self.labels)

        return self.climb(network, steps, SIZE, self.start(), score)


def standard(work: Work) -> dict[str, Step]:
    def plain(network: nn.Module) -> Tensor:
        return F.cross_entropy(network(work.images), work.labels)

    return {"plain step": work.plain("3", plain), "advlens": work.ours("3", Standard())}


def pgd(work: Work, peers: dict[str, ModuleType]) -> dict[str, Step]:
    """Madry et al.'s step: 7 steps from a random start, the last iterate."""
    steps, images, labels = 7, work.images, work.labels
    passes = str(2 * steps + 3)

    def plain(network: nn.Module) -> Tensor:
        return F.cross_entropy(network(work.pgd(network, steps)), labels)

    attack = Pgd(threat=BALL, steps=steps, step_size=SIZE, select="last")
    found = {
        "plain step": work.plain(passes, plain),
        "advlens": work.ours(passes, Adversarial(attack=attack)),
    }
    if "torchattacks" in peers:

        def theirs(network: nn.Module) -> Tensor:
            attacked = peers["torchattacks"].PGD(network, EPSILON, SIZE, steps)(images, labels)
            return F.cross_entropy(network(attacked), labels)

        found["torchattacks"] = work.plain(passes, theirs)
    if "robustness.attacker" in peers:
        network = Flagged(copy.deepcopy(work.network))
        identity = SimpleNamespace(mean=torch.zeros(3), std=torch.ones(3))
        model = peers["robustness.attacker"].AttackerModel(network, identity)

        def robustness(model: nn.Module) -> Tensor:
            with mock.patch.object(Tensor, "cuda", lambda tensor: tensor):  # it asks for a GPU
                logits, _ = model(
                    images,
                    labels,
                    make_adv=True,
                    constraint="inf",
                    eps=EPSILON,
                    step_size=SIZE,
                    iterations=steps,
                    random_start=True,
                    use_best=False,
                )
            return F.cross_entropy(logits, labels)

        found["robustness"] = Step(model, robustness, passes, work.half)
    return found


class Flagged(nn.Module):
    """A network whose forward takes the flags that robustness passes."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, **flags: bool) -> Tensor:
        return self.network(images)


def consistency(work: Work) -> dict[str, Step]:
    """FGSM and consistent features; the plain step is the separate form."""
    images, labels = work.images, work.labels
    featured = functools.cache(live_features)

    def plain(network: nn.Module) -> Tensor:
        both = featured(network)
        attacked = work.climb(
            network, 1, EPSILON, images, lambda x: F.cross_entropy(network(x), labels)
        )
        logits, features = both(images)
        attacked_logits, attacked_features = both(attacked)
        return (
            0.5 * F.cross_entropy(logits, labels)
            + 0.5 * F.cross_entropy(attacked_logits, labels)
            + (features - attacked_features).square().mean()
        )

    def ours(**settings: str) -> FeatureConsistency:
        return FeatureConsistency(attack=Fgsm(threat=BALL), **settings)

    detached = ours(clean_pass="shared", gradient="attacked")
    return {
        "plain step": work.plain("8", plain),
        "advlens, separate": work.ours("8", ours()),
        "advlens, shared": work.ours("7", ours(clean_pass="shared")),
        "advlens, shared, attacked side": work.ours("6", detached),
    }


def trades(work: Work) -> dict[str, Step]:
    steps, images, labels = 10, work.images, work.labels
    passes = str(2 * steps + 7)

    def divergence(logits: Tensor, others: Tensor) -> Tensor:
        return F.kl_div(others.log_softmax(1), logits.softmax(1), reduction="batchmean")

    def plain(network: nn.Module) -> Tensor:
        with torch.no_grad():
            clean = network.eval()(images)
        start = images + 0.001 * torch.randn_like(images)
        attacked = work.climb(network, steps, SIZE, start, lambda x: divergence(clean, network(x)))
        logits = network(images)
        return F.cross_entropy(logits, labels) + 6 * divergence(logits, network(attacked))

    attack = Divergence(threat=BALL, steps=steps, step_size=SIZE, select="last")
    return {
        "plain step": work.plain(passes, plain),
        "advlens": work.ours(passes, Trades(attack=attack)),
    }


def unrelaxed(work: Work) -> dict[str, Step]:
    """Two inner maxima of two steps each."""
    steps, images, labels = 2, work.images, work.labels
    passes = str(4 * steps + 10)
    featured = functools.cache(live_features)

    def plain(network: nn.Module) -> Tensor:
        both = featured(network)
        attacked = work.pgd(network, steps)
        with torch.no_grad():
            network.eval()
            _, clean = both(images)
        moved = work.climb(
            network, steps, SIZE, work.start(), lambda x: (both(x)[1] - clean).square().mean()
        )
        _, features = both(images)
        distance = (features - both(moved)[1]).square().mean()
        return F.cross_entropy(network(attacked), labels) + distance

    settings = {"threat": BALL, "steps": steps, "step_size": SIZE, "select": "last"}
    objective = Unrelaxed(attack=Pgd(**settings), feature_attack=FeatureAttack(**settings))
    return {"plain step": work.plain(passes, plain), "advlens": work.ours(passes, objective)}


OBJECTIVES = ["standard", "PGD-7", "FGSM + consistency", "TRADES-10", "unrelaxed 2 + 2"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--networks", nargs="+", default=["resnet14", "resnet18"])
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES, choices=OBJECTIVES)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    peers = {}
    for name in ("torchattacks", "robustness.attacker"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                peers[name] = importlib.import_module(name)
        except ImportError as error:
            print(f"{name} cannot be imported, so its rows are missing: {error}\n")
    makers: dict[str, Callable[[Work], dict[str, Step]]] = {
        "standard": standard,
        "PGD-7": functools.partial(pgd, peers=peers),
        "FGSM + consistency": consistency,
        "TRADES-10": trades,
        "unrelaxed 2 + 2": unrelaxed,
    }
    images, labels = pixels(options.batch)
    peak = Peak()
    print(f"{peak}\n")
    print(
        "| network | objective | contender | units | images per CPU s | CPU: median (range) | "
        "CPU ratio | wall ratio | of the peak | CPU ratio to float32 | loss |"
    )
    print(f"|{' --- |' * 11}")
    for name in options.networks:
        for objective in options.objectives:
            contenders: dict[str, Step] = {}
            for half in (False, True):
                work = Work(load_model(name), images, labels, half)
                for contender, step in makers[objective](work).items():
                    contenders[f"{contender}{', bf16' if half else ''}"] = step
            times = interleaved(contenders, options.repeats)
            for contender, taken in times.items():
                step = contenders[contender]
                plain = times[f"plain step{', bf16' if step.half else ''}"]
                print(
                    f"| {name} | {objective} | {contender} | {step.passes} | "
                    f"{len(images) / statistics.median(taken.cpu):.1f} | {taken.row(plain)} | "
                    f"{peak.share(step, taken.median, contender)} | "
                    f"{ratio(taken, times['plain step']):.2f} | {step.losses[0]:.3f} |",
                    flush=True,
                )


def ratio(ours: Times, theirs: Times) -> float:
    return statistics.median(a / b for a, b in zip(ours.cpu, theirs.cpu, strict=True))


def pixels(count: int) -> tuple[Tensor, Tensor]:
    """Images of the packaged sample and their labels, or noise where there is none."""
    try:
        data = load_data("sample")
        return data.images(range(count)).float() / 255, data.labels[:count]
    except AdvlensError:
        return torch.rand(count, 3, 32, 32), torch.arange(count) % 10


if __name__ == "__main__":
    main()
