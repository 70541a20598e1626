"""models.pickles and models.torch_files: plain data as pickle reads it, all hostile files inert."""

import argparse
import copyreg
import io
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import expanding_files
import hostile_files
import pytest
import torch
from hostile_files import CODE, Payload, named, number, pickled, replaced, saved, touch
from torch import nn
from weights_files import assert_refused, state

from advlens.errors import CheckpointError
from advlens.models import pickles, read_weights
from advlens.models.pickles import Call, Name, Reference, UnsafeError, read_pickle
from advlens.models.torch_files import torch_file

SHARED = [1, 2]
PLAIN = [
    *(None, True, False, 0, -1, 255, 65535, 1 << 31, -(1 << 40), 1 << 2000, 0.1, -1e300),
    *("", "a", "ä\n\u2028", "x" * 300),
    *([], [1, [2, [3]]], (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [SHARED, SHARED]),
    *({}, {"a": 1}, {"a": {"b": [None]}, 3: (True,), None: 0, 1.5: 1}),
    *(OrderedDict(a=1, b=[2]), defaultdict(list, a=[1])),
]
RAW = [b"", b"raw", b"r" * 300, {b"k": 2}, b"\xff"]
ATTACKS = """os.system posix.system builtins.eval __builtin__.eval builtins.__import__
    subprocess.Popen importlib.util.x multiprocessing.util.spawnv_passfds"""
EVIL = named("evil_module", "Evil")
FORMS = {  # every way to ask for a call, by hand
    "reduce": EVIL + b"(S'x'\ntR.",
    "instance": b"(S'x'\nievil_module\nEvil\n.",
    "object": b"(" + EVIL + b"S'x'\no.",
    "new object": b"\x80\x02" + EVIL + b")\x81.",
    "new object with keywords": b"\x80\x04" + EVIL + b")}\x92.",
    "build": EVIL + b")R}S'x'\nI1\nsb.",
    "build with slots": b"\x80\x02" + EVIL + b")\x81N}S'__class__'\nI1\ns\x86b.",
    "set items": EVIL + b")RS'x'\nI1\ns.",
    "append": EVIL + b")RS'x'\na.",
    "stack": b"\x80\x04\x8c\x0bevil_module\x8c\x04Evil\x93)R.",
    "call of a call": EVIL + b")R)R.",
}
DAMAGE = {
    "exhausted": (b"", pickle.dumps([1, 2])[:-2]),
    "pop from empty list": (b".", b"t."),
    **{"too short": (b"\x86.",), "7": (b"g7\n.",), "shorter": (b"}(K\x01u.",)},
    "unknown": (b"\xff.",),
    "not a plain value": (b"}" + b")" + b"\x85" * 5 + b"K\x01s.", b"}]K\x01s."),
}
BASE = torch.arange(24.0)
DTYPES = """float16 bfloat16 float32 float64 int8 uint8 int16 int32 int64 bool complex64
    float8_e4m3fn uint16"""
VALUES = {
    **{dtype: BASE.to(getattr(torch, dtype)) for dtype in DTYPES.split()},
    **{"matrix": BASE.view(4, 6), "transposed": BASE.view(4, 6).t()},
    "channels last": BASE.view(1, 3, 2, 4).to(memory_format=torch.channels_last),
    **{"part": BASE.view(4, 6)[1:3, 2:4], "expanded": torch.ones(1).expand(5)},
    **{"scalar": torch.tensor(3.0), "empty": torch.zeros(0, 3)},
    "parameter": nn.Parameter(BASE.clone()),
    "integers": nn.Parameter(torch.arange(3), requires_grad=False),
}
each_form = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
OUTSIDE = [
    (number(777), number(776), "3108 bytes claims 3104 bytes"),
    (number(777), number(1 << 40), "reaches to element|claims"),
    (number(7) + b"M", number(8) + b"M", "reaches to element 778 of a storage of 777"),
    (number(7), b"J\xff\xff\xff\xff", "no plain size"),
    (number(7), b"N", "NoneType|no plain size"),
    (b"FloatStorage", b"CloatStorage", "CloatStorage"),
    (b"storage", b"sturage", "without a storage"),
]
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
    "flipped.pt": "Bad CRC-32",
    "flipped-unknown.pt": "extra is not in the network",  # which is known before it is read
    "slice-of-80-MB.pt": "of the 83,886,[0-9]+ bytes of their storages",
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


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_as_pickle_reads_it(protocol):
    for value in [*PLAIN, *(RAW if protocol >= 3 else ())]:  # before, bytes are made by a codec
        content = pickle.dumps(value, protocol=protocol)
        found, references = read_pickle(io.BytesIO(content))
        assert found == pickle.loads(content) == value
        assert type(found) is (dict if isinstance(value, dict) else type(value))
        assert references == []


def test_sharing_sets_and_what_stands_behind():
    found, _ = read_pickle(io.BytesIO(pickle.dumps([SHARED, SHARED])))
    assert found[0] is found[1]
    for value in ({1}, frozenset({1})):
        found, _ = read_pickle(io.BytesIO(pickle.dumps([value, 2], protocol=4)))
        assert found == [[1], 2]
    file = io.BytesIO(pickle.dumps("a") + pickle.dumps("b") + b"rest")
    assert [read_pickle(file)[0], read_pickle(file)[0], file.read()] == ["a", "b", b"rest"]


def test_references():
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", "7") if value is SHARED else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"a": SHARED})
    found, references = read_pickle(io.BytesIO(buffer.getvalue()))
    assert type(found["a"]) is Reference
    assert found["a"].identity == ("storage", "7")
    assert references == [found["a"]]


@pytest.fixture
def evil(tmp_path, monkeypatch) -> Path:
    """A file that appears when the module is imported, or its class called or given a state."""
    sentinel = tmp_path / "sentinel"
    touch = f"__import__('pathlib').Path({str(sentinel)!r}).touch()"
    (tmp_path / "evil_module.py").write_text(
        f"{touch}\nclass Evil:\n"
        f"    def __init__(self, *a): {touch}\n"
        f"    def __setstate__(self, s): {touch}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield sentinel
    sys.modules.pop("evil_module", None)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_imported_or_called(form, evil):
    found, _ = read_pickle(io.BytesIO(FORMS[form]))
    assert type(found) is Call
    assert "evil_module" not in sys.modules
    assert not evil.exists()
    innermost = found.function if type(found.function) is Call else found
    assert str(innermost.function) == "evil_module.Evil"


def test_the_module_would_do_harm(evil):
    pickle.loads(FORMS["reduce"])
    assert evil.exists()


def test_states_and_extensions_reach_nothing():
    """pickle.loads would set the attribute on the class itself."""
    before, ordered = OrderedDict.move_to_end, named("collections", "OrderedDict")
    read_pickle(io.BytesIO(b"\x80\x02" + ordered + b"N}S'move_to_end'\nI1\ns\x86b."))
    assert OrderedDict.move_to_end is before
    assert read_pickle(io.BytesIO(b"\x80\x02" + ordered + b")R}S'_metadata'\n}sb."))[0] == {}
    copyreg.add_extension("collections", "OrderedDict", 240)
    try:
        with pytest.raises(KeyError, match="EXT1"):
            read_pickle(io.BytesIO(b"\x80\x02\x82\xf0."))
    finally:
        copyreg.remove_extension("collections", "OrderedDict", 240)


@pytest.mark.parametrize("attack", ATTACKS.split())
def test_names_that_occur_in_attacks_are_refused(attack):
    module, _, name = attack.rpartition(".")
    for content in (named(module, name) + b".", b"(i" + named(module, name)[1:] + b"."):
        with pytest.raises(UnsafeError, match=name):
            read_pickle(io.BytesIO(content))


@pytest.mark.parametrize("other", ["builtins.set", "dill._dill._create", "osprey.x", "a.b"])
def test_other_names_are_names(other):
    module, _, name = other.rpartition(".")
    found, _ = read_pickle(io.BytesIO(named(module, name) + b"."))
    assert type(found) is Name
    assert str(found) == other


@pytest.mark.parametrize("message", DAMAGE)
def test_damage(message):
    for content in DAMAGE[message]:
        with pytest.raises(Exception, match=message):
            read_pickle(io.BytesIO(content))


def test_instructions_are_counted_and_nesting_is_no_recursion(monkeypatch):
    found, _ = read_pickle(io.BytesIO(b")" + b"\x85" * 50_000 + b"."))
    assert type(found) is tuple
    monkeypatch.setattr(pickles, "MAX_INSTRUCTIONS", 20)
    assert read_pickle(io.BytesIO(b"N" * 20 + b"."))[0] is None
    with pytest.raises(ValueError, match="more than 20 instructions"):
        read_pickle(io.BytesIO(b"N" * 21 + b"."))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


@each_form
@pytest.mark.parametrize("name", VALUES)
def test_tensors_as_torch_wrote_them(name, legacy, path):
    path.write_bytes(saved({"x": VALUES[name]}, legacy))
    with torch_file(path) as file:
        found = file.tensor(file.content["x"])
    expected = VALUES[name].detach()
    assert type(found) is torch.Tensor
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert (found.stride(), found.tolist()) == (expected.stride(), expected.tolist())


@each_form
def test_shared_storages_are_read_once_and_only_tensors_are_tensors(legacy, path):
    path.write_bytes(saved({"a": BASE, "b": BASE[3:], "c": BASE.clone()}, legacy))
    with torch_file(path) as file:
        a, b, c = (file.tensor(file.content[key]) for key in "abc")
    assert torch.equal(b, BASE[3:])
    assert a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    assert a.untyped_storage().data_ptr() != c.untyped_storage().data_ptr()
    sparse, size = torch.eye(3).to_sparse(), torch.Size([1])
    content = {"n": 3, "t": [BASE], "a": argparse.Namespace(x=1), "s": sparse, "size": size}
    path.write_bytes(saved(content, legacy))
    with torch_file(path) as file:
        assert [file.tensor(value) for value in file.content.values()] == [None] * 5
        assert file.content["n"] == 3
        assert torch.equal(file.tensor(file.content["t"][0]), BASE)


@pytest.mark.parametrize(("old", "new", "message"), OUTSIDE)
def test_tensors_that_do_not_lie_in_their_storage(old, new, message, path):
    path.write_bytes(replaced(saved({"w": torch.zeros(777)[7:]}), old, new))
    with torch_file(path) as file, pytest.raises(Exception, match=message):
        file.tensor(file.content["w"])


def test_other_kinds_of_files_are_named(path):
    cut, lying = saved({"w": torch.zeros(777)}, legacy=True), struct.pack("<Q", 1 << 61)
    assert cut.count(struct.pack("<Q", 777)) == 1
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), path)
    program = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/constants.pkl", b"")
    for content, message in (
        (program, "program of torch.export, which is code"),
        (path.read_bytes(), "TorchScript, which is code"),
        (replaced(saved({"w": BASE}), b"little", b"big"), "big-endian"),
        *((b"", "empty"), (pickle.dumps(3), "not written by torch.save"), (cut[:-1], "cut off")),
        (cut.replace(struct.pack("<Q", 777), lying), "cut off"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message), torch_file(path):
            pass


def python_2(tensor: torch.Tensor) -> bytes:
    """A file as torch 0.2 wrote it in Python 2: byte strings, and tensors without their hooks."""
    key, data = b"U\x0294", tensor.numpy().tobytes()
    reference = b"(U\x07storagectorch\nFloatStorage\n" + key + b"U\x03cpuK\x06NtQ"
    place = b"K\x00K\x02K\x03\x86K\x03K\x01\x86"
    value = b"ctorch._utils\n_rebuild_tensor\n(" + reference + place + b"tR"
    pairs = b"]](U\x08module.w" + value + b"ea"
    content = b"\x80\x02}U\nstate_dictccollections\nOrderedDict\n" + pairs + b"\x85Rs."
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    head = b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, system))
    return head + content + (b"\x80\x02]" + key + b"a.") + struct.pack("<Q", len(tensor)) + data


def test_files_of_python_2(path):
    path.write_bytes(python_2(torch.arange(6.0)))
    with torch_file(path) as file:
        ordered = file.content["state_dict"]
        assert str(ordered.function) == "collections.OrderedDict"
        (((name, value),),) = ordered.arguments
        assert name == "module.w"
        assert torch.equal(file.tensor(value), torch.arange(6.0).view(2, 3))


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
