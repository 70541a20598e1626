"""The run folder and checkpoints: whole or not at all, back bit for bit, no door for code."""

import contextlib
import io
import json
import os
import pickle

import numpy as np
import pytest
import torch

from advlens.errors import CheckpointError, RunError
from advlens.runs.checkpoint import load_checkpoint, save_checkpoint
from advlens.runs.columns import parsed
from advlens.runs.folder import Run, fingerprint, read_json, write_csv
from advlens.runs.tables import TABLES
from small_runs import results

WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3, dtype=torch.int64)}
PLAIN = {"rows": [{"epoch": 1, "loss": 0.5}], "step": 7, "identity": "text"}
STATE = {"weights": WEIGHTS, **PLAIN}


def test_parts_and_states_come_back(tmp_path):
    run = Run(tmp_path, {})
    assert run.part(0, "accuracy") is None
    run.save_part(0, "accuracy", {"tables": {"accuracy": [{"top1": 0.1 + 0.2}]}})
    assert run.part(0, "accuracy") == {"tables": {"accuracy": [{"top1": 0.1 + 0.2}]}}
    assert run.state(1, "neurons", 200) is None
    state = {f"odd{n}": torch.arange(n, dtype=torch.float64) for n in (1, 2, 3)}
    state |= {"keys": torch.tensor([2**62, -5]), "x": torch.tensor([0.1], dtype=torch.float64)}
    run.save_state(1, "neurons", 128, state)
    position, found = run.state(1, "neurons", 200) or (0, {})
    assert (position, found.keys()) == (128, state.keys())
    assert all(torch.equal(found[key], state[key]) for key in state)
    # a float64 matrix product rounds differently where its operands are not aligned
    assert all(tensor.data_ptr() % 64 == 0 for tensor in found.values())
    run.drop_state(1, "neurons")
    assert run.state(1, "neurons", 200) is None


@pytest.mark.parametrize("damage", [b"", b"{", b"\x00" * 64, b"[1]"])
def test_a_damaged_file_is_named(tmp_path, damage):
    run = Run(tmp_path, {})
    run.save_part(0, "accuracy", {})
    (tmp_path / "parts" / "0-accuracy.json").write_bytes(damage)
    with pytest.raises(RunError, match=r"0-accuracy\.json.*remove it"):
        run.part(0, "accuracy")
    (tmp_path / "parts" / "0-x.state.safetensors").write_bytes(damage)
    with pytest.raises(RunError, match=r"0-x\.state\.safetensors is damaged"):
        run.state(0, "x", 9)


def test_csv_cells_and_json_that_is_never_nan(tmp_path):
    row = {"name": 'a,"b"\n', "share": 1 / 3, "flag": True, "none": None, "nan": float("nan")}
    write_csv(tmp_path / "t.csv", [row | {"n": 10**7}])
    assert (tmp_path / "t.csv").read_text() == (
        'name,share,flag,none,nan,n\n"a,""b""\n",0.333333,true,,,10000000\n'
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        Run(tmp_path, {}).save_part(0, "x", {"value": float("nan")})
    assert not list((tmp_path / "parts").glob("0-x*"))
    (tmp_path / "x.json").write_text(json.dumps({"a": 1}))
    assert read_json(tmp_path / "x.json") == {"a": 1}


def test_fingerprint_sees_every_change():
    base = [("a", torch.zeros(2, 3)), ("b", torch.tensor(1))]
    others = [
        [("c", torch.zeros(2, 3)), ("b", torch.tensor(1))],
        [("a", torch.zeros(3, 2)), ("b", torch.tensor(1))],
        [("a", torch.zeros(2, 3).double()), ("b", torch.tensor(1))],
        [("a", torch.zeros(2, 3)), ("b", torch.tensor(2))],
    ]
    assert len({fingerprint(tensors) for tensors in (base, *others)}) == 5
    assert fingerprint(base) == fingerprint([(name, t.clone()) for name, t in base])


ROW = dict.fromkeys(TABLES["checks"].columns, "") | {"passed": True}
OTHER_ROWS = [
    ({k: 0 for k in ROW if k != "found"}, "a row of .*checks.csv lacks found"),
    (ROW | {"extra": 1}, "a row of .*checks.csv adds extra"),
    ({"extra": 1}, "lacks check, expected, found, model, passed and adds extra"),
    (ROW | {"passed": 1}, "passed in row 2 of .*checks.csv would be '1', not true or false"),
]


@pytest.mark.parametrize(("row", "said"), OTHER_ROWS)
def test_a_row_that_does_not_fit_is_refused(row, said, tmp_path):
    run = Run(tmp_path, {})
    with pytest.raises(RunError, match=said):
        run.write_tables({"checks": [ROW, row]})
    assert not (tmp_path / "results").exists()
    run.write_tables({"checks": [ROW], "of-others": [{"any": 1}]})
    assert [*results(tmp_path)] == ["checks.csv", "of-others.csv"]


def test_every_column_has_a_type_that_can_be_read_and_a_meaning():
    for table in TABLES.values():
        assert table.meaning
        assert "model" in table.columns
        for kind, meaning in table.columns.values():
            with contextlib.suppress(ValueError):
                parsed("1", kind)
            assert len(meaning) > 4
            assert not meaning.endswith(".")


def saved(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


class Evil:
    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return os.system, (f"touch {self.sentinel}",)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "last.pt"


def test_what_is_saved_comes_back(tmp_path):
    path = tmp_path / "folder" / "last.pt"
    save_checkpoint(path, STATE)
    found = load_checkpoint(path)
    weights = found.pop("weights")
    assert found == PLAIN
    assert torch.equal(weights["a"], WEIGHTS["a"])
    assert weights["b"].dtype == torch.int64


def test_no_code_in_a_file_runs(path, tmp_path):
    sentinel = tmp_path / "ran"
    evil = Evil(sentinel)
    contents = [saved(evil), saved({"step": evil}), saved({"weights": [WEIGHTS, evil]})]
    for content in [*contents, pickle.dumps(evil), pickle.dumps({"state": evil}, protocol=0)]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"last\.pt"):
            load_checkpoint(path)
        assert not sentinel.exists()


@pytest.mark.parametrize(
    "content",
    [None, b"", b"no checkpoint", b"PK\x03\x04", b"\x80\x02.", pickle.dumps([1, 2]), saved([1, 2])],
    ids=["missing", "empty", "text", "zip", "stub", "pickled list", "list"],
)
def test_another_file_is_refused_by_name(content, path):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        load_checkpoint(path)


def test_damaged_files_load_or_are_refused(path):
    whole, random = saved(STATE), np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        content = bytearray(whole)
        if random.random() < 0.5:
            del content[int(random.integers(len(content))) :]
        else:
            for place in random.integers(len(content), size=4):
                content[place] ^= int(random.integers(1, 256))
        path.write_bytes(bytes(content))
        try:
            load_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused >= 100


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failing_write_keeps_the_old_checkpoint(name, path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    save_checkpoint(path, STATE)
    monkeypatch.setattr(os, name, fail)
    with pytest.raises(RunError, match=r"last\.pt.*No space left"):
        save_checkpoint(path, {"step": 8})
    assert load_checkpoint(path)["step"] == 7
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]
