"""What a run records in `run.json` about its models and its environment."""

import contextlib
import functools
import platform
import re
import resource
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from advlens.datasets import ImageData
from advlens.models import Classifier
from advlens.prepared import Prepared

GUESTS = ("timm", "transformers", "foolbox", "torchattacks", "captum", "pyautoattack")
"""Libraries that take part if they are installed."""
DRIVER = Path("/proc/driver/nvidia/version")
"""Where the driver of NVIDIA's GPUs tells its version on Linux."""


def model_record(
    classifier: Classifier, prepared: Prepared, data: ImageData, spec: str
) -> dict[str, Any]:
    """A model as it sees the data: its source, layers and normalization."""
    return {
        "name": classifier.name,
        "spec": without_home(spec),
        "weights": classifier.weights,
        "parameters": sum(p.numel() for p in classifier.parameters()),
        "layers": [{"name": name, "units": units} for name, units in prepared.layers.items()],
        "image_size": data.image_shape[1],
        "mean": [round(v, 6) for v in classifier.mean.flatten().tolist()],
        "std": [round(v, 6) for v in classifier.std.flatten().tolist()],
        "classes": len(data.classes),
        "batch_norm_folded": prepared.folded,
    }


def data_record(data: ImageData) -> dict[str, Any]:
    """The images that a run measured."""
    return {
        "name": data.name,
        "fingerprint": data.fingerprint(),
        "images": len(data),
        "classes": list(data.classes),
        "synsets": None if data.synsets is None else list(data.synsets),
    }


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that the results depend on."""
    versions_of = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "numpy", "pillow", "matplotlib", *GUESTS):
        with contextlib.suppress(PackageNotFoundError):
            versions_of[name] = version(name)
    return versions_of


def machine(device: torch.device) -> dict[str, Any]:
    """The machine of a run, without a name that could identify it, and how it rounds."""
    backends: Any = torch.backends
    rounding = (backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision)
    told = {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "tf32": "tf32" in rounding,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    if device.type == "cuda":
        told["gpu"] = torch.cuda.get_device_name(device)
        told_by = DRIVER.read_text() if DRIVER.exists() else ""
        driver = re.search(r"NVRM version:.*?\s(\d+\.[\d.]+)\s", told_by)
        told["driver"] = driver[1] if driver else None
        told |= {"cuda": torch.version.cuda, "cudnn": backends.cudnn.version()}
    return told


def peak_memory(device: torch.device) -> float:
    """Peak memory of the process so far in MB; on a GPU, the device's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # Linux counts KiB


def without_home(text: str) -> str:
    """The text with the user's home folder as ~, so that a report can be shared."""
    home = str(Path.home())
    return text if home == "/" else text.replace(home, "~")
