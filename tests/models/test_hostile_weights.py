"""models.weights: damaged and hostile files execute nothing, cost nothing and are named."""

import os
import pickle
import sys
from pathlib import Path

import expanding_files
import hostile_files
import pytest
from hostile_files import CODE, Payload, pickled, replaced, saved, touch
from weights_files import assert_refused, state

from advlens.errors import CheckpointError
from advlens.models import read_weights

FILES = hostile_files.FILES | expanding_files.FILES
SYSTEM = r" refers to (posix|nt).system, which no weights need: it was made"
MESSAGES = {
    "reduce-in-zip.pt": SYSTEM,
    "beside.pt": SYSTEM,
    "noise.pt": r"\(.*opcode b'.x00' unknown\); save it with",
    "tar.pt": r"\(it is a tar, as torch 0.1 wrote; load and save it again with torch 0.4\)",
    "unfinished-pickle.pt": r"\(it is damaged|exhausted",
    "empty.pt": r"\(it is empty\)",
    "whole-module.pt": r"holds an object, weights_files.Network\(…\); it must",
    "number-in-state.pt": "entry 'epoch', a int, is not a plain tensor with a name",
    "expanded.pt": "a tensor makes 1099511627776 elements of a storage of 1",
    "bomb.pt": "an archive that would unpack to 2684",
    "400-000-classes.pt": "a tensor makes 1600000 elements of a storage of 4; save a copy",
    "40-000-tensors.safetensors": "40000 tensors, more than 10000",
    "lying-bomb.pt": "it is compressed, which torch.save never does",
    "list.pt": "holds a list; it must hold a dictionary of named tensors",
    "empty-dictionary.pt": "holds an empty dictionary",
    "many-instructions.pt": "it has more than 200,000 instructions",
    "keys-of-one-hash.pt": "a dictionary's key is not a plain value",
    "memo-of-one-hash.pt": "a place in the memo is not a plain number",
}


@pytest.fixture
def sentinel(tmp_path) -> Path:
    return tmp_path / "sentinel"


def resident(kind: str) -> float:
    """Memory of this process in MB: now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))


@pytest.mark.parametrize("name", [*CODE, *FILES])
def test_hostile_files(name, sentinel):
    path = sentinel.with_name(name)
    path.write_bytes(CODE[name](sentinel) if name in CODE else FILES[name]())
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    assert_refused(path, f"{name}.*{MESSAGES.get(name, '')}")
    assert resident("VmHWM") - before < 200
    assert not sentinel.exists()


def test_other_things_than_files(tmp_path):
    loop, pipe = tmp_path / "loop.pt", tmp_path / "pipe.pt"
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    for path in (loop, pipe, tmp_path, tmp_path / "none.safetensors", tmp_path / "none.pt"):
        assert_refused(path, "no weights file at .*; check the path after @")
    for name in ("a" * 5000, "a\0b", "a/" * 3000):
        with pytest.raises(CheckpointError, match="no weights file at"):
            read_weights(tmp_path / name)


def test_calls_of_others_are_read_as_data_and_not_made(sentinel, monkeypatch):
    """As checkpoints of real trainings hold them beside the weights."""
    module = sentinel.with_name("hostile_module.py")
    module.write_text(f"open({str(sentinel)!r}, 'w').close()")
    monkeypatch.syspath_prepend(str(module.parent))
    content = saved({"state_dict": state(), "schedule": Payload(print, "x")})
    for builtins in (b"builtins", b"__builtin__"):
        content = replaced(content, builtins + b"\nprint", b"hostile_module\nx")
    assert b"hostile_module" in content
    path = sentinel.with_name("weights.pt")
    path.write_bytes(content)
    assert read_weights(path).keys() == state().keys()
    assert "hostile_module" not in sys.modules
    assert not sentinel.exists()


def test_the_payload_would_work_and_messages_are_of_files_that_exist(sentinel):
    """Else the missing sentinel proves nothing."""
    pickle.loads(pickled(touch(sentinel)))
    assert sentinel.exists()
    assert MESSAGES.keys() <= CODE.keys() | FILES.keys()
