"""Weights files: safetensors, or a state dict that holds nothing but tensors."""

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from advlens.errors import CheckpointError, ModelError
from advlens.files import atomic
from advlens.models.classifier import Classifier

_STATE_KEYS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "model.", "network.")
_DTYPES = {
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
}  # fmt: skip


def save_weights(classifier: Classifier, path: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write the tensors of a classifier's network as safetensors, its mean and std as metadata.

    Floating tensors are stored in `dtype`; batch normalization's step counters are left out.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    state = {
        name: tensor.to("cpu", dtype if tensor.is_floating_point() else None).contiguous().clone()
        for name, tensor in classifier.network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    with atomic(path) as file:
        file.write(save(state, metadata=_metadata(classifier)))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The named tensors of a `.safetensors` file or of a `torch.save`d state dict.

    A state dict may lie under "state_dict", "model_state_dict" or "model". No code in the file is
    executed.

    Raises:
        CheckpointError: no such file, damaged, or holding anything but plain tensors.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            _refuse_compressed(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, about formats that are refused below
                state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"no weights file at {path}; check the path after @") from error
    except Exception as error:  # a damaged or hostile file can raise anything
        raise CheckpointError(
            f"{path} is not a safetensors file or a state dict of plain tensors ({_why(error)}); "
            "save it with safetensors.torch.save_file(model.state_dict(), path)"
        ) from error
    for key in _STATE_KEYS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state:
        kind = "an empty dictionary" if state == {} else f"a {type(state).__name__}"
        raise CheckpointError(f"{path} holds {kind}; it must hold a dictionary of named tensors")
    for name, tensor in state.items():
        plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
        if not (isinstance(name, str) and plain and tensor.device.type == "cpu"):
            raise CheckpointError(
                f"{path}: entry {str(name)[:80]!r}, a {type(tensor).__name__}, is not a plain "
                "tensor with a name; save only model.state_dict()"
            )
    return dict(state)


def load_weights(classifier: Classifier, path: Path) -> None:
    """Load a weights file into a classifier's network, every tensor accounted for.

    The file's names may all begin with "module.", "model." or "network." where the network's do
    not. Takes over mean and std where the file carries them.

    Raises:
        CheckpointError: tensors missing, unknown, of another shape (both shapes named), of
            another kind, or not finite; the classifier is unchanged then.
    """
    path, network = Path(path), classifier.network
    state, own = read_weights(path), network.state_dict()
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state) and not state.keys() & own.keys():
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    faults = [f"{name} is missing" for name in sorted(own.keys() - state.keys() - counters)]
    faults += [f"{name[:80]} is not in the network" for name in sorted(state.keys() - own.keys())]
    for name in sorted(own.keys() & state.keys()):
        faults += _faults(name, state[name], own[name])
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise CheckpointError(
            f"{path} does not fit {type(network).__name__}: {'; '.join(faults[:5])}{more}"
        )
    statistics = _statistics(path)
    if statistics:
        try:
            classifier.set_normalization(*statistics)
        except ModelError as error:
            raise CheckpointError(f"{path}: its metadata do not fit ({error})") from error
    network.load_state_dict(state, strict=False)


def _faults(name: str, found: Tensor, own: Tensor) -> list[str]:
    if found.shape != own.shape:
        return [f"{name} is {tuple(found.shape)}, the network's is {tuple(own.shape)}"]
    if found.dtype not in _DTYPES or found.is_floating_point() != own.is_floating_point():
        return [f"{name} is {found.dtype}, the network's is {own.dtype}"]
    if not torch.isfinite(found.to(own.dtype)).all():
        return [f"{name} holds NaN or infinity"]
    return []


def _why(error: Exception) -> str:
    text = str(error).strip()
    if "weights_only" in text:  # torch goes on to tell how to run the code
        found = re.search(r"GLOBAL ([\w.]+)", text)
        return f"it refers to {found[1]}" if found else "it is damaged, or holds more than tensors"
    return text.split("\n")[0][:200] or type(error).__name__


def _refuse_compressed(path: Path) -> None:
    """torch.save stores its records as they are: a file that grows on reading is a trap."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(record.file_size for record in archive.infolist())
        if size > path.stat().st_size:
            raise ValueError(f"an archive that would unpack to {size} bytes")


def _metadata(classifier: Classifier) -> dict[str, str]:
    # one entry, because safetensors writes several in random order
    values = [*classifier.mean.flatten().tolist(), *classifier.std.flatten().tolist()]
    return {"mean, std": " ".join(f"{value:.6g}" for value in values)}


def _statistics(path: Path) -> list[list[float]]:
    """Mean and std that a file carries, or nothing."""
    if path.suffix != ".safetensors":
        return []
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if "mean, std" not in metadata:
        return []
    try:
        values = [float(word) for word in metadata["mean, std"].split()]
        return [values[:3], values[3:]]
    except ValueError as error:
        raise CheckpointError(f"{path}: its metadata hold no mean and std ({error})") from error
