"""Epochs as TensorBoard reads them back."""

import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from advlens.errors import SettingsError
from advlens.runs.tensorboard import tensorboard_writer

ROWS = [
    {
        "epoch": epoch,
        "loss": 8.0 - epoch,
        "learning_rate": 0.25,
        "train_natural_loss": 1.5,
        "natural": epoch / 8,
        "adversarial": epoch / 16,
        "natural_loss": 1.0,
        "n": 1000,
        "images_per_second": 100.0,
        "seconds": 10.0 * epoch,
    }
    for epoch in range(1, 6)
]


def written(out: Path) -> dict[str, list[tuple[int, float]]]:
    """The points of each chart."""
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_each_value_is_a_point_of_its_chart(tmp_path: Path) -> None:
    add = tensorboard_writer(tmp_path)
    assert not (tmp_path / "tensorboard").exists()
    for row in ROWS:
        add(row)
        assert written(tmp_path)["run/loss"][-1] == (row["epoch"], row["loss"])  # at once
    assert written(tmp_path) == {
        tag: [(int(row["epoch"]), row[name]) for row in ROWS]
        for tag, name in {
            "run/loss": "loss",
            "run/learning_rate": "learning_rate",
            "run/images_per_second": "images_per_second",
            "run/seconds": "seconds",
            "training/natural_loss": "train_natural_loss",
            "validation/natural_accuracy": "natural",
            "validation/adversarial_accuracy": "adversarial",
            "validation/natural_loss": "natural_loss",
        }.items()
    }


def test_a_continued_training_leaves_each_epoch_once(tmp_path: Path) -> None:
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


def test_without_the_package_it_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(SettingsError, match=r"pip install 'advlens\[tensorboard\]'"):
        tensorboard_writer(tmp_path)
