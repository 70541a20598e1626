"""FGSM and PGD beside torchattacks, foolbox and the plain loop: time, and equality of results.

    python benchmarks/attacks.py --repeats 7

The plain loop does only what cannot be avoided: K times a forward pass and a backward pass to the
images, parameters frozen, evaluation mode, contiguous tensors, float32. Ratios are to it; the peak
is that of matrix products on this machine, in the contender's precision. Peers get the same
model, with trainable parameters as their users have them.
"""

import argparse
import copy
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from peak import Peak
from timing import interleaved
from torch import Tensor, nn

from advlens.attacks import Bim, Fgsm, Pgd
from advlens.attacks.threat import L2, Linf, Threat
from advlens.checks import Precision
from advlens.datasets import load_data
from advlens.errors import AdvlensError
from advlens.models import load_model
from advlens.prepared import prepare

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import foolbox
    import torchattacks

EPSILON = {Linf: 8 / 255, L2: 0.5}
WEAK = {Linf: 0.5 / 255, L2: 0.06}
"""Radii at which about half of the images hold out, for the evaluation rows."""


def pixels(count: int) -> Tensor:
    """Images of the packaged sample, or noise where there is none."""
    try:
        return load_data("sample").images(range(count)).float() / 255
    except AdvlensError:
        return torch.rand(count, 3, 32, 32)


def plain_loop(
    model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, steps: int, size: float
) -> Tensor:
    current = images
    for _ in range(steps):
        inputs = current.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(inputs), labels), inputs)
        if isinstance(threat, Linf):
            current = current + size * gradient.sign()
            current = images + (current - images).clamp(-threat.epsilon, threat.epsilon)
        else:
            current = current + size * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            change = current - images
            length = change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            current = images + change * (threat.epsilon / length).clamp(max=1)
        current = current.clamp(0, 1)
    return current


def fgsm(model: nn.Module, images: Tensor, labels: Tensor, threat: Threat) -> dict:
    """Contenders for FGSM, the plain loop first."""
    frozen, prepared = copy.deepcopy(model).requires_grad_(False), prepare(model)
    attack, epsilon = Fgsm(threat=threat), threat.epsilon
    bounded = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    calls: dict[str, Callable[[], Tensor]] = {
        "plain loop": lambda: plain_loop(frozen, images, labels, threat, 1, epsilon),
        "advlens": lambda: attack(prepared, images, labels),
        "advlens, preparation inside": lambda: attack(model, images, labels),
    }
    if isinstance(threat, Linf):
        calls["torchattacks"] = lambda: torchattacks.FGSM(model, epsilon)(images, labels)
        peer = foolbox.attacks.LinfFastGradientAttack()
    else:
        peer = foolbox.attacks.L2FastGradientAttack()
    calls["foolbox"] = lambda: peer(bounded, images, labels, epsilons=epsilon)[0]
    return calls


def pgd(model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, steps: int) -> dict:
    """Contenders for PGD; none starts at random, so that all results can be compared."""
    frozen, prepared = copy.deepcopy(model).requires_grad_(False), prepare(model)
    epsilon, size = threat.epsilon, 2.5 * threat.epsilon / steps
    last = Bim(threat=threat, steps=steps, step_size=size, select="last")
    worst = Bim(threat=threat, steps=steps, step_size=size)
    random = Pgd(threat=threat, steps=steps, step_size=size, select="last")
    bounded = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    linf = isinstance(threat, Linf)
    theirs = (torchattacks.PGD if linf else torchattacks.PGDL2)(model, epsilon, size, steps, False)
    peer = (foolbox.attacks.LinfPGD if linf else foolbox.attacks.L2PGD)(
        abs_stepsize=size, steps=steps, random_start=False
    )
    rough, checked = replace(last, precision="bf16"), replace(worst, precision="bf16")
    return {
        "plain loop": lambda: plain_loop(frozen, images, labels, threat, steps, size),
        "advlens": lambda: last(prepared, images, labels),
        "advlens, bf16": lambda: rough(prepared, images, labels),
        "advlens, bf16, worst iterate": lambda: checked(prepared, images, labels),
        "advlens, random start": lambda: random(prepared, images, labels),
        "advlens, worst iterate (2K + 1)": lambda: worst(prepared, images, labels),
        "advlens, preparation inside": lambda: last(model, images, labels),
        "torchattacks": lambda: theirs(images, labels),
        "foolbox": lambda: peer(bounded, images, labels, epsilons=epsilon)[0],
    }


def evaluation(
    model: nn.Module, images: Tensor, labels: Tensor, threat: type[Threat], steps: int
) -> dict:
    """Robust accuracy: predicting all attacked images, or dropping those already fooled."""
    frozen, prepared = copy.deepcopy(model).requires_grad_(False), prepare(model)
    with torch.no_grad():
        clean = prepared(images)

    def plain(ball: Threat) -> float:
        size = 2.5 * ball.epsilon / steps
        with torch.enable_grad():
            attacked = plain_loop(frozen, images, labels, ball, steps, size)
        with torch.no_grad():
            return (frozen(attacked).argmax(dim=1) == labels).float().mean().item()

    def dropping(ball: Threat, precision: Precision = "float32") -> float:
        attack = Bim(threat=ball, steps=steps, precision=precision)
        rows = attack.outcomes(prepared, images, labels, clean=clean)
        return (rows.argmax(dim=1) == labels).float().mean().item()

    weak, strong = threat(epsilon=WEAK[threat]), threat(epsilon=EPSILON[threat])
    return {
        "plain loop": lambda: plain(weak),
        f"outcomes, {dropping(weak):.0%} hold out": lambda: dropping(weak),
        f"outcomes, {dropping(strong):.0%} hold out": lambda: dropping(strong),
        f"outcomes in bf16, {dropping(weak, 'bf16'):.0%} hold out": lambda: dropping(weak, "bf16"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 16])
    parser.add_argument("--network", default="cifar10-standard")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model, peak = load_model(options.network).eval(), Peak()
    print(f"{options.network}; {peak}\n")
    print(
        "| case | contender | CPU: median (range) | CPU ratio | wall ratio | of the peak | "
        "difference | same |"
    )
    print(f"|{' --- |' * 8}")
    for batch in options.batches:
        images = pixels(batch)
        with torch.no_grad():
            labels = model(images).argmax(dim=1)
        for norm in (Linf, L2):
            threat = norm(epsilon=EPSILON[norm])
            cases = {
                "FGSM": fgsm(model, images, labels, threat),
                f"PGD-{options.steps}": pgd(model, images, labels, threat, options.steps),
            }
            for case, contenders in cases.items():
                times = interleaved(contenders, options.repeats)
                ours = contenders["advlens"]()
                with torch.no_grad():
                    predicted = model(ours).argmax(dim=1)
                for name, call in contenders.items():
                    found = call()
                    with torch.no_grad():
                        same = (model(found).argmax(dim=1) == predicted).float().mean()
                    print(
                        f"| {case} {norm.norm} {batch} | {name} | "
                        f"{times[name].row(times['plain loop'])} | "
                        f"{peak.share(call, times[name].median, name)} | "
                        f"{(found - ours).abs().max():.1e} | {same:.0%} |",
                        flush=True,
                    )
            contenders = evaluation(model, images, labels, norm, options.steps)
            times = interleaved(contenders, options.repeats)
            for name, taken in times.items():
                row = taken.row(times["plain loop"])
                share = peak.share(contenders[name], taken.median, name)
                print(
                    f"| accuracy {norm.norm} {batch} | {name} | {row} | {share} | | |", flush=True
                )


if __name__ == "__main__":
    main()
