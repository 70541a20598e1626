"""Weights files: safetensors, or state dicts and checkpoints that torch.save wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from advlens.errors import CheckpointError, ModelError
from advlens.files import atomic
from advlens.models.classifier import Classifier
from advlens.models.matching import Matched, match
from advlens.models.pickles import Call, UnsafeError
from advlens.models.torch_files import TorchFile, torch_file

_STATE_KEYS = ("state_dict", "model_state_dict", "model", "net", "network")
_LONGEST_NAME = 1000
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
    """The named tensors of a `.safetensors` file or of one that torch.save wrote.

    In the latter they may lie under "state_dict", "model_state_dict", "model", "net" or "network",
    beside anything else, as in a checkpoint. The file is read as data: nothing in it is executed.

    Raises:
        CheckpointError: no such file, damaged, naming what weights do not need, or without a
            dictionary of nothing but tensors.
    """
    path = Path(path)
    if not path.is_file():  # a pipe would be waited for
        raise CheckpointError(f"no weights file at {path}; check the path after @")
    try:
        if path.suffix == ".safetensors":
            return _checked(path, load_file(path))
        with torch_file(path) as file:
            return _checked(path, _state(path, file))
    except CheckpointError:
        raise
    except UnsafeError as error:
        raise CheckpointError(
            f"{path} refers to {error}, which no weights need: it was made to run code, and "
            "nothing of it is used; get the weights from somewhere else"
        ) from error
    except Exception as error:  # a damaged or hostile file can raise anything
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        if isinstance(error, (LookupError, TypeError, AttributeError)):  # the readers' own
            reason = "it is damaged"
        raise CheckpointError(
            f"{path} is not a safetensors file or a state dict of plain tensors ({reason}); "
            "save it with safetensors.torch.save_file(model.state_dict(), path)"
        ) from error


def load_weights(classifier: Classifier, path: Path) -> Matched:
    """Load a weights file into a classifier's network, every tensor accounted for.

    The network's tensors are found under whatever prefix it was saved (`matching.match`). Takes
    over mean and std where the file carries them.

    Returns:
        What was found in the file.

    Raises:
        CheckpointError: tensors missing, unknown, of another shape (both shapes named), of
            another kind, or not finite; copies of a tensor that differ; the classifier is
            unchanged then.
    """
    path = Path(path)
    return fill(classifier, path, read_weights(path))


def fill(classifier: Classifier, path: Path, state: Mapping[str, Tensor]) -> Matched:
    """`load_weights` of what `read_weights` has read from `path`."""
    network = classifier.network
    own = network.state_dict()
    try:
        found = match(state, own)
    except ValueError as error:
        raise CheckpointError(
            f"{path} cannot be taken apart: {error}; save only the network's state_dict()"
        ) from error
    faults = [
        f"{found.prefix}{name} is missing"
        for name in sorted(own.keys() - found.tensors.keys())
        if not name.endswith("num_batches_tracked")
    ]
    faults += [f"{name[:80]} is not in the network" for name in sorted(found.unknown)]
    for name in sorted(found.tensors):
        faults += _faults(found.names[name], found.tensors[name], own[name])
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise CheckpointError(
            f"{path} does not fit {type(network).__name__}: {'; '.join(faults[:5])}{more}"
        )
    if found.mean and found.std:
        statistics = [list(found.mean), list(found.std)]
    else:
        statistics = _statistics(path)
    if statistics:
        try:
            classifier.set_normalization(*statistics)
        except ModelError as error:
            raise CheckpointError(f"{path}: its metadata do not fit ({error})") from error
    network.load_state_dict(found.tensors, strict=False)
    return found


def _state(path: Path, file: TorchFile) -> dict[Any, Any]:
    """The dictionary of tensors in what torch.save wrote."""
    state = file.content
    for key in _STATE_KEYS:
        if type(state) is dict and type(state.get(key)) is dict:
            state = state[key]
    if type(state) is not dict:
        kind = "list" if type(state) is list else f"object, {str(state)[:80]},"
        raise CheckpointError(f"{path} holds a {kind}; it must hold a dictionary of named tensors")
    return {
        name: found if (found := file.tensor(value)) is not None else value
        for name, value in state.items()
    }


def _checked(path: Path, state: dict[Any, Any]) -> dict[str, Tensor]:
    if not state:
        raise CheckpointError(
            f"{path} holds an empty dictionary; it must hold a dictionary of named tensors"
        )
    for name, tensor in state.items():
        if not (type(name) is str and len(name) <= _LONGEST_NAME and type(tensor) is Tensor):
            kind = tensor if type(tensor) is Call else type(tensor).__name__
            raise CheckpointError(
                f"{path}: entry {str(name)[:80]!r}, a {kind}, is not a plain "
                "tensor with a name; save only model.state_dict()"
            )
    return state


def _faults(name: str, found: Tensor, own: Tensor) -> list[str]:
    if found.shape != own.shape:
        return [f"{name} is {tuple(found.shape)}, the network's is {tuple(own.shape)}"]
    if found.dtype not in _DTYPES or found.is_floating_point() != own.is_floating_point():
        return [f"{name} is {found.dtype}, the network's is {own.dtype}"]
    if not torch.isfinite(found.to(own.dtype)).all():
        return [f"{name} holds NaN or infinity"]
    return []


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
