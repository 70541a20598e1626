"""How sums are rounded: a policy of advlens for as long as it computes, not the program's."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from advlens.checks import Precision
from advlens.errors import SettingsError


@contextlib.contextmanager
def rounded(*, tf32: bool = False, deterministic: bool = False) -> Iterator[None]:
    """Within the block float32 is float32; PyTorch's settings are then as they were.

    By itself PyTorch lets the convolutions of a GPU round their inputs to TensorFloat-32.

    Args:
        tf32: let products and convolutions on a GPU round to TensorFloat-32, which is faster.
        deterministic: use algorithms that give the same bits each time.

    Raises:
        SettingsError: an operation has no deterministic algorithm.
    """
    before = _switches()
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn: Any = torch.backends.cudnn
    chosen = cudnn.deterministic, cudnn.benchmark
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS refuses
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
    wanted = "tf32" if tf32 else "ieee"
    _switch((wanted, wanted, wanted, "ieee", "ieee"))
    try:
        yield
    except RuntimeError as error:
        text = str(error).partition("\n")[0]
        if not deterministic or "deterministic" not in text:
            raise
        raise SettingsError(f"deterministic is not possible here; leave it out ({text})") from error
    finally:
        _switch(before)
        if deterministic:  # PyTorch imports its compiler here, which takes seconds
            torch.use_deterministic_algorithms(strict, warn_only=warns)
            cudnn.deterministic, cudnn.benchmark = chosen


def mixed(device: torch.device, precision: Precision) -> torch.autocast:
    """Autocast to bfloat16 where the precision is "bf16", otherwise none.

    Each pass casts the weights anew. PyTorch 2.10 would keep a cast that an attack makes without a
    gradient, and later passes would give the weights none.
    """
    enabled = precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def stepping(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """`mixed` for a gradient step of "bf16"; in "float32", whatever holds around the block."""
    return mixed(device, precision) if precision == "bf16" else contextlib.nullcontext()


def _places() -> tuple[Any, ...]:
    backends: Any = torch.backends
    cpu = backends.mkldnn.matmul, backends.mkldnn.conv
    return (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul, *cpu)


def _switches() -> tuple[str, ...]:
    return tuple(place.fp32_precision for place in _places())


def _switch(values: tuple[str, ...]) -> None:
    # PyTorch's older switches must agree with these, or reading them is an error
    torch.backends.cudnn.allow_tf32 = values[0] == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = values[2] == "tf32"
    if values[3] == "bf16":
        torch.set_float32_matmul_precision("medium")
    for place, value in zip(_places(), values, strict=True):
        place.fp32_precision = value
