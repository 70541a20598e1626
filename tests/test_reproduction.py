"""Reproductions: their files, a tiny one end to end and interrupted, and the table shown."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from advlens.datasets import ArrayData
from advlens.errors import RunError
from advlens.models import load_model
from advlens.runs.tables import Row
from advlens.settings import AuditSettings
from advlens.settings import packaged as packaged_module
from advlens.settings.files import settings_from
from advlens.settings.packaged import packaged, packaged_names
from advlens.workflows import reproduction
from advlens.workflows.reproduction import Work, compared, orders, reproduce, table
from advlens.workflows.training import make_training
from own_network import NETWORK
from synthetic_run import read, write_run
from training.tiny import counted_steps

pytestmark = pytest.mark.usefixtures("no_rendering")

WNIDS = ("n02121620", "n02084071", "n04194289")
SETTINGS = {"model": "reproduction_network:network", "about": "tiny", "threads": 1}
SETTINGS |= {"epochs": 2, "batch_size": 8, "validation": 6, "nesterov": False}
TOP1 = {"table": "accuracy", "column": "top1", "percent": True}
NATURAL = {"what": "natural", **TOP1, "where": {"attack": "natural"}}
FGSM = {"what": "FGSM", **TOP1, "where": {"attack": "Fgsm", "epsilon": "1/255"}}
CONSIS = {"what": "consis", "table": "table1_d19", "column": "consis", "ordered": False}
QUICK = {"train_images": 9, "test_images": 6, "audit": {"steps": 1}}
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
        },
        "audit": {"stages": ["accuracy"], "steps": 2, "fgsm": ["1/255"]},
        "rows": [
            NATURAL | {"paper": {"standard": 90.0, "l2": 80.0}},
            FGSM | {"paper": {"random": 10.0}},
        ],
        "quick": QUICK | {"train": {"epochs": 1, "validation": 3, "nesterov": True}},
    },
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a tiny reproduction, its network and its images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reproduction_network.py").write_text(NETWORK)

    def fake(kind: str, name: str) -> dict[str, Any]:
        return copy.deepcopy(FILES[kind, name])

    for module in (reproduction, packaged_module):
        monkeypatch.setattr(module, "packaged", fake)
    pixels = torch.randint(0, 256, (36, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(36) % 3
    pixels[torch.arange(36), labels] //= 3

    known = {"classes": ("cat", "dog", "ship"), "synsets": WNIDS}
    parts = {
        name: ArrayData(pixels[part].byte(), name=f"tiny {name}", labels=labels[part], **known)
        for name, part in (("train", slice(18)), ("test", slice(18, 36)))
    }
    (tmp_path / "images").mkdir()

    def load(spec: str, *, split: str = "test", transform: object) -> ArrayData:
        return parts[split]

    for module in ("workflows.training", "auditing.subjects"):
        monkeypatch.setattr(f"advlens.{module}.load_data", load)
    for module in ("workflows.trained", "auditing"):  # reports have tests of their own
        monkeypatch.setattr(f"advlens.{module}.write_report", lambda out: out)
    return tmp_path


def run(out: str, *, quick: bool = False) -> tuple[str, list[dict[str, str]]]:
    """What is said to the user, and the rows of the table."""
    said: list[str] = []
    given: Any = {"command": "advlens reproduce tiny", "report": said.append}
    path = reproduce("tiny", "folder:images", Path(out), quick=quick, **given)
    assert path == Path(out) / "reproduction.md"
    assert path.read_text() in "\n".join(said)
    return "\n".join(said), read(Path(out), "reproduction")


def test_the_table_has_the_paper_beside_what_the_audit_found(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = copy.deepcopy(FILES["reproductions", "tiny"])
    content["audit"] |= {"stages": ["accuracy", "neurons"], "neuron_steps": 1, "top": 0.2}
    content["rows"].append(CONSIS | {"paper": {"standard": 0.5, "l2": 0.4}})
    monkeypatch.setitem(FILES, ("reproductions", "tiny"), content)
    text, rows = run("out")
    for part in ("# tiny (full form)", "tiny networks (nowhere)", "by `advlens reproduce tiny`."):
        assert part in text
    assert [" ".join((row["what"], row["model"], row["paper"])) for row in rows] == [
        *("natural standard 90", "natural l2 80", "FGSM random 10"),
        *("consis standard 0.5", "consis l2 0.4"),
    ]
    assert {(row["n"], row["quick"]) for row in rows} == {("18", "false")}
    for row in rows:
        assert float(row["low"]) <= float(row["ours"]) <= float(row["high"])
    for row, label in zip(rows, ("standard", "l2"), strict=False):
        found = json.loads((world / "out" / label / "test.json").read_text())["natural"]
        assert float(row["ours"]) == pytest.approx(100 * found["top1"], rel=1e-5)
        assert float(row["low"]) == pytest.approx(100 * found["top1_low"], rel=1e-5)
    assert re.search(r"- natural: standard > l2 (holds|does not hold) here", text)
    assert "- consis" not in text
    settings = (world / "out/l2/model.md").read_text()
    for part in ("Adversarial(attack=", "epochs=2", "nesterov=False"):
        assert part in settings


def test_the_quick_form_changes_recipes_and_takes_less(world: Path) -> None:
    text, rows = run("out", quick=True)
    assert "# tiny (quick form" in text
    assert {(row["n"], row["quick"]) for row in rows} == {("6", "true")}
    settings = (world / "out/l2/model.md").read_text()
    for part in ("epochs=1, ", "nesterov=True", "steps=1, step_size=0.6", "tiny-l2, quick form"):
        assert part in settings
    with pytest.raises(RunError, match="another --out"):
        run("out")


def test_the_same_command_continues_where_it_was_stopped(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = run("whole")
    with monkeypatch.context() as patched:
        counted_steps(patched, interrupt=3)  # two steps an epoch: in the second model
        with pytest.raises(SystemExit, match="143"):
            run("out")

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    counted = counted_steps(monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(reproduction, "audit", stop)
        with pytest.raises(KeyboardInterrupt):
            run("out")
    assert len(counted) == 2 * 2 * 2 - 3
    weights = [(world / "out" / label / "model.safetensors") for label in ("standard", "l2")]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in weights]
    _, rows = run("out")
    assert before == [(path.read_bytes(), path.stat().st_mtime_ns) for path in weights]
    assert len(counted) == 2 * 2 * 2 - 3
    assert rows == whole


# The packaged files


@pytest.mark.parametrize("name", packaged_names("reproductions"))
@pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])
def test_a_packaged_reproduction_holds_together(name: str, quick: bool, tmp_path: Path) -> None:
    content = packaged("reproductions", name)
    if quick and "quick" not in content:
        assert name != "b23-cifar10"
        return
    work = Work(content, content["quick"] if quick else {}, f"folder:{tmp_path}", tmp_path, "")
    for label, model in content["models"].items():
        if "recipe" in model:
            start = tmp_path / model.get("start", "") / "model.safetensors"
            start.parent.mkdir(exist_ok=True)
            start.touch()  # only whether it exists is looked at
            make_training(work.training(label)[1])
    audit = content["audit"] | (content["quick"].get("audit", {}) if quick else {})
    settings = settings_from(AuditSettings, audit, name)
    for row in content["rows"]:
        assert row["paper"].keys() <= content["models"].keys()
        assert {"accuracy": "accuracy", "table1_d19": "neurons"}[row["table"]] in settings.stages
        assert ("percent" in row) == (row["table"] == "accuracy")


def test_the_papers_numbers() -> None:
    def papers(name: str) -> list[dict[str, float]]:
        return [row["paper"] for row in packaged("reproductions", name)["rows"]]

    assert papers("b23-cifar10") == [{"standard": 93.2, "l2": 85.0}, {"standard": 0.36, "l2": 64.6}]
    standard, attacked = papers("b23-imagenet150")
    assert standard == {"standard": 70.1, "l2": 55.8}
    assert attacked == {"standard": 0.88, "l2": 35.4}
    values = {
        (row["what"].split(", ", 1)[1], label): value
        for row in packaged("reproductions", "d19-imagenet")["rows"]
        for label, value in row["paper"].items()
    }
    assert len(values) == 24
    assert values["top-1 %, natural", "VGG-16-Adv"] == 62.55
    assert values["top-1 %, FGSM 1/255", "ResNet-18-Adv"] == 27.56
    assert values["consis, last convolution", "AlexNet"] == 0.0162
    assert values["consis_adv, last convolution", "ResNet-18"] == 0.0133


def test_the_quick_form_tests_on_images_that_it_does_not_train_on(tmp_path: Path) -> None:
    content = packaged("reproductions", "b23-cifar10")
    work = Work(content, content["quick"], "sample", tmp_path, "")
    train, test = work.images(load_model("resnet20"))
    assert (len(train), len(test)) == (1500, 500)
    assert set(torch.bincount(train.labels).tolist()) == {150}
    assert set(torch.bincount(test.labels).tolist()) == {50}
    seen = {image.numpy().tobytes() for image in train.images(range(1500))}
    assert not seen & {image.numpy().tobytes() for image in test.images(range(500))}


# The table


def row(what: str, model: str, paper: float, ours: float, half: float) -> Row:
    values = {"ours": ours, "low": ours - half, "high": ours + half, "n": 500}
    return {"what": what, "model": model, "paper": paper, **values}


def test_the_table_is_read_as_it_is() -> None:
    rows = [row("natural", "standard", 93.2, 55.6, 4.25), row("LC", "l2", 0.0162, 0.0203, 0.001)]
    assert table(rows) == [
        "|         | model    | paper  | ours (95 % interval)      | n   |",
        "| ------- | -------- | ------ | ------------------------- | --- |",
        "| natural | standard | 93.2   | 55.6 (51.4 to 59.9)       | 500 |",
        "| LC      | l2       | 0.0162 | 0.0203 (0.0193 to 0.0213) | 500 |",
    ]


@pytest.mark.parametrize(
    ("standard", "robust", "half", "said"),
    [
        (50, 40, 4, "holds here."),
        (50, 40, 6, "holds here, but the intervals overlap."),
        (40, 50, 4, "does not hold here."),
        (50, 50, 4, "does not hold here."),
    ],
)
def test_the_order_of_the_paper_is_looked_for(
    standard: float, robust: float, half: float, said: str
) -> None:
    rows = [
        row("natural", "l2", 85.0, robust, half),
        row("natural", "standard", 93.2, standard, half),
    ]
    others = (("alone", "l2", 1.0), ("same", "a", 1.0), ("same", "b", 1.1))
    rows += [row(*one, ours=1, half=1) for one in others]
    wanted = [{"what": "natural"}, {"what": "alone"}, {"what": "same", "ordered": False}]
    lines = ["The paper's order:", "", f"- natural: standard > l2 {said}"]
    assert orders(wanted, rows) == lines
    assert orders(wanted[1:], rows) == []


def results(run: Path, table: str, text: str) -> Path:
    (write_run(run, models=("a",)) / "results" / f"{table}.csv").write_text(text)
    return run


@pytest.mark.parametrize("count", [0, 2])
def test_results_without_the_one_row_are_refused(count: int, tmp_path: Path) -> None:
    text = "model,attack,top1,top1_low,top1_high,n\n" + "a,natural,.5,.4,.6,9\n" * count
    with pytest.raises(RunError, match=f"has {count} rows"):
        compared(NATURAL | {"paper": {"l": 1}}, results(tmp_path, "accuracy", text), {"l": "a"})


def test_a_dead_layer_leaves_its_cells_empty(tmp_path: Path) -> None:
    run = results(tmp_path, "table1_d19", "model,consis,consis_low,consis_high,n\na,,,,9\n")
    (found,) = compared(CONSIS | {"paper": {"l": 1}}, run, {"l": "a"})
    assert str(found["ours"]) == "nan"
    assert "nan (nan to nan)" in table([found])[2]
