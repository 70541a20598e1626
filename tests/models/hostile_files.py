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


def opcodes(path: Path) -> bytes:
    """A pickle of protocol 0, written by hand."""
    return b"cposix\nsystem\n(S'touch " + str(path).encode() + b"'\ntR."


def by_hand(module: str, form: str, path: Path) -> bytes:
    """A pickle that asks for a call by another instruction than REDUCE, in a state dict."""
    name = f"{module}\n{'system' if module == 'os' else 'Popen'}\n".encode()
    word = b"S'touch " + str(path).encode() + b"'\n"
    call = {
        "INST": b"(" + word + b"i" + name,
        "OBJ": b"(c" + name + word + b"o",
        "NEWOBJ": b"c" + name + word + b"\x85\x81",
        "NEWOBJ_EX": b"c" + name + word + b"\x85}\x92",
        "BUILD": b"c" + name + b")\x81}S'args'\n" + word + b"sb",
    }[form]
    return b"\x80\x04}S'conv.weight'\n" + call + b"s."


def beside(path: Path) -> bytes:
    """Good weights, and a payload that nobody needs to look at."""
    return saved({"state_dict": state(), "epoch": touch(path)})


def of_zeros(count: int) -> bytes:
    return b"\x80\x02" + b"N0" * count + b"."


def zipped(content: bytes, **settings) -> bytes:
    """A file as torch.save writes it, around any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **settings) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/version", b"3\n")
    return buffer.getvalue()


def bomb() -> bytes:
    """A quarter of a gigabyte of zeros in a quarter of a megabyte."""
    buffer = io.BytesIO(zipped(pickled({})))
    with (
        zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data/0", "w", force_zip64=True) as record,
    ):
        for _ in range(256):
            record.write(bytes(1 << 20))
    return buffer.getvalue()


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


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def claiming(count: int, legacy: bool) -> bytes:
    """A file whose only storage claims to be of `count` elements instead of 777."""
    content, honest = saved({"w": torch.zeros(777)}, legacy), pickled(777)[2:-1]
    if legacy:
        return content.replace(honest, pickled(count)[2:-1])
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as source,
        zipfile.ZipFile(buffer, "w") as archive,
    ):
        for record in source.infolist():
            archive.writestr(record, source.read(record).replace(honest, pickled(count)[2:-1]))
    return buffer.getvalue()


def safe(header: dict | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, *shape: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


EIGHT = bytes(8)
FILES: dict[str, Callable[[Path], bytes]] = {
    # code in pickles: each would create the file `path`
    "reduce.pt": lambda path: pickled(touch(path)),
    "reduce-in-zip.pt": lambda path: zipped(pickled(touch(path))),
    "reduce-in-state.pt": lambda path: zipped(pickled({"conv.weight": touch(path)})),
    "reduce-legacy.pt": lambda path: saved({"conv.weight": touch(path)}, legacy=True),
    "eval.pt": lambda path: zipped(pickled(Payload(eval, f"open({str(path)!r}, 'w')"))),
    "protocol-0.pt": opcodes,
    "protocol-0-in-zip.pt": lambda path: zipped(opcodes(path)),
    "protocol-4.pt": lambda path: zipped(pickled(touch(path), protocol=4)),
    **{
        f"{form}-{module}-{'zip' if wrap else 'bare'}.pt": (
            lambda path, form=form, module=module, wrap=wrap: (zipped if wrap else bytes)(
                by_hand(module, form, path)
            )
        )
        for form in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD")
        for module in ("os", "subprocess")
        for wrap in (False, True)
    },
    "beside.pt": beside,
    "setstate.pt": lambda path: zipped(pickled(Payload(Path, "x", state={"a": touch(path)}))),
    "getattr.pt": lambda path: zipped(pickled({"w": Payload(getattr, Path, "touch")})),
    "exec-legacy.pt": lambda path: saved({"w": Payload(exec, f"open({str(path)!r},'w')")}, True),
    "nested-load.pt": lambda path: zipped(pickled(Payload(pickle.loads, pickled(touch(path))))),
    "tar.pt": lambda path: tar(pickled(touch(path))),
    "pickle.safetensors": lambda path: pickled(touch(path)),
    "whole-module.pt": lambda path: saved(Network()),
    # archives that grow, sizes that lie
    "bomb.pt": lambda path: bomb(),
    "compressed.pt": lambda path: zipped(bytes(10**6), compression=zipfile.ZIP_DEFLATED),
    "expanded.pt": lambda path: saved({**state(), "conv.weight": torch.zeros(1).expand(1 << 40)}),
    "2-to-33-elements.pt": lambda path: claiming(1 << 33, legacy=False),
    "2-to-62-elements.pt": lambda path: claiming(1 << 62, legacy=False),
    "2-to-33-elements-legacy.pt": lambda path: claiming(1 << 33, legacy=True),
    "2-to-62-elements-legacy.pt": lambda path: claiming(1 << 62, legacy=True),
    "many-instructions.pt": lambda path: zipped(of_zeros(2_000_000)),
    "many-instructions-bare.pt": lambda path: of_zeros(2_000_000),
    "deep.pt": lambda path: zipped(b"}" + b")" + b"\x85" * 150_000 + b"K\x01s."),
    "long-name.pt": lambda path: saved({"a." * 500_000: torch.zeros(3)}),
    "huge-number.pt": lambda path: zipped(b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"1"),
    "huge-string.pt": lambda path: zipped(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"1"),
    "meta.pt": lambda path: saved({"w": torch.empty(1 << 40, device="meta")}),
    # damaged or not weights at all
    "truncated-zip.pt": lambda path: half(saved(state())),
    "truncated-legacy.pt": lambda path: half(saved(state(), legacy=True)),
    "no-pickle.pt": lambda path: zipped(b""),
    "unfinished-pickle.pt": lambda path: zipped(b"\x80\x02}q\0("),
    "empty.pt": lambda path: b"",
    "noise.pt": lambda path: bytes(range(256)) * 40,
    "html.pt": lambda path: b"<html>Google Drive - Virus scan warning</html>",
    "tensor.pt": lambda path: saved(torch.zeros(3)),
    "list.pt": lambda path: saved([torch.zeros(3)]),
    "empty-dictionary.pt": lambda path: saved({}),
    "number-in-state.pt": lambda path: saved({**state(), "epoch": 3}),
    "integer-name.pt": lambda path: saved({0: torch.zeros(3)}),
    "nested-state.pt": lambda path: saved({"a": state()}),
    "sparse.pt": lambda path: saved({"w": torch.eye(3).to_sparse()}),
    "zip.safetensors": lambda path: saved(state()),
    "empty.safetensors": lambda path: b"",
    "short.safetensors": lambda path: b"\1\0\0",
    "no-tensors.safetensors": lambda path: safe({}),
    "trailing.safetensors": lambda path: safe({"a": entry(0, 4, 1)}, bytes(104)),
    # headers and offsets that lie
    "header-of-2-to-63.safetensors": lambda path: struct.pack("<Q", 1 << 63) + b"{}",
    "header-beyond-file.safetensors": lambda path: struct.pack("<Q", 1000) + b"{}",
    "no-json.safetensors": lambda path: safe(b"not json"),
    "deep-json.safetensors": lambda path: safe(b'{"a":' * 20000),
    "overlapping.safetensors": lambda path: safe({"a": entry(0, 8, 2), "b": entry(4, 8, 1)}, EIGHT),
    "offset-2-to-63.safetensors": lambda path: safe({"a": entry(0, 1 << 63, 1 << 61)}, EIGHT),
    "offset-2-to-64.safetensors": lambda path: safe({"a": entry(0, (1 << 64) + 4, 1)}, EIGHT),
    "backwards.safetensors": lambda path: safe({"a": entry(8, 4, 1)}, EIGHT),
    "hole.safetensors": lambda path: safe({"a": entry(4, 8, 1)}, EIGHT),
    "beyond.safetensors": lambda path: safe({"a": entry(0, 4096, 1024)}, EIGHT),
    "shape-overflow.safetensors": lambda path: safe({"a": entry(0, 8, 1 << 62, 16)}, EIGHT),
    "negative-shape.safetensors": lambda path: safe({"a": entry(0, 8, -2)}, EIGHT),
    "wrong-size.safetensors": lambda path: safe({"a": entry(0, 8, 3)}, EIGHT),
    "unknown-dtype.safetensors": lambda path: safe({"a": entry(0, 8, 2, dtype="F33")}, EIGHT),
}
