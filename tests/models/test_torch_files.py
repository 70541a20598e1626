"""models.torch_files: the tensors that torch.save wrote, without torch.load."""

import argparse
import io
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from advlens.models.torch_files import torch_file

BASE = torch.arange(24.0)
DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.float8_e4m3fn,
    torch.uint16,
]
VALUES = {
    **{str(dtype): BASE.to(dtype) for dtype in DTYPES},
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


def written(path: Path, value, legacy: bool = False) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


@each_form
@pytest.mark.parametrize("name", VALUES)
def test_tensors_as_torch_wrote_them(name, legacy, tmp_path):
    path = written(tmp_path / "file", {"x": VALUES[name]}, legacy)
    with torch_file(path) as file:
        found = file.tensor(file.content["x"])
    expected = VALUES[name].detach()
    assert type(found) is torch.Tensor
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.stride() == expected.stride()
    assert found.tolist() == expected.tolist()


@each_form
def test_shared_storages_are_read_once(legacy, tmp_path):
    path = written(tmp_path / "file", {"a": BASE, "b": BASE[3:], "c": BASE.clone()}, legacy)
    with torch_file(path) as file:
        a, b, c = (file.tensor(file.content[key]) for key in "abc")
    assert torch.equal(b, BASE[3:])
    assert a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    assert a.untyped_storage().data_ptr() != c.untyped_storage().data_ptr()


@each_form
def test_only_tensors_are_tensors(legacy, tmp_path):
    content = {
        "n": 3,
        "t": [BASE],
        "a": argparse.Namespace(x=1),
        "s": torch.eye(3).to_sparse(),
        "size": torch.Size([1]),
    }
    with torch_file(written(tmp_path / "file", content, legacy)) as file:
        assert [file.tensor(value) for value in file.content.values()] == [None] * 5
        assert file.content["n"] == 3
        assert torch.equal(file.tensor(file.content["t"][0]), BASE)


def rewritten(path: Path, old: bytes, new: bytes) -> None:
    """Change a byte string in the pickle of a zip file."""
    content = path.read_bytes()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as source,
        zipfile.ZipFile(path, "w") as archive,
    ):
        for record in source.infolist():
            data = source.read(record)
            if record.filename.endswith(("data.pkl", "byteorder")):
                data = data.replace(old, new)
            archive.writestr(record, data)


def number(value: int) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (number(777), number(776), "3108 bytes claims 3104 bytes"),
        (number(777), number(1 << 40), "reaches to element|claims"),
        (number(7) + b"M", number(8) + b"M", "reaches to element 778 of a storage of 777"),
        (number(7), b"J\xff\xff\xff\xff", "no plain size"),
        (number(7), b"N", "NoneType|no plain size"),
        (b"FloatStorage", b"CloatStorage", "CloatStorage"),
        (b"storage", b"sturage", "without a storage"),
    ],
)
def test_tensors_that_do_not_lie_in_their_storage(old, new, message, tmp_path):
    path = written(tmp_path / "file", {"w": torch.zeros(777)[7:]})
    rewritten(path, old, new)
    with torch_file(path) as file, pytest.raises(Exception, match=message):
        file.tensor(file.content["w"])


def test_other_kinds_of_files_are_named(tmp_path):
    path = written(tmp_path / "file", {"w": BASE})
    rewritten(path, b"little", b"big")
    with pytest.raises(ValueError, match="big-endian"), torch_file(path):
        pass
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/constants.pkl", b"")
    with pytest.raises(ValueError, match="TorchScript, which is code"), torch_file(path):
        pass
    for content, message in ((b"", "empty"), (pickle.dumps(3), "not written by torch.save")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message), torch_file(path):
            pass


def test_legacy_files_that_are_cut_off_or_lie(tmp_path):
    path = written(tmp_path / "file", {"w": torch.zeros(777)}, legacy=True)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="cut off"), torch_file(path):
        pass
    assert content.count(struct.pack("<Q", 777)) == 1
    path.write_bytes(content.replace(struct.pack("<Q", 777), struct.pack("<Q", 1 << 61)))
    with pytest.raises(ValueError, match="cut off"), torch_file(path):
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
    keys = b"\x80\x02]" + key + b"a."
    return head + content + keys + struct.pack("<Q", len(tensor)) + data


def test_files_of_python_2(tmp_path):
    path = tmp_path / "resnet18_places365.pth.tar"
    path.write_bytes(python_2(torch.arange(6.0)))
    with torch_file(path) as file:
        ordered = file.content["state_dict"]
        assert str(ordered.function) == "collections.OrderedDict"
        (((name, value),),) = ordered.arguments
        assert name == "module.w"
        assert torch.equal(file.tensor(value), torch.arange(6.0).view(2, 3))
