"""Training images on their way to the device: all are kept there if they fit, or else streamed."""

import contextlib
import math
import os
from collections.abc import Generator, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from advlens.arrays import Ids
from advlens.datasets import ImageData
from advlens.progress import Progress

CHUNK = 1024


def split(data: ImageData, held_out: int, *, seed: int) -> tuple[Ids, Ids]:
    """The ids of the images to train on, and those of `held_out` others, balanced by class."""
    others = data.subset(held_out, seed=seed).positions
    trained = torch.ones(len(data), dtype=torch.bool)
    trained[others] = False
    return trained.nonzero().squeeze(1), others


class TrainingImages:
    """The images of a data set, by batches of ids.

    A set that takes at most a quarter of the device's memory is kept there as uint8, so that no
    step decodes or moves anything. Threads decode a larger one ahead.
    """

    def __init__(self, data: ImageData, device: torch.device, *, shown: bool):
        self.data, self.device = data, device
        self._pixels: Tensor | None = None
        if len(data) * math.prod(data.image_shape) <= _memory(device) // 4:
            self._pixels = self._read(shown)

    def _read(self, shown: bool) -> Tensor:
        """All images, on the device. Shows progress if asked to."""
        shape = (len(self.data), *self.data.image_shape)
        pixels = torch.empty(shape, dtype=torch.uint8, device=self.device)
        chunks = [range(len(self.data))[i : i + CHUNK] for i in range(0, len(self.data), CHUNK)]
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(contextlib.closing(self.data.read(chunks)))
            progress = stack.enter_context(Progress("reading", len(self.data))) if shown else None
            for ids, images in zip(chunks, stream, strict=True):
                pixels[ids.start : ids.stop] = images
                if progress:
                    progress.update(len(ids))
        return pixels

    def batches(self, batches: Sequence[Ids]) -> Generator[UInt8[Tensor, "n 3 h w"], None, None]:
        """The images of each list of ids, on the device, 0 to 255."""
        if self._pixels is not None:
            for ids in batches:
                yield self._pixels[ids.to(self.device)]
            return
        with contextlib.closing(self.data.read([ids.tolist() for ids in batches])) as stream:
            for images in stream:
                yield images.to(self.device, non_blocking=True)


def _memory(device: torch.device) -> int:
    """Bytes of the device's memory for each process that shares it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return memory // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
