"""models.weights: damaged and hostile files execute nothing, cost nothing and are named."""

import io
import os
import pickle
import sys
import zipfile
from pathlib import Path

import expanding_files
import hostile_files
import pytest
from hostile_files import Payload, pickled, saved, touch
from weights_files import assert_refused, state

from advlens.models import read_weights

FILES = hostile_files.FILES | expanding_files.FILES


@pytest.fixture
def sentinel(tmp_path) -> Path:
    return tmp_path / "sentinel"


def written(name: str, sentinel: Path) -> Path:
    path = sentinel.with_name(name)
    path.write_bytes(FILES[name](sentinel))
    return path


def resident(kind: str) -> float:
    """Memory of this process in MB: now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))


@pytest.mark.parametrize("name", FILES)
def test_hostile_files(name, sentinel):
    path = written(name, sentinel)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    assert_refused(path, path.name)
    assert resident("VmHWM") - before < 200
    assert not sentinel.exists()


def test_there_are_at_least_sixty():
    assert len(FILES) >= 60


def test_other_things_than_files(tmp_path):
    loop, pipe = tmp_path / "loop.pt", tmp_path / "pipe.pt"
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    for path in (loop, pipe, tmp_path, tmp_path / "none.safetensors"):
        assert_refused(path, "no weights file at")


def test_calls_of_others_are_read_as_data_and_not_made(sentinel, monkeypatch):
    """As checkpoints of real trainings hold them beside the weights."""
    module = sentinel.with_name("hostile_module.py")
    module.write_text(f"open({str(sentinel)!r}, 'w').close()")
    monkeypatch.syspath_prepend(str(module.parent))
    content = saved({"state_dict": state(), "schedule": Payload(print, "x")})
    path = sentinel.with_name("weights.pt")
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as source,
        zipfile.ZipFile(buffer, "w") as archive,
    ):
        for record in source.infolist():
            data = source.read(record).replace(b"builtins\nprint", b"hostile_module\nx")
            data = data.replace(b"__builtin__\nprint", b"hostile_module\nx")
            archive.writestr(record.filename, data)
    path.write_bytes(buffer.getvalue())
    assert b"hostile_module" in buffer.getvalue()
    assert read_weights(path).keys() == state().keys()
    assert "hostile_module" not in sys.modules
    assert not sentinel.exists()


def test_the_payload_would_work(sentinel):
    """Else the missing sentinel proves nothing."""
    pickle.loads(pickled(touch(sentinel)))
    assert sentinel.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reduce-in-zip.pt", r" refers to (posix|nt).system, which no weights need: it was made"),
        ("beside.pt", r" refers to (posix|nt).system, which no weights need: it was made"),
        ("noise.pt", r"\(.*opcode b'.x00' unknown\); save it with"),
        ("tar.pt", r"\(it is a tar, as torch 0.1 wrote; load and save it again with torch 0.4\)"),
        ("unfinished-pickle.pt", r"\(it is damaged|exhausted"),
        ("empty.pt", r"\(it is empty\)"),
        ("whole-module.pt", r"holds an object, weights_files.Network\(…\); it must"),
        ("number-in-state.pt", "entry 'epoch', a int, is not a plain tensor with a name"),
        ("expanded.pt", "a tensor makes 1099511627776 elements of a storage of 1"),
        ("bomb.pt", "an archive that would unpack to 2684"),
        ("400-000-classes.pt", "a tensor makes 1600000 elements of a storage of 4; save a copy"),
        ("40-000-tensors.safetensors", "40000 tensors, more than 10000"),
        ("lying-bomb.pt", "it is compressed, which torch.save never does"),
        ("list.pt", "holds a list; it must hold a dictionary of named tensors"),
        ("empty-dictionary.pt", "holds an empty dictionary"),
    ],
)
def test_messages_name_file_and_tensor(name, message, sentinel):
    assert_refused(written(name, sentinel), f"{name}.*{message}")
