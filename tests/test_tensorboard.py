"""Epochs as TensorBoard reads them back."""

import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from advlens.errors import SettingsError
from advlens.runs.tensorboard import tensorboard_writer

SAME = {"learning_rate": 0.25, "train_natural_loss": 1.5, "natural_loss": 1.0, "n": 1000}
SAME |= {"images_per_second": 100.0}
ROWS = [
    {"epoch": e, "loss": 8.0 - e, "natural": e / 8, "adversarial": e / 16, "seconds": 10.0 * e}
    | SAME
    for e in range(1, 6)
]
CHARTS = {
    "run/loss": "loss",
    "run/learning_rate": "learning_rate",
    "run/images_per_second": "images_per_second",
    "run/seconds": "seconds",
    "training/natural_loss": "train_natural_loss",
    "validation/natural_accuracy": "natural",
    "validation/adversarial_accuracy": "adversarial",
    "validation/natural_loss": "natural_loss",
}


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
