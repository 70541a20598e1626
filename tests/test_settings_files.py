"""Settings of recipes and files: those of the same flags; which one wins; what is refused."""

import dataclasses
import re
from typing import Any

import pytest

from advlens.cli.parsing import flags_of, parse, with_settings
from advlens.errors import SettingsError
from advlens.settings import AuditSettings, TrainSettings
from advlens.settings.files import settings_from
from advlens.settings.packaged import DESCRIPTIVE, listed, packaged, packaged_names, recipe_settings

START = ["train", "--data", "folder:.", "--out", "run"]
AUDIT: dict[str, Any] = {"images": 5, "epsilon": "auto", "neuron-epsilon": "1/2"}
AUDIT |= {"fgsm": ["2/255", 0.5, 1], "expect_accuracy": [1], "stages": ["sweep"], "success": 1}
AUDIT |= {"discrepancy": True, "inception": "folder", "attribution": ["a", "b"]}
VERBS = "audit evaluate neurons dissect attribute visualize invert generate attack train prune"
WRONG = [
    ({"epoch": 3}, "there is no setting named epoch; perhaps you meant epochs"),
    ({"epsilon": "4/0"}, "epsilon: '4/0' is not a number such as 0.0157 or 4/255"),
    ({"epsilon_range": [0.1, "x"]}, "epsilon_range: 'x' is not a number such as"),
    ({"epochs": 1.5}, "epochs must be a whole number, not 1.5"),
    ({"epochs": "auto"}, "epochs must be a whole number, not 'auto'"),
    ({"flip": "yes"}, "flip must be True or False, not 'yes'"),
    ({"learning_rate": True}, "learning_rate must be a number, not True"),
    ({"learning_rate": -1}, "learning_rate must be a positive number, not -1.0"),
    ({"optimizer": "lion"}, "optimizer must be one of sgd, adam, not 'lion'"),
    ({"beta": {"a": 1}}, "beta must be a number or None, not"),
]
R = "--recipe cifar10-l2"
# the words, epochs, batch_size, half, flip, clip, precision
PRECEDENCE = {
    R: (10, 128, True, True, None, "bf16"),
    f"{R} --config FILE": (7, 32, False, False, 0.5, "bf16"),
    "--config FILE --recipe=cifar10-l2": (7, 32, False, False, 0.5, "bf16"),
    "--config=FILE --model resnet20": (7, 32, False, False, 0.5, "float32"),
    f"{R} --config FILE --epochs 3 --half --flip": (3, 32, True, True, 0.5, "bf16"),
    f"--no-half --epochs=3 {R} --precision float32": (3, 128, False, True, None, "float32"),
}


def same(found: Any, wanted: Any) -> None:
    """Equal, and each value of the same type: 1 and 1.0 are written otherwise in a record."""
    assert found == wanted
    for field in dataclasses.fields(wanted):
        assert repr(getattr(found, field.name)) == repr(getattr(wanted, field.name)), field.name


@pytest.mark.parametrize("recipe", packaged_names("recipes"))
def test_a_recipe_stands_for_the_same_settings_as_its_flags(recipe):
    values = recipe_settings(recipe)
    command, _ = parse(START + flags_of("train", values, recipe)[0])
    values.pop("model")
    same(settings_from(TrainSettings, values, recipe), command.settings)


def test_settings_of_an_audit_are_those_of_its_flags():
    words = ["audit", "--model", "resnet14", "--data", "sample", "--out", "run"]
    command, _ = parse(words + flags_of("audit", AUDIT, "here")[0])
    found = settings_from(AuditSettings, AUDIT, "here")
    same(found, command.settings)
    assert (found.epsilon, found.fgsm, found.success) == (None, (2 / 255, 0.5, 1.0), 1.0)


@pytest.mark.parametrize(("values", "message"), WRONG)
def test_what_is_wrong_is_said_with_its_key(values, message):
    with pytest.raises(SettingsError, match=f"^here: {re.escape(message)}"):
        settings_from(TrainSettings, values, "here")


# which one wins


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("epochs = 7\nhalf = false\nbatch-size = 32\nflip = false\nclip = 0.5\n")
    return str(path)


@pytest.mark.parametrize("words", PRECEDENCE)
def test_flags_win_over_the_file_and_the_file_over_the_recipe(words, file):
    settings = parse([*START, *words.replace("FILE", file).split()])[0].settings
    names = ("epochs", "batch_size", "half", "flip", "clip", "precision")
    assert tuple(getattr(settings, name) for name in names) == PRECEDENCE[words]


def test_a_file_can_name_the_recipe_and_a_flag_replaces_its_models(tmp_path):
    (tmp_path / "mine.toml").write_text('recipe = "cifar10-l2"\nepochs = 2\n')
    command, _ = parse([*START, "--config", str(tmp_path / "mine.toml")])
    assert (command.recipe, command.model) == ("cifar10-l2", "resnet14")
    assert (command.settings.epochs, command.settings.attack_steps) == (2, 2)
    path = tmp_path / "mine.toml"
    path.write_text('model = "resnet20"\nsteps = 7\nfgsm = ["2/255", 0.5]\nepsilon = "1/4"\n')
    words = ["audit", *START[1:], "--config", str(path), "--model", "resnet14", "--steps=9"]
    command, _ = parse(words)
    settings = command.settings
    assert (command.model, settings.steps) == (("resnet14",), 9)
    assert (settings.fgsm, settings.epsilon) == ((2 / 255, 0.5), 0.25)


CHOICES = {
    "--units 3:5,a.b:12 7:0 --components 130,492": (("3:5", "a.b:12", "7:0"), (130, 492), None),
    "--units=3:5 --components 130 492 --shown 24": (("3:5",), (130, 492), 24),
    'units = ["3:5", "a.b:12"]\ncomponents = [1, 0]': (("3:5", "a.b:12"), (1, 0), None),
    'units = "3:5,a.b:12"\ncomponents = "1,0"\nshown = 3': (("3:5", "a.b:12"), (1, 0), 3),
    "units = []\ncomponents = []": ((), (), None),
}
DISSECTED = [("6", 6), ("3:5,3:7", ("3:5", "3:7")), ("3:5 3:7", ("3:5", "3:7"))]


@pytest.mark.parametrize("given", CHOICES)
def test_units_and_components_are_named_with_commas_or_spaces(given, tmp_path):
    words = given.split()
    if not given.startswith("--"):
        (tmp_path / "mine.toml").write_text(given)
        words = ["--config", str(tmp_path / "mine.toml")]
    settings = parse(["audit", *START[1:], "--model", "resnet14", *words])[0].settings
    assert (settings.units, settings.components, settings.shown) == CHOICES[given]


@pytest.mark.parametrize(("given", "units"), DISSECTED)
def test_a_dissection_is_told_how_many_units_or_which(given, units):
    words = ["dissect", *START[1:], "--model", "resnet14", "--units", *given.split()]
    assert parse(words)[0].settings.units == units


def test_a_component_is_a_whole_number():
    words = ["visualize", *START[1:], "--model", "resnet14", "--components", "3,x"]
    with pytest.raises(SettingsError, match=r"--components: 'x' is not a whole number$"):
        parse(words)


def test_the_record_writes_the_file_out_and_switches_that_differ(file):
    last = ["--epochs", "3"]
    words, recorded, origins = with_settings([*START, *R.split(), "--config", file, *last])
    written = "--batch-size 32 --no-flip --clip 0.5"
    assert recorded == ["train", *written.split(), *START[1:], *R.split(), *last]
    assert words[:3] == ["train", "--model", "resnet14"]
    assert "--half" not in words
    assert (origins["model"], origins["clip"]) == ("recipe cifar10-l2", file)
    assert "epochs" not in origins
    settings = {"flip": True, "nesterov": False, "half": True, "compile": False, "dry-run": False}
    words, origins = flags_of("train", settings, "here")
    assert words == ["--no-nesterov", "--half"]
    assert set(origins) == {"flip", "nesterov", "half", "compile", "dry_run"}


@pytest.mark.parametrize("verb", VERBS.split())
def test_every_verb_that_reads_a_model_can_leave_out_what_its_file_holds(verb, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('ignore_keys = ["loss.*", "epoch"]')
    words = [verb, "--model", "resnet14", "--data", "sample", "--out", str(tmp_path)]
    both = {"loss.*": ["--config", str(file)], "a": ["--ignore-keys", "a", "epoch"]}
    assert parse(words)[0].settings.ignore_keys == ()
    for first, more in both.items():
        assert parse([*words, *more])[0].settings.ignore_keys == (first, "epoch")


# packaged files


def test_every_packaged_file_says_what_it_is():
    for kind in ("recipes", "reproductions"):
        names = packaged_names(kind)
        assert names == sorted(names)
        text = listed(kind)
        for name in names:
            content = packaged(kind, name)
            assert text.count(f"{name}: {content['about']}\n") == 1
            for key in DESCRIPTIVE[1:3]:
                assert f"    {key}: {content[key]}" in text.splitlines()
    names = ["b23-cifar10", "b23-imagenet150", "d19-imagenet", "d22-imagenet"]
    assert packaged_names("reproductions") == names


@pytest.mark.parametrize("name", ["cifar10-l3", "../pyproject", ""])
def test_another_name_is_refused(name):
    with pytest.raises(SettingsError, match="advlens train --list"):
        packaged("recipes", name)
    with pytest.raises(SettingsError, match="perhaps you meant b23-cifar10; advlens reproduce"):
        packaged("reproductions", "b23-cifar-10")
