"""A pretended accelerator, gpu:0, for tests without one: a backend of PyTorch in plain Python.

Its tensors compute on the CPU. As on a real device they refuse to be mixed with tensors of the CPU,
and whatever needs their values on the CPU makes it wait: these synchronizations are counted, by
file and line of advlens. A process keeps the device, so tests start one of their own for it.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

import advlens

ROOT = str(Path(advlens.__file__).parent)
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default}
VALUES = {aten._local_scalar_dense.default, aten.equal.default}
"""They return numbers, not tensors."""
WAITING = VALUES | {
    *(aten.nonzero.default, aten.masked_select.default, aten.bincount.default),
    *(aten._unique2.default, aten.unique_dim.default, aten.repeat_interleave.Tensor),
}
"""Their results, or the sizes of these, depend on values."""
INDEXING = {
    *(aten.index.Tensor, aten.index_put.default, aten.index_put_.default),
    aten._index_put_impl_.default,
}
DEVICE = torch.device("cuda")  # until the backend is there
AUTOCAST = torch.library.Library("_", "IMPL")
"""Mixed precision is left out on the device."""
waits: Counter[str] = Counter()
"""Synchronizations so far, by place."""


class OnDevice(Tensor):
    """A tensor of the device around one of the CPU."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnDevice":
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        made = Tensor._make_wrapper_subclass(
            cls, inner.size(), dtype=inner.dtype, device=DEVICE, **layout
        )
        made.inner = inner
        return made

    def __repr__(self) -> str:
        return f"OnDevice({self.inner})"

    def __format__(self, how: str) -> str:
        _wait("format")
        return format(self.inner, how)

    def tolist(self) -> Any:
        _wait("tolist")
        return self.inner.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert a tensor of the device to numpy; copy it to the CPU first")

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
        return _tensor(data, dtype=dtype or self.dtype).to(DEVICE)

    def __getitem__(self, index: Any) -> Tensor:
        return _getitem(self, _placed(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        _setitem(self, _placed(index), value)

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Tensor], *_: Any) -> "OnDevice":
        return OnDevice(parts["inner"])

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(op, args, kwargs or {})


class _Module(backend_registration._DummyBackendModule):
    """Its random numbers are the CPU's."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device: Any) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any) -> None:
        torch.set_rng_state(state)


class _Making(TorchDispatchMode):
    """Tensors made on the device, and copies to it, have no tensor of it among their arguments."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(op, args, kwargs or {})


_tensor, _getitem, _setitem = torch.tensor, Tensor.__getitem__, Tensor.__setitem__


@contextlib.contextmanager
def pretended() -> Iterator[torch.device]:
    """Within the block there is a device gpu:0."""
    global DEVICE
    if DEVICE.type != "gpu":
        backend_registration._setup_privateuseone_for_python_backend("gpu", _Module())
        DEVICE = torch.device("gpu", 0)
        AUTOCAST.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")

    def tensor(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        made = _tensor(*args, **kwargs)
        return made if device is None else made.to(device)

    torch.tensor = tensor
    try:
        with _Making():
            yield DEVICE
    finally:
        torch.tensor = _tensor


def _placed(index: Any) -> Any:
    """An index whose lists are tensors of the device, which PyTorch would make on its own."""
    if isinstance(index, tuple):
        return tuple(map(_placed, index))
    return _tensor(index).to(DEVICE) if isinstance(index, list) else index


def _wait(what: str) -> None:
    """Count a synchronization, at the innermost place in advlens."""
    frame = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(ROOT):
        frame = frame.f_back
    file = Path(frame.f_code.co_filename).relative_to(ROOT) if frame else "elsewhere"
    waits[f"{file}:{frame.f_lineno if frame else 0} {what}"] += 1


def _dispatch(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    here = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    asked = kwargs.get("device")
    target = None if asked is None else torch.device(asked).type
    if here and op not in COPIES:
        _refuse_mixtures(op, args, tensors)
    if here:
        _count(op, args, target)
    inner = tree_map_only(OnDevice, lambda tensor: tensor.inner, (args, kwargs))
    if target == "gpu":
        inner[1]["device"] = torch.device("cpu")
    result = op(*inner[0], **inner[1])
    if op is aten.copy_.default:
        return args[0]
    if op in VALUES or (target or ("gpu" if here else "cpu")) != "gpu":
        return result
    result = tree_map_only(Tensor, OnDevice, result)
    return return_and_correct_aliasing(op, args, kwargs, result) if here else result


def _refuse_mixtures(op: Any, args: Any, tensors: list[Tensor]) -> None:
    """As CUDA does: numbers of the CPU may take part, and indices of it in its place."""
    if op in INDEXING and isinstance(args[0], OnDevice):
        tensors = [tensor for tensor in args[2:3] if isinstance(tensor, Tensor)]
    others = [tensor for tensor in tensors if not isinstance(tensor, OnDevice)]
    if any(tensor.ndim for tensor in others) or (others and others[0] is args[0]):
        shapes = [tuple(tensor.shape) for tensor in others]
        raise RuntimeError(f"all tensors of {op} must be on gpu:0, but {shapes} are on the CPU")


def _count(op: Any, args: Any, target: str | None) -> None:
    name = op.__name__.partition(".")[0]
    masks = (torch.bool, torch.uint8)
    masked = op in INDEXING and any(i is not None and i.dtype in masks for i in args[1])
    to_cpu = op is aten._to_copy.default and target == "cpu"
    into_cpu = op is aten.copy_.default and not isinstance(args[0], OnDevice)
    if op in WAITING or masked or to_cpu or into_cpu:
        _wait(name)
