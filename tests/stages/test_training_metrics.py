"""What a training left becomes tables, or one sentence; its settings in words say what differs."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from advlens import L2, AdamAttack, Augmentation, FeatureAttack, Fgsm, Linf, Pgd, Training, Uniform
from advlens.errors import DataError
from advlens.runs.folder import write_csv
from advlens.training import objectives
from advlens.training.history import COLUMNS, LARGEST, LONGEST, left_beside, training_tables
from advlens.training.objectives import FeatureConsistency, Objective
from advlens.training.words import Words, in_words
from synthetic_run import write_run

OLD = {"epoch": 1, "loss": 1.9, "natural": 0.42, "adversarial": 0.31, "n": 1000, "seconds": 252.8}
NEW = OLD | {"loss": 2.25, "learning_rate": 0.1, "natural_loss": 1.75, "adversarial_loss": 2.5}
NEW |= {"train_natural_loss": 1.5, "train_natural_accuracy": 0.5, "train_divergence": 0.25}
NEW |= {"train_something_new": 7.0, "images_per_second": 312.5}
WORDS = Words(recipe="r", objective="o", attack="a", settings="s")
PGD = Pgd(threat=L2(epsilon=0.5), steps=7)
FEATURES = FeatureAttack(threat=L2(epsilon=0.25), steps=3)
DRAWN = Fgsm(threat=Linf(epsilon=Uniform(low=4 / 255, high=16 / 255)))


CONSISTENT = "training for consistent features"
FGSM = "FGSM, L∞ ε = 4/255 to 16/255"
OBJECTIVES: dict[str, Objective] = {
    "standard training": objectives.Standard(),
    "adversarial training (PGD-7, L2 ε = 0.5)": objectives.Adversarial(attack=PGD),
    f"{CONSISTENT} ({FGSM}, alpha 0.25, beta 2)": FeatureConsistency(
        alpha=0.25, beta=2.0, attack=DRAWN
    ),
    f"{CONSISTENT} ({FGSM}, alpha 0.5, beta 25, distance cosine, layer layer3)": FeatureConsistency(
        attack=DRAWN, distance="cosine", layer="layer3"
    ),
    "TRADES (PGD-10, L∞ ε = 8/255, weight 6)": objectives.Trades(
        weight=6.0, attack=Pgd(threat=Linf(epsilon=8 / 255), steps=10)
    ),
    f"unrelaxed {CONSISTENT} (PGD-7, L2 ε = 0.5, feature attack-3, L2 ε = 0.25, alpha 0.5, "
    "beta 1)": objectives.Unrelaxed(attack=PGD, feature_attack=FEATURES, alpha=0.5),
}
RESIZED = Augmentation(crop=0, resized_crop=(0.08, 1.0), rotation=20)
CHANGED: dict[str, dict[str, object]] = {
    "Adam,": {"optimizer": "adam"},
    "SGD with momentum 0.9,": {"nesterov": False},
    "from 0.01 down to 0 along a cosine": {"schedule": "cosine", "learning_rate": 0.01},
    "from 0.05, lowered on plateaus": {"schedule": "plateau", "learning_rate": 0.05},
    "learning rate 0.2,": {"schedule": "constant"},
    "gradients clipped at 0.1": {"clip": 0.1},
    "weights averaged with decay 0.999": {"average": 0.999},
    "bf16 in the training step": {"precision": "bf16"},
    "seed 7": {"seed": 7},
    "128, resized crops of 8% to 100% of the area, flips, rotations up to 20°,": {
        "augmentation": RESIZED
    },
    "128, images as they are, float32": {"augmentation": Augmentation(crop=0, flip=False)},
}


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


@pytest.mark.parametrize("words", OBJECTIVES)
def test_the_objective_names_its_attack_and_its_weights(words: str) -> None:
    assert in_words(Training(objective=OBJECTIVES[words]), None).objective == words


def test_the_settings_and_the_attack_of_the_validation():
    assert in_words(Training(), None).settings == (
        "SGD with Nesterov momentum 0.9, learning rate up to 0.2 and down to 0 in one cycle, "
        "weight decay 0.0005, batches of 128, crops of images padded by 4 pixels, flips, float32, "
        "seed 0"
    )
    attack = Pgd(threat=Linf(epsilon=8 / 255), steps=3)
    words = in_words(Training(validation_attack=attack), "a-recipe")
    assert (words.attack, words.recipe) == ("PGD-3, L∞ ε = 8/255", "a-recipe")
    words = in_words(Training(validation_attack=AdamAttack(weight=1.0)), None)
    assert (words.attack, words.recipe) == ("Adam attack, 20 steps", "")


@pytest.mark.parametrize("words", CHANGED)
def test_what_differs_is_said(words: str) -> None:
    assert words in in_words(dataclasses.replace(Training(), **CHANGED[words]), None).settings
    assert words not in in_words(Training(), None).settings
