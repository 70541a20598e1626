"""Struct arrays in level-5 MAT-files of MATLAB, as in ImageNet's devkit, without SciPy.

MathWorks, MAT-File Format (2023), chapter 1. A file is a header of 128 bytes, then data elements; a
matrix is an element made of elements: flags, dimensions, name, and values.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from advlens.errors import DataError

NUMBERS = {
    1: "i1",
    2: "u1",
    3: "<i2",
    4: "<u2",
    5: "<i4",
    6: "<u4",
    7: "<f4",
    9: "<f8",
    12: "<i8",
    13: "<u8",
}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
MATRIX, COMPRESSED = 14, 15  # types of elements
STRUCT, CHAR = 2, 4  # classes of matrices
MAX_BYTES = 50_000_000
"""Maximum size of an unpacked element; the devkit's has about one million bytes."""


def read_structs(
    content: bytes, variable: str, fields: tuple[str, str]
) -> list[tuple[str | float, ...]]:
    """Some fields of each struct of an array.

    Args:
        content: the bytes of the file.
        variable: the array's name.
        fields: the names of the fields; each holds a text or a number.

    Returns:
        The values of each struct, texts as str and numbers as float.

    Raises:
        DataError: the array is missing, or the bytes are not such a file.
    """
    try:
        if content[126:128] != b"IM":
            raise ValueError("it is not a little-endian file of level 5")
        for kind, body in _elements(content[128:]):
            if kind != MATRIX:
                continue
            flags, _, (_, name), *rest = _elements(body)
            if name.decode() == variable and flags[1][0] == STRUCT:
                (_, width), (_, names), *cells = rest
                (step,) = struct.unpack("<i", width)
                known = [
                    names[i : i + step].split(b"\0")[0].decode() for i in range(0, len(names), step)
                ]
                places = [known.index(field) for field in fields]
                return [
                    tuple(_value(cells[start + place]) for place in places)
                    for start in range(0, len(cells), len(known))
                ]
        raise ValueError(f"it holds no structs {variable}")
    except (ValueError, IndexError, TypeError, KeyError, struct.error, zlib.error) as error:
        raise DataError(str(error)) from error


def _value(cell: tuple[int, bytes]) -> str | float:
    """The text or the single number in a matrix."""
    kind, body = cell
    if kind != MATRIX:
        raise ValueError(f"a field of a struct is of type {kind}")
    (_, flags), _, _, (stored, values), *_ = _elements(body)
    if flags[0] == CHAR:
        return values.decode(TEXTS[stored])
    return float(np.frombuffer(values, NUMBERS[stored]).item())


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and contents of each element; a short element lies inside its own tag."""
    place = 0
    while place < len(content):
        kind, size = struct.unpack_from("<II", content, place)
        if kind >> 16:
            kind, size = kind & 0xFFFF, kind >> 16
            begin, place = place + 4, place + 8
        else:
            begin = place + 8
            place = begin + size + (0 if kind == COMPRESSED else -size % 8)
        body = content[begin : begin + size]
        if len(body) != size:
            raise ValueError("it ends in the middle")
        if kind == COMPRESSED:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(body, MAX_BYTES)
            if not unpacker.eof:
                raise ValueError(f"it is damaged, or holds more than {MAX_BYTES} bytes")
            yield from _elements(unpacked)
        else:
            yield kind, body
