"""Files of torch.save, of every version since 0.1.10, read as data: see `pickles`."""

import io
import math
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advlens.models.pickles import LONGEST, MAX_BYTES, Call, Name, Reference, read_pickle

_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
_STORAGES = {f"{kind}Storage": dtype for kind, dtype in _TYPES.items()}
_NAMED = {
    str(dtype): dtype
    for dtype in (*_TYPES.values(), torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16)
}
_TENSORS = {
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
}
_MAX_DIRECTORY = 1 << 22
"""Maximum size of an archive's directory in bytes; torch.save writes 65 for each storage."""
_MAX_FRAME = 2**12
"""Bytes beside each record of an archive, at most: names, headers and padding."""
_BLOCK = 1 << 20
"""Bytes read at once from a record; to read it whole would hold it twice."""
_MAX_AXES = 64
_MAX_REPEATED = 4096
"""Maximum number of elements of a tensor that repeats those of its storage, as after `expand`."""
_PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}


@dataclass(frozen=True)
class TorchFile:
    """The contents of a file.

    Attributes:
        content: dictionaries, lists, plain values, and calls that make tensors, as data.
    """

    content: Any
    _stored: Callable[[str], int]
    _bytes: Callable[[str], bytearray]
    _read: dict[str, Tensor] = field(default_factory=dict)
    _sizes: dict[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the storages of all tensors so far."""
        return sum(self._sizes.values())

    def tensor(self, value: object, *, outline: bool = False) -> Tensor | None:
        """The tensor that a value in the content stands for; None for any other value.

        Args:
            value: a value in the content.
            outline: return zeros of the same shape and type, which take no memory, and read
                nothing.

        Raises:
            ValueError: a tensor exceeds its storage, or claims more elements or another storage
                than the file has.
        """
        if (call := tensor_call(value)) is None:
            return None
        storage, offset, size, stride, *rest = call.arguments
        if not type(size) is type(stride) is tuple or len(size) > _MAX_AXES:
            raise ValueError("a tensor has no plain size")
        numbers = [offset, *size, *stride]
        if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
            raise ValueError("a tensor has no plain size")
        key, dtype, length = _described(storage)
        claimed, stored = length * dtype.itemsize, self._stored(key)
        if stored != claimed:
            raise ValueError(f"a storage of {stored} bytes claims {claimed} bytes")
        if call.name.endswith("_v3"):
            dtype = _dtype(rest[2])
            length = stored // dtype.itemsize
        reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
        if 0 not in size and reach > length:
            raise ValueError(f"a tensor reaches to element {reach} of a storage of {length}")
        if (count := math.prod(size)) > max(length, _MAX_REPEATED):
            raise ValueError(
                f"a tensor makes {count} elements of a storage of {length}; save a copy of it, "
                "tensor.clone()"
            )
        self._sizes[key] = stored
        if outline:
            return torch.zeros((), dtype=dtype).expand(size)
        if key not in self._read:
            self._read[key] = torch.frombuffer(self._bytes(key) or bytearray(1), dtype=torch.uint8)
        return self._read[key][:stored].view(dtype).as_strided(size, stride, offset)


def tensor_call(value: object) -> Call | None:
    """The call that makes a tensor, also inside one that makes a parameter; None for others."""
    if type(value) is Call and value.name in _PARAMETERS and type(value.arguments) is tuple:
        value = value.arguments[0]
    return value if type(value) is Call and value.name in _TENSORS else None


@contextmanager
def torch_file(path: Path) -> Iterator[TorchFile]:
    """Open a file of torch.save; tensors are read on demand.

    Raises:
        UnsafeError: the file names what weights do not need.
        ValueError: the file is of another kind; the message gives the reason.
        Exception: of any kind, if the file is damaged.
    """
    length = path.stat().st_size
    if not length:
        raise ValueError("it is empty")
    with _Doorkeeper(io.FileIO(path)) as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                file.most = length
                yield _zipped(archive, length)
        else:
            file.most = length
            yield _legacy(file, length)


class _Doorkeeper(io.BufferedReader):
    """A file that refuses to read more than `most` bytes at once.

    `zipfile` reads an archive's whole directory and makes an object of each entry.
    """

    most = _MAX_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most:
            raise ValueError(f"a table of contents of {size} bytes, more than {self.most}")
        return super().read(size)


def _zipped(archive: zipfile.ZipFile, length: int) -> TorchFile:
    records = {record.filename: record for record in archive.infolist()}
    size = sum(record.file_size for record in archive.infolist())
    if size > length:
        raise ValueError(f"an archive that would unpack to {size} bytes")
    if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
        raise ValueError("it is compressed, which torch.save never does; unpack and save it again")
    if length - size > _MAX_FRAME * (len(records) + 16):
        raise ValueError(f"{length - size} of its bytes belong to no record")
    root = next(iter(records), "").partition("/")[0]
    if f"{root}/constants.pkl" in records:
        raise ValueError("it is TorchScript, which is code; save the model's state_dict()")
    if f"{root}/archive_format" in records:
        raise ValueError(
            "it is a program of torch.export, which is code; a function of yours that returns "
            "torch.export.load(…).module() is a model"
        )

    def part(name: str) -> bytes:
        if (stored := records[f"{root}/{name}"].file_size) > MAX_BYTES:
            raise ValueError(f"its {name} has {stored} bytes, more than {MAX_BYTES}")
        return archive.read(f"{root}/{name}")

    def storage(key: str) -> bytearray:
        content = bytearray()
        with archive.open(f"{root}/data/{key}") as file:
            while block := file.read(_BLOCK):
                content += block
        return content

    if f"{root}/byteorder" in records and part("byteorder") != b"little":
        raise ValueError("it was written on a big-endian machine")
    content, _ = read_pickle(io.BytesIO(part("data.pkl")))
    return TorchFile(content, lambda key: records[f"{root}/data/{key}"].file_size, storage)


def _legacy(file: io.BufferedReader, length: int) -> TorchFile:
    """Read three pickles (the format, the content, the storages' names), then the storages."""
    file.seek(0)
    pickles = io.BytesIO(file.read(min(length, MAX_BYTES)))
    if pickles.getvalue()[257:262] == b"ustar":
        raise ValueError("it is a tar, as torch 0.1 wrote; load and save it again with torch 0.4")
    magic, _ = read_pickle(pickles)
    if type(magic) is not int or magic != _MAGIC:
        raise ValueError("it was not written by torch.save")
    read_pickle(pickles)  # the protocol
    system, _ = read_pickle(pickles)
    if not system.get("little_endian", True):
        raise ValueError("it was written on a big-endian machine")
    content, references = read_pickle(pickles)
    kinds = {key: dtype for key, dtype, _ in map(_described, references)}
    keys, _ = read_pickle(pickles)
    file.seek(pickles.tell())
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        if type(key) is not str:
            raise ValueError("a storage has no plain name")
        (count,) = struct.unpack("<Q", file.read(8))
        places[key] = file.tell(), count * kinds[key].itemsize
        if sum(places[key]) > length:
            raise ValueError("it is cut off")
        file.seek(places[key][1], io.SEEK_CUR)
    if (rest := length - file.tell()) > 0:
        raise ValueError(f"{rest} bytes follow its last storage")

    def storage(key: str) -> bytearray:
        start, stored = places[key]
        file.seek(start)
        content = bytearray(stored)
        file.readinto(content)
        return content

    return TorchFile(content, lambda key: places[key][1], storage)


def _dtype(value: object) -> torch.dtype:
    return _NAMED[str(value) if type(value) is Name else ""]


def _described(reference: object) -> tuple[str, torch.dtype, int]:
    """Key, type and number of elements of the storage that a reference names."""
    identity = reference.identity if type(reference) is Reference else ()
    match identity:
        case ("storage", Name(name=kind), str() as key, str(), int() as count, *view):
            if view not in ([], [None]):
                raise ValueError("a storage is a view of another, as torch 0.3 wrote")
            if len(key) > LONGEST or count < 0:
                raise ValueError("a storage has no plain name or size")
            dtype = torch.uint8 if kind == "UntypedStorage" else _STORAGES[kind]
            return key, dtype, count
    raise ValueError("a tensor without a storage in the file")
