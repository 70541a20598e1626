"""Random numbers per image, not per batch.

Each image draws from its own Philox stream, keyed by (seed, image id): the numbers do not depend on
the batch that holds the image, on the device, or on the process.
"""

import contextlib
import math
import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advlens.arrays import Ids

CPU = torch.device("cpu")
FACTORS, WEYL = (0xD2E7470EE14C6C93, 0xCA5A826395121157), (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
"""Philox's multipliers, and what its keys grow by."""
HALF = 0xFFFFFFFF
FEW = 1_000_000
"""How many numbers are not worth another thread."""


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


def uniform(
    seed: int,
    ids: Ids,
    shape: tuple[int, ...],
    stream: Stream,
    device: torch.device = CPU,
) -> Tensor:
    """Uniform float32 numbers in [0, 1), shape (n, *shape), made on the device: the same bits."""
    if device.type not in ("cpu", "mps"):
        return _philox(seed, ids.to(device), shape, stream)
    drawn = _filled(lambda g, row: g.random(dtype=np.float32, out=row), seed, ids, shape, stream)
    return drawn.to(device)


def normal(seed: int, ids: Ids, shape: tuple[int, ...], stream: Stream) -> Tensor:
    """Standard normal float32 numbers, shape (n, *shape), on the CPU."""
    return _filled(
        lambda g, row: g.standard_normal(dtype=np.float32, out=row), seed, ids, shape, stream
    )


def _filled(
    draw: Callable[[np.random.Generator, Any], object],
    seed: int,
    ids: Ids,
    shape: tuple[int, ...],
    stream: Stream,
) -> Tensor:
    """Numbers that each image's generator draws into its row; threads share many."""
    values = np.empty((len(ids), math.prod(shape)), dtype=np.float32)
    streams = generators(seed, ids, stream)
    threads = min(torch.get_num_threads(), values.size // FEW)
    if threads < 2:
        for generator, row in zip(streams, values, strict=True):
            draw(generator, row)
    else:
        with ThreadPoolExecutor(threads) as pool:  # NumPy draws without Python's lock
            list(pool.map(draw, streams, values))
    return torch.from_numpy(values).view(len(values), *shape)


def _philox(seed: int, ids: Ids, shape: tuple[int, ...], stream: Stream) -> Tensor:
    """What `generators` give as uniform numbers, by Philox 4×64 of ten rounds (Salmon et al. 2011).

    Words of 64 bits without a sign stand in int64, whose sums and products wrap around alike.
    """
    if seed >= 2**63:  # NumPy takes a key of one number beyond int64 and one within for floats
        seed, ids = int(float(seed)), ids.double().long()
    size, lane = math.prod(shape), torch.arange(2, device=ids.device).view(2, 1, 1)
    # two lanes at once: the first and third words of a block, then its second and fourth
    counter = torch.arange(1, math.ceil(size / 8) + 1, device=ids.device).expand(len(ids), -1)
    evens = torch.stack([counter, torch.zeros_like(counter)])
    odds = (lane * int(stream)).expand_as(evens)
    keys = torch.stack([torch.full_like(ids, _signed(seed)), ids])[:, :, None]
    factors, growth = _pair(lane, *FACTORS), _pair(lane, *WEYL)
    low, high = factors & HALF, factors >> 32 & HALF
    for number in range(10):
        below, above = evens & HALF, evens >> 32 & HALF
        middle = above * low + (below * low >> 32 & HALF)
        across = below * high + (middle & HALF)
        upper = above * high + (middle >> 32 & HALF) + (across >> 32 & HALF)
        lower = evens * factors
        evens = upper.flip(0) ^ odds ^ (keys + number * growth)
        odds = lower.flip(0)
    words = torch.stack([evens[0], odds[0], evens[1], odds[1]], dim=2).view(torch.int32)
    numbers = (words.flatten(1)[:, :size] >> 8 & 0xFFFFFF).float() * 2.0**-24
    return numbers.view(len(ids), *shape)


def _pair(lane: Tensor, first: int, second: int) -> Tensor:
    """A word for each lane, made on the device."""
    return lane * _signed(second - first) + _signed(first)


def _signed(word: int) -> int:
    """A number of 64 bits without a sign as int64 holds its bits."""
    return (word + 2**63) % 2**64 - 2**63


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
