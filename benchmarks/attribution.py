"""Integrated Gradients and expected gradients beside captum, shap and the plain loop.

    python benchmarks/attribution.py --repeats 5

The plain loop takes the same gradients in chunks: a forward pass and a backward pass to the images
each, parameters frozen, evaluation mode, contiguous tensors; its batch is the one asked for. Ratios
are to it. Peers get the same model, with trainable parameters as their users have them; shap is
asked for the predicted class alone. Memory is what the first call in a process of its own adds to
the resident set, at its peak (Linux). The last table: the share of samples that stratification
needs for the same error.
"""

import argparse
import copy
import multiprocessing
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from timing import interleaved
from torch import Tensor, nn

from advlens.attribution import ExpectedGradients, IntegratedGradients
from advlens.prepared import prepare
from attacks import network, pixels

Calls = dict[str, Callable[[], Tensor]]


def gradients(model: nn.Module, points: Tensor, labels: Tensor, probability: bool) -> Tensor:
    inputs = points.detach().requires_grad_()
    logits = model(inputs)
    values = (logits.softmax(dim=1) if probability else logits).gather(1, labels[:, None])
    return torch.autograd.grad(values.sum(), inputs)[0]


def plain_integrated(
    model: nn.Module, images: Tensor, labels: Tensor, steps: int, batch: int
) -> Tensor:
    """From black, the trapezoid rule over all points of all images in chunks."""
    total, count = torch.zeros_like(images), len(images) * (steps + 1)
    for start in range(0, count, batch):
        number = torch.arange(start, min(start + batch, count))
        image, point = number // (steps + 1), number % (steps + 1)
        weight = torch.where((point == 0) | (point == steps), 0.5, 1.0).view(-1, 1, 1, 1)
        points = images[image] * (point / steps).view(-1, 1, 1, 1)
        total.index_add_(0, image, weight * gradients(model, points, labels[image], True))
    return images * total / steps


def plain_expected(
    model: nn.Module, images: Tensor, labels: Tensor, background: Tensor, samples: int, batch: int
) -> Tensor:
    total, count = torch.zeros_like(images), len(images) * samples
    for start in range(0, count, batch):
        image = torch.arange(start, min(start + batch, count)) // samples
        chosen = background[torch.randint(len(background), (len(image),))]
        change = images[image] - chosen
        points = chosen + torch.rand(len(image), 1, 1, 1) * change
        total.index_add_(0, image, change * gradients(model, points, labels[image], False))
    return total / samples


def integrated(count: int, steps: int, batch: int) -> Calls:
    from captum.attr import IntegratedGradients as Captum

    model, images = network(), pixels(count)
    frozen, prepared = copy.deepcopy(model).requires_grad_(False), prepare(model)
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    method = IntegratedGradients(steps=steps, baseline="black", batch_size=batch)
    peer = Captum(nn.Sequential(model, nn.Softmax(dim=1)))
    call = partial(
        peer.attribute, images, target=labels, n_steps=steps + 1, method="riemann_trapezoid"
    )
    return {
        "plain loop": lambda: plain_integrated(frozen, images, labels, steps, batch),
        "advlens": lambda: method(prepared, images, labels).values,
        "advlens, preparation inside": lambda: method(model, images, labels).values,
        "captum": lambda: call() * (steps + 1) / steps,
        "captum, chunked": lambda: call(internal_batch_size=batch) * (steps + 1) / steps,
    }


def expected(count: int, samples: int, batch: int) -> Calls:
    import shap
    from captum.attr import GradientShap

    model, images = network(), pixels(count + 200)
    images, background = images[:count], images[count:]
    frozen, prepared = copy.deepcopy(model).requires_grad_(False), prepare(model)
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    method = ExpectedGradients(samples=samples, batch_size=batch)
    plain = ExpectedGradients(samples=samples, batch_size=batch, stratified=False)
    peer, other = GradientShap(model), shap.GradientExplainer(model, background, batch_size=batch)

    def shaps() -> Tensor:
        values, _ = other.shap_values(images, nsamples=samples, ranked_outputs=1)
        return torch.as_tensor(values[..., 0])

    return {
        "plain loop": lambda: plain_expected(frozen, images, labels, background, samples, batch),
        "advlens": lambda: method(prepared, images, labels, background=background).values,
        "advlens, not stratified": lambda: (
            plain(prepared, images, labels, background=background).values
        ),
        "advlens, preparation inside": lambda: (
            method(model, images, labels, background=background).values
        ),
        "captum": lambda: peer.attribute(
            images, background, n_samples=samples, stdevs=0.0, target=labels
        ),
        "shap, predicted class": shaps,
    }


def _added(build: Callable[[], Calls], name: str, threads: int, answer: object) -> None:
    torch.set_num_threads(threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calls = build()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _status("VmRSS")
        calls[name]()
        answer.put((_status("VmHWM") - before) / 1024)


def _status(name: str) -> int:
    """A number of kB that Linux keeps of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def memory(build: Callable[[], Calls], name: str, threads: int) -> float:
    """MiB that one call adds to the peak of a new process."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_added, args=(build, name, threads, answer))
    process.start()
    found = answer.get()
    process.join()
    return found


def saving(samples: int, repeats: int) -> list[str]:
    """Mean variance of a value over repeats, stratified and plain; variance falls as 1/n."""
    model, data = prepare(network()), pixels(204)
    images, background = data[:4], data[4:]
    rows = []
    for size in (200, 100, 50):
        many = images.repeat_interleave(repeats, dim=0)
        stratified, plain = (
            ExpectedGradients(samples=samples, stratified=chosen)(
                model, many, background=background[:size]
            )
            .values.view(4, repeats, -1)
            .var(dim=1)
            .mean()
            .item()
            for chosen in (True, False)
        )
        rows.append(f"| {samples} | {size} | {stratified / plain:.2f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 16])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    print("| case | contender | CPU: median (range) | CPU ratio | wall ratio | MiB | difference |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for batch in options.batches:
        builds = {
            f"IG {options.steps} × {options.count}, batch {batch}": partial(
                integrated, options.count, options.steps, batch
            ),
            f"EG {options.samples} × {options.count}, batch {batch}": partial(
                expected, options.count, options.samples, batch
            ),
        }
        for case, build in builds.items():
            calls = build()
            times = interleaved(calls, options.repeats)
            ours = calls["advlens"]()
            for name, call in calls.items():
                added = memory(build, name, options.threads)
                away = (call() - ours).abs().max() / ours.abs().max()
                row = times[name].row(times["plain loop"])
                print(f"| {case} | {name} | {row} | {added:.0f} | {away:.1e} |", flush=True)
    print("\n| samples | background | variance, stratified / plain: share of samples needed |")
    print("| --- | --- | --- |")
    print("\n".join(saving(options.samples, 8)))


if __name__ == "__main__":
    main()
