"""Several processes on one task, as torchrun starts them: gloo on CPUs, nccl on GPUs.

The gradient is summed by one reduction per step instead of torch's DistributedDataParallel: an
objective may pass through the network several times, or through a traced form of it, and DDP's
hooks do not see that.
"""

import contextlib
import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from advlens.errors import LostError, SettingsError
from advlens.meeting import Place, waiting

PATIENCE = 300.0
"""Seconds without a sign of life from another process, unless the user sets --patience."""
State = Mapping[str, Tensor]
WORK = timedelta(days=30)
"""How long the others wait while a live process works alone."""


@dataclass(frozen=True)
class Processes:
    """The processes that work together; with one process, all methods do nothing.

    Attributes:
        rank: number of this process.
        count: number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def share(self, total: int) -> range:
        """This process's part of 0 … total − 1; the parts are disjoint and cover everything."""
        return range(self.rank, total, self.count)

    def own(self, name: str) -> str:
        """A name for this process's own files."""
        return name if self.count == 1 else f"{name}-{self.rank}-of-{self.count}"

    def deal(self, total: int, batch_size: int, *, rank: int | None = None) -> list[int]:
        """A process's part of 0 … total − 1 when whole batches are dealt out in turn.

        The batches are those of a single process, so that rounding in an image's results does not
        depend on the number of processes.
        """
        dealer = self.rank if rank is None else rank
        starts = range(dealer * batch_size, total, self.count * batch_size)
        return [i for start in starts for i in range(start, min(start + batch_size, total))]

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place.

        Raises:
            LostError: another process has ended.
        """
        if self.count > 1:
            with self._together():
                dist.all_reduce(tensor)
        return tensor

    def total_each(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over all processes, in place, by one reduction.

        Raises:
            LostError: another process has ended.
        """
        if self.count == 1:
            return
        flat = self.total(torch.cat([tensor.flatten() for tensor in tensors]))
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def gathered(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, by rank; the length of their last axis may differ.

        Raises:
            LostError: another process has ended.
        """
        if self.count == 1:
            return [tensor]
        with self._together():
            lengths = [
                torch.zeros(1, dtype=torch.int64, device=tensor.device) for _ in range(self.count)
            ]
            dist.all_gather(lengths, lengths[0].new_tensor([tensor.shape[-1]]))
            longest = int(max(lengths))
            padded = tensor.new_zeros(*tensor.shape[:-1], longest)
            padded[..., : tensor.shape[-1]] = tensor
            parts = [torch.empty_like(padded) for _ in range(self.count)]
            dist.all_gather(parts, padded)
        return [part[..., : int(n)] for part, n in zip(parts, lengths, strict=True)]

    def folded(
        self, own: State, merge: Callable[[State, State], State], device: torch.device
    ) -> dict[str, Tensor]:
        """The states of all processes merged, on the CPU; the same in all processes.

        They are merged by rank in pairs, pairs of pairs and so on, and the result is spread.

        Args:
            own: this process's named tensors.
            merge: the state of what two processes saw, that of the lower ranks first.
            device: of the tensors that the processes exchange.

        Raises:
            LostError: another process has ended.
        """
        state, step = own, 1
        while step < self.count:
            if self.rank % (2 * step) == step:
                self._send(_saved(state), self.rank - step, device)
                break
            if self.rank + step < self.count:
                state = merge(state, _loaded(self._received(self.rank + step, device)))
            step *= 2
        return _loaded(self.spread(_saved(state) if self.first else b"", device))

    def _send(self, content: bytes, target: int, device: torch.device) -> None:
        with self._together():
            dist.send(torch.tensor([len(content)], device=device), target)
            dist.send(torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device), target)

    def _received(self, source: int, device: torch.device) -> bytes:
        with self._together():
            length = torch.zeros(1, dtype=torch.int64, device=device)
            dist.recv(length, source)
            buffer = torch.empty(int(length), dtype=torch.uint8, device=device)
            dist.recv(buffer, source)
        return buffer.cpu().numpy().tobytes()

    def spread(self, content: bytes, device: torch.device, *, source: int = 0) -> bytes:
        """The content of one process, by default the first, in all processes.

        Raises:
            LostError: another process has ended.
        """
        if self.count == 1:
            return content
        with self._together():
            length = torch.tensor([len(content)], device=device)
            dist.broadcast(length, source)
            buffer = torch.empty(int(length), dtype=torch.uint8, device=device)
            if self.rank == source:
                buffer.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
            dist.broadcast(buffer, source)
        return buffer.cpu().numpy().tobytes()

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        try:
            with waiting():
                yield
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise LostError(
                f"process {self.rank} of {self.count} has lost the others, and none of them says "
                f"why; one may have been killed, or be out of memory ({reason}); start the same "
                "command again"
            ) from error


def _saved(state: State) -> bytes:
    return save({key: tensor.contiguous().cpu() for key, tensor in state.items()})


def _loaded(content: bytes) -> dict[str, Tensor]:
    # copies, aligned as torch aligns: rounding in a matrix product depends on alignment
    return {key: tensor.clone() for key, tensor in load(content).items()}


@contextlib.contextmanager
def joined(device: torch.device, patience: float = PATIENCE) -> Iterator[Processes]:
    """Join the processes that torchrun describes in the environment, and leave them at the end.

    Without torchrun this is one process. A process that sees no sign of life from another ends.

    Args:
        device: the device of the tensors that the processes exchange.
        patience: seconds without a sign of life.

    Raises:
        SettingsError: the environment describes other processes, but not how to reach them.
        LostError: the others cannot be reached, or one has ended.
    """
    place = Place.described()
    if place.count == 1:
        yield Processes()
        return
    processes = Processes(place.rank, place.count)
    with processes._together():
        place.meet(patience)
    with place.watched(patience):
        if device.type == "cuda":
            torch.cuda.set_device(device)  # nccl and barriers use the current one
        with processes._together():
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=place.store(patience),
                rank=place.rank,
                world_size=place.count,
                timeout=WORK,
            )
        try:
            yield processes
            processes.total(torch.zeros(1, device=device))  # no process leaves before the others
        finally:
            dist.destroy_process_group()


def local_device(name: str) -> torch.device:
    """The device for a name; "auto" is a GPU if there is one, else the CPU.

    Under torchrun, each process on a machine takes its own GPU, or the only one that it sees.

    Raises:
        SettingsError: this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        alone = torch.cuda.device_count() == 1  # as Slurm shows one GPU to each task
        name = f"cuda:{0 if alone else os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
        if device.type == "mps":
            raise SettingsError(
                "an mps device has no float64, in which distances and intervals are computed; use "
                "cpu, or leave the device out"
            )
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(
            f"there is no device {name!r} here; use cpu, or leave the device out"
        ) from error
    return device


def synchronized(network: nn.Module, processes: Processes) -> nn.Module:
    """The network, with batch normalization over the images of all processes.

    Parameters and buffers are shared with the given network, which keeps its plain layers.
    """
    if processes.count == 1:
        return network
    shared = {id(t): t for t in (*network.parameters(), *network.buffers())}
    result = copy.deepcopy(network, shared)
    for module in result.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            module.__class__ = _SynchronizedBatchNorm
            module.processes = processes  # type: ignore[assignment]
    return result


class _SynchronizedBatchNorm(_BatchNorm):
    """Batch normalization in training, with statistics over all processes; torch's needs GPUs."""

    processes: Processes

    def forward(self, input: Tensor) -> Tensor:
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        axes = [axis for axis in range(values.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(values.ndim)]
        size = values.new_tensor([values.numel() / values.shape[1]])
        sums: Tensor = _Total.apply(torch.cat([values.sum(axes), size]), self.processes)
        mean, count = sums[:-1] / sums[-1], sums[-1]
        deviations = values - mean.view(shape)
        squares: Tensor = _Total.apply(deviations.square().sum(axes), self.processes)
        self._track(mean.detach(), (squares / (count - 1)).detach())
        result = deviations / (squares / count + self.eps).sqrt().view(shape)
        if self.affine:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.num_batches_tracked is None:  # the layer keeps no averages
            return
        self.num_batches_tracked.add_(1)
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        for average, value in ((self.running_mean, mean), (self.running_var, variance)):
            if average is not None:
                average.lerp_(value.to(average), share)


class _Total(torch.autograd.Function):
    """The sum over processes, whose gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(context: Any, tensor: Tensor, processes: Processes) -> Tensor:
        context.processes = processes
        return processes.total(tensor.clone())

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total: Tensor = context.processes.total(gradients[0].clone())
        return total, None
