"""Checkpoints: whole or not at all, and never a door for code."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advlens.errors import CheckpointError, RunError
from advlens.runs.checkpoint import load_checkpoint, save_checkpoint

STATE: dict[str, Any] = {
    "weights": {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3, dtype=torch.int64)},
    "rows": [{"epoch": 1, "loss": 0.5}],
    "step": 7,
    "identity": "text",
}


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


class Evil:
    """A pickle that would write a file when it is loaded."""

    def __init__(self, sentinel: Path):
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.sentinel}",)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "last.pt"
    save_checkpoint(path, STATE)
    found = load_checkpoint(path)
    assert found.keys() == STATE.keys()
    assert torch.equal(found["weights"]["a"], STATE["weights"]["a"])
    assert found["weights"]["b"].dtype == torch.int64
    assert {k: found[k] for k in ("rows", "step", "identity")} == {
        k: STATE[k] for k in ("rows", "step", "identity")
    }


def test_no_code_in_a_file_runs(tmp_path: Path) -> None:
    sentinel, path = tmp_path / "ran", tmp_path / "evil.pt"
    evil = Evil(sentinel)
    contents = [
        saved(evil),
        saved({"step": evil}),
        saved({"weights": [STATE["weights"], evil]}),
        pickle.dumps(evil),
        pickle.dumps({"state": evil}, protocol=0),
    ]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"evil\.pt"):
            load_checkpoint(path)
        assert not sentinel.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"no checkpoint", b"PK\x03\x04", b"\x80\x02.", pickle.dumps([1, 2]), saved([1, 2])],
    ids=["empty", "text", "zip", "stub", "pickled list", "list"],
)
def test_another_file_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        load_checkpoint(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        load_checkpoint(tmp_path / "last.pt")


def test_damaged_files_load_or_are_refused(tmp_path: Path) -> None:
    whole, path = saved(STATE), tmp_path / "last.pt"
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        content = bytearray(whole)
        if random.random() < 0.5:
            del content[int(random.integers(len(content))) :]
        else:
            for place in random.integers(len(content), size=4):
                content[place] ^= int(random.integers(1, 256))
        path.write_bytes(bytes(content))
        try:
            load_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused >= 100


def test_a_failing_write_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)
    for name in ("fsync", "replace"):

        def fail(*args: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, name, fail)
            with pytest.raises(RunError, match=r"last\.pt.*No space left"):
                save_checkpoint(path, {"step": 8})
        assert load_checkpoint(path)["step"] == 7
        assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]
