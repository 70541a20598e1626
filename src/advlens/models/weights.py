"""Weights files: safetensors, or state dicts and checkpoints written by torch.save."""

import os
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from advlens.errors import CheckpointError, ModelError, SettingsError
from advlens.files import atomic
from advlens.models.classifier import Classifier, precision_of
from advlens.models.matching import Matched, match
from advlens.models.pickles import LONGEST, Call, UnsafeError, plain_key, shown
from advlens.models.torch_files import TorchFile, tensor_call, torch_file

_STATE_KEYS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "state_dict_ema",
    "model_ema",
    "ema_model",
    "ema",
    "ema_state_dict",
    "model_ema_state_dict",
    "swa_state_dict",
    "swa_model",
    "swa_model_state_dict",
    "averaged_model",
)
_DEEPEST = 4
_EXTRA = "_extra_state"
_MOST_TENSORS = 10_000
_MOST_UNUSED = 1 << 26
"""Bytes that a file may store beyond twice those of its tensors: slices are saved in whole."""
_LONGEST_HEADER = 1 << 22
"""Maximum size of a header in bytes; safetensors writes about a hundred for each tensor."""
_DTYPES = {
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.bool,
    torch.complex64,
    torch.complex128,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
}
_LEAVE_OUT = "leave out what the network does not need, as in --ignore-keys"


def save_weights(classifier: Classifier, path: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write the tensors of a classifier's network as safetensors, with mean and std as metadata.

    Floating-point tensors are stored in `dtype` (default: each in its own). Batch normalization's
    step counters and the results of modules' `get_extra_state` are left out.

    Raises:
        ModelError: the network has quantized tensors, or lazy layers, which have no shapes yet.
        RunError: the disk is full or the folder cannot be written.
    """
    state = {
        name: tensor
        for name, tensor in own_tensors(classifier.network).items()
        if not name.endswith("num_batches_tracked")
    }
    for name, tensor in state.items():
        if is_lazy(tensor) or tensor.dtype not in _DTYPES:
            kind = "lazy" if is_lazy(tensor) else tensor.dtype
            raise ModelError(f"{classifier.name} cannot be written to {path}: {name} is {kind}")
        kept = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
        state[name] = tensor.to("cpu", kept).contiguous().clone()
    with atomic(path) as file:
        file.write(save(state, metadata=_metadata(classifier)))


def read_weights(path: Path, *, ignore_keys: Sequence[str] = ()) -> dict[str, Tensor]:
    """The named tensors of a `.safetensors` file or of one written by torch.save.

    In the latter they may lie under "state_dict", "model_state_dict", "model", "net", "network",
    "module" or the names of averages ("state_dict_ema", "swa_model" …), beside anything else, as in
    a checkpoint; or under any one name. The file is read as data: nothing in it is executed.

    Args:
        path: the file.
        ignore_keys: patterns such as "loss.*" (`fnmatch`) for names in the file to leave out, of
            tensors and of dictionaries of tensors.

    Raises:
        CheckpointError: the file is missing or damaged, names what weights do not need, has no
            dictionary of tensors only, or has several.
        SettingsError: `ignore_keys` is one string.
    """
    return _read(path, ignore_keys, outline=False)


def outline(path: Path, *, ignore_keys: Sequence[str] = ()) -> dict[str, Tensor]:
    """Zeros of the names, shapes and types that `read_weights` would return.

    They take no memory: what the file says of its tensors is checked before gigabytes are read.

    Raises:
        CheckpointError, SettingsError: as `read_weights`.
    """
    return _read(path, ignore_keys, outline=True)


def _read(path: Path, ignore_keys: Sequence[str], *, outline: bool) -> dict[str, Tensor]:
    if isinstance(ignore_keys, str):
        raise SettingsError(
            f"ignore_keys is a list of patterns, as in [{ignore_keys!r}], not one string"
        )
    path = Path(path)
    if not os.path.isfile(path):  # opening a pipe would block
        raise CheckpointError(f"no weights file at {path}; check the path after @")
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path, ignore_keys)  # mapped: nothing is read before its use
        with torch_file(path) as file:
            state = _state(path, file.content, ignore_keys)
            return _tensors(path, state, file, outline=outline)
    except CheckpointError:
        raise
    except UnsafeError as error:
        raise CheckpointError(
            f"{path} refers to {error}, which no weights need: it was made to run code, and "
            "nothing in it is used; get the weights from somewhere else"
        ) from error
    except Exception as error:  # a damaged or hostile file can raise anything
        reason = " ".join(shown(str(error)[:200], 200).split()) or type(error).__name__
        if isinstance(error, (LookupError, TypeError, AttributeError)):  # raised by the readers
            reason = "it is damaged"
        raise CheckpointError(
            f"{path} is not a safetensors file or a state dict of plain tensors ({reason}); "
            "save it with safetensors.torch.save_file(model.state_dict(), path)"
        ) from error


def load_weights(classifier: Classifier, path: Path, *, ignore_keys: Sequence[str] = ()) -> Matched:
    """Load a weights file into a classifier's network and account for every tensor.

    The network's tensors are found under any prefix (`matching.match`). Mean and std are taken over
    if the file holds them.

    Args:
        classifier: the classifier whose network is filled.
        path: the file.
        ignore_keys: as in `read_weights`.

    Returns:
        What was found in the file.

    Raises:
        CheckpointError: tensors are missing, unknown, of another shape (the message has both), of
            another kind, or not finite, or copies of a tensor differ; then the classifier is
            unchanged.
        ModelError: the network has lazy layers, which have no shapes yet.
    """
    path = Path(path)
    network = classifier.network
    _fitting(network, path, outline(path, ignore_keys=ignore_keys))
    matched = _fitting(network, path, read_weights(path, ignore_keys=ignore_keys))
    own = own_tensors(network)
    if matched.mean and matched.std:
        statistics = [list(matched.mean), list(matched.std)]
    else:
        statistics = _statistics(path)
    if statistics:
        try:
            classifier.set_normalization(*statistics)
        except ModelError as error:
            raise CheckpointError(f"{path}: its metadata do not fit ({error})") from error
    if rounded := sum(_is_rounded(matched.tensors[name], own[name]) for name in matched.tensors):
        precision = str(precision_of(network)).removeprefix("torch.")
        classifier.notes += (
            f"{path.name} is more precise than the network: tensors rounded to {precision}: "
            f"{rounded}; to keep their digits, let the factory return the network in the file's "
            "precision, such as network.double()",
        )
    network.load_state_dict(matched.tensors, strict=False)
    return matched


def _fitting(network: nn.Module, path: Path, state: Mapping[str, Tensor]) -> Matched:
    """The tensors of a file, or of its outline, under the names of the network that they fit."""
    own = own_tensors(network)
    if lazy := [name for name, tensor in own.items() if is_lazy(tensor)]:
        raise ModelError(
            f"{type(network).__name__} has no shape for {lazy[0]} yet, so {path} cannot be loaded; "
            "let the factory pass one batch of images through its lazy layers"
        )
    try:
        matched = match(state, own)
    except ValueError as error:
        raise CheckpointError(
            f"{path} cannot be taken apart: {error}; save only the network's state_dict(), or "
            f"{_LEAVE_OUT} PATTERN"
        ) from error
    faults = [
        f"{shown(matched.prefix + name)} is missing"
        for name in sorted(own.keys() - matched.tensors.keys())
        if not name.endswith("num_batches_tracked")
    ]
    faults += [f"{shown(name)} is not in the network" for name in sorted(matched.unknown)]
    alone = len(faults) == len(matched.unknown)
    for name in sorted(matched.tensors):
        faults += _faults(shown(matched.names[name]), matched.tensors[name], own[name])
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        if alone and len(faults) == len(matched.unknown):
            more += f"; {_LEAVE_OUT} {shown(min(matched.unknown))}"
        raise CheckpointError(
            f"{path} does not fit {type(network).__name__}: {'; '.join(faults[:5])}{more}"
        )
    return matched


def _is_rounded(given: Tensor, own: Tensor) -> bool:
    """Whether a floating-point tensor loses digits when its values are copied into another."""
    return given.is_floating_point() and not torch.equal(given.to(own.dtype).to(given.dtype), given)


def own_tensors(network: nn.Module) -> dict[str, Tensor]:
    """What a weights file can hold of a network's state: no objects from `get_extra_state`."""
    return {
        name: value
        for name, value in network.state_dict().items()
        if isinstance(value, Tensor) and not name.endswith(_EXTRA)
    }


def _kept(names: Iterable[Any], ignore_keys: Sequence[str]) -> list[Any]:
    """The names that match no pattern."""
    return [
        name
        for name in names
        if not (type(name) is str and any(fnmatchcase(name, pattern) for pattern in ignore_keys))
    ]


def _safetensors(path: Path, ignore_keys: Sequence[str]) -> dict[str, Tensor]:
    with path.open("rb") as start:
        length = int.from_bytes(start.read(8), "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    with safe_open(path, framework="pt") as file:
        names = _checked(path, _kept(file.keys(), ignore_keys))
        return {name: file.get_tensor(name) for name in names}


def _state(path: Path, content: object, ignore_keys: Sequence[str]) -> dict[str, Any]:
    """The dictionary of tensors in the content of a torch.save file, as data."""
    for _ in range(_DEEPEST):
        state = _dictionary(content)
        if state is None:
            break
        names = _kept(state, ignore_keys)
        inner = [key for key in _STATE_KEYS if key in names and _dictionary(state[key]) is not None]
        if len(inner) > 1:
            inner = [key for key in inner if _holds_tensors(state[key])] or inner[:1]
        if not inner and not _holds_tensors(state):  # under a name of the user's own
            inner = [key for key in names if type(key) is str and _holds_tensors(state[key])]
        if len(inner) > 1:
            raise CheckpointError(
                f"{path} holds weights under {' and '.join(map(shown, inner[:4]))}; leave all but "
                f"one out, as in --ignore-keys {shown(inner[-1])}"
            )
        if not inner:
            return {name: state[name] for name in _checked(path, names)}
        content = state[inner[0]]
    kind = f"an object, {content}" if type(content) is Call else f"a {type(content).__name__}"
    raise CheckpointError(f"{path} holds {kind}; it must hold a dictionary of named tensors")


def _dictionary(value: object) -> dict[Any, Any] | None:
    """A dictionary of the file as pairs, or an ordered one as Python 2 wrote it."""
    if type(value) is dict:
        return value
    if type(value) is Call and value.name == "collections.OrderedDict":
        match value.arguments:
            case ([*pairs],) if all(type(p) is list and len(p) == 2 for p in pairs):
                return {key: value for key, value in pairs if plain_key(key)}
    return None


def _holds_tensors(value: object) -> bool:
    state = _dictionary(value) or {}
    return any(tensor_call(value) is not None for value in state.values()) or any(
        _dictionary(state.get(key)) is not None for key in _STATE_KEYS
    )


def _tensors(
    path: Path, state: Mapping[str, Any], file: TorchFile, *, outline: bool
) -> dict[str, Any]:
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        tensor = file.tensor(value, outline=True)
        if tensor is None:
            kind = value if type(value) is Call else type(value).__name__
            raise CheckpointError(
                f"{path}: entry {shown(name)!r}, a {kind}, is not a plain tensor with a name; save "
                f"only model.state_dict(), or {_LEAVE_OUT} {shown(name)}"
            )
        tensors[name] = tensor
    used = sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())
    if file.size > _MOST_UNUSED + 2 * used:
        raise ValueError(
            f"its tensors take {used:,} of the {file.size:,} bytes of their storages; save copies "
            "of them, tensor.clone()"
        )
    return tensors if outline else {name: file.tensor(value) for name, value in state.items()}


def _checked(path: Path, names: Sequence[Any]) -> Sequence[str]:
    """The names of tensors, if they are few and short enough."""
    if not names:
        raise CheckpointError(
            f"{path} holds an empty dictionary; it must hold a dictionary of named tensors"
        )
    if len(names) > _MOST_TENSORS:
        raise ValueError(f"{len(names)} tensors, more than {_MOST_TENSORS}")
    for name in names:
        if type(name) is not str or len(name) > LONGEST:
            raise CheckpointError(
                f"{path}: entry {shown(str(name))!r} is not a plain tensor with a name; save only "
                "model.state_dict()"
            )
        if name.rpartition(".")[2] == _EXTRA:
            raise CheckpointError(
                f"{path}: {shown(name)} comes from a module's get_extra_state, which is not read; "
                f"if the network works without it, leave it out with --ignore-keys *{_EXTRA}"
            )
    return names


def _faults(name: str, given: Tensor, own: Tensor) -> list[str]:
    if given.shape != own.shape:
        shape = shown(str(tuple(given.shape)))
        return [f"{name} is {shape}, the network's is {tuple(own.shape)}"]
    kinds = [(tensor.is_floating_point(), tensor.is_complex()) for tensor in (given, own)]
    if kinds[0] != kinds[1] or not {given.dtype, own.dtype} <= _DTYPES:
        return [f"{name} is {given.dtype}, the network's is {own.dtype}"]
    if not torch.isfinite(given.to(own.dtype)).all():
        return [f"{name} holds NaN or infinity"]
    return []


def _metadata(classifier: Classifier) -> dict[str, str]:
    # one entry, because safetensors writes several in random order
    values = [*classifier.mean.flatten().tolist(), *classifier.std.flatten().tolist()]
    return {"mean, std": " ".join(f"{value:.6g}" for value in values)}


def _statistics(path: Path) -> list[list[float]]:
    """The mean and std in a file's metadata, or nothing."""
    if path.suffix != ".safetensors":
        return []
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if "mean, std" not in metadata:
        return []
    try:
        values = [float(word) for word in metadata["mean, std"].split(maxsplit=6)]
        half = len(values) // 2  # three channels, or one
        return [values[:half], values[half:]]
    except ValueError as error:
        raise CheckpointError(
            f"{path}: its metadata hold no mean and std ({shown(str(error), 200)})"
        ) from error
