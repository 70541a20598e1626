"""Small weights files that would grow, or take long, if what is in them were walked through."""

import json
import struct
import zipfile
from collections.abc import Callable, Iterable
from functools import partial

import torch
from hostile_files import EIGHT, archive, entry, named, number, safe, saved, zipped
from weights_files import state

PRIME = (1 << 61) - 1
"""Python's hash of a number is its rest modulo this."""
MB = 1 << 20
KEPT = b"\x940"
"""Instructions that keep a value for later, and take it from the stack."""


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


MAGIC = number(0x1950A86A20F9469CFC6C)
DOUBLED = b")" + b"2\x86" * 60
"""A tuple of one tuple twice, sixty deep: 121 bytes that stand for 2⁶⁰ tuples."""
LISTS = b"]" + KEPT + b"".join(b"(h%ch%cl\x940" % (n, n) for n in range(60)) + b"h\x3c"
DEEP = b")" + b"\x85" * 60_000
STORAGE = (
    b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x01"
)
ORDERED = named("collections", "OrderedDict")
PARAMETER = named("torch._utils", "_rebuild_parameter")
TENSOR = named("torch._utils", "_rebuild_tensor_v2")
STATES = ("model", "net", "ema", "network")


def content(value: bytes) -> bytes:
    return zipped(b"\x80\x04" + value + b".")


def weights(value: bytes, key: bytes = text("conv.weight")) -> bytes:
    return content(b"}" + key + value + b"s")


def tensor(storage=STORAGE + b"tQ", offset=b"K\0", size=b")", stride=b")", rest=b"\x89}") -> bytes:
    return TENSOR + b"(" + storage + offset + size + stride + rest + b"tR"


def sized(size: int, stride: int = 1) -> bytes:
    return weights(tensor(size=number(size) + b"\x85", stride=number(stride) + b"\x85"))


def v3(dtype: bytes) -> bytes:
    made = tensor(rest=b"\x89}" + dtype + b"}")
    return made.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3")


def legacy(magic=MAGIC, system=b"}", value=b"}", keys=b"]", rest=b"") -> bytes:
    parts = (magic, number(1001), system, value, keys)
    return b"".join(b"\x80\x04" + part + b"." for part in parts) + rest


def pairs(items: Iterable[bytes]) -> bytes:
    return b"}(" + b"".join(items) + b"u"


def encrypted() -> bytes:
    whole = archive({"a/data.pkl": b"\x80\x04}."})
    return whole.replace(b"PK\1\2\x14\x03\x14\0\0", b"PK\1\2\x14\x03\x14\0\1")


def lying_bomb() -> bytes:
    """200 MB of zeros as the pickle, of which the archive says that they are 100 bytes."""
    found = zipped(bytes(200 * MB), compression=zipfile.ZIP_DEFLATED, compresslevel=1)
    return found.replace(struct.pack("<I", 200 * MB), struct.pack("<I", 100))


def directory(count: int) -> bytes:
    """An archive whose table of contents names one record many times."""
    whole = zipped(b"\x80\x04}.")
    start, end = whole.index(b"PK\1\2"), whole.index(b"PK\5\6")
    one = whole[start : whole.index(b"PK\1\2", start + 4)]
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, (len(one) * count), start, 0)
    assert len(tail) == len(whole) - end
    return whole[:start] + one * count + tail


def header(count: int, name: Callable[[int], str] = str) -> bytes:
    one = json.dumps(entry(0, 0, 0))
    found = ",".join(f"{json.dumps(name(i))}:{one}" for i in range(count))
    return safe(b"{" + found.encode() + b"}")


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
PLACES: dict[str, Callable[[bytes], bytes]] = {
    # wherever something could be made a text, compared or hashed
    "content": content,
    "entry": weights,
    "key": lambda v: weights(b"K\1", key=v),
    "module": lambda v: content(v + text("x") + b"\x93"),
    "name": lambda v: content(text("x") + v + b"\x93"),
    "function": lambda v: weights(v + b")R"),
    "new-object": lambda v: weights(v + b")\x81"),
    "arguments": lambda v: weights(TENSOR + v + b"R"),
    "ordered": lambda v: content(ORDERED + v + b"R"),
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
}
SHARED = {"doubled": DOUBLED, "lists": LISTS, "itself": b"]\x94h\x00a"}
FILES: dict[str, Callable[[], bytes]] = {
    f"{kind}-{place}.pt": partial(build, value)
    for kind, value in SHARED.items()
    for place, build in PLACES.items()
} | {
    # what is deep
    "deep-function.pt": lambda: weights(named("a", "b") + b")R" * 60_000),
    "deep-parameter.pt": lambda: weights(
        PARAMETER + KEPT + b"h\0" * 20_000 + tensor() + b"\x85R" * 20_000
    ),
    "deep-storage-name.pt": lambda: legacy(keys=DEEP + b"\x85", rest=EIGHT),
    "deep-state.pt": lambda: content((b"}" + text("model")) * 30_000 + b"}" + b"s" * 30_000),
    "state-in-itself.pt": lambda: content(b"}\x94" + text("model") + b"h\0s"),
    # what collides, or is compared again and again
    "keys-of-one-hash.pt": lambda: content(pairs(number(i * PRIME) + b"N" for i in range(80_000))),
    "memo-of-one-hash.pt": lambda: content(
        b"N" + b"".join(b"p%d\n" % ((i << 64) * PRIME) for i in range(150_000))
    ),
    "long-equal-keys.pt": lambda: content(
        b"}" + text("k" * 4 * MB) + b"Ns" + text("k" * 4 * MB) + KEPT + b"h\0Ns" * 50_000
    ),
    "long-equal-storages.pt": lambda: content(
        (text("s" * 4 * MB) + KEPT)
        + pairs(
            text(f"a{i}") + tensor(STORAGE.replace(text("0"), b"h\0") + b"tQ") for i in range(9_000)
        )
    ),
    "long-module.pt": lambda: content(text("m" * 8 * MB) + KEPT + b"h\0h\0\x930" * 45_000 + b"}"),
    "many-axes.pt": lambda: content(
        (b"(" + b"K\1" * 30_000 + b"t" + KEPT)
        + pairs(text(f"a{i}") + tensor(size=b"h\0", stride=b"h\0") for i in range(5_000))
    ),
    "many-dots.pt": lambda: saved({f"{i}{'.' * 990}": torch.zeros(1) for i in range(3_000)}),
    # numbers
    "number-of-a-megabyte.pt": lambda: weights(b"\x8b" + struct.pack("<i", MB) + b"\x7f" * MB),
    "long-decimal.pt": lambda: weights(b"L" + b"9" * MB + b"L\n"),
    "no-float.pt": lambda: weights(b"F" + b"9" * 4 * MB + b"x\n"),
    "no-quotes.pt": lambda: weights(b"S" + b"\x01" * 4 * MB + b"\n"),
    "negative-size.pt": lambda: sized(-1),
    "negative-stride.pt": lambda: sized(1, stride=-1),
    "size-of-2-to-62.pt": lambda: weights(
        tensor(size=number(1 << 62) * 3 + b"\x87", stride=b"K\0K\0K\0\x87")
    ),
    "size-of-2-to-4000.pt": lambda: sized(1 << 4000, stride=0),
    "storage-of-2-to-4000.pt": lambda: weights(tensor(STORAGE[:-2] + number(1 << 4000) + b"tQ")),
    "negative-storage.pt": lambda: weights(tensor(STORAGE[:-2] + number(-1) + b"tQ")),
    # views that claim what they have not
    "400-000-classes.pt": lambda: saved(
        {
            **state(),
            "linear.weight": torch.zeros(1, 4).expand(400_000, 4),
            "linear.bias": torch.zeros(1).expand(400_000),
        }
    ),
    "overlapping-windows.pt": lambda: saved(
        state() | {"linear.weight": torch.zeros(100_000).as_strided((90_000, 9_000), (1, 1))}
    ),
    # much of something
    "6-000-tensors.pt": lambda: saved({f"a{i}": torch.zeros(1) for i in range(6_000)}),
    "90-000-names.pt": lambda: content(
        tensor() + KEPT + pairs(text(f"a{i}") + b"h\0" for i in range(90_000))
    ),
    "20-copies.pt": lambda: saved(
        {f"part{i}.{name}": t for i in range(20) for name, t in state().items()}
    ),
    "3-000-means.pt": lambda: saved(
        state() | {f"{'m' * 900}{i}.mean": torch.rand(3) for i in range(3_000)}
    ),
    "wide-text.pt": lambda: weights(text("a" * 15 * MB + "\U0001f600")),
    "large-pickle.pt": lambda: weights(text("a" * 40 * MB)),
    "large-pickle-legacy.pt": lambda: legacy(value=text("a" * 40 * MB)),
    "many-storages-legacy.pt": lambda: legacy(
        keys=text("0") + KEPT + b"(" + b"h\0" * 90_000 + b"t", rest=EIGHT * 90_000
    ),
    "all-states.pt": lambda: content(
        (pairs(number(i) + b"N" for i in range(90_000)) + KEPT)
        + pairs(text(key) + b"h\0" for key in STATES)
    ),
    "long-pairs.pt": lambda: content(
        (b"](" + b"(K\1Nl" * 40_000 + b"e" + KEPT)
        + pairs(text(key) + ORDERED + b"h\0\x85R" for key in STATES)
    ),
    # archives
    "lying-bomb.pt": lying_bomb,
    "200-000-records.pt": lambda: directory(200_000),
    "60-000-records.pt": lambda: directory(60_000),
    "no-records.pt": lambda: archive({}),
    "no-root.pt": lambda: archive({"/": b""}),
    "large-byteorder.pt": lambda: archive({"a/byteorder": bytes(40 * MB), "a/data.pkl": b""}),
    "encrypted.pt": encrypted,
    "other-size.pt": lambda: saved(state()).replace(
        struct.pack("<II", 432, 432), struct.pack("<II", 432, 400)
    ),
    # names that write on the terminal
    "escape.pt": lambda: saved({**state(), ESCAPE: torch.zeros(1)}),
    "escape-entry.pt": lambda: saved({**state(), ESCAPE: 3}),
    "escape-module.pt": lambda: weights(text(ESCAPE) + text(ESCAPE) + b"\x93)R"),
    "escape-prefix.pt": lambda: saved({f"{ESCAPE}.conv.weight": torch.zeros(4, 3, 3, 3)}),
    "surrogate.pt": lambda: weights(b"K\1", key=b"X\3\0\0\0\xed\xa0\x80"),
    # safetensors
    "300-000-tensors.safetensors": lambda: header(300_000),
    "40-000-tensors.safetensors": lambda: header(40_000),
    "long-names.safetensors": lambda: header(3_000, lambda i: f"{i}.{'a.' * 490}"),
    "long-name.safetensors": lambda: header(1, lambda i: "a" * 2 * MB),
    "long-header.safetensors": lambda: safe(b'{"a":"' + b" " * 30 * MB + b'"}'),
    "many-lists.safetensors": lambda: safe(b'{"a":[' + b"[]," * MB + b"[]]}"),
    "many-axes.safetensors": lambda: safe({"a": entry(0, 4, *[1] * MB)}, EIGHT[:4]),
    "many-axes-of-a-layer.safetensors": lambda: safe(
        {"conv.weight": entry(0, 4, *[1] * MB)}, EIGHT[:4]
    ),
    "no-elements.safetensors": lambda: safe({"a": entry(0, 0, 0, 1 << 62)}),
    "twice.safetensors": lambda: safe(
        b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 4, 1)).encode(),) * 2), EIGHT
    ),
    "escape.safetensors": lambda: header(1, lambda i: ESCAPE),
    "long-statistics.safetensors": lambda: statistics("x" * 2 * MB),
    "many-statistics.safetensors": lambda: statistics("1 " * MB),
    "escape-statistics.safetensors": lambda: statistics(ESCAPE),
}
