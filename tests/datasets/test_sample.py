"""The packaged sample is a true part of CIFAR-10."""

import csv
import shutil
from importlib import resources
from pathlib import Path

import pytest
import torch

from advlens.datasets import load_data, sample
from advlens.errors import DataError, SettingsError
from advlens.wordnet import CIFAR10_SYNSETS

TABLES = Path(str(resources.files("advlens"))) / "tables"
with open(TABLES / "cifar10-sample.csv", newline="") as file:
    ROWS = [(int(row["position"]), int(row["label"])) for row in csv.DictReader(file)]


def test_sample_its_size_and_its_source():
    data = load_data("sample")
    assert (data.name, len(data), data.image_shape) == ("CIFAR-10 sample", 2000, (3, 32, 32))
    assert data.classes == tuple(CIFAR10_SYNSETS)
    assert data.synsets == tuple(CIFAR10_SYNSETS.values())
    assert data.labels.bincount().tolist() == [200] * 10
    assert data.labels.tolist() == [label for _, label in ROWS]
    assert len({image.numpy().tobytes() for image in data.images(range(2000))}) == 2000
    positions = [position for position, _ in ROWS]
    assert positions == sorted(set(positions))
    assert 0 <= positions[0] < positions[-1] < 10_000
    assert sum(path.stat().st_size for path in TABLES.glob("cifar10-sample.*")) < 5_000_000
    cited = "Alex Krizhevsky, Learning Multiple Layers"
    assert cited in (TABLES / "cifar10-sample.txt").read_text()
    with pytest.raises(SettingsError, match="test images only"):
        load_data("sample", split="train")


def test_sample_is_the_original(cifar10_folder: Path) -> None:
    data, original = load_data("sample"), load_data(f"cifar10:{cifar10_folder}")
    positions = [position for position, _ in ROWS]
    assert torch.equal(data.images(range(2000)), original.images(positions))
    assert torch.equal(data.labels, original.labels[positions])
    for label in range(10):  # the first 200 of each class
        of_class = (original.labels == label).nonzero().flatten().tolist()
        assert [position for position, own in ROWS if own == label] == of_class[:200]


@pytest.mark.parametrize("name", ["cifar10-sample.png", "cifar10-sample.csv"])
def test_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "tables").mkdir()
    for path in TABLES.glob("cifar10-sample.*"):
        shutil.copyfile(path, tmp_path / "tables" / path.name)
    monkeypatch.setattr(sample.resources, "files", lambda _: tmp_path)
    assert len(sample.load_sample()) == 2000
    path = tmp_path / "tables" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    for damage in (lambda: path.write_bytes(content), path.unlink):
        damage()
        with pytest.raises(DataError, match=f"{path} is missing or damaged"):
            sample.load_sample()
