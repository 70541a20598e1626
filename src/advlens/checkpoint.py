"""Checkpoints of a training run: written whole or not at all, read without executing anything."""

import io
from pathlib import Path
from typing import Any

import torch

from advlens.errors import CheckpointError
from advlens.files import atomic


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
        CheckpointError: not such a file, damaged, or holding anything but tensors and plain values.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch's parsers raise almost anything
        reason = str(error).split("\n")[0][:200]
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read ({reason}); remove it to begin anew"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path} holds a {type(state).__name__}, not a checkpoint; remove it to begin anew"
        )
    return state


def as_bytes(state: dict[str, Any]) -> bytes:
    """What `save_checkpoint` would write."""
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


def from_bytes(content: bytes) -> dict[str, Any]:
    """A state from `as_bytes`."""
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state
