"""Settings of recipes and files: which one wins, and what is recorded."""

from pathlib import Path

import pytest

from advlens.cli.commands import TrainCommand
from advlens.cli.parsing import flags_of, parse, with_settings

START = ["train", "--data", "folder:.", "--out", "run"]


def parsed(*more: str) -> TrainCommand:
    command, _ = parse([*START, *more])
    assert isinstance(command, TrainCommand)
    return command


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mine.toml"
    path.write_text("epochs = 7\nhalf = false\nbatch-size = 32\nflip = false\nclip = 0.5\n")
    return str(path)


# the words, epochs, batch_size, half, flip, clip, precision
PRECEDENCE = [
    (["--recipe", "cifar10-l2"], (10, 128, True, True, None, "bf16")),
    (["--recipe=cifar10-l2", "--config", "FILE"], (7, 32, False, False, 0.5, "bf16")),
    (["--config", "FILE", "--recipe", "cifar10-l2"], (7, 32, False, False, 0.5, "bf16")),
    (["--config=FILE", "--model", "resnet20"], (7, 32, False, False, 0.5, "float32")),
    (
        ["--recipe", "cifar10-l2", "--config", "FILE", "--epochs", "3", "--half", "--flip"],
        (3, 32, True, True, 0.5, "bf16"),
    ),
    (
        ["--no-half", "--epochs=3", "--recipe", "cifar10-l2", "--precision", "float32"],
        (3, 128, False, True, None, "float32"),
    ),
]


@pytest.mark.parametrize(("words", "wanted"), PRECEDENCE)
def test_flags_win_over_the_file_and_the_file_over_the_recipe(
    words: list[str], wanted: tuple[object, ...], file: str
) -> None:
    settings = parsed(*(word.replace("FILE", file) for word in words)).settings
    found = tuple(
        getattr(settings, name)
        for name in ("epochs", "batch_size", "half", "flip", "clip", "precision")
    )
    assert found == wanted


def test_a_file_can_name_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('recipe = "cifar10-l2"\nepochs = 2\n')
    command = parsed("--config", str(tmp_path / "mine.toml"))
    assert (command.recipe, command.model) == ("cifar10-l2", "resnet14")
    assert (command.settings.epochs, command.settings.attack_steps) == (2, 2)


def test_the_record_names_the_recipe_and_writes_the_file_out(file: str) -> None:
    words, recorded, origins = with_settings(
        [*START, "--recipe", "cifar10-l2", "--config", file, "--epochs", "3"]
    )
    assert recorded == [
        "train",
        "--batch-size",
        "32",
        "--no-flip",
        "--clip",
        "0.5",
        *START[1:],
        "--recipe",
        "cifar10-l2",
        "--epochs",
        "3",
    ]
    assert words[:3] == ["train", "--model", "resnet14"]
    assert "--half" not in words
    assert (origins["model"], origins["clip"]) == ("recipe cifar10-l2", file)
    assert "epochs" not in origins


def test_a_switch_is_written_only_where_it_differs_from_the_default() -> None:
    settings = {"flip": True, "nesterov": False, "half": True, "compile": False, "dry-run": False}
    words, origins = flags_of("train", settings, "here")
    assert words == ["--no-nesterov", "--half"]
    assert set(origins) == {"flip", "nesterov", "half", "compile", "dry_run"}


def test_every_verb_that_reads_a_model_can_leave_out_what_its_file_holds(
    tmp_path: Path,
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('ignore_keys = ["loss.*", "epoch"]')
    verbs = ["audit", "evaluate", "neurons", "dissect", "attribute", "visualize", "invert"]
    for verb in (*verbs, "generate", "attack", "train", "prune"):
        words = [verb, "--model", "resnet14", "--data", "sample", "--out", str(tmp_path)]
        assert parse(words)[0].settings.ignore_keys == ()
        command, _ = parse([*words, "--config", str(file)])
        assert command.settings.ignore_keys == ("loss.*", "epoch")
        command, _ = parse([*words, "--ignore-keys", "a", "b"])
        assert command.settings.ignore_keys == ("a", "b")
