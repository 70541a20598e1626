"""The MAT-file of ImageNet's devkit: what SciPy writes is read back, hostile bytes are refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from advlens.datasets.matlab import read_structs
from advlens.errors import DataError
from tiny_imagenet import meta
from work import at_most

CALLS = 1_000
"""Of functions, at most, to refuse a file."""

FIELDS = ("ILSVRC2012_ID", "WNID")


@pytest.mark.parametrize("compress", [True, False])
def test_equals_scipy(compress: bool) -> None:
    content = meta(compress=compress)
    expected = loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
    for fields in (FIELDS, ("WNID", "num_children"), ("gloss", "words")):
        rows = read_structs(content, "synsets", fields)
        assert len(rows) == 1003
        assert rows == [tuple(row[field] for field in fields) for row in expected]


@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_numbers(kind: str) -> None:
    rows = np.array([[(np.array(7, kind), "x")]], dtype=[("a", object), ("b", object)])
    file = io.BytesIO()
    savemat(file, {"s": rows})
    assert read_structs(file.getvalue(), "s", ("a", "b")) == [(7.0, "x")]


def element(kind: int, size: int, body: bytes = b"") -> bytes:
    return meta()[:128] + struct.pack("<II", kind, size) + body


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a little-endian file of level 5"),
        (bytes(126) + b"MI", "not a little-endian file of level 5"),
        (meta()[:-4000], "ends in the middle"),
        (meta()[:128], "holds no structs"),
        (meta()[:130], "unpack_from requires"),
        (element(14, 2**32 - 1), "ends in the middle"),
        (element(14, 0), "not enough values"),
        (element(15, 8, b"\xff" * 8), "incorrect header"),
    ],
)
def test_no_such_file(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_structs(content, "synsets", FIELDS)
    for variable, field in (("others", "WNID"), ("synsets", "wnid")):
        with pytest.raises(DataError):
            read_structs(meta(), variable, ("ILSVRC2012_ID", field))


def test_bomb() -> None:
    packed = zlib.compress(bytes(60_000_000), 1)
    with pytest.raises(DataError, match="more than 50000000 bytes"):
        read_structs(element(15, len(packed), packed), "synsets", FIELDS)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(128, 3999), st.integers(0, 255)), min_size=1, max_size=8))
def test_flipped_bytes(changes: list[tuple[int, int]]) -> None:
    content = bytearray(meta(compress=False)[:4000])
    for place, value in changes:
        content[place] = value
    with at_most(calls=CALLS), pytest.raises(DataError):
        read_structs(bytes(content), "synsets", FIELDS)
