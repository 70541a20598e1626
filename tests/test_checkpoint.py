"""Checkpoints: whole or not at all, and never a door for code."""

import io
import os
import pickle

import numpy as np
import pytest
import torch

from advlens.errors import CheckpointError, RunError
from advlens.runs.checkpoint import load_checkpoint, save_checkpoint

WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3, dtype=torch.int64)}
PLAIN = {"rows": [{"epoch": 1, "loss": 0.5}], "step": 7, "identity": "text"}
STATE = {"weights": WEIGHTS, **PLAIN}


def saved(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


class Evil:
    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return os.system, (f"touch {self.sentinel}",)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "last.pt"


def test_what_is_saved_comes_back(tmp_path):
    path = tmp_path / "folder" / "last.pt"
    save_checkpoint(path, STATE)
    found = load_checkpoint(path)
    weights = found.pop("weights")
    assert found == PLAIN
    assert torch.equal(weights["a"], WEIGHTS["a"])
    assert weights["b"].dtype == torch.int64


def test_no_code_in_a_file_runs(path, tmp_path):
    sentinel = tmp_path / "ran"
    evil = Evil(sentinel)
    contents = [saved(evil), saved({"step": evil}), saved({"weights": [WEIGHTS, evil]})]
    for content in [*contents, pickle.dumps(evil), pickle.dumps({"state": evil}, protocol=0)]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"last\.pt"):
            load_checkpoint(path)
        assert not sentinel.exists()


@pytest.mark.parametrize(
    "content",
    [None, b"", b"no checkpoint", b"PK\x03\x04", b"\x80\x02.", pickle.dumps([1, 2]), saved([1, 2])],
    ids=["missing", "empty", "text", "zip", "stub", "pickled list", "list"],
)
def test_another_file_is_refused_by_name(content, path):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        load_checkpoint(path)


def test_damaged_files_load_or_are_refused(path):
    whole, random = saved(STATE), np.random.default_rng(0)
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


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failing_write_keeps_the_old_checkpoint(name, path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    save_checkpoint(path, STATE)
    monkeypatch.setattr(os, name, fail)
    with pytest.raises(RunError, match=r"last\.pt.*No space left"):
        save_checkpoint(path, {"step": 8})
    assert load_checkpoint(path)["step"] == 7
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]
