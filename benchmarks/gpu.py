"""What a GPU gives in a quarter of an hour: the CPU's numbers, speed beside peers, a trained model.

    python benchmarks/gpu.py --minutes 12 --out DIR --cifar10 DIR

In this order: (a) every method on the device and on the CPU, the largest difference; (b) images a
second of the methods on ResNet-18, beside peers where they are installed, and the share of the
measured peak of matrix products; (c) audits, and where their time goes; (d) for the minutes that
are left the fast robust recipe, its checkpoint also in pieces that fit through a small door.

`DIR/table.md` grows line by line. The program ends in time; the same command goes on with what is
not in the table. A line that fails says why; the others follow, and it is tried again next time.
"""

import argparse
import contextlib
import importlib
import json
import math
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scale import make_images
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import advlens
from advlens.datasets import BrodenData, load_data
from advlens.distributed import local_device
from advlens.prepared import Prepared, prepare
from advlens.prepared.precision import rounded
from advlens.runs.folder import read_json, write_text
from advlens.runs.record import machine, versions
from advlens.wordnet import CIFAR10_SYNSETS
from advlens.workflows.reproduction.concepts import sample_concepts

BALL = advlens.Linf(epsilon=8 / 255)
FAILED = "failed"
GRACE = 20.0
"""Seconds that a training gets to save its state."""
FEW = dict.fromkeys(("steps", "sweep_steps", "neuron_steps", "baselines", "generated"), 1)
FEW |= {"sweep_images": 4, "explained": 2, "points": 2, "samples": 2, "visualized": 1}
FEW |= {"visualization_steps": 1, "inverted": 1, "inversion_steps": 1, "generation_steps": 1}


@dataclass(frozen=True)
class Sizes:
    """How much is computed; the tests take very little of it."""

    checked: int = 16
    steps: int = 20
    batches: tuple[int, ...] = (64, 512)
    sides: tuple[int, ...] = (32, 224)
    repeats: int = 3
    product: int = 8192
    models: tuple[str, ...] = ("cifar10-standard", "cifar10-l2", "cifar10-consistency")
    audit: dict[str, Any] = field(default_factory=dict)
    jpegs: int = 2000
    jpeg_side: int = 224
    train: tuple[str, ...] = ("-m", "advlens", "train", "--recipe", "cifar10-fast-l2")
    piece: int = 15_000_000


class Table:
    """The lines so far; each is kept as soon as it is known."""

    def __init__(self, out: Path, deadline: float):
        self.out, self.deadline = out, deadline
        self.kept = out / "lines.json"
        self.lines: dict[str, str] = read_json(self.kept) if self.kept.exists() else {}

    def line(self, name: str, make: Callable[[], str], seconds: float) -> None:
        """Make a line that is not there yet, if so many seconds are left."""
        if not self.lines.get(name, FAILED).startswith(FAILED):
            return
        if time.monotonic() + seconds > self.deadline:
            print(f"{name}: left for the next time")
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of peers
                self.lines[name] = make()
        except Exception as error:  # the others must not be lost
            self.lines[name] = f"{FAILED}: {type(error).__name__}: {' '.join(str(error).split())}"
        print(f"{name}: {self.lines[name]}", flush=True)
        write_text(self.kept, json.dumps(self.lines, indent=1))
        rows = [f"| {name} | {found} |" for name, found in self.lines.items()]
        write_text(
            self.out / "table.md", "\n".join(["| what | found |", "| --- | --- |", *rows, ""])
        )


def main(words: list[str] | None = None, sizes: Sizes = Sizes()) -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cifar10", type=Path, help="CIFAR-10's binary version, for (d)")
    options = parser.parse_args(words)
    options.out.mkdir(parents=True, exist_ok=True)
    device = local_device(options.device)
    table = Table(options.out, began + 60 * options.minutes)
    with rounded():
        table.line("machine", lambda: json.dumps(machine(device) | versions()), 0)
        check(table, device, sizes)
        speeds(table, device, sizes)
    audits(table, device, sizes)
    if options.cifar10 is not None:
        data = f"cifar10:{options.cifar10}"
        table.line(
            "(d) the fast robust recipe", lambda: train(table, data, device, sizes), 2 * GRACE
        )


def methods(sizes: Sizes, concepts: BrodenData) -> dict[str, Any]:
    """Every public method with few steps, by name; called with a model, images and labels."""
    few = {"steps": min(sizes.steps, 5)}
    l2 = advlens.L2(epsilon=0.5)
    attacks: list[Any] = [
        *(
            advlens.Fgsm(threat=BALL),
            advlens.Bim(threat=l2, **few),
            advlens.Pgd(threat=BALL, **few),
        ),
        *(advlens.Pgd(threat=l2, **few), advlens.LeastLikely(threat=l2, **few)),
        *(advlens.FeatureAttack(threat=l2, **few), advlens.Divergence(threat=l2, **few)),
        *(advlens.AdamAttack(weight=10.0, **few), advlens.GaussianNoise(threat=l2)),
    ]
    named: dict[str, Any] = {
        f"{type(attack).__name__} {attack.columns()['norm']}".strip(): attack for attack in attacks
    }
    gradients = advlens.ExpectedGradients(samples=4)
    occluded = advlens.DiscrepancyMap(stride=8)
    dissection, synsets = advlens.Dissection(), tuple(CIFAR10_SYNSETS.values())
    return named | {
        "IntegratedGradients": advlens.IntegratedGradients(steps=4),
        "ExpectedGradients": lambda m, x, y: gradients(m, x, background=x[:4]),
        "Inversion": lambda m, x, y: advlens.Inversion(**few)(m, x.flip(0), x),
        "FeatureVisualization": advlens.FeatureVisualization(**few),
        "ClassGeneration": advlens.ClassGeneration(**few),
        "DiscrepancyMap": lambda m, x, y: occluded(m, x[:1], units=[[0, 1]]),
        "Consistency": lambda m, x, y: advlens.Consistency(top=0.5)(m, x, y, synsets),
        "Dissection": lambda m, x, y: dissection(m, concepts, attacks[4]),
    }


def check(table: Table, device: torch.device, sizes: Sizes) -> None:
    """(a) The device's numbers beside the CPU's."""
    (batch,) = load_data("sample").batches(sizes.checked, range(sizes.checked))
    on_cpu, on_device = (
        prepare(advlens.load_model("cifar10-l2", device=place)) for place in ("cpu", str(device))
    )
    folder = table.out / "concepts"
    if not folder.exists():
        sample_concepts(folder)
    concepts = load_data(f"broden:{folder}").subset(sizes.checked, seed=0)
    assert isinstance(concepts, BrodenData)
    for name, method in methods(sizes, concepts).items():

        def differ(method: Any = method) -> str:
            found, wanted = (
                numbers(method(model, batch.images, batch.labels)) for model in (on_device, on_cpu)
            )
            apart = [(a.double() - b.double()).abs() for a, b in zip(found, wanted, strict=True)]
            return f"largest difference {max(float(d.nan_to_num().max()) for d in apart):.1e}"

        table.line(f"(a) {name}", differ, 5)


def numbers(result: Any) -> list[Tensor]:
    """All tensors of floating-point numbers in a method's result, on the CPU."""
    if isinstance(result, Tensor):
        return [result.detach().cpu()] if result.is_floating_point() and result.numel() else []
    parts = result.values() if isinstance(result, dict) else result
    if hasattr(result, "__dict__"):
        parts = vars(result).values()
    elif not isinstance(result, dict | list | tuple):
        return []
    return [tensor for part in parts for tensor in numbers(part)]


def speeds(table: Table, device: torch.device, sizes: Sizes) -> None:
    """(b) Images a second, and the share of the measured peak."""

    def product(dtype: torch.dtype) -> str:
        a = torch.rand(sizes.product, sizes.product, device=device).to(dtype)
        seconds = timed(lambda: a @ a, device, sizes.repeats)
        return f"{2 * sizes.product**3 / seconds / 1e9:.3g} GFLOP/s"

    peaks = dict[bool, float]()
    for name, dtype in (("peak", torch.float32), ("peak in bf16", torch.bfloat16)):
        table.line(name, partial(product, dtype), 5)
        if "GFLOP" not in table.lines.get(name, ""):
            return
        peaks[dtype == torch.bfloat16] = 1e9 * float(table.lines[name].split()[0])

    def rate(call: Callable[[], object], batch: int, share: float) -> str:
        speed = batch / timed(call, device, sizes.repeats)
        return f"{speed:.1f} images/s, {speed * share:.0%} of the peak"

    for side in sizes.sides:
        name = "resnet18" if side <= 32 else "torchvision:resnet18"
        model = advlens.load_model(name, device=device)
        prepared = prepare(model)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.rand(1, 3, side, side, device=device))
        flops = counter.get_total_flops()
        for batch in sizes.batches:
            images = torch.rand(batch, 3, side, side, device=device)
            with torch.no_grad():
                labels = model(images).argmax(dim=1)
            for work, (call, units) in contenders(model, prepared, images, labels, sizes).items():
                name, peak = f"(b) {side} pixels, batch {batch}: {work}", peaks["bf16" in work]
                table.line(name, partial(rate, call, batch, units * flops / peak), 20)


def contenders(
    model: nn.Module, prepared: Prepared, images: Tensor, labels: Tensor, sizes: Sizes
) -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed, each with its units: forward passes, a gradient counting as one more."""
    steps, radius, size = sizes.steps, BALL.epsilon, 2.5 * BALL.epsilon / sizes.steps
    pgd = advlens.Pgd(threat=BALL, steps=steps, select="last")
    rough = replace(pgd, precision="bf16")
    path = advlens.IntegratedGradients(steps=steps, baselines=1)
    expected = advlens.ExpectedGradients(samples=2 * math.ceil(steps / 2))
    inversion = advlens.Inversion(steps=steps, batch_size=len(images))

    def peer(library: str, call: Callable[[Any], object]) -> Callable[[], object]:
        return lambda: call(importlib.import_module(library))

    def foolbox(library: Any) -> object:
        bounded = library.PyTorchModel(model, bounds=(0, 1), device=images.device)
        attack = library.attacks.LinfPGD(abs_stepsize=size, steps=steps)
        return attack(bounded, images, labels, epsilons=radius)

    def captum(library: Any) -> object:
        method = library.IntegratedGradients(model)
        return method.attribute(
            images, target=labels, n_steps=steps, internal_batch_size=len(images)
        )

    def torchattacks(library: Any) -> object:
        return library.PGD(model, radius, size, steps)(images, labels)

    return {
        f"PGD-{steps}": (lambda: pgd(prepared, images, labels), 2 * steps),
        f"PGD-{steps} in bf16": (lambda: rough(prepared, images, labels), 2 * steps),
        f"PGD-{steps}, torchattacks": (peer("torchattacks", torchattacks), 2 * steps),
        f"PGD-{steps}, foolbox": (peer("foolbox", foolbox), 2 * steps),
        f"Integrated Gradients, {steps}": (lambda: path(prepared, images, labels), 2 * steps),
        f"Integrated Gradients, {steps}, captum": (peer("captum.attr", captum), 2 * steps),
        f"expected gradients, {expected.samples}": (
            lambda: expected(prepared, images, labels, background=images),
            2 * expected.samples,
        ),
        f"inversion, {steps}": (lambda: inversion(prepared, images, images.flip(0)), 2 * steps),
        f"inversion, {steps} in bf16": (
            lambda: replace(inversion, precision="bf16")(prepared, images, images.flip(0)),
            2 * steps,
        ),
        "recording all units": (torch.no_grad()(lambda: prepared.record(images)), 1),
        "maps of the last layer": (torch.no_grad()(lambda: prepared.features(images)), 1),
    }


def timed(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Seconds of the fastest of some calls, behind one that warms up."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def audits(table: Table, device: torch.device, sizes: Sizes) -> None:
    """(c) The demo's audit, and a rehearsal with JPEGs."""
    settings = advlens.AuditSettings(device=str(device), **sizes.audit)

    def audited(models: list[str], data: str, folder: str) -> str:
        began, busy = time.monotonic(), list[int]()
        with at_work(device, busy):
            advlens.audit(models, data, table.out / folder, settings=settings)
        seconds = dict[str, float]()
        for stage in read_json(table.out / folder / "run.json")["stages"]:
            seconds[stage["stage"]] = seconds.get(stage["stage"], 0.0) + stage["seconds"]
        told = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
        share = f"; kernels {sum(busy) / len(busy):.0f} % of the time" if busy else ""
        return f"{time.monotonic() - began:.1f} s: {told}{share}"

    table.line("(c) demo", lambda: audited(list(sizes.models), "sample", "demo"), 120)

    def rehearsal() -> str:
        """ResNet-18 of random weights: where the time goes does not depend on them."""
        folder = table.out / "jpegs"
        if not folder.exists():
            make_images(folder, sizes.jpegs, sizes.jpeg_side)
        model = f"torchvision:resnet18:{sizes.jpeg_side}"
        return audited([model], f"folder:{folder}", "rehearsal")

    table.line("(c) rehearsal", rehearsal, 120)


@contextlib.contextmanager
def at_work(device: torch.device, busy: list[int]) -> Iterator[None]:
    """Within the block, note the percent of the time in which a kernel runs, twice a second."""
    if device.type != "cuda":
        yield
        return
    words = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    watch = subprocess.Popen([*words, "-lms", "500"], stdout=subprocess.PIPE, text=True)
    try:
        yield
    finally:
        watch.terminate()
        busy += [int(line) for line in watch.communicate()[0].split() if line.isdecimal()]


def train(table: Table, data: str, device: torch.device, sizes: Sizes) -> str:
    """(d) Train until the time is up, and cut up the checkpoint."""
    out = table.out / "trained"
    words = [*sizes.train, "--data", data, "--out", str(out), "--device", str(device)]
    with subprocess.Popen([sys.executable, *words]) as process:
        try:
            process.wait(max(0.0, table.deadline - GRACE - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.wait(GRACE)
    pieces = 0
    for file in (out / "last.pt", out / "best.safetensors", out / "model.safetensors"):
        if file.exists():
            content = file.read_bytes()
            for number, start in enumerate(range(0, len(content), sizes.piece)):
                piece = out / "pieces" / f"{file.name}.{number:03}"
                piece.parent.mkdir(exist_ok=True)
                piece.write_bytes(content[start : start + sizes.piece])
                pieces += 1
    test = out / "test.json"
    if test.exists():
        found = read_json(test)
        return ", ".join(f"{k} {found[k]['top1']:.2%}" for k in ("natural", "attacked"))
    raise TimeoutError(f"not done; {pieces} pieces of its state are in {out / 'pieces'}")


if __name__ == "__main__":
    main()
