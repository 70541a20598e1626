"""Random numbers per image, not per batch.

Each image draws from its own Philox stream, keyed by (seed, image id): the numbers do not depend on
the batch that holds the image, on the device, or on the process.
"""

import contextlib
import random
from collections.abc import Iterable, Iterator
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from advlens.arrays import Ids


class Stream(IntEnum):
    """The uses of random numbers; the streams of one image never overlap."""

    START = 0
    RADIUS = 1
    NOISE = 2
    EPSILON = 3
    AUGMENT = 4
    OCCLUDER = 5


def generators(seed: int, ids: Ids, stream: Stream) -> Iterable[np.random.Generator]:
    """One generator per image id."""
    for number in ids.tolist():
        bits = np.random.Philox(key=[seed, number], counter=[0, 0, 0, int(stream)])
        yield np.random.Generator(bits)


def uniform(seed: int, ids: Ids, shape: tuple[int, ...], stream: Stream) -> Tensor:
    """Uniform float32 numbers in [0, 1), shape (n, *shape), on the CPU."""
    draws = [g.random(shape, dtype=np.float32) for g in generators(seed, ids, stream)]
    return torch.from_numpy(np.stack(draws)) if draws else torch.empty(0, *shape)


def normal(seed: int, ids: Ids, shape: tuple[int, ...], stream: Stream) -> Tensor:
    """Standard normal float32 numbers, shape (n, *shape), on the CPU."""
    draws = [g.standard_normal(shape, dtype=np.float32) for g in generators(seed, ids, stream)]
    return torch.from_numpy(np.stack(draws)) if draws else torch.empty(0, *shape)


def derived(seed: int, *keys: int) -> int:
    """A new seed from a seed ≥ 0 and keys such as an epoch; trailing zeros do not count."""
    return int(np.random.SeedSequence([seed, *keys]).generate_state(1, np.uint64)[0])


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python; they are restored at the end.

    Args:
        seed: a number ≥ 0.
        device: the device whose generator is seeded beside the CPU's.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # others draw from it
    accelerators = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(accelerators):
        torch.default_generator.manual_seed(seed)
        for each in accelerators:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
