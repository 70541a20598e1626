"""Files of torch.save, of every version since 0.1.10, read as data: see `pickles`."""

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from advlens.models.pickles import Call, Name, Reference, read_pickle

_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16,
    "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
    "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
    "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
}  # fmt: skip
_STORAGES = {f"{kind}Storage": dtype for kind, dtype in _TYPES.items()}
_NAMED = {
    str(dtype): dtype
    for dtype in (*_TYPES.values(), torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16)
}
_TENSORS = {
    "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
}  # fmt: skip
_PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}


@dataclass(frozen=True)
class TorchFile:
    """What a file holds.

    Attributes:
        content: dictionaries, lists, plain values, and calls that make tensors, as data.
    """

    content: Any
    _bytes: Callable[[str], bytearray]
    _read: dict[str, Tensor]

    def tensor(self, value: object) -> Tensor | None:
        """The tensor that a value of the content stands for; of any other value, None.

        Raises:
            ValueError: a tensor that does not lie within its storage, or a storage that is not in
                the file.
        """
        if type(value) is not Call or type(value.arguments) is not tuple:
            return None
        if str(value.function) in _PARAMETERS:
            return self.tensor(value.arguments[0])
        if str(value.function) not in _TENSORS:
            return None
        storage, offset, size, stride, *rest = value.arguments
        flat = self._storage(storage)
        if str(value.function).endswith("_v3"):
            flat = flat.view(_NAMED[str(rest[2])])
        numbers = [offset, *size, *stride]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("a tensor has no plain size")
        reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
        if 0 not in size and reach > len(flat):
            raise ValueError(f"a tensor reaches to element {reach} of a storage of {len(flat)}")
        return flat.as_strided(size, stride, offset)

    def _storage(self, reference: object) -> Tensor:
        key, dtype, count = _described(reference)
        if key not in self._read:
            content = self._bytes(key)
            if len(content) != count * dtype.itemsize:
                raise ValueError(f"a storage of {len(content)} bytes claims {count} elements")
            self._read[key] = (
                torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
            )
        return self._read[key]


@contextmanager
def torch_file(path: Path) -> Iterator[TorchFile]:
    """Open a file of torch.save; tensors are read when they are asked for.

    Raises:
        UnsafeError: the file names what weights do not need.
        ValueError: it is of another kind, with the reason.
        Exception: of any kind, where it is damaged.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield _zipped(archive, path.stat().st_size)
    else:
        with path.open("rb") as file:
            yield _legacy(file, path.stat().st_size)


def _zipped(archive: zipfile.ZipFile, length: int) -> TorchFile:
    names = archive.namelist()
    size = sum(record.file_size for record in archive.infolist())
    if size > length:  # torch.save stores its records as they are
        raise ValueError(f"an archive that would unpack to {size} bytes")
    root = names[0].partition("/")[0]
    if f"{root}/constants.pkl" in names:
        raise ValueError("it is TorchScript, which is code; save the model's state_dict()")
    if f"{root}/byteorder" in names and archive.read(f"{root}/byteorder") != b"little":
        raise ValueError("it was written on a big-endian machine")
    content, _ = read_pickle(io.BytesIO(archive.read(f"{root}/data.pkl")))
    return TorchFile(content, lambda key: bytearray(archive.read(f"{root}/data/{key}")), {})


def _legacy(file: BinaryIO, length: int) -> TorchFile:
    """Three pickles about the format, the content, the storages' names, then the storages."""
    start = file.read(265)
    if start[257:262] == b"ustar":
        raise ValueError("it is a tar, as torch 0.1 wrote; load and save it again with torch 0.4")
    if not start:
        raise ValueError("it is empty")
    file.seek(0)
    magic, _ = read_pickle(file)
    if magic != _MAGIC:
        raise ValueError("it was not written by torch.save")
    read_pickle(file)  # the protocol
    system, _ = read_pickle(file)
    if not system.get("little_endian", True):
        raise ValueError("it was written on a big-endian machine")
    content, references = read_pickle(file)
    kinds = {key: dtype for key, dtype, _ in map(_described, references)}
    places: dict[str, tuple[int, int]] = {}
    for key in read_pickle(file)[0]:
        (count,) = struct.unpack("<Q", file.read(8))
        places[key] = file.tell(), count * kinds[key].itemsize
        if sum(places[key]) > length:
            raise ValueError("it is cut off")
        file.seek(places[key][1], io.SEEK_CUR)

    def part(key: str) -> bytearray:
        start, size = places[key]
        file.seek(start)
        return bytearray(file.read(size))

    return TorchFile(content, part, {})


def _described(reference: object) -> tuple[str, torch.dtype, int]:
    """Key, type and number of elements of the storage that a reference names."""
    identity = reference.identity if type(reference) is Reference else ()
    match identity:
        case ("storage", Name(name=kind), str() as key, str(), int() as count, *view):
            if view not in ([], [None]):
                raise ValueError("a storage is a view of another, as torch 0.3 wrote")
            dtype = torch.uint8 if kind == "UntypedStorage" else _STORAGES[kind]
            return key, dtype, count
    raise ValueError("a tensor without a storage in the file")
