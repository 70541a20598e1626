"""Fixtures that several test files share."""

import gc
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from smooth_network import SmoothNetwork

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_finish() -> None:
    """What is imported lives as long as the process: the garbage collector need not walk it."""
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # some libraries look for leaks at exit


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and weights that may lie beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no folder of real data at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny tensors gain nothing from more threads, and tests may share the machine.

    The same holds for processes that tests start. `make test-kernels` asks for two, whose sums
    round differently.
    """
    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session", autouse=True)
def _signals() -> None:
    """Tests that start behind a shell's & or nohup ignore signals, which some tests send."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk():
    """Files of tests need not outlive the machine's power, and a run writes many.

    A killed process loses nothing that it has written, synchronized or not.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def no_rendering():
    """Reports are written whole, but their figures are empty files: for the rest of a module."""
    from unrendered import unrendered  # matplotlib, which most tests do without

    with unrendered():
        yield


@pytest.fixture
def smooth() -> nn.Module:
    """A smooth network in evaluation mode, so that float32 and float64 attacks go the same way."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return SmoothNetwork().eval()


@pytest.fixture
def pixels() -> torch.Tensor:
    """24 images 3×8×8, some of their pixels exactly 0 and 1."""
    generator = torch.Generator().manual_seed(4)
    return (torch.rand(24, 3, 8, 8, generator=generator) * 1.4 - 0.2).clamp(0, 1)


@pytest.fixture
def labels(smooth: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """The smooth network's predictions on `pixels`, every fourth label wrong."""
    with torch.no_grad():
        predicted = smooth(pixels).argmax(dim=1)
    predicted[::4] = (predicted[::4] + 1) % 5
    return predicted
