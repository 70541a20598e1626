"""Inversion, visualization and generation beside robustness' and the plain loop: time, objective.

    python benchmarks/synthesis.py --repeats 7 --threads 1

The plain loop does only what cannot be avoided: K times a forward pass and a backward pass to the
images, parameters frozen, evaluation mode, contiguous tensors, then the step and the projection.
robustness gets the losses that its authors publish, and runs the network twice a step; it clamps
within the network, where newer torch passes no gradient to a pixel that is 0 or 1. Ratios are to
the plain loop; the peak is that of matrix products in the contender's precision. The objective is
that of the images returned, measured anew on the model itself; the difference is the largest of a
pixel from ours. A peer that cannot be imported is named at the top.
Units: a forward pass is 1, a backward pass to the images 1.
"""

import argparse
import copy
import importlib
import warnings
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from unittest import mock

import torch
from peak import Peak
from timing import interleaved
from torch import Tensor, nn

from advlens.datasets import load_data
from advlens.errors import AdvlensError
from advlens.features import (
    ClassGaussian,
    ClassGeneration,
    FeatureVisualization,
    Inversion,
    Synthesis,
    noise_images,
)
from advlens.models import load_model
from advlens.prepared import prepare

Loss = Callable[[nn.Module, Tensor], Tensor]


class Latent(nn.Module):
    """A network with the flags that robustness passes; frozen, or as its users have it."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.linear = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]

    def forward(self, images: Tensor, with_latent: bool = False, **flags: bool) -> Tensor:
        if not with_latent:
            return self.network(images)
        kept: list[Tensor] = []
        handle = self.linear.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        logits = self.network(images)
        handle.remove()
        return logits, kept[0]


def pixels(count: int) -> Tensor:
    """Images of the packaged sample, or noise where there is none."""
    try:
        return load_data("sample").images(range(count)).float() / 255
    except AdvlensError:
        return torch.rand(count, 3, 32, 32)


def plain_loop(method: Synthesis, loss: Callable[[Tensor], Tensor], starts: Tensor) -> Tensor:
    current = starts
    for _ in range(method.steps):
        inputs = current.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(method.direction * loss(inputs).sum(), inputs)
        length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        change = current + method.step_size * gradient / length - starts
        length = change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        current = (starts + change * (method.epsilon / length).clamp(max=1)).clamp(0, 1)
    return current


def contenders(
    network: nn.Module,
    method: Synthesis,
    starts: Tensor,
    targets: Tensor,
    loss: Loss,
    attacker: ModuleType | None,
) -> dict[str, tuple[int, Callable[[], Tensor]]]:
    """What a step costs in units, and the call, for each; the plain loop first."""
    frozen, prepared = Latent(copy.deepcopy(network).requires_grad_(False)), prepare(network)
    rough = replace(method, precision="bf16")
    found: dict[str, tuple[int, Callable[[], Tensor]]] = {
        "plain loop": (2, lambda: plain_loop(method, lambda x: loss(frozen, x), starts)),
        "advlens": (2, lambda: method(prepared, starts, targets).images),
        "advlens, bf16": (2, lambda: rough(prepared, starts, targets).images),
        "advlens, preparation inside": (2, lambda: method(network, starts, targets).images),
    }
    if attacker is not None:
        identity = SimpleNamespace(mean=torch.zeros(3), std=torch.ones(3))
        model = attacker.AttackerModel(Latent(network), identity).eval()

        def robustness() -> Tensor:
            with mock.patch.object(Tensor, "cuda", lambda tensor: tensor):  # it asks for a GPU
                _, images = model(
                    starts,
                    targets,
                    make_adv=True,
                    constraint="2",
                    eps=method.epsilon,
                    step_size=method.step_size,
                    iterations=method.steps,
                    use_best=False,
                    targeted=method.direction < 0,
                    custom_loss=lambda latent, x, _: (loss(latent, x), None),
                )
            return images

        found["robustness"] = (3, robustness)
    return found


def cases(network: nn.Module, batch: int, steps: int) -> dict[str, tuple]:
    """Method, starts, targets and loss of each experiment."""
    images, ids, each = pixels(batch), torch.arange(batch), torch.arange(batch)[:, None]
    noise = noise_images(ids, (3, 32, 32))
    gaussian = ClassGaussian(10, (3, 32, 32))
    gaussian.update(pixels(400), torch.arange(400) % 10, torch.arange(400))
    with torch.no_grad():
        wanted = Latent(network)(images, with_latent=True)[1]
    # components that some image activates: the plain loop cannot leave a dead one
    components = wanted.mean(dim=0).argsort(descending=True)[:batch]

    def distance(model: nn.Module, x: Tensor) -> Tensor:
        return (model(x, with_latent=True)[1] - wanted).norm(dim=1) / wanted.norm(dim=1)

    def component(model: nn.Module, x: Tensor) -> Tensor:
        return model(x, with_latent=True)[1][each[:, 0], components]

    def logit(model: nn.Module, x: Tensor) -> Tensor:
        return model(x)[each[:, 0], ids % 10]

    generation = ClassGeneration(steps=steps, batch_size=batch)
    return {
        "inversion": (Inversion(steps=steps, batch_size=batch), noise, images, distance),
        "visualization": (
            FeatureVisualization(steps=steps, batch_size=batch),
            images,
            components,
            component,
        ),
        "generation": (generation, gaussian.sample(ids % 10), ids % 10, logit),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--networks", nargs="+", default=["cifar10-standard", "resnet18"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            attacker = importlib.import_module("robustness.attacker")
    except ImportError as error:
        attacker = None
        print(f"robustness.attacker cannot be imported, so its rows are missing: {error}\n")
    peak = Peak()
    print(f"{peak}\n")
    print(
        "| network | case | contender | units a step | CPU: median (range) | CPU ratio | "
        "wall ratio | of the peak | objective | difference |"
    )
    print(f"|{' --- |' * 10}")
    for name in options.networks:
        network = load_model(name).eval()
        for batch in options.batches:
            made = cases(network, batch, options.steps)
            for case, (method, starts, targets, loss) in made.items():
                found = contenders(network, method, starts, targets, loss, attacker)
                calls = {contender: call for contender, (_, call) in found.items()}
                times = interleaved(calls, options.repeats)
                ours = calls["advlens"]()
                for contender, (units, call) in found.items():
                    images = call()
                    with torch.no_grad():
                        value = loss(Latent(network), images).mean().item()
                    print(
                        f"| {name} | {case} {batch} | {contender} | {units} | "
                        f"{times[contender].row(times['plain loop'])} | "
                        f"{peak.share(call, times[contender].median, contender)} | {value:.4f} | "
                        f"{(images - ours).abs().max():.1e} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
