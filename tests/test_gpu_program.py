"""The program for a GPU, in miniature on the CPU: all of its lines, in time, and none twice."""

import importlib
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from advlens.prepared import mixing
from advlens.runs.folder import read_json
from tiny_broden import write_tiny_broden

WAITS = """
import pathlib, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir(exist_ok=True)
(out / "last.pt").write_bytes(bytes(range(25)))
time.sleep(60)
"""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program; others of its folder have names of packages."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[1] / "benchmarks")])
    return importlib.import_module("gpu")


def test_all_of_it_in_miniature(gpu, tmp_path, monkeypatch, no_rendering):
    audit = gpu.FEW | {"images": 6, "stages": ("accuracy",)}
    few = {"checked": 2, "steps": 1, "batches": (2,), "sides": (8,), "repeats": 1, "product": 8}
    few |= {"models": ("cifar10-l2",), "audit": audit, "jpegs": 6, "jpeg_side": 32, "piece": 10}
    sizes = gpu.Sizes(**few, train=("-c", WAITS))
    monkeypatch.setattr(mixing, "has_bfloat16", lambda device: True)
    write_tiny_broden(tmp_path / "concepts", images=2)
    words = ["--out", str(tmp_path), "--device", "cpu", "--minutes"]
    gpu.main([*words, "0"], sizes)
    assert not (tmp_path / "lines.json").exists()  # nothing fits into no time
    gpu.main([*words, "9"], sizes)
    lines = read_json(tmp_path / "lines.json")
    assert [name for name, found in lines.items() if found.startswith(gpu.FAILED)] == []
    parts = [name.split()[0] for name in lines]
    assert [parts.count(part) for part in ("(a)", "(b)", "(c)")] == [17, 11, 2]
    assert all(found == "largest difference 0.0e+00" for n, found in lines.items() if "(a)" in n)
    before = (tmp_path / "lines.json").stat()
    gpu.main([*words, "9"], sizes)
    assert (tmp_path / "lines.json").stat().st_mtime_ns == before.st_mtime_ns  # nothing twice
    assert len((tmp_path / "table.md").read_text().splitlines()) == 2 + len(lines)


def test_a_training_ends_in_time_and_leaves_pieces(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 1.0)
    sizes = gpu.Sizes(train=("-c", WAITS), piece=10)

    def line() -> str:
        table = gpu.Table(tmp_path, time.monotonic() + 1.3)
        table.line("(d)", lambda: gpu.train(table, "sample", gpu.local_device("cpu"), sizes), 0)
        return table.lines["(d)"]

    assert line().startswith("failed: TimeoutError: not done; 3 pieces")
    pieces = sorted((tmp_path / "trained" / "pieces").iterdir())
    assert b"".join(piece.read_bytes() for piece in pieces) == bytes(range(25))
    assert max(piece.stat().st_size for piece in pieces) == 10
    measured = '{"natural": {"top1": 0.85}, "attacked": {"top1": 0.6}}'
    (tmp_path / "trained" / "test.json").write_text(measured)
    assert line() == "natural 85.00%, attacked 60.00%"  # a line that failed is tried again
