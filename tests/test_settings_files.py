"""Settings of TOML files are those of the same flags, or are refused by their key."""

import dataclasses
from typing import Any

import pytest

from advlens.cli.parsing import flags_of, parse
from advlens.errors import SettingsError
from advlens.settings import AuditSettings, TrainSettings
from advlens.settings.files import settings_from
from advlens.settings.packaged import packaged_names, recipe_settings

AUDIT: dict[str, Any] = {
    "images": 5,
    "epsilon": "auto",
    "neuron-epsilon": "1/2",
    "fgsm": ["2/255", 0.5, 1],
    "expect_accuracy": [1],
    "stages": ["sweep"],
    "discrepancy": True,
    "inception": "folder",
    "attribution": ["a", "b"],
    "success": 1,
}


@pytest.mark.parametrize("recipe", packaged_names("recipes"))
def test_a_recipe_stands_for_the_same_settings_as_its_flags(recipe: str) -> None:
    values = recipe_settings(recipe)
    words = ["train", "--data", "folder:.", "--out", "run"]
    command, _ = parse(words + flags_of("train", values, recipe)[0])
    values.pop("model")
    same(settings_from(TrainSettings, values, recipe), command.settings)


def test_settings_of_an_audit_are_those_of_its_flags() -> None:
    words = ["audit", "--model", "resnet14", "--data", "sample", "--out", "run"]
    command, _ = parse(words + flags_of("audit", AUDIT, "here")[0])
    found = settings_from(AuditSettings, AUDIT, "here")
    same(found, command.settings)
    assert (found.epsilon, found.fgsm, found.success) == (None, (2 / 255, 0.5, 1.0), 1.0)


def same(found: Any, wanted: Any) -> None:
    """Equal, and each value of the same type: 1 and 1.0 are written otherwise in a record."""
    assert found == wanted
    for field in dataclasses.fields(wanted):
        value, expected = getattr(found, field.name), getattr(wanted, field.name)
        assert repr(value) == repr(expected), field.name


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"epoch": 3}, "here: there is no setting named epoch; perhaps you meant epochs"),
    ({"epsilon": "4/0"}, "here: epsilon: '4/0' is not a number such as 0.0157 or 4/255"),
    ({"epsilon_range": [0.1, "x"]}, "here: epsilon_range: 'x' is not a number such as"),
    ({"epochs": 1.5}, "here: epochs must be a whole number, not 1.5"),
    ({"epochs": "auto"}, "here: epochs must be a whole number, not 'auto'"),
    ({"flip": "yes"}, "here: flip must be True or False, not 'yes'"),
    ({"learning_rate": True}, "here: learning_rate must be a number, not True"),
    ({"learning_rate": -1}, "here: learning_rate must be a positive number, not -1.0"),
    ({"optimizer": "lion"}, "here: optimizer must be one of sgd, adam, not 'lion'"),
    ({"beta": {"a": 1}}, "here: beta must be a number or None, not"),
]


@pytest.mark.parametrize(("values", "message"), WRONG)
def test_what_is_wrong_is_said_with_its_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from(TrainSettings, values, "here")
    assert str(caught.value).startswith(message)
