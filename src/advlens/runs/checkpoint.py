"""Checkpoints of a training run: written whole or not at all, read without executing anything."""

import io
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from advlens.errors import CheckpointError
from advlens.files import atomic
from advlens.folders import open_plain, why

LARGEST_LIST = 2**23
"""Maximum size of a checkpoint's content other than tensors, in bytes."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; the old file survives any failure.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    with atomic(path) as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote.

    Raises:
        CheckpointError: the file is not such a file, is damaged, or holds anything but tensors and
            plain values.
    """
    try:
        with open_plain(path, 2**48) as file:
            _check_archive(file)
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch's parsers raise almost anything
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read ({why(error)}); remove it to start again"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path} holds a {type(state).__name__}, not a checkpoint; remove it to start again"
        )
    return state


def _check_archive(file: BinaryIO) -> None:
    """Refuse an archive that unpacks to more than its own size, or an excessive list."""
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
    length = file.seek(0, io.SEEK_END)
    unpacked = sum(record.file_size for record in records)
    if unpacked > length:  # torch.save stores its records uncompressed
        raise ValueError(f"it would unpack to {unpacked:,} bytes")
    listed = sum(r.file_size for r in records if r.filename.endswith(".pkl"))
    if listed > LARGEST_LIST:
        raise ValueError(f"its list of tensors has {listed:,} bytes, more than {LARGEST_LIST:,}")


def misfit(given: Any, wanted: Any, where: str = "it") -> str:
    """The mismatch of a state with another one of the same run, or an empty string.

    Keys, types, and the types and shapes of tensors are compared; an empty dictionary or list in
    the other state matches any.
    """
    if isinstance(wanted, Tensor):
        if isinstance(given, Tensor):
            kinds = [(str(t.dtype), tuple(t.shape)) for t in (given, wanted)]
            return "" if kinds[0] == kinds[1] else f"{where} is {kinds[0]}, not {kinds[1]}"
        return f"{where} is not a tensor"
    if isinstance(wanted, float) and type(given) in (int, float):
        return "" if abs(given) < 1e300 else f"{where} is not finite"
    if type(given) is not type(wanted) and not (
        isinstance(given, dict) and isinstance(wanted, dict)
    ):
        return f"{where} is a {type(given).__name__}, not a {type(wanted).__name__}"
    if isinstance(wanted, dict) and wanted:
        if given.keys() != wanted.keys():
            return f"{where} has other keys"
        whose = "its" if where == "it" else f"{where}'s"
        parts = (misfit(given[key], item, f"{whose} {key}") for key, item in wanted.items())
        return next(filter(None, parts), "")
    return ""


def as_bytes(state: dict[str, Any]) -> bytes:
    """The bytes that `save_checkpoint` would write."""
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


def from_bytes(content: bytes) -> dict[str, Any]:
    """The state in the bytes from `as_bytes`."""
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state
