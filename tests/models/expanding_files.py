"""Small weights files that would grow, or take long, if what is in them were walked through."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from hostile_files import EIGHT, entry, safe, saved, zipped
from weights_files import state

PRIME = (1 << 61) - 1
"""Python's hash of a number is its rest modulo this."""
MB = 1 << 20


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


MAGIC = number(0x1950A86A20F9469CFC6C)
DOUBLED = b")" + b"2\x86" * 60
"""A tuple of one tuple twice, sixty deep: 121 bytes that stand for 2⁶⁰ tuples."""
LISTS = b"]\x940" + b"".join(b"(h%ch%cl\x940" % (n, n) for n in range(60)) + b"h\x3c"
ITSELF = b"]\x94h\x00a"
DEEP = b")" + b"\x85" * 60_000
STORAGE = (
    b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x01"
)
TENSOR = named("torch._utils", "_rebuild_tensor_v2")


def content(value: bytes) -> bytes:
    return zipped(b"\x80\x04" + value + b".")


def weights(value: bytes, key: bytes = text("conv.weight")) -> bytes:
    """A state dict of one entry."""
    return content(b"}" + key + value + b"s")


def tensor(storage=STORAGE + b"tQ", offset=b"K\0", size=b")", stride=b")", rest=b"\x89}") -> bytes:
    return TENSOR + b"(" + storage + offset + size + stride + rest + b"tR"


def v3(dtype: bytes) -> bytes:
    made = tensor(rest=b"\x89}" + dtype + b"}")
    return made.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3")


def legacy(magic=MAGIC, system=b"}", value=b"}", keys=b"]", rest=b"") -> bytes:
    parts = (magic, number(1001), system, value, keys)
    return b"".join(b"\x80\x04" + part + b"." for part in parts) + rest


def many(count: int, item: Callable[[int], bytes]) -> bytes:
    """A dictionary of `count` pairs."""
    return b"}(" + b"".join(map(item, range(count))) + b"u"


def archive(records: dict[str, bytes], change: Callable[[bytes], bytes] = bytes, **given) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **given) as file:
        for name, data in records.items():
            file.writestr(name, data)
    return change(buffer.getvalue())


def lying_bomb() -> bytes:
    """200 MB of zeros as the pickle, of which the archive says that they are 100 bytes."""
    found = zipped(bytes(200 * MB), compression=zipfile.ZIP_DEFLATED)
    return found.replace(struct.pack("<I", 200 * MB), struct.pack("<I", 100))


def directory(count: int) -> bytes:
    """An archive whose table of contents names one record many times."""
    whole = zipped(b"\x80\x04}.")
    start = whole.index(b"PK\1\2")
    end = whole.index(b"PK\5\6")
    one = whole[start : whole.index(b"PK\1\2", start + 4)]
    size = len(one) * count
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, size, start, 0)
    assert len(tail) == len(whole) - end
    return whole[:start] + one * count + tail


def copies(count: int) -> bytes:
    return saved({f"part{i}.{name}": t for i in range(count) for name, t in state().items()})


def header(count: int, name: Callable[[int], str] = str) -> bytes:
    one = json.dumps(entry(0, 0, 0))
    pairs = ",".join(f"{json.dumps(name(i))}:{one}" for i in range(count))
    return safe(b"{" + pairs.encode() + b"}")


def statistics(value: str) -> bytes:
    tensors = {"__metadata__": {"mean, std": value}}
    offset, data = 0, b""
    for name, found in state().items():
        raw = found.contiguous().numpy().tobytes()
        kind = "F32" if found.is_floating_point() else "I64"
        tensors[name] = entry(offset, offset + len(raw), *found.shape, dtype=kind)
        offset, data = offset + len(raw), data + raw
    return safe(json.dumps(tensors).encode(), data)


ESCAPE = "\x1b[2J\x07\u202e\nerror: none"
FILES: dict[str, Callable[[Path], bytes]] = {
    # what is shared, wherever something could be made a text, compared or hashed
    **{
        f"{kind}-{place}.pt": (lambda path, build=build, value=value: build(value))
        for kind, value in (("doubled", DOUBLED), ("lists", LISTS), ("itself", ITSELF))
        for place, build in {
            "content": lambda v: content(v),
            "entry": lambda v: weights(v),
            "key": lambda v: weights(b"K\1", key=v),
            "module": lambda v: content(v + text("x") + b"\x93"),
            "name": lambda v: content(text("x") + v + b"\x93"),
            "function": lambda v: weights(v + b")R"),
            "new-object": lambda v: weights(v + b")\x81"),
            "arguments": lambda v: weights(TENSOR + v + b"R"),
            "ordered": lambda v: content(named("collections", "OrderedDict") + v + b"R"),
            "reference": lambda v: weights(tensor(storage=v + b"Q")),
            "storage": lambda v: weights(tensor(storage=v)),
            "offset": lambda v: weights(tensor(offset=v)),
            "size": lambda v: weights(tensor(size=v)),
            "axis": lambda v: weights(tensor(size=v + b"\x85", stride=b"K\1\x85")),
            "dtype": lambda v: weights(v3(v)),
            "magic": lambda v: legacy(magic=v),
            "system": lambda v: legacy(system=v),
            "storages": lambda v: legacy(keys=v),
            "storage-name": lambda v: legacy(keys=v + b"\x85", rest=EIGHT),
        }.items()
    },
    # what is deep
    "deep-function.pt": lambda path: weights(named("a", "b") + b")R" * 60_000),
    "deep-parameter.pt": lambda path: weights(
        named("torch._utils", "_rebuild_parameter")
        + b"\x940"
        + b"h\0" * 20_000
        + tensor()
        + b"\x85R" * 20_000
    ),
    "deep-storage-name.pt": lambda path: legacy(keys=DEEP + b"\x85", rest=EIGHT),
    "deep-state.pt": lambda path: content((b"}" + text("model")) * 30_000 + b"}" + b"s" * 30_000),
    "state-in-itself.pt": lambda path: content(b"}\x94" + text("model") + b"h\0s"),
    # what collides, or is compared again and again
    "keys-of-one-hash.pt": lambda path: content(many(80_000, lambda i: number(i * PRIME) + b"N")),
    "memo-of-one-hash.pt": lambda path: content(
        b"N" + b"".join(b"p%d\n" % ((i << 64) * PRIME) for i in range(150_000))
    ),
    "long-equal-keys.pt": lambda path: content(
        b"}" + text("k" * 4 * MB) + b"Ns" + text("k" * 4 * MB) + b"\x940" + b"h\0Ns" * 50_000
    ),
    "long-equal-storages.pt": lambda path: content(
        text("s" * 4 * MB)
        + b"\x940"
        + many(9_000, lambda i: text(f"a{i}") + tensor(STORAGE.replace(text("0"), b"h\0") + b"tQ"))
    ),
    "long-module.pt": lambda path: content(
        text("m" * 8 * MB) + b"\x940" + b"h\0h\0\x930" * 45_000 + b"}"
    ),
    "many-axes.pt": lambda path: content(
        b"("
        + b"K\1" * 30_000
        + b"t\x940"
        + many(5_000, lambda i: text(f"a{i}") + tensor(size=b"h\0", stride=b"h\0"))
    ),
    "many-dots.pt": lambda path: saved({f"{i}{'.' * 990}": torch.zeros(1) for i in range(3_000)}),
    # numbers
    "number-of-a-megabyte.pt": lambda path: weights(b"\x8b" + struct.pack("<i", MB) + b"\x7f" * MB),
    "long-decimal.pt": lambda path: weights(b"L" + b"9" * MB + b"L\n"),
    "no-float.pt": lambda path: weights(b"F" + b"9" * 4 * MB + b"x\n"),
    "no-quotes.pt": lambda path: weights(b"S" + b"\x01" * 4 * MB + b"\n"),
    "negative-size.pt": lambda path: weights(tensor(size=number(-1) + b"\x85", stride=b"K\1\x85")),
    "negative-stride.pt": lambda path: weights(
        tensor(size=b"K\1\x85", stride=number(-1) + b"\x85")
    ),
    "size-of-2-to-62.pt": lambda path: weights(
        tensor(size=number(1 << 62) * 3 + b"\x87", stride=b"K\0K\0K\0\x87")
    ),
    "size-of-2-to-4000.pt": lambda path: weights(
        tensor(size=number(1 << 4000) + b"\x85", stride=b"K\0\x85")
    ),
    "storage-of-2-to-4000.pt": lambda path: weights(
        tensor(storage=STORAGE[:-2] + number(1 << 4000) + b"tQ")
    ),
    "negative-storage.pt": lambda path: weights(tensor(storage=STORAGE[:-2] + number(-1) + b"tQ")),
    # views that claim what they have not
    "400-000-classes.pt": lambda path: saved(
        {
            **state(),
            "linear.weight": torch.zeros(1, 4).expand(400_000, 4),
            "linear.bias": torch.zeros(1).expand(400_000),
        }
    ),
    "overlapping-windows.pt": lambda path: saved(
        {**state(), "linear.weight": torch.zeros(100_000).as_strided((90_000, 9_000), (1, 1))}
    ),
    # much of something
    "6-000-tensors.pt": lambda path: saved({f"a{i}": torch.zeros(1) for i in range(6_000)}),
    "90-000-names.pt": lambda path: content(
        tensor() + b"\x940" + many(90_000, lambda i: text(f"a{i}") + b"h\0")
    ),
    "20-copies.pt": lambda path: copies(20),
    "3-000-means.pt": lambda path: saved(
        {**state(), **{f"{'m' * 900}{i}.mean": torch.rand(3) for i in range(3_000)}}
    ),
    "wide-text.pt": lambda path: weights(text("a" * 15 * MB + "\U0001f600")),
    "large-pickle.pt": lambda path: weights(text("a" * 40 * MB)),
    "large-pickle-legacy.pt": lambda path: legacy(value=text("a" * 40 * MB)),
    "many-storages-legacy.pt": lambda path: legacy(
        keys=text("0") + b"\x940(" + b"h\0" * 90_000 + b"t", rest=EIGHT * 90_000
    ),
    "all-states.pt": lambda path: content(
        many(90_000, lambda i: number(i) + b"N")
        + b"\x940"
        + b"}("
        + b"".join(text(k) + b"h\0" for k in ("model", "net", "ema", "network"))
        + b"u"
    ),
    "long-pairs.pt": lambda path: content(
        b"]("
        + b"".join(b"(K\1Nl" for _ in range(40_000))
        + b"e\x940"
        + b"}("
        + b"".join(
            text(k) + named("collections", "OrderedDict") + b"h\0\x85R"
            for k in ("model", "net", "ema", "network")
        )
        + b"u"
    ),
    # archives
    "lying-bomb.pt": lambda path: lying_bomb(),
    "200-000-records.pt": lambda path: directory(200_000),
    "60-000-records.pt": lambda path: directory(60_000),
    "no-records.pt": lambda path: archive({}),
    "no-root.pt": lambda path: archive({"/": b""}),
    "large-byteorder.pt": lambda path: archive({"a/byteorder": bytes(40 * MB), "a/data.pkl": b""}),
    "encrypted.pt": lambda path: archive(
        {"a/data.pkl": b"\x80\x04}."},
        lambda b: b.replace(b"PK\1\2\x14\x03\x14\0\0", b"PK\1\2\x14\x03\x14\0\1"),
    ),
    "other-size.pt": lambda path: saved(state()).replace(
        struct.pack("<II", 432, 432), struct.pack("<II", 432, 400)
    ),
    # names that write on the terminal
    "escape.pt": lambda path: saved({**state(), ESCAPE: torch.zeros(1)}),
    "escape-entry.pt": lambda path: saved({**state(), ESCAPE: 3}),
    "escape-module.pt": lambda path: weights(text(ESCAPE) + text(ESCAPE) + b"\x93)R"),
    "escape-prefix.pt": lambda path: saved({f"{ESCAPE}.conv.weight": torch.zeros(4, 3, 3, 3)}),
    "surrogate.pt": lambda path: weights(b"K\1", key=b"X\3\0\0\0\xed\xa0\x80"),
    # safetensors
    "300-000-tensors.safetensors": lambda path: header(300_000),
    "40-000-tensors.safetensors": lambda path: header(40_000),
    "long-names.safetensors": lambda path: header(3_000, lambda i: f"{i}.{'a.' * 490}"),
    "long-name.safetensors": lambda path: header(1, lambda i: "a" * 2 * MB),
    "long-header.safetensors": lambda path: safe(b'{"a":"' + b" " * 30 * MB + b'"}'),
    "many-lists.safetensors": lambda path: safe(b'{"a":[' + b"[]," * MB + b"[]]}"),
    "many-axes.safetensors": lambda path: safe({"a": entry(0, 4, *[1] * MB)}, EIGHT[:4]),
    "many-axes-of-one-layer.safetensors": lambda path: safe(
        {"conv.weight": entry(0, 4, *[1] * MB)}, EIGHT[:4]
    ),
    "no-elements.safetensors": lambda path: safe({"a": entry(0, 0, 0, 1 << 62)}),
    "twice.safetensors": lambda path: safe(
        b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 4, 1)).encode(),) * 2), EIGHT
    ),
    "escape.safetensors": lambda path: header(1, lambda i: ESCAPE),
    "long-statistics.safetensors": lambda path: statistics("x" * 2 * MB),
    "many-statistics.safetensors": lambda path: statistics("1 " * MB),
    "escape-statistics.safetensors": lambda path: statistics(ESCAPE),
}
