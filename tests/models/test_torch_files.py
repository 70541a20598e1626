"""models.torch_files: the tensors that torch.save wrote, without torch.load."""

import argparse
import pickle
import struct
import zipfile

import pytest
import torch
from hostile_files import number, replaced, saved
from torch import nn

from advlens.models.torch_files import torch_file

BASE = torch.arange(24.0)
DTYPES = """float16 bfloat16 float32 float64 int8 uint8 int16 int32 int64 bool complex64
    float8_e4m3fn uint16"""
VALUES = {
    **{dtype: BASE.to(getattr(torch, dtype)) for dtype in DTYPES.split()},
    "matrix": BASE.view(4, 6),
    "transposed": BASE.view(4, 6).t(),
    "channels last": BASE.view(1, 3, 2, 4).to(memory_format=torch.channels_last),
    "part": BASE.view(4, 6)[1:3, 2:4],
    "expanded": torch.ones(1).expand(5),
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 3),
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
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/constants.pkl", b"")
    for content, message in (
        (path.read_bytes(), "TorchScript, which is code"),
        (replaced(saved({"w": BASE}), b"little", b"big"), "big-endian"),
        (b"", "empty"),
        (pickle.dumps(3), "not written by torch.save"),
        (cut[:-1], "cut off"),
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
