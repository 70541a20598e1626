"""Recording every unit of every convolution with its top images, against one bare forward pass.

    python benchmarks/neurons.py --repeats 7

Also peak memory for different numbers of images, each in its own process.
"""

import argparse
import resource
import subprocess
import sys

import torch
from timing import interleaved
from torch import nn

from advlens.models import load_model
from advlens.prepared import Prepared, prepare
from advlens.statistics import TopK

CASES = {"resnet14": (32, 64, 16), "torchvision:resnet18": (224, 16, 2)}
"""Image size, images per batch, batches."""


def network(name: str) -> nn.Module:
    """Random weights with the batch statistics of random images."""
    model = load_model(name).train()
    size = CASES[name][0]
    with torch.no_grad():
        for _ in range(5):
            model(torch.rand(16, 3, size, size))
    return model.eval()


def bare(model: Prepared, batches: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for images in batches:
            model(images)


def recorded(model: Prepared, batches: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for images in batches:
            model.record(images)


def ranked(model: Prepared, batches: list[torch.Tensor], k: int = 500) -> dict[str, TopK]:
    tops = {layer: TopK(k, units) for layer, units in model.layers.items()}
    with torch.no_grad():
        for number, images in enumerate(batches):
            ids = torch.arange(len(images)) + number * len(images)
            for layer, responses in model.record(images)[1].items():
                tops[layer].update(responses, ids)
    for top in tops.values():
        top.compute()
    return tops


def memory(count: int) -> None:
    """Print this process's peak memory after `count` images."""
    model = prepare(network("resnet14"))
    tops = {layer: TopK(50, units) for layer, units in model.layers.items()}
    with torch.no_grad():
        for start in range(0, count, 64):
            ids = torch.arange(start, start + 64)
            for layer, responses in model.record(torch.rand(64, 3, 32, 32))[1].items():
                tops[layer].update(responses, ids)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", type=int, help="only this number of images, for their memory")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.memory is not None:
        memory(options.memory)
        return
    print("| network | units | contender | CPU: median (range) | CPU ratio | wall ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (size, batch, count) in CASES.items():
        model = prepare(network(name))
        batches = [torch.rand(batch, 3, size, size) for _ in range(count)]
        times = interleaved(
            {
                "bare forward": lambda m=model, b=batches: bare(m, b),
                "recorded": lambda m=model, b=batches: recorded(m, b),
                "recorded, top 500 of each unit": lambda m=model, b=batches: ranked(m, b),
            },
            options.repeats,
        )
        units = sum(model.layers.values())
        for contender, taken in times.items():
            row = taken.row(times["bare forward"])
            print(f"| {name} {size} px | {units} | {contender} | {row} |", flush=True)
    for count in (512, 4096):
        command = [sys.executable, __file__, "--memory", str(count), "--threads", "1"]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"peak memory with {count} images: {float(result.stdout):.0f} MB", flush=True)


if __name__ == "__main__":
    main()
