"""Run folders that someone else has changed: each function damages one in its own way."""

import csv
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

Tamper = Callable[[Path], object]
ACCURACY = Path("results") / "accuracy.csv"
PART, STATE = Path("parts") / "0-accuracy.json", Path("parts") / "1-accuracy.state.safetensors"


def _json(file: str | Path, change: Callable[[Any], object]) -> Tamper:
    def tamper(run: Path) -> None:
        content = json.loads((run / file).read_text(encoding="utf-8"))
        change(content)
        (run / file).write_text(json.dumps(content), encoding="utf-8")

    return tamper


def _bytes(file: str | Path, content: bytes) -> Tamper:
    return lambda run: (run / file).write_bytes(content)


def _text(file: str | Path, old: str, new: str) -> Tamper:
    def tamper(run: Path) -> None:
        text = (run / file).read_text(encoding="utf-8")
        assert old in text
        (run / file).write_text(text.replace(old, new, 1), encoding="utf-8")

    return tamper


def _cells(file: str | Path, **changes: Any) -> Tamper:
    def tamper(run: Path) -> None:
        with (run / file).open(newline="", encoding="utf-8") as table:
            (first, *others) = csv.DictReader(table)
        assert changes.keys() <= first.keys()
        with (run / file).open("w", newline="", encoding="utf-8") as table:
            writer = csv.DictWriter(table, first.keys())
            writer.writeheader()
            writer.writerows([first | changes, *others])

    return tamper


def _instead(file: str | Path, make: Callable[[Path], object]) -> Tamper:
    def tamper(run: Path) -> None:
        path = run / file
        if path.is_dir():
            path.rename(run.parent / "moved")
        else:
            path.unlink()
        make(path)

    return tamper


def _huge(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 34)


def _secret(path: Path) -> None:
    secret = path.parents[2] / "secret"
    secret.write_text("model,attack\nSECRET,SECRET\n", encoding="utf-8")
    path.symlink_to(secret)


def _to(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def _first_picture(change: Callable[[Path], object]) -> Tamper:
    return lambda run: change(sorted((run / "figures" / "images").iterdir())[0])


def _record(**changes: Any) -> Tamper:
    return _json("run.json", lambda record: record.update(changes))


def _many(record: dict[str, Any]) -> None:
    record["models"] = [record["models"][0] | {"name": str(number)} for number in range(101)]


PICTURES = "results/pictures.csv"
REPORTED: dict[str, Tamper] = {
    "record is no JSON": _bytes("run.json", b"{"),
    "record is UTF-16": _bytes("run.json", "{}".encode("utf-16")),
    "record is deep": _bytes("run.json", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "record is rather deep": _bytes("run.json", b'{"a":' + b"[" * 200 + b"]" * 200 + b"}"),
    "record has a million digits": _bytes("run.json", b'{"seed":' + b"9" * 10**6 + b"}"),
    "record has 1e999": _text("run.json", '"seed": ', '"a": 1e999, "seed": '),
    "record has millions of values": _bytes("run.json", b'{"a":[' + b"[]," * 4_000_000 + b"0]}"),
    "record is huge": _instead("run.json", _huge),
    "record is a folder": _instead("run.json", Path.mkdir),
    "record is a pipe": _instead("run.json", os.mkfifo),
    "record is a link": _instead("run.json", _to("/etc/hostname")),
    "record of many models": _json("run.json", _many),
    "seed is beyond 64 bits": _record(seed=10**80),
    "notes are numbers": _record(notes=[1]),
    "unfinished is a number": _record(unfinished=3),
    "command is long": _record(command="x" * 10**6),
    "table is a folder": _instead(ACCURACY, Path.mkdir),
    "table is a pipe": _instead(ACCURACY, os.mkfifo),
    "table leads out": _instead(ACCURACY, _secret),
    "table is huge": _instead(ACCURACY, _huge),
    "table has an endless row": _bytes(ACCURACY, b"model," + b"ab," * 2_000_000),
    "table has an endless quoted row": _bytes(ACCURACY, b"model,a\n" + b'"x\n",' * 100_000),
    "table has a column twice": _text(ACCURACY, "model,", "model,model,"),
    "table has a negative radius": _text(ACCURACY, ",natural,,0,", ",natural,,-1,"),
    "table has a huge count": _text(ACCURACY, ",natural,,0,0,", ",natural,,0,1e300,"),
    "table has a value above its interval": _cells(ACCURACY, top1=1, top1_low=0.5, top1_high=0.6),
    "table has a value below its interval": _cells(ACCURACY, top1=0.4, top1_low=0.5, top1_high=0.6),
    "table has an interval upside down": _cells(
        "results/curves.csv", cs1="", cs1_low=0.6, cs1_high=0.5
    ),
    "table has an image beyond the data": _cells(PICTURES, id=1000),
    "results lead out": _instead("results", _to("/tmp")),
    "figures lead out": _instead("figures", _to("/tmp")),
    "results are a pipe": _instead("results", os.mkfifo),
    "picture leads out": _first_picture(lambda p: (p.unlink(), p.symlink_to("/etc/hostname"))),
    "picture is a pipe": _first_picture(lambda p: (p.unlink(), os.mkfifo(p))),
    "picture has a long tail": _first_picture(
        lambda p: p.write_bytes(p.read_bytes() + bytes(10**6))
    ),
    "pictures table leads out": _text(PICTURES, "figures/images/", "../../../../../etc/"),
    "pictures table has a null character": _text(PICTURES, "figures/", "fig\0ures/"),
    "pictures table has a long name": _text(PICTURES, "figures/", "f" * 5000),
}
"""For `advlens report` and `read_run`, on what `synthetic_run.write_run` makes."""


def _tables(tables: Any) -> Tamper:
    return _json(PART, lambda part: part.update(tables=tables))


def _row(**changes: Any) -> Tamper:
    return _json(PART, lambda part: part["tables"]["accuracy"][0].update(changes))


def _state(change: Callable[[dict[str, torch.Tensor]], object], position: str = "") -> Tamper:
    def tamper(run: Path) -> None:
        with safe_open(run / STATE, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            position_then = file.metadata()["position"]
        change(state)
        save_file(state, run / STATE, metadata={"position": position or position_then})

    return tamper


def _tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Tamper:
    return _state(lambda state: state.update({name: change(state[name])}))


COUNTS = "accuracy.counts"
ATTACK = {"attack": "Fgsm", "norm": "Linf", "epsilon": 0.01, "steps": 1}
RIGHT = {"model": "tiny0", **ATTACK, "settings": "", "right": "1"}
INFLUENCE = {
    **{"model": "tiny0", "layer": "0", "images": "real", **ATTACK, "measure": "lc"},
    **{"corrected": "much", "top": 2, "first": 0, "influences": "0.1"},
}
CONTINUED: dict[str, Tamper] = {
    "a table's name leads out": _tables({"../../ESCAPED": [{"a": 1}]}),
    "a table's name has a null character": _tables({"a\0b": [{"a": 1}]}),
    "a table's name is long": _tables({"a" * 5000: [{"a": 1}]}),
    "a table's name has a drive": _tables({"C:\\ESCAPED": [{"a": 1}]}),
    "images have no numbers": _tables({"accuracy_images": [{"model": "tiny0", "right": "1"}]}),
    "an image's number is a text": _tables(
        {"accuracy_images": [RIGHT | {"first": "0"}, RIGHT | {"first": 1}]}
    ),
    "influences are words": _tables({"consistency_images": [INFLUENCE | {"influences": "a"}]}),
    "a mean is a text": _tables(
        {"consistency_images": [INFLUENCE, INFLUENCE | {"images": "fgsm", "measure": "consis_adv"}]}
    ),
    "tables are a list": _tables([1]),
    "a table is a number": _tables({"accuracy": 1}),
    "rows are lists": _tables({"accuracy": [[1]]}),
    "rows have different columns": _tables({"accuracy": [{"a": 1}, {"b": 1}]}),
    "a cell is a list": _row(top1=[1]),
    "a cell is of another model": _row(model="other"),
    "a cell is a lone surrogate": _row(attack="\ud800"),
    "a cell is long": _row(attack="x" * 10**5),
    "a cell has another type": _row(top1="many"),
    "a part without tables": _json(PART, lambda part: part.pop("tables")),
    "seconds are a text": _json(PART, lambda part: part.update(seconds="9")),
    "images are negative": _json(PART, lambda part: part.update(images=-1)),
    "a part is deep": _bytes(PART, b'{"tables":' + b'{"a":' * 50_000 + b"0" + b"}" * 50_001),
    "a part is huge": _instead(PART, _huge),
    "a part is a long text": _bytes(PART, b'{"tables": "' + "🙂".encode() + b"x" * 2**25 + b'"}'),
    "a part is a folder": _instead(PART, Path.mkdir),
    "a part leads out": _instead(PART, _to("/etc/hostname")),
    "the parts lead out": _instead("parts", lambda path: path.symlink_to(path.parents[1])),
    "the results lead out": _instead("results", lambda path: path.symlink_to(path.parents[1])),
    "the identity is a list": _bytes("parts/identity.json", b"[]"),
    "the identity is another": _json(
        "parts/identity.json", lambda i: i["settings"].update(steps=99)
    ),
    "the identity has other types": _bytes("parts/identity.json", b'{"settings": 3, "about": 4}'),
    "a state claims a huge header": _bytes(STATE, struct.pack("<Q", 2**40) + b"{}"),
    "a state is a pipe": _instead(STATE, os.mkfifo),
    "a state lacks a tensor": _state(lambda state: state.pop(COUNTS)),
    "a state has another shape": _tensor(
        COUNTS, lambda counts: torch.zeros(99, 3, dtype=counts.dtype)
    ),
    "a state has another type": _tensor(COUNTS, torch.Tensor.double),
    "a state has NaN": _tensor("accuracy.seconds", lambda _: torch.tensor(torch.nan)),
    "a state has negative counts": _state(lambda state: state[COUNTS].sub_(10**9)),
    "a position is beyond the images": _state(lambda state: None, "10000"),
    "a position is negative": _state(lambda state: None, "-5"),
    "a position is a word": _state(lambda state: None, "x"),
}
"""For an audit that goes on: the part of model 0 and the state of model 1 are there."""
