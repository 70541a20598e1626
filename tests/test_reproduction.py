"""Reproductions: a tiny one end to end, in parts, interrupted, and with given models."""

import copy
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from advlens.datasets import ArrayData
from advlens.distributed import joined
from advlens.errors import RunError, SettingsError
from advlens.settings import ReproduceSettings
from advlens.settings import packaged as packaged_module
from advlens.workflows.reproduction import content, rehearsed, reproduce, work
from own_network import NETWORK
from small_runs import SYNSETS, noise
from synthetic_run import rows_of
from together import end, start
from training.tiny import counted_steps
from unrendered import unrendered, unwritten

SETTINGS = {"model": "reproduction_network:network", "about": "tiny", "threads": 1}
SETTINGS |= {"epochs": 2, "batch_size": 8, "validation": 6, "nesterov": False}
TOP1 = {"table": "accuracy", "column": "top1", "percent": True}
NATURAL = {"what": "natural", **TOP1, "where": {"attack": "natural"}}
FGSM = {"what": "FGSM", **TOP1, "where": {"attack": "Fgsm", "epsilon": "1/255"}}
CONSIS = {"what": "consis", "table": "table1_d19", "column": "consis", "ordered": False}
NATURAL |= {"paper": {"standard": 90.0, "l2": 80.0, "lent": 7.0}}
FGSM |= {"paper": {"random": 10.0}}
CONSIS |= {"paper": {"standard": 0.5, "l2": 0.4}}
FILES: dict[tuple[str, str], dict[str, Any]] = {
    ("recipes", "tiny-standard"): SETTINGS,
    ("recipes", "tiny-l2"): SETTINGS | {"objective": "adversarial", "half": True},
    ("reproductions", "tiny"): {
        "about": "tiny networks",
        "source": "nowhere",
        "needs": "--data folder:DIR",
        "models": {
            "standard": {"recipe": "tiny-standard"},
            "l2": {"recipe": "tiny-l2", "start": "standard", "quick": {"attack_steps": 1}},
            "random": {"model": "reproduction_network:network"},
            "lent": {"network": "reproduction_network:network", "weights": "somewhere"},
        },
        "audits": {
            "audit": {"settings": {"steps": 2, "fgsm": ["1/255"], "neuron_steps": 1, "top": 0.2}},
            "dissection": {"on": "concepts"},
        },
        "entries": [
            {"name": "Table 1", "caption": "accuracy", "differs": "All of it."}
            | {"stages": ["accuracy"], "rows": [NATURAL, FGSM]},
            {"name": "Figure 1", "caption": "consistency", "stages": ["neurons"]}
            | {"models": ["standard", "l2"], "rows": [CONSIS]}
            | {"figures": ["consistency-histograms-fgsm", "nothing-*"]},
            {"name": "Table 2", "caption": "concepts", "audit": "dissection"}
            | {"rows": [{"what": "red", "table": "dissection_shares", "paper": {"l2": 1.0}}]},
            {"name": "Figure 2", "caption": "a sketch", "drawing": "Nothing is like it."},
        ],
        "quick": {"about": "Six images.", "train_images": 9, "test_images": 6}
        | {"train": {"epochs": 1, "validation": 3, "nesterov": True}}
        | {"audits": {"audit": {"steps": 1}}},
    },
}
IMPOSSIBLE = [
    ({"models": ["standart"]}, "models names 'standart', .*perhaps you meant standard; there"),
    ({"models": ["lent"]}, "lent is left out: it needs weights, which --use lent=FILE gives"),
    ({"use": ["l3=cifar10-l2"]}, "use names 'l3', which is no model of this paper"),
    ({"use": ["l2"]}, "use must be LABEL=FILE or LABEL=MODEL, .* not l2"),
    ({"use": ["l2=resnet19"]}, "no model named 'resnet19'"),
    ({"table": [3]}, "table 3 is not in this reproduction; there are tables 1 and 2"),
    ({"table": [2]}, "Table 2 is left out: it needs images with labeled pixels"),
    ({"figure": [1], "models": ["random"]}, "Figure 1 .* none of the chosen models is in it"),
    ({"epochs": 0}, "epochs must be a positive number"),
]


def arranged(folder: Path, patched: pytest.MonkeyPatch) -> None:
    """A tiny reproduction, its network and its images, in the current folder."""
    patched.chdir(folder)
    (folder / "reproduction_network.py").write_text(NETWORK)

    for module in (content, packaged_module):
        patched.setattr(module, "packaged", lambda *name: copy.deepcopy(FILES[name]))
    parts = {}
    for seed, name in enumerate(("train", "test")):
        parts[name] = noise(18, size=8, seed=seed, synsets=SYNSETS, telling=True)
        parts[name].name = f"tiny {name}"

    def load(spec: str, *, split: str = "test", transform: object = None) -> ArrayData:
        return parts[split]

    workflows = (f"workflows.{name}" for name in ("training", "reproduction", "reproduction.work"))
    for module in (*workflows, "auditing.given", "auditing.subjects"):
        patched.setattr(f"advlens.{module}.load_data", load)
    patched.setattr("advlens.workflows.trained.write_report", lambda out: out)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    arranged(tmp_path, monkeypatch)
    with unwritten():
        yield tmp_path


def run(out: str, **settings: Any) -> tuple[str, list[dict[str, str]]]:
    """What is said to the user, and the rows of the table."""
    said: list[str] = []
    asked = ReproduceSettings(device="cpu", **settings)
    given: Any = {"command": "advlens reproduce tiny", "report": said.append}
    path = reproduce("tiny", "folder:images", Path(out), settings=asked, **given)
    assert path == Path(out) / "reproduction.html"
    assert (Path(out) / "reproduction.md").read_text() in "\n".join(said)
    table = Path(out) / "results" / "reproduction.csv"
    return "\n".join(said), rows_of(Path(out), "reproduction") if table.exists() else []


def test_each_entry_has_the_paper_beside_what_the_audit_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arranged(world := tmp_path, monkeypatch)
    with unrendered():
        text, rows = run("out")
    page = (world / "out/reproduction.html").read_text()
    told = [
        *("# tiny (full form)", "tiny networks (nowhere)", "Made by `advlens reproduce tiny`."),
        *("lent is left out: it needs weights, which --use lent=FILE gives (somewhere).",),
        *("## Table 1: accuracy", "What differs: All of it.", "Here: tiny test, 18 images"),
        *("## Figure 1: consistency", "Ours: `audit/figures/consistency-histograms-fgsm.png`"),
        *("This run has no figure nothing-*.", "A drawing. Nothing is like it."),
        "Left out: it needs images with labeled pixels, --concepts broden:DIR",
    ]
    for part in told:
        assert part in text
        if part.endswith(".") and part[0].isupper() and "`" not in part:
            assert part in page
    names = re.findall(r'<section id="((?:table|figure)-\d)"', page)
    assert names == ["table-1", "figure-1", "table-2", "figure-2"]
    assert page.count("data:image/png") == 1
    assert [" ".join((row["entry"], row["what"], row["model"], row["paper"])) for row in rows] == [
        *("Table 1 natural standard 90", "Table 1 natural l2 80", "Table 1 FGSM random 10"),
        *("Figure 1 consis standard 0.5", "Figure 1 consis l2 0.4"),
    ]
    assert {(row["n"], row["quick"]) for row in rows} == {("18", "false")}
    for row in rows:
        assert float(row["low"]) <= float(row["ours"]) <= float(row["high"])
    for row, label in zip(rows, ("standard", "l2"), strict=False):
        found = json.loads((world / "out" / label / "test.json").read_text())["natural"]
        assert float(row["ours"]) == pytest.approx(100 * found["top1"], rel=1e-5)
        assert float(row["low"]) == pytest.approx(100 * found["top1_low"], rel=1e-5)
    assert re.search(r"- natural: standard > l2 (holds|does not|cannot be told with n = 18)", text)
    assert "- consis" not in text
    settings = (world / "out/l2/model.md").read_text()
    for part in ("Adversarial(attack=", "epochs=2", "nesterov=False"):
        assert part in settings


def test_the_quick_form_changes_recipes_and_takes_less(world: Path) -> None:
    text, rows = run("out", quick=True, table=[1], epochs=3, seed=5)
    assert "This is the quick form. Six images." in text
    assert {(row["n"], row["quick"]) for row in rows} == {("6", "true")}
    settings = (world / "out/l2/model.md").read_text()
    for part in ("epochs=3, ", "nesterov=True", "steps=1, step_size=0.6", "tiny-l2, quick form"):
        assert part in settings
    assert "| seed | 5 |" in settings
    recorded = json.loads((world / "out/audit-accuracy/run.json").read_text())
    assert (recorded["seed"], recorded["settings"]["steps"]) == (5, 1)
    with pytest.raises(RunError, match="another --out"):
        run("out", quick=True, table=[1], epochs=2, seed=5)


def test_a_part_runs_only_what_it_needs_and_given_models_are_not_trained(world: Path) -> None:
    run("whole", table=[1])
    weights = world / "whole/standard/model.safetensors"
    use = [f"standard={weights}", f"lent={weights}", "random=reproduction_network:network"]
    text, rows = run("part", table=[1], models=["l2", "lent"], use=use)
    assert [(row["what"], row["model"]) for row in rows] == [("natural", "l2"), ("natural", "lent")]
    folders = {path.name for path in (world / "part").iterdir() if path.is_dir()}
    assert folders == {"audit-accuracy-l2-lent", "l2", "results"}
    assert "## Figure 1" not in text
    whole = rows_of(world / "whole", "reproduction")
    assert rows[1]["ours"] == whole[0]["ours"]  # the same weights
    start = json.loads((world / "whole/l2/test.json").read_text())["trained"]
    assert json.loads((world / "part/l2/test.json").read_text())["trained"] == start
    text, rows = run("drawn", figure=[2])
    assert "A drawing" in text
    assert "lent" not in text
    assert rows == []
    assert not (world / "drawn/audit").exists()


@pytest.mark.parametrize(("settings", "sentence"), IMPOSSIBLE)
def test_what_cannot_be_is_refused_before_anything_is_computed(world, settings, sentence):
    with pytest.raises(SettingsError, match=sentence):
        run("out", **settings)
    with pytest.raises(SettingsError, match=sentence):
        rehearsed("tiny", "folder:images", Path("out"), settings=ReproduceSettings(**settings))
    assert not (world / "out").exists()


def test_a_rehearsal_says_what_would_be_done(world: Path) -> None:
    lines = rehearsed("tiny", "folder:images", Path("out"), settings=ReproduceSettings())
    wanted = [
        "tiny: tiny networks (nowhere)",
        "train standard: reproduction_network:network by the recipe tiny-standard, 2 epochs of 12 "
        "images: standard training",
        "train l2: reproduction_network:network@out/standard/model.safetensors by the recipe "
        "tiny-l2, 2 epochs of 12 images: adversarial training (PGD-2, L2 ε = 0.5)",
        "audit into out/audit: accuracy, neurons; of standard "
        "(reproduction_network:network@out/standard/model.safetensors), l2 "
        "(reproduction_network:network@out/l2/model.safetensors), random "
        "(reproduction_network:network)",
        "lent is left out: it needs weights, which --use lent=FILE gives (somewhere)",
        "Table 1: accuracy",
        "Figure 1: consistency",
    ]
    assert lines[:7] == wanted
    assert lines[7].startswith("Table 2: left out: it needs images with labeled pixels")
    assert lines[8:] == ["Figure 2: a sketch"]
    assert not (world / "out").exists()


def test_the_same_command_continues_where_it_was_stopped(world, monkeypatch):
    _, whole = run("whole")
    with monkeypatch.context() as patched:
        counted_steps(patched, interrupt=3)  # two steps an epoch: in the second model
        with pytest.raises(SystemExit, match="143"):
            run("out")

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    counted = counted_steps(monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(work, "audit", stop)
        with pytest.raises(KeyboardInterrupt):
            run("out")
    assert len(counted) == 2 * 2 * 2 - 3
    weights = [(world / "out" / label / "model.safetensors") for label in ("standard", "l2")]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in weights]
    _, rows = run("out")
    assert before == [(path.read_bytes(), path.stat().st_mtime_ns) for path in weights]
    assert len(counted) == 2 * 2 * 2 - 3
    assert rows == whole


def together(folder: Path) -> None:
    """One of two processes that reproduce."""
    with pytest.MonkeyPatch.context() as patched, unwritten():
        arranged(folder, patched)
        with joined(torch.device("cpu")) as processes:
            told: list[str] = []
            given: Any = {"settings": ReproduceSettings(device="cpu", table=(1,))}
            given |= {"command": "advlens reproduce tiny", "processes": processes}
            reproduce("tiny", "folder:images", Path("out"), report=told.append, **given)
        assert len(told) == (4 if os.environ["RANK"] == "0" else 3)


def test_two_processes_train_and_audit_together(world: Path) -> None:
    assert end(start(2, together, world)) == [0, 0]
    rows = rows_of(world / "out", "reproduction")
    assert [(row["model"], row["n"]) for row in rows] == [
        *(("standard", "18"), ("l2", "18"), ("random", "18"))
    ]
    alone = run("alone", table=[1], use=[f"standard={world}/out/standard/model.safetensors"])[1]
    assert rows[0] == alone[0]
    assert rows[2] == alone[2]
