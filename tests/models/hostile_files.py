"""Damaged and hostile weights files, each written by a few lines."""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from weights_files import Network, state


class Payload:
    """Unpickling it calls something."""

    def __init__(self, call, *arguments, state=None):
        self.reduced = (call, arguments) if state is None else (call, arguments, state)

    def __reduce__(self):
        return self.reduced


def touch(path: Path) -> Payload:
    return Payload(os.system, f"touch {path}")


def pickled(value, protocol: int = 2) -> bytes:
    return pickle.dumps(value, protocol=protocol)


def number(value: int) -> bytes:
    return pickled(value)[2:-1]


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def opcodes(path: Path) -> bytes:
    """A pickle of protocol 0, written by hand."""
    return named("posix", "system") + b"(S'touch " + str(path).encode() + b"'\ntR."


def by_hand(module: str, form: str, path: Path) -> bytes:
    """A pickle that asks for a call by another instruction than REDUCE, in a state dict."""
    name = named(module, "system" if module == "os" else "Popen")
    word = b"S'touch " + str(path).encode() + b"'\n"
    call = {
        "INST": b"(" + word + b"i" + name[1:],
        "OBJ": b"(" + name + word + b"o",
        "NEWOBJ": name + word + b"\x85\x81",
        "NEWOBJ_EX": name + word + b"\x85}\x92",
        "BUILD": name + b")\x81}S'args'\n" + word + b"sb",
    }[form]
    return b"\x80\x04}S'conv.weight'\n" + call + b"s."


def archive(records: dict[str, bytes], **settings) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **settings) as file:
        for name, data in records.items():
            file.writestr(name, data)
    return buffer.getvalue()


def zipped(content: bytes, **settings) -> bytes:
    """A file as torch.save writes it, around any pickle."""
    records = {"a/data.pkl": content, "a/byteorder": b"little", "a/version": b"3\n"}
    return archive(records, **settings)


def tar(content: bytes) -> bytes:
    """The format of the very first versions of torch."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def saved(value, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def replaced(content: bytes, old: bytes, new: bytes) -> bytes:
    """A file of torch.save with other bytes in its records."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return archive({n: file.read(n).replace(old, new) for n in file.namelist()})


def flipped(value) -> bytes:
    """A file whose sevens are eights, which its checksum does not know."""
    return saved(value).replace(struct.pack("<f", 7), struct.pack("<f", 8))


def claiming(count: int, legacy: bool) -> bytes:
    """A file whose only storage claims to be of `count` elements instead of 777."""
    content, change = saved({"w": torch.zeros(777)}, legacy), (number(777), number(count))
    return content.replace(*change) if legacy else replaced(content, *change)


def safe(header: dict | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, *shape: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


EIGHT = bytes(8)
SEVENS = torch.full((777,), 7.0)
ZEROS = b"\x80\x02" + b"N0" * 2_000_000 + b"."
CODE: dict[str, Callable[[Path], bytes]] = {
    # each would create the file `path`
    "reduce.pt": lambda path: pickled(touch(path)),
    "reduce-in-zip.pt": lambda path: zipped(pickled(touch(path))),
    "reduce-in-state.pt": lambda path: zipped(pickled({"conv.weight": touch(path)})),
    "reduce-legacy.pt": lambda path: saved({"conv.weight": touch(path)}, legacy=True),
    "eval.pt": lambda path: zipped(pickled(Payload(eval, f"open({str(path)!r}, 'w')"))),
    "protocol-0.pt": opcodes,
    "protocol-0-in-zip.pt": lambda path: zipped(opcodes(path)),
    "protocol-4.pt": lambda path: zipped(pickled(touch(path), protocol=4)),
    **{
        f"{form}-{module}-{wrap.__name__}.pt": (
            lambda path, form=form, module=module, wrap=wrap: wrap(by_hand(module, form, path))
        )
        for form in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD")
        for module in ("os", "subprocess")
        for wrap in (zipped, bytes)
    },
    # good weights, and a payload that nobody needs to look at
    "beside.pt": lambda path: saved({"state_dict": state(), "epoch": touch(path)}),
    "setstate.pt": lambda path: zipped(pickled(Payload(Path, "x", state={"a": touch(path)}))),
    "getattr.pt": lambda path: zipped(pickled({"w": Payload(getattr, Path, "touch")})),
    "exec-legacy.pt": lambda path: saved({"w": Payload(exec, f"open({str(path)!r},'w')")}, True),
    "nested-load.pt": lambda path: zipped(pickled(Payload(pickle.loads, pickled(touch(path))))),
    "tar.pt": lambda path: tar(pickled(touch(path))),
    "pickle.safetensors": lambda path: pickled(touch(path)),
}
FILES: dict[str, Callable[[], bytes]] = {
    "whole-module.pt": lambda: saved(Network()),
    # archives that grow, sizes that lie
    "bomb.pt": lambda: archive(
        {"a/data.pkl": pickled({}), "a/data/0": bytes(1 << 28)},
        compression=zipfile.ZIP_DEFLATED,
        compresslevel=1,
    ),
    "compressed.pt": lambda: zipped(bytes(10**6), compression=zipfile.ZIP_DEFLATED),
    "expanded.pt": lambda: saved({**state(), "conv.weight": torch.zeros(1).expand(1 << 40)}),
    **{
        f"2-to-{bits}-elements-{'legacy' if legacy else 'zip'}.pt": (
            lambda bits=bits, legacy=legacy: claiming(1 << bits, legacy)
        )
        for bits in (33, 62)
        for legacy in (False, True)
    },
    "many-instructions.pt": lambda: zipped(ZEROS),
    "many-instructions-bare.pt": lambda: ZEROS,
    "deep.pt": lambda: zipped(b"}" + b")" + b"\x85" * 150_000 + b"K\x01s."),
    "long-name.pt": lambda: saved({"a." * 500_000: torch.zeros(3)}),
    "huge-number.pt": lambda: zipped(b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"1"),
    "huge-string.pt": lambda: zipped(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"1"),
    "meta.pt": lambda: saved({"w": torch.empty(1 << 40, device="meta")}),
    # damaged or not weights at all
    "truncated-zip.pt": lambda: saved(state())[:1000],
    "truncated-legacy.pt": lambda: saved(state(), legacy=True)[:1000],
    "followed-legacy.pt": lambda: saved(state(), legacy=True) + bytes(10),
    "preceded-zip.pt": lambda: bytes(1 << 20) + saved(state()),
    "no-pickle.pt": lambda: zipped(b""),
    "unfinished-pickle.pt": lambda: zipped(b"\x80\x02}q\0("),
    "empty.pt": bytes,
    "noise.pt": lambda: bytes(range(256)) * 40,
    "html.pt": lambda: b"<html>Google Drive - Virus scan warning</html>",
    "tensor.pt": lambda: saved(torch.zeros(3)),
    "list.pt": lambda: saved([torch.zeros(3)]),
    "empty-dictionary.pt": lambda: saved({}),
    "number-in-state.pt": lambda: saved({**state(), "epoch": 3}),
    "integer-name.pt": lambda: saved({0: torch.zeros(3)}),
    "nested-state.pt": lambda: saved({"a": {"b": state()}}),
    "flipped.pt": lambda: flipped(state() | {"conv.bias": SEVENS[:4].clone()}),
    "flipped-unknown.pt": lambda: flipped(state() | {"extra": SEVENS}),
    "slice-of-80-MB.pt": lambda: saved(state() | {"conv.bias": torch.zeros(20 << 20)[:4]}),
    "sparse.pt": lambda: saved({"w": torch.eye(3).to_sparse()}),
    "zip.safetensors": lambda: saved(state()),
    "empty.safetensors": bytes,
    "short.safetensors": lambda: b"\1\0\0",
    "no-tensors.safetensors": lambda: safe({}),
    "trailing.safetensors": lambda: safe({"a": entry(0, 4, 1)}, bytes(104)),
    # headers and offsets that lie
    "header-of-2-to-63.safetensors": lambda: struct.pack("<Q", 1 << 63) + b"{}",
    "header-beyond-file.safetensors": lambda: struct.pack("<Q", 1000) + b"{}",
    "no-json.safetensors": lambda: safe(b"not json"),
    "deep-json.safetensors": lambda: safe(b'{"a":' * 20000),
    "overlapping.safetensors": lambda: safe({"a": entry(0, 8, 2), "b": entry(4, 8, 1)}, EIGHT),
    "offset-2-to-63.safetensors": lambda: safe({"a": entry(0, 1 << 63, 1 << 61)}, EIGHT),
    "offset-2-to-64.safetensors": lambda: safe({"a": entry(0, (1 << 64) + 4, 1)}, EIGHT),
    "backwards.safetensors": lambda: safe({"a": entry(8, 4, 1)}, EIGHT),
    "hole.safetensors": lambda: safe({"a": entry(4, 8, 1)}, EIGHT),
    "beyond.safetensors": lambda: safe({"a": entry(0, 4096, 1024)}, EIGHT),
    "shape-overflow.safetensors": lambda: safe({"a": entry(0, 8, 1 << 62, 16)}, EIGHT),
    "negative-shape.safetensors": lambda: safe({"a": entry(0, 8, -2)}, EIGHT),
    "wrong-size.safetensors": lambda: safe({"a": entry(0, 8, 3)}, EIGHT),
    "unknown-dtype.safetensors": lambda: safe({"a": entry(0, 8, 2, dtype="F33")}, EIGHT),
}
