"""What is stored, measured and written when a training has ended, also for TensorBoard."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from advlens import L2, Classifier, DataError, Pgd, RunError, Training
from advlens.datasets import ArrayData
from advlens.distributed import joined
from advlens.errors import SettingsError
from advlens.files import locked, sha256
from advlens.runs.folder import read_json
from advlens.runs.results import Results
from advlens.runs.tables import TABLES
from advlens.runs.tensorboard import tensorboard_writer
from advlens.training.words import in_words
from advlens.workflows import trained
from advlens.workflows.trained import finish
from smooth_network import SmoothNetwork
from synthetic_run import rows_of
from together import end, start

pytestmark = pytest.mark.usefixtures("no_rendering")

CLASSES = ("cat", "dog", "ship", "truck", "frog")
ATTACK = Pgd(threat=L2(epsilon=0.3), steps=20)
TRAINING = Training(batch_size=10, seed=3)
METRICS = """\
{"epoch": 1, "loss": 2.5, "natural": 0.25, "adversarial": 0.25, "n": 8, "seconds": 3.0}
{"epoch": 2, "loss": 1.5, "natural": 0.75, "adversarial": 0.5, "n": 8, "seconds": 6.0}
{"epoch": 3, "loss": 1.25, "natural": 0.875, "adversarial": 0.25, "n": 8, "seconds": 1234.5}
"""
Run = Callable[..., dict[str, Any]]
SHARED: dict[str, Any] = {"half": True, "mean": 1 / 3}
"""A mean of 1/3 is stored with six digits: all processes must measure with those."""
SAME = {"learning_rate": 0.25, "train_natural_loss": 1.5, "natural_loss": 1.0, "n": 1000}
SAME |= {"images_per_second": 100.0}
ROWS = [
    {"epoch": e, "loss": 8.0 - e, "natural": e / 8, "adversarial": e / 16, "seconds": 10.0 * e}
    | SAME
    for e in range(1, 6)
]
CHARTS = {
    **{f"run/{name}": name for name in ("loss", "learning_rate", "images_per_second", "seconds")},
    "training/natural_loss": "train_natural_loss",
    "validation/natural_accuracy": "natural",
    "validation/adversarial_accuracy": "adversarial",
    "validation/natural_loss": "natural_loss",
}


def images(pixels: Tensor, labels: Tensor) -> ArrayData:
    whole = (pixels * 255).round().byte()
    return ArrayData(whole, name="noise test", classes=CLASSES, synsets=None, labels=labels)


def ended(network, test, out, attack=ATTACK, **options):
    """What `finish` measures, and the classifier's mean then."""
    mean = [options.pop("mean", 0.0)] * 3
    classifier = Classifier(network, name="smooth", classes=CLASSES, mean=mean)
    given = {"half": False, "data": "noise train", "command": "advlens train --model smooth"}
    measured = finish(classifier, test, out, TRAINING, attack, **(given | options))
    return measured | {"mean": classifier.mean.flatten().tolist()}


@pytest.fixture
def test_set(pixels, labels):
    return images(pixels, labels)


@pytest.fixture
def run(smooth: nn.Module, test_set: ArrayData, tmp_path: Path) -> Run:
    """Finishes a training of the smooth network in `tmp_path`, from the same weights each time."""
    (tmp_path / "metrics.jsonl").write_text(METRICS)
    start = {name: tensor.clone() for name, tensor in smooth.state_dict().items()}

    def finished(*attack: Pgd, **options: Any) -> dict[str, Any]:
        smooth.load_state_dict(start)
        return ended(smooth, test_set, tmp_path, *attack, **options)

    return finished


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained, "write_report", lambda run: None)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_the_stored_weights_are_measured_and_described(kind, run, smooth, test_set, tmp_path):
    measured, path = run(half=kind == "float16"), tmp_path / "model.safetensors"
    weights = load_file(path)
    assert {t.dtype for t in weights.values()} == {getattr(torch, kind)}
    assert all(torch.equal(smooth.state_dict()[name], w.float()) for name, w in weights.items())
    pixels = test_set.pixels.float() / 255
    attacked = ATTACK(smooth, pixels, test_set.labels)
    with torch.no_grad():
        natural, robust = (
            (smooth(x).argmax(dim=1) == test_set.labels).double().mean().item()
            for x in (pixels, attacked)
        )
    assert measured["natural"]["top1"] == natural
    assert measured["attacked"]["top1"] == robust < natural
    assert measured["attacked"]["n"] == 24
    card = (tmp_path / "model.md").read_text()
    for part in (
        f"smooth, {sum(p.numel() for p in smooth.parameters()):,} parameters",
        f"{kind}, {path.stat().st_size:,} bytes, SHA-256 {sha256(path)}",
        "noise train, of which 1000 images were held out",
        "`advlens train --model smooth`",
        f"`{TRAINING!r}`",
        f"1,234 s for 3 epochs on cpu, {torch.get_num_threads()} threads",
        f"| natural | {natural:.2%} |",
        f"| `{ATTACK!r}` | {robust:.2%} |",
        "n = 8; epoch 2 is kept",
        "| 2 | 1.5000 | 75.0% | 50.0% | 6 |",
    ):
        assert part in card, part
    assert len(re.findall(r"^\| \d", card, re.MULTILINE)) == 3
    assert "recipe" not in card


def test_the_same_command_again_measures_nothing_and_writes_the_same(run, tmp_path, monkeypatch):
    def contents() -> dict[str, bytes]:
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        return {str(path.relative_to(tmp_path)): path.read_bytes() for path in files}

    measured, first = run(recipe="tiny-standard"), contents()
    assert first.keys() >= {"model.safetensors", "test.json", "model.md", "run.json", "report.html"}
    tables = {f"results/{name}.csv" for name in ("training", "training_settings", "accuracy")}
    assert first.keys() >= tables | {"figures/training.svg"}
    monkeypatch.setattr(trained, "_measure", None)  # a second call would fail
    assert run(recipe="tiny-standard") == measured
    assert read_json(tmp_path / "test.json").items() <= measured.items()
    assert contents() == first


@pytest.mark.usefixtures("no_report")
def test_the_run_folder_is_one_that_a_report_can_be_made_of(run, tmp_path):
    measured, results = run(recipe="tiny-standard"), Results.read(tmp_path)
    record = results.record
    assert results.models == ("smooth",)
    assert record["models"][0]["weights"] == sha256(tmp_path / "model.safetensors")
    assert (record["data"]["images"], record["seed"]) == (24, 3)
    settings = {"recipe": "tiny-standard", "test_attack": repr(ATTACK), "objective": "Standard()"}
    assert record["settings"].items() >= (settings | {"epochs": TRAINING.epochs}).items()
    assert [stage["stage"] for stage in record["stages"]] == ["training", "test"]
    assert record["stages"][0]["seconds"] == 1234.5
    assert "| recipe | tiny-standard |" in (tmp_path / "model.md").read_text()
    rows = results.table("accuracy")
    assert list(rows_of(tmp_path, "accuracy")[0]) == list(TABLES["accuracy"].columns)
    assert [(r["attack"], r["norm"], r["epsilon"], r["steps"], r["n"]) for r in rows] == [
        ("natural", "", 0.0, 0, 24),
        ("Pgd", "L2", 0.3, 20, 24),
    ]
    for row, key in zip(rows, ("natural", "attacked"), strict=True):
        assert row["top1"] == pytest.approx(measured[key]["top1"], abs=1e-6)
        assert row["top1_low"] < row["top1"] < row["top1_high"]
    table = rows_of(tmp_path, "training")
    assert [row["adversarial"] for row in table] == ["0.25", "0.5", "0.25"]
    assert [row["kept"] for row in table] == ["false", "true", "false"]
    assert {row["train_distance"] for row in table} == {""}
    (words,) = rows_of(tmp_path, "training_settings")
    assert words == {"model": "smooth", **vars(in_words(TRAINING, "tiny-standard"))}


@pytest.mark.usefixtures("no_report")
def test_what_was_measured_otherwise_is_measured_again(run, test_set, tmp_path):
    first, stronger = run(), run(Pgd(threat=L2(epsilon=0.6), steps=20))
    assert stronger["attacked"]["top1"] < first["attacked"]["top1"]
    assert run()["attacked"] == first["attacked"]
    test_set.labels = (test_set.labels + 1) % 5
    assert run()["natural"]["top1"] < first["natural"]["top1"]
    kept = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    run()
    assert (tmp_path / "model.safetensors").read_bytes() == kept


def _finish_together(out: Path, tests: list[ArrayData], state: dict[str, Tensor]) -> None:
    trained.write_report = lambda run: run
    measure = trained._measure
    with joined(torch.device("cpu")) as processes:
        for test in tests:
            folder = out / str(len(test))
            mine = folder / str(processes.rank)  # other machines may not see the first one's folder
            measured = []
            for how in (measure, None):  # a second measurement would fail
                trained._measure = how
                network = SmoothNetwork().eval()
                network.load_state_dict(state)
                measured.append(ended(network, test, mine, processes=processes, **SHARED))
            assert measured[0]["natural"] == measured[1]["natural"]
            (folder / f"{processes.rank}.json").write_text(json.dumps(measured[0]))


@pytest.mark.usefixtures("no_report")
def test_processes_count_each_image_once_and_the_first_writes(smooth, pixels, labels, tmp_path):
    tests = [images(pixels[:count], labels[:count]) for count in (23, 1)]
    for folder in ("23/0", "23/alone", "1/0", "1/alone"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "metrics.jsonl").write_text(METRICS)
    start_of = {name: tensor.clone() for name, tensor in smooth.state_dict().items()}
    assert end(start(2, _finish_together, tmp_path, tests, start_of)) == [0, 0]
    for test in tests:
        folder, count = tmp_path / str(len(test)), len(test)
        assert not (folder / "1").exists()
        first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1))
        smooth.load_state_dict(start_of)
        alone = ended(smooth, test, folder / "alone", **SHARED)
        for key in ("natural", "attacked", "weights", "mean", "trained"):
            assert first[key] == second[key] == alone[key]
        assert first["natural"]["n"] == first["attacked"]["n"] == count
        assert first["mean"] == torch.tensor([0.333333] * 3).tolist()
        assert rows_of(folder / "0", "accuracy") == rows_of(folder / "alone", "accuracy")


def test_a_folder_in_use_and_damaged_metrics_are_refused(run, tmp_path):
    with locked(tmp_path), pytest.raises(RunError, match="another advlens process"):
        run()
    (tmp_path / "metrics.jsonl").write_text(METRICS.replace("0.875", "8.75"))
    with pytest.raises(DataError, match=r"metrics\.jsonl is damaged: natural in line 3 is 8\.75"):
        run()


def written(out: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_each_value_is_a_point_of_its_chart(tmp_path):
    add = tensorboard_writer(tmp_path)
    assert not (tmp_path / "tensorboard").exists()
    for row in ROWS:
        add(row)
        assert written(tmp_path)["run/loss"][-1] == (row["epoch"], row["loss"])  # at once
    charts = {tag: [(row["epoch"], row[name]) for row in ROWS] for tag, name in CHARTS.items()}
    assert written(tmp_path) == charts


def test_a_continued_training_leaves_each_epoch_once(tmp_path):
    """Its earlier epochs come again; one that the first process wrote may come out otherwise."""
    before = tensorboard_writer(tmp_path)
    for row in ROWS[:3]:
        before(row)
    before({**ROWS[3], "loss": 99.0})
    after = tensorboard_writer(tmp_path)
    for row in ROWS[:2]:
        after(row)
    assert written(tmp_path)["run/loss"] == [(1, 7.0), (2, 6.0)]
    for row in ROWS[2:]:
        after(row)
    assert written(tmp_path)["run/loss"] == [(row["epoch"], row["loss"]) for row in ROWS]


def test_without_the_package_it_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(SettingsError, match=r"pip install 'advlens\[tensorboard\]'"):
        tensorboard_writer(tmp_path)
