"""Image sets whose files are decoded on demand, by threads that work ahead.

They are threads, not processes: Pillow releases Python's lock while it decodes and resizes, so
threads scale (`benchmarks/loading.py`), share memory, and always end with the process.
"""

import contextlib
import hashlib
import os
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import IO, TypeVar

import torch
from jaxtyping import UInt8
from torch import Tensor

from advlens.arrays import Labels
from advlens.datasets.base import ImageData, Stream, aims, digest
from advlens.datasets.decoding import ImageError, read_image
from advlens.datasets.transform import Transform
from advlens.errors import DataError


def cores() -> int:
    """This process's share of the cores: torchrun's processes on a machine divide them."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


WORKERS = min(16, cores())
"""Number of decoding threads."""
SAMPLE = 1024
"""Number of images whose bytes the fingerprint covers; for the others it covers the sizes."""
CHUNK = 1000  # number of files whose sizes one thread looks up at a time

T = TypeVar("T")
R = TypeVar("R")


class ReadData(ImageData):
    """Images that threads read one at a time; a subclass says how in `_read`."""

    def stream(self, batches: Sequence[Sequence[int]]) -> Stream:
        ahead = 2 * WORKERS + max(map(len, batches), default=0)
        with contextlib.closing(ordered(self._read, chain(*batches), ahead)) as images:
            for ids in batches:
                yield torch.stack(list(islice(images, len(ids))))

    def damaged(
        self, ids: Sequence[int] | None = None, *, on_images: Callable[[int], object] = int
    ) -> dict[int, str]:
        return damaged(
            self._read, self._checked(range(len(self)) if ids is None else ids), on_images
        )

    @abstractmethod
    def _read(self, i: int) -> UInt8[Tensor, "3 h w"]:
        """One image, of the shape of all."""


def spread(count: int) -> Sequence[int]:
    """The images whose pixels or bytes a fingerprint covers: `SAMPLE`, evenly, or all."""
    return range(count) if count <= SAMPLE else [i * count // SAMPLE for i in range(SAMPLE)]


class FileData(ReadData):
    """Images in files below one folder.

    Args:
        root: the folder.
        files: the path of each image, relative to it.
        transform: how the files become inputs.
        name, classes, synsets, labels: as in `ImageData`.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        *,
        transform: Transform,
        name: str,
        classes: Sequence[str],
        synsets: Sequence[str] | None,
        labels: Labels,
    ) -> None:
        self.root = root
        """The folder of the files."""
        self.files = list(files)
        """Path of each image, relative to `root`."""
        self.transform = transform
        super().__init__(
            name=name,
            classes=classes,
            synsets=synsets,
            labels=labels,
            image_shape=(3, *transform.shape),
        )

    def source(self, number: int) -> str:
        return self.files[number]

    def fingerprint(self) -> str:
        """SHA-256 of names, labels, transform, the size of every file, and the bytes of 1024.

        The 1024 are spread evenly over the set; in a set with no more images, all bytes count. In a
        larger set, an image that is changed in place and keeps its size can go unnoticed; this
        avoids reading a million files at each start.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        count = len(self)
        chunks = [range(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)]
        sizes = list(chain(*ordered(self._sizes, chunks, 4 * WORKERS)))
        hashes = list(ordered(self._hash, spread(count), 4 * WORKERS))
        own = (self.classes, self.files, self.labels, self.transform.identity(), sizes, hashes)
        return digest(*own, *aims(self))

    def _read(self, i: int) -> UInt8[Tensor, "3 h w"]:
        return read_image(self.root / self.files[i], self.transform)

    def _open(self, i: int) -> IO[bytes]:
        return open(self.root / self.files[i], "rb")

    def _size(self, i: int) -> int:
        return os.stat(self.root / self.files[i]).st_size

    def _sizes(self, ids: Sequence[int]) -> list[int]:
        return [self._about(i, self._size) for i in ids]

    def _hash(self, i: int) -> str:
        def of_file(i: int) -> str:
            with self._open(i) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]

        return self._about(i, of_file)

    def _about(self, i: int, function: Callable[[int], R]) -> R:
        try:
            return function(i)
        except OSError as error:
            raise DataError(
                f"cannot read {self.root / self.files[i]}: {error.strerror}; open the data again"
            ) from error


def damaged(
    read: Callable[[int], object], ids: Sequence[int], on_images: Callable[[int], object]
) -> dict[int, str]:
    """Why each unusable image cannot be used, by id; `read` reads one."""

    def reason(i: int) -> str | None:
        try:
            read(i)
        except ImageError as error:
            return str(error)
        return None

    damages = {}
    with contextlib.closing(ordered(reason, ids, 4 * WORKERS)) as reasons:
        for i, why in zip(ids, reasons, strict=True):
            if why is not None:
                damages[i] = why
            on_images(1)
    return damages


def ordered(function: Callable[[T], R], items: Iterable[T], ahead: int) -> Generator[R, None, None]:
    """`map` by threads that run at most `ahead` items ahead of the consumer.

    An exception reaches the consumer at its item. When the iterator ends or is closed, its threads
    have ended.
    """
    pool = ThreadPoolExecutor(WORKERS)
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
