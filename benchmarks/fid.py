"""The Fréchet distance of 2048 features beside its peers, and the features beside torch-fidelity's.

    python benchmarks/fid.py --repeats 3

The bare computation is a Cholesky factor, LᵀΣL and its eigenvalues. pytorch-fid and torchmetrics
take part where they are installed. CPU time, medians; torch uses one thread, and numpy and scipy do
with OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1.
"""

import argparse
import math
from importlib.util import find_spec

import torch
import torch_fidelity.feature_extractor_inceptionv3 as fidelity
from timing import Times, interleaved
from torch import Tensor
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torch_fidelity.metric_fid import fid_statistics_to_metric

from advlens.fid.distances import FeatureStatistics, Moments, frechet_distance, kid
from advlens.fid.inception import inception_network, inception_shapes, tf1_resize
from advlens.fid.representations import Source


def features(n: int, d: int, seed: int) -> Tensor:
    """Features whose standard deviations fall off from 1 to .01."""
    random = torch.Generator().manual_seed(seed)
    scales = torch.logspace(0, -2, d, dtype=torch.float64)
    return torch.randn(n, d, generator=random, dtype=torch.float64) * scales + seed * 0.01


def moments(n: int, d: int, seed: int) -> Moments:
    source = Source(network="", layer="", dimension=d, resize="", weights=None)
    seen = FeatureStatistics(source)
    for part in features(n, d, seed).split(1000):
        seen.update(part)
    return seen.compute()


def bare(first: Moments, second: Moments) -> float:
    lower = torch.linalg.cholesky(first.covariance)
    values = torch.linalg.eigvalsh(lower.T @ second.covariance @ lower)
    return float(values.clamp(min=0).sqrt().sum())


def torch_fidelity(first: Moments, second: Moments) -> float:
    parts = [{"mu": m.mean.numpy(), "sigma": m.covariance.numpy()} for m in (first, second)]
    return fid_statistics_to_metric(*parts, verbose=False)["frechet_inception_distance"]


def pytorch_fid(first: Moments, second: Moments) -> float:
    from pytorch_fid.fid_score import calculate_frechet_distance

    parts = [part.numpy() for m in (first, second) for part in (m.mean, m.covariance)]
    return float(calculate_frechet_distance(*parts))


def torchmetrics(first: Moments, second: Moments) -> float:
    from torchmetrics.image.fid import _compute_fid

    return float(_compute_fid(first.mean, first.covariance, second.mean, second.covariance))


def distances(d: int, repeats: int) -> None:
    pair = moments(4 * d, d, 1), moments(4 * d, d, 2)
    few = moments(d // 2, d, 1), moments(d // 2, d, 2)
    contenders = {
        "bare": lambda: bare(*pair),
        "advlens": lambda: frechet_distance(*pair),
        "advlens, singular": lambda: frechet_distance(*few),
        "torch-fidelity": lambda: torch_fidelity(*pair),
    }
    if find_spec("torchmetrics"):
        contenders["torchmetrics"] = lambda: torchmetrics(*pair)
    if find_spec("pytorch_fid"):
        contenders["pytorch-fid"] = lambda: pytorch_fid(*pair)
    for name, call in contenders.items():
        print(f"{name:24}", "" if name == "bare" else f"{call():.10f}")
    table(interleaved(contenders, repeats))
    first, second = (features(2000, d, seed) for seed in (1, 2))
    source = pair[0].source
    contenders = {
        "bare products": lambda: [
            a @ b.T for a, b in ((first, first), (first, second), (second, second))
        ],
        "KID, 2000 images": lambda: kid(first, second, source),
    }
    table(interleaved(contenders, repeats))


def networks(size: int, repeats: int) -> None:
    random = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(shape, generator=random) * math.sqrt(2 / math.prod(shape[1:]))
        if len(shape) == 4
        else torch.ones(shape) * (name.endswith(("weight", "var")))
        for name, shape in inception_shapes().items()
    }
    counters = {
        name.replace("running_var", "num_batches_tracked"): torch.tensor(0)
        for name in state
        if name.endswith("running_var")
    }
    classifier = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    fidelity.load_state_dict_from_url = lambda *_, **__: {**state, **counters, **classifier}
    theirs = fidelity.FeatureExtractorInceptionV3("inception", ["192", "2048"])
    both, shallow = (
        inception_network(dict(state), layers) for layers in (["192", "2048"], ["192"])
    )
    images = torch.randint(256, (8, 3, size, size), dtype=torch.uint8, generator=random)

    def ours(network: torch.nn.Module) -> dict[str, Tensor]:
        scaled = (tf1_resize(images.float(), 299) - 128) / 128
        return network(scaled.contiguous(memory_format=torch.channels_last))

    contenders = {
        "torch-fidelity": lambda: theirs(images),
        "advlens": lambda: ours(both),
        "advlens, 192 only": lambda: ours(shallow),
        "their resize": lambda: interpolate_bilinear_2d_like_tensorflow1x(
            images.float(), (299, 299), align_corners=False
        ),
        "our resize": lambda: tf1_resize(images.float(), 299),
    }
    print(f"\nfeatures of 8 images of {size}×{size}")
    with torch.no_grad():
        table(interleaved(contenders, repeats))


def table(times: dict[str, Times]) -> None:
    print(f"{'':24} CPU time, median (range) | CPU ratio | wall ratio")
    reference = next(iter(times.values()))
    for name, row in times.items():
        print(f"{name:24} {row.row(reference)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    distances(arguments.dimension, arguments.repeats)
    for size in (32, 128):
        networks(size, arguments.repeats)
