"""What is stored, measured and written when a training has ended."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from advlens.attacks import Pgd
from advlens.attacks.threat import L2
from advlens.datasets import ArrayData
from advlens.distributed import joined
from advlens.errors import DataError, RunError
from advlens.files import locked, sha256
from advlens.models import Classifier
from advlens.runs.folder import read_json
from advlens.runs.results import Results
from advlens.runs.tables import TABLES
from advlens.training import Training
from advlens.training.words import in_words
from advlens.workflows import trained
from advlens.workflows.trained import finish
from smooth_network import SmoothNetwork
from synthetic_run import read
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


def images(pixels: Tensor, labels: Tensor) -> ArrayData:
    whole = (pixels * 255).round().byte()
    return ArrayData(whole, name="noise test", classes=CLASSES, synsets=None, labels=labels)


@pytest.fixture
def test_set(pixels: Tensor, labels: Tensor) -> ArrayData:
    return images(pixels, labels)


@pytest.fixture
def run(smooth: nn.Module, test_set: ArrayData, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Finishes a training of the smooth network in `tmp_path`, from the same weights each time."""
    (tmp_path / "metrics.jsonl").write_text(METRICS)
    start = {name: tensor.clone() for name, tensor in smooth.state_dict().items()}

    def finished(attack: Pgd = ATTACK, half: bool = False, **options: Any) -> dict[str, Any]:
        smooth.load_state_dict(start)
        classifier = Classifier(smooth, name="smooth", classes=CLASSES)
        return finish(
            classifier,
            test_set,
            tmp_path,
            TRAINING,
            attack,
            half=half,
            data="noise train",
            command="advlens train --model smooth",
            **options,
        )

    return finished


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the figures, which take most of the time."""
    monkeypatch.setattr(trained, "write_report", lambda run: None)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_the_stored_weights_are_measured_and_described(
    half: bool,
    run: Callable[..., dict[str, Any]],
    smooth: nn.Module,
    test_set: ArrayData,
    tmp_path: Path,
) -> None:
    measured = run(half=half)
    weights = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for t in weights.values()} == {torch.float16 if half else torch.float32}
    assert all(torch.equal(smooth.state_dict()[name], w.float()) for name, w in weights.items())
    pixels = test_set.pixels.float() / 255
    attacked = ATTACK(smooth, pixels, test_set.labels)
    with torch.no_grad():
        natural = (smooth(pixels).argmax(dim=1) == test_set.labels).double().mean().item()
        robust = (smooth(attacked).argmax(dim=1) == test_set.labels).double().mean().item()
    assert measured["natural"]["top1"] == natural
    assert measured["attacked"]["top1"] == robust < natural
    assert measured["attacked"]["n"] == 24

    card = (tmp_path / "model.md").read_text()
    parameters = sum(p.numel() for p in smooth.parameters())
    for part in (
        f"smooth, {parameters:,} parameters",
        f"{'float16' if half else 'float32'}, {(tmp_path / 'model.safetensors').stat().st_size:,}",
        sha256(tmp_path / "model.safetensors"),
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


def test_the_same_command_again_measures_nothing_and_writes_the_same(
    run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contents() -> dict[str, bytes]:
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        return {str(path.relative_to(tmp_path)): path.read_bytes() for path in files}

    measured, first = run(recipe="tiny-standard"), contents()
    assert first.keys() >= {
        "model.safetensors",
        "test.json",
        "model.md",
        "run.json",
        "report.html",
        "results/training.csv",
        "results/training_settings.csv",
        "results/accuracy.csv",
        "figures/training.svg",
    }
    monkeypatch.setattr(trained, "_measure", None)  # a second call would fail
    assert run(recipe="tiny-standard") == measured == read_json(tmp_path / "test.json")
    assert contents() == first


@pytest.mark.usefixtures("no_report")
def test_the_run_folder_is_one_that_a_report_can_be_made_of(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    measured = run(recipe="tiny-standard")
    results = Results.read(tmp_path)
    assert results.models == ("smooth",)
    assert results.record["models"][0]["weights"] == sha256(tmp_path / "model.safetensors")
    assert results.record["data"]["images"] == 24
    assert results.record["settings"]["recipe"] == "tiny-standard"
    assert results.record["settings"]["test_attack"] == repr(ATTACK)
    assert results.record["settings"]["epochs"] == TRAINING.epochs
    assert results.record["settings"]["objective"] == "Standard()"
    assert results.record["seed"] == 3
    assert [stage["stage"] for stage in results.record["stages"]] == ["training", "test"]
    assert results.record["stages"][0]["seconds"] == 1234.5
    assert "| recipe | tiny-standard |" in (tmp_path / "model.md").read_text()

    rows = results.table("accuracy")
    assert rows
    assert list(read(tmp_path, "accuracy")[0]) == list(TABLES["accuracy"].columns)
    assert [(r["attack"], r["norm"], r["epsilon"], r["steps"], r["n"]) for r in rows] == [
        ("natural", "", 0.0, 0, 24),
        ("Pgd", "L2", 0.3, 20, 24),
    ]
    for row, key in zip(rows, ("natural", "attacked"), strict=True):
        assert row["top1"] == pytest.approx(measured[key]["top1"], abs=1e-6)
        assert row["top1_low"] < row["top1"] < row["top1_high"]

    table = read(tmp_path, "training")
    assert [(row["epoch"], row["adversarial"], row["kept"]) for row in table] == [
        ("1", "0.25", "false"),
        ("2", "0.5", "true"),
        ("3", "0.25", "false"),
    ]
    assert {row["train_distance"] for row in table} == {""}
    (settings,) = read(tmp_path, "training_settings")
    assert settings == {"model": "smooth", **vars(in_words(TRAINING, "tiny-standard"))}


@pytest.mark.usefixtures("no_report")
def test_what_was_measured_otherwise_is_measured_again(
    run: Callable[..., dict[str, Any]], test_set: ArrayData, tmp_path: Path
) -> None:
    first = run()
    stronger = run(Pgd(threat=L2(epsilon=0.6), steps=20))
    assert stronger["attacked"]["top1"] < first["attacked"]["top1"]
    assert run()["attacked"] == first["attacked"]
    test_set.labels = (test_set.labels + 1) % 5
    assert run()["natural"]["top1"] < first["natural"]["top1"]
    kept = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    run()
    assert (tmp_path / "model.safetensors").read_bytes() == kept


def _finish_together(out: Path, pixels: Tensor, labels: Tensor, state: dict[str, Tensor]) -> None:
    trained.write_report = lambda run: run
    with joined(torch.device("cpu")) as processes:

        def finished() -> dict[str, Any]:
            network = SmoothNetwork().eval()
            network.load_state_dict(state)
            classifier = Classifier(network, name="smooth", classes=CLASSES, mean=[1 / 3] * 3)
            measured = finish(  # other machines may not see the first one's folder
                classifier,
                images(pixels, labels),
                out / str(processes.rank),
                TRAINING,
                ATTACK,
                half=True,
                data="noise train",
                command="advlens train",
                processes=processes,
            )
            return {**measured, "mean": classifier.mean.flatten().tolist()}

        measured = finished()
        trained._measure = None  # a second call would fail
        assert finished()["natural"] == measured["natural"]
        (out / f"{processes.rank}.json").write_text(json.dumps(measured))


@pytest.mark.parametrize("count", [23, 1])
def test_processes_count_each_image_once_and_only_the_first_writes(
    count: int, smooth: nn.Module, pixels: Tensor, labels: Tensor, tmp_path: Path
) -> None:
    """A mean of 1/3 is stored with six digits: all must measure with those."""
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "metrics.jsonl").write_text(METRICS)
    pixels, labels = pixels[:count], labels[:count]
    state = dict(smooth.state_dict())
    assert end(start(2, _finish_together, tmp_path, pixels, labels, state)) == [0, 0]
    assert not (tmp_path / "1").exists()
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["natural"]["n"] == first["attacked"]["n"] == count
    for key in ("natural", "attacked", "weights", "mean"):
        assert first[key] == second[key]
    assert first["mean"] == torch.tensor([0.333333] * 3).tolist()

    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "metrics.jsonl").write_text(METRICS)
    classifier = Classifier(smooth, name="smooth", classes=CLASSES, mean=[1 / 3] * 3)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trained, "write_report", lambda run: None)
        alone = finish(
            classifier,
            images(pixels, labels),
            tmp_path / "alone",
            TRAINING,
            ATTACK,
            half=True,
            data="noise train",
            command="advlens train",
        )
    for key in ("natural", "attacked", "weights", "trained"):
        assert first[key] == alone[key]
    assert read(tmp_path / "0", "accuracy") == read(tmp_path / "alone", "accuracy")


def test_a_folder_in_use_is_refused(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(RunError, match="another advlens process"):
        run()


def test_damaged_metrics_are_named(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(METRICS.replace("0.875", "8.75"))
    with pytest.raises(DataError, match=r"metrics\.jsonl is damaged: natural in line 3 is 8\.75"):
        run()
