"""What a training left behind becomes tables, or one sentence where it is damaged."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from advlens.errors import DataError
from advlens.runs.folder import write_csv
from advlens.training.history import COLUMNS, LARGEST, LONGEST, left_beside, training_tables
from advlens.training.words import Words
from synthetic_run import write_run

OLD = {"epoch": 1, "loss": 1.9, "natural": 0.42, "adversarial": 0.31, "n": 1000, "seconds": 252.8}
NEW = OLD | {"loss": 2.25, "learning_rate": 0.1, "natural_loss": 1.75, "adversarial_loss": 2.5}
NEW |= {"train_natural_loss": 1.5, "train_natural_accuracy": 0.5, "train_divergence": 0.25}
NEW |= {"train_something_new": 7.0, "images_per_second": 312.5}
WORDS = Words(recipe="r", objective="o", attack="a", settings="s")


def write(folder: Path, *rows: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = (row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


def epoch(number: int, natural: float = 0.5, adversarial: float = 0.25) -> dict[str, Any]:
    return OLD | {"epoch": number, "natural": natural, "adversarial": adversarial}


def test_every_row_has_every_column_of_the_weights_of_the_folder(tmp_path):
    for row in (OLD, NEW):
        (epoch,) = training_tables(write(tmp_path, row), "tiny")["training"]
        assert (list(epoch), epoch["model"]) == (["model", *COLUMNS, "kept"], "tiny")
        for name in COLUMNS:
            assert epoch[name] == row.get(name)
    write(tmp_path, OLD)
    for name in ("model.safetensors", "best.safetensors"):
        (row,) = left_beside(tmp_path / name, "tiny")["training"]
        assert row["natural"] == 0.42
    for other in ("pruned.safetensors", "sub/model.safetensors", "", "DEFAULT"):
        assert left_beside(tmp_path / other, "tiny") == {}


FIRST, SECOND = epoch(1, 0.9, 0.1), epoch(2, 0.6, 0.5)
KEPT: list[tuple[list[dict[str, Any]], int | None]] = [
    ([FIRST, SECOND, epoch(3, 0.7, 0.3)], 2),
    ([epoch(1, 0.5, 0.25), epoch(2, 0.25, 0.5), epoch(3, 0.5, 0.125)], 1),  # the first of two
    *(([epoch(1, 0.0, 0.0)], 1), ([], None)),
    # a file that says so itself: the last that took the place of another
    ([FIRST | {"kept": True}, SECOND | {"kept": False}], 1),
    ([FIRST | {"kept": True}, epoch(2, 0.1, 0.1) | {"kept": True}], 2),
]


@pytest.mark.parametrize(("rows", "kept"), KEPT)
def test_the_first_best_epoch_is_kept(rows, kept, tmp_path):
    epochs = training_tables(write(tmp_path, *rows), "tiny")["training"]
    assert [row["epoch"] for row in epochs if row["kept"]] == ([kept] if kept else [])


HOSTILE: dict[str, list[Any]] = {
    "no JSON": ["{"],
    "no object": ["[1]\n"],
    "a blank line": [OLD, "\n", epoch(2)],
    "not a number": ['{"epoch": 1, "loss": NaN, "natural": 0.5, "adversarial": 0.5}\n'],
    "infinite": ['{"epoch": 1, "loss": 1e999, "natural": 0.5, "adversarial": 0.5}\n'],
    "more than a float holds": [OLD | {"loss": 10**400}],
    "more digits than are read": ['{"epoch": 1, "loss": ' + "9" * 5000 + "}\n"],
    "too deep": ["[" * 100_000],
    "no loss": [{"epoch": 1, "natural": 0.5, "adversarial": 0.5}],
    "no accuracy": [{"epoch": 1, "loss": 1.0, "natural": 0.5}],
    "an accuracy above 1": [OLD | {"adversarial": 1.01}],
    "an accuracy below 0": [OLD | {"train_natural_accuracy": -0.01}],
    "a text": [OLD | {"natural": "0.5"}],
    "a truth value": [OLD | {"natural": True}],
    "no epoch": [{"loss": 1.0, "natural": 0.5, "adversarial": 0.5}],
    "another epoch": [OLD, epoch(3)],
    "an epoch twice": [OLD, OLD],
    "no images": [OLD | {"n": 0}],
    "half an image": [OLD | {"n": 10.5}],
    "a hidden list": [OLD | {"seconds": [1]}],
    "too many epochs": [epoch(number) for number in range(1, LONGEST + 2)],
    "too large": [OLD, " " * LARGEST],
}
DAMAGED = [
    ("run.json", "{}"),
    ("run.json", " " * (LARGEST + 1)),
    ("results/training_settings.csv", "model\nx\n"),
    ("results/training_settings.csv", "\x00"),
    ("results/training_settings.csv", "x" * (LARGEST + 1)),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_damage_is_one_sentence_with_the_file(name, tmp_path):
    with pytest.raises(DataError, match=r"metrics\.jsonl is damaged: .*; train again") as error:
        training_tables(write(tmp_path, *HOSTILE[name]), "tiny")
    assert len(str(error.value)) < 400


def test_bytes_that_are_no_text_and_files_that_are_none(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataError, match="damaged"):
        training_tables(tmp_path, "tiny")
    (tmp_path / "metrics.jsonl").unlink()
    os.mkfifo(tmp_path / "metrics.jsonl")  # reading it would wait for ever
    with pytest.raises(DataError, match="not a file"):
        training_tables(tmp_path, "tiny")


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    folder = write(write_run(tmp_path / "run", models=("theirs",), shown=0), OLD)
    write_csv(folder / "results" / "training_settings.csv", [{"model": "theirs", **vars(WORDS)}])
    return folder


def test_words_come_from_the_folder_under_our_name(finished):
    assert training_tables(finished, "tiny").keys() == {"training"}
    tables = left_beside(finished / "model.safetensors", "ours")
    assert tables["training_settings"] == [{"model": "ours", **vars(WORDS)}]
    assert [row["model"] for row in tables["training"]] == ["ours"]


@pytest.mark.parametrize(("file", "content"), DAMAGED)
def test_damaged_words_are_one_sentence(file, content, finished):
    (finished / file).write_text(content)
    with pytest.raises(DataError, match=file.replace(".", r"\.") + "( is damaged|: )"):
        left_beside(finished / "model.safetensors", "ours")
