"""Settings: how numbers are written and read, and what is refused."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advlens.errors import SettingsError
from advlens.settings import (
    AttackSettings,
    AuditSettings,
    DissectSettings,
    TrainSettings,
    parse_number,
    show_number,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4/255", 4 / 255),
        (".0157", 0.0157),
        ("0.5", 0.5),
        ("1", 1.0),
        ("1e-3", 0.001),
        ("-1/2", -0.5),
    ],
)
def test_numbers_are_decimal_or_fractions(text: str, value: float) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize("text", ["", "four", "4/", "/255", "1/2/3", "4/0", "0x1", "4 255"])
def test_other_texts_are_no_numbers(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a number such as 0\.0157 or 4/255"):
        parse_number(text)


@given(st.integers(1, 254))
def test_levels_are_shown_as_fractions(level: int) -> None:
    assert show_number(level / 255) == f"{level}/255"


@given(st.floats(1e-6, 1e4))
def test_what_is_shown_is_read_again(value: float) -> None:
    assert parse_number(show_number(value)) == pytest.approx(value, rel=1e-5)


def test_nothing_is_shown_as_auto() -> None:
    assert show_number(None) == "auto"
    assert [show_number(v) for v in (0.0, 0.5, 1.0, 3.0)] == ["0", "0.5", "1", "3"]


POSITIVE = {
    AuditSettings: (
        "images",
        "epsilon",
        "steps",
        "sweep_images",
        "sweep_steps",
        "neuron_epsilon",
        "neuron_steps",
        "neuron_step_size",
        "sigma",
        "batch_size",
    ),
    AttackSettings: ("epsilon", "steps", "step_size", "images", "batch_size"),
    TrainSettings: (
        "epochs",
        "batch_size",
        "learning_rate",
        "validation",
        "epsilon",
        "attack_steps",
        "step_size",
        "clip",
        "threads",
    ),
}
RANGES = [
    *(
        (kind, name, value)
        for kind, names in POSITIVE.items()
        for name in names
        for value in (0, -1, math.nan, math.inf)
    ),
    *((kind, "seed", value) for kind in POSITIVE for value in (-1, 2**63)),
    *((AuditSettings, name, value) for name in ("top", "success") for value in (0, 1.1, math.nan)),
    *(
        (TrainSettings, name, value)
        for name in ("weight_decay", "beta", "alpha", "momentum", "average", "crop", "rotation")
        for value in (-0.1, math.nan, math.inf)
    ),
    *((TrainSettings, name, 1.1) for name in ("alpha", "momentum", "average")),
    (TrainSettings, "rotation", 181.0),
    *(
        (TrainSettings, name, value)
        for name in ("epsilon_range", "resized_crop")
        for value in ((0.0, 0.5), (0.5, 0.4), (0.1, math.inf), (math.nan, 0.5))
    ),
    (TrainSettings, "resized_crop", (0.5, 1.5)),
    (AuditSettings, "fgsm", (1 / 255, 1.5)),
    (AuditSettings, "stages", ()),
    *((AuditSettings, "expect_accuracy", (value,)) for value in (-0.1, 93.0, math.nan)),
    (DissectSettings, "step_size", 0.0),
    (AuditSettings, "synsets", Path("no such file.csv")),
]


@pytest.mark.parametrize(
    ("said", "settings"),
    [
        ("natural needs the stage accuracy", {"natural": True, "stages": ("neurons",)}),
        ("autoattack needs the stage accuracy", {"autoattack": 9, "stages": ("sweep",)}),
        ("natural leaves all attacks out", {"natural": True, "autoattack": 9}),
        ("natural leaves all attacks out", {"natural": True, "attack": ("Pgd(norm=L2)",)}),
        ("stage dissection needs concepts", {"stages": ("dissection",)}),
    ],
)
def test_settings_that_do_not_go_together_are_refused(said: str, settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=said):
        AuditSettings(**settings)


@pytest.mark.parametrize(("kind", "name", "value"), RANGES)
def test_a_value_out_of_range_is_refused_by_name(kind: type, name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=rf"^{name}\b"):
        kind(**{name: value})


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("fgsm", ["steps", "step_size", "weight", "layer"]),
        ("noise", ["steps", "step_size", "weight", "layer"]),
        ("pgd", ["weight", "layer"]),
        ("bim", ["weight", "layer"]),
        ("least-likely", ["weight", "layer"]),
        ("feature", ["weight"]),
        ("adam", ["epsilon", "layer"]),
    ],
)
def test_settings_that_a_method_ignores_are_refused(method: str, names: list[str]) -> None:
    for field in dataclasses.fields(AttackSettings):
        if field.default is not None:
            continue
        values = {"method": method, field.name: "conv1" if field.name in ("layer", "head") else 1}
        if field.name in names:
            with pytest.raises(SettingsError, match=f"{field.name} means nothing to .* {method}"):
                AttackSettings(**values)
        else:
            AttackSettings(**values)


GIVEN = {
    "epsilon_range": (0.1, 0.2),
    "attack_steps": 3,
    "step_size": 0.1,
    "alpha": 0.3,
    "beta": 2.0,
    "distance": "cosine",
    "layer": "conv1",
    "gradient": "attacked",
    "clean_pass": "shared",
}
"""A value other than the default for each setting that some objective ignores."""


@pytest.mark.parametrize(
    ("objective", "names"),
    [
        ("standard", set(GIVEN)),
        ("adversarial", {"alpha", "beta", "distance", "layer", "gradient", "clean_pass"}),
        ("consistency", {"attack_steps", "step_size"}),
        ("trades", {"alpha", "distance", "layer", "gradient", "clean_pass"}),
        ("unrelaxed", {"distance", "gradient", "clean_pass"}),
    ],
)
def test_settings_that_an_objective_ignores_are_refused(objective: str, names: set[str]) -> None:
    optional = {f.name for f in dataclasses.fields(TrainSettings) if f.default is None}
    assert optional - GIVEN.keys() == {
        "epsilon",
        "momentum",
        "clip",
        "average",
        "resized_crop",
        "threads",
        "head",
    }
    for name, value in GIVEN.items():
        values = {"objective": objective, name: value}
        if name in names:
            with pytest.raises(SettingsError, match=f"^{name} means nothing to .* {objective};"):
                TrainSettings(**values)
        else:
            TrainSettings(**values)


@pytest.mark.parametrize(("name", "value"), [("momentum", 0.9), ("nesterov", False)])
def test_settings_of_sgd_are_refused_for_adam(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"^{name} means nothing to the optimizer adam"):
        TrainSettings(optimizer="adam", **{name: value})
    TrainSettings(optimizer="sgd", **{name: value})
