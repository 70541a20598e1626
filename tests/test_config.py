"""Settings and methods in one word: how they are written and read, and what is refused."""

import dataclasses
import math
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advlens import AuditSettings, DissectSettings, SettingsError
from advlens.settings import (
    AttackSettings,
    MethodSpec,
    TrainSettings,
    parse_method,
    parse_number,
    show_number,
)

WRITTEN = {"4/255": 4 / 255, ".0157": 0.0157, "0.5": 0.5, "1": 1.0, "1e-3": 0.001, "-1/2": -0.5}
NAN, INF = math.nan, math.inf
NATURAL = {"natural": True}
POSITIVE = {
    AuditSettings: "images epsilon epsilon_linf steps sweep_images sweep_steps neuron_epsilon "
    "neuron_steps neuron_step_size sigma batch_size shown",
    AttackSettings: "epsilon steps step_size images batch_size",
    DissectSettings: "epsilon steps step_size units images batch_size",
    TrainSettings: "epochs batch_size learning_rate validation epsilon attack_steps step_size clip "
    "threads",
}
# names of settings, and values that none of them takes
OTHER = [
    *((kind, names, (0, -1, NAN, INF)) for kind, names in POSITIVE.items()),
    *((kind, "seed", (-1, 2**63)) for kind in POSITIVE),
    (AuditSettings, "top success", (0, 1.1, NAN)),
    (AuditSettings, "fgsm", ((1 / 255, 1.5), (NAN,))),
    (AuditSettings, "stages norm", ((),)),
    (AuditSettings, "norm", (("L1",), ("Linf", "l2"))),
    (AuditSettings, "epsilon epsilon_linf", ((), (0.5, 0.0), (0.5, NAN))),
    (AuditSettings, "epsilon_linf", (8.0, (8 / 255, 1.01))),
    (AuditSettings, "expect_accuracy", ((-0.1,), (93.0,), (NAN,))),
    (AuditSettings, "synsets", (Path("no such file.csv"),)),
    (AuditSettings, "similarity", ("no such file.csv", "nearest:no such file.csv")),
    (AuditSettings, "samples", (5,)),
    (AuditSettings, "draws", (1,)),
    (AuditSettings, "units", (("conv1",), ("conv1:x",), ("conv1:-1",), (":1",), ("a:1", "7"))),
    (AuditSettings, "components", ((-1,), (3, -2), (0.5,), ("3",))),
    (DissectSettings, "units", ((), ("conv1",), ("6",), 1.5, "conv1:3")),
    (AttackSettings, "draws", (0,)),
    (DissectSettings, "quantile minimum", (0.0, 1.0)),
    (DissectSettings, "layers", ((),)),
    (TrainSettings, "weight_decay beta alpha momentum average crop rotation", (-0.1, NAN, INF)),
    (TrainSettings, "alpha momentum average", (1.1,)),
    (TrainSettings, "rotation", (181.0,)),
    (TrainSettings, "epsilon_range resized_crop", ((0.0, 0.5), (0.5, 0.4), (0.1, INF), (NAN, 0.5))),
    (TrainSettings, "resized_crop", ((0.5, 1.5),)),
]
RANGES = [
    (kind, name, value)
    for kind, names, values in OTHER
    for name in names.split()
    for value in values
]
IGNORED = {
    "fgsm": "steps step_size weight layer",
    "noise": "steps step_size weight layer target",
    **dict.fromkeys(("pgd", "bim"), "weight layer"),
    "least-likely": "weight layer target",
    **{"feature": "weight target", "adam": "epsilon layer"},
}
TEXTS = {"layer": "conv1", "head": "conv1", "target": "cat"}
# a value other than the default for each setting that some objective ignores
GIVEN = {"epsilon_range": (0.1, 0.2), "attack_steps": 3, "step_size": 0.1, "alpha": 0.3}
GIVEN |= {"beta": 2.0, "distance": "cosine", "layer": "conv1", "gradient": "attacked"}
GIVEN |= {"clean_pass": "shared", "preset": "paper"}
OPTIONAL = "epsilon momentum clip average resized_crop threads head"
MEANINGLESS = {
    "standard": " ".join(GIVEN),
    "adversarial": "alpha preset beta distance layer gradient clean_pass",
    "consistency": "attack_steps step_size",
    "trades": "alpha preset distance layer gradient clean_pass",
    "unrelaxed": "preset distance gradient clean_pass",
}
APART = [
    ("natural needs the stage accuracy", {"natural": True, "stages": ("neurons",)}),
    ("autoattack needs the stage accuracy", {"autoattack": 9, "stages": ("sweep",)}),
    ("natural leaves all attacks out", {"natural": True, "autoattack": 9}),
    ("natural leaves all attacks out", {"natural": True, "attack": ("Pgd(norm=L2)",)}),
    ("stage dissection needs concepts", {"stages": ("accuracy", "dissection")}),
    ("autoattack must be a finite number ≥ 0", {"autoattack": -1}),
    ("autoattack_linf must be .* ≤ 1", {"autoattack_linf": 2.0, "autoattack": 5}),
    ("autoattack_linf needs autoattack", {"autoattack_linf": 0.1}),
    ("units needs the stage neurons or dissection", {"units": ("a:1",), "stages": ("sweep",)}),
    ("components needs the stage vis", {"components": (1,), "stages": ("neurons",)}),
    ("natural measures accuracy alone; give it without units", {"units": ("a:1",), **NATURAL}),
    ("natural measures .* without components", {"components": (1,), **NATURAL}),
    ("^precision is that of gradient steps, which", {"precision": "bf16", **NATURAL}),
    ("^precision is that of", {"precision": "bf16", "stages": ("attribution",)}),
]
WIDE = " foolbox : LinfPGD ( steps = 10 , epsilon = 8 / 255 ) "
VALUES = (
    "a:B(a=1, b=-2.5, c=True, d=None, e=Linf, f='two words', g=(3, 1/4, (x,)), h=-1/2, i=[1])",
    {"a": 1, "b": -2.5, "c": True, "d": None, "e": "Linf", "f": "two words"}
    | {"g": (3, 0.25, ("x",)), "h": -0.5, "i": (1,)},
)
NO_FORM = ["", "a b", "foolbox:", "foolbox:L2PGD(", "foolbox:L2PGD)", "a:b:c"]
NO_NUMBER = ["a.b()", "1/2/3", "b'1'", "1j", "{}", "lambda: 1"]
REFUSED = {
    **dict.fromkeys(NO_FORM, "of the form"),
    **{f"foolbox:L2PGD(x={text})": "is not a number" for text in NO_NUMBER},
    "foolbox:L2PGD(steps=)": "(invalid syntax|expected argument value)",
    "foolbox:L2PGD(10)": "10 has no name",
    "foolbox:L2PGD(steps=1)(steps=2)": "more than one pair",
    "foolbox:L2PGD(steps=1, steps=2)": "twice|repeated",
    "foolbox:L2PGD(**{'steps': 1})": "not setting=value",
    "foolbox:L2PGD(steps=2*5)": "2 \\* 5 is not a number",
    "foolbox:L2PGD(steps=len('x'))": "len\\('x'\\) is not a number",
    "foolbox:L2PGD(epsilon=8/0)": "8 / 0.*is not a number",
    **{f"foolbox:L2PGD(x={'(' * 300}1{')' * 300})": "", f"foolbox:L2PGD(x={'-' * 400}1)": ""},
    f"foolbox:L2PGD(x={'1' * 1000})": "of the form",
}


@pytest.mark.parametrize("text", WRITTEN)
def test_numbers_are_decimal_or_fractions(text):
    assert parse_number(text) == WRITTEN[text]


@pytest.mark.parametrize("text", ["", "four", "4/", "/255", "1/2/3", "4/0", "0x1", "4 255"])
def test_other_texts_are_no_numbers(text):
    with pytest.raises(ValueError, match=r"is not a number such as 0\.0157 or 4/255"):
        parse_number(text)


@given(st.integers(1, 254), st.floats(1e-6, 1e4))
def test_what_is_shown_is_read_again_and_levels_are_fractions(level, value):
    assert show_number(level / 255) == f"{level}/255"
    assert parse_number(show_number(value)) == pytest.approx(value, rel=1e-5)


def test_nothing_is_shown_as_auto():
    assert [show_number(v) for v in (None, 0.0, 0.5, 1.0, 3.0)] == ["auto", "0", "0.5", "1", "3"]


@pytest.mark.parametrize(("kind", "name", "value"), RANGES)
def test_a_value_out_of_range_is_refused_by_name(kind, name, value):
    with pytest.raises(SettingsError, match=rf"^{name}\b"):
        kind(**{name: value})


@pytest.mark.parametrize(("said", "settings"), APART)
def test_settings_that_do_not_go_together_are_refused(said, settings):
    with pytest.raises(SettingsError, match=said):
        AuditSettings(**settings)


@pytest.mark.parametrize("method", IGNORED)
def test_settings_that_a_method_ignores_are_refused(method):
    for name in [f.name for f in dataclasses.fields(AttackSettings) if f.default is None]:
        values = {"method": method, name: TEXTS.get(name, 1)}
        if name not in IGNORED[method].split():
            AttackSettings(**values)
            continue
        with pytest.raises(SettingsError, match=f"{name} means nothing to .* {method}"):
            AttackSettings(**values)


@pytest.mark.parametrize(
    "settings",
    [partial(AttackSettings, method="noise"), partial(DissectSettings, attack="none")],
)
def test_what_takes_no_gradient_steps_has_no_precision(settings):
    settings(precision="float32")
    with pytest.raises(SettingsError, match=r"^precision means nothing to the .* no(ise|ne);"):
        settings(precision="bf16")


@pytest.mark.parametrize("name", ["epsilon", "step_size"])
def test_a_dissection_under_adam_has_no_radius(name):
    with pytest.raises(SettingsError, match=f"^{name} means nothing to the attack adam"):
        DissectSettings(attack="adam", **{name: 1.0})


@pytest.mark.parametrize("objective", MEANINGLESS)
def test_settings_that_an_objective_ignores_are_refused(objective):
    optional = {f.name for f in dataclasses.fields(TrainSettings) if f.default is None}
    assert optional - GIVEN.keys() == {*OPTIONAL.split()}
    for name, value in GIVEN.items():
        values = {"objective": objective, name: value}
        if name not in MEANINGLESS[objective].split():
            TrainSettings(**values)
            continue
        with pytest.raises(SettingsError, match=f"^{name} means nothing to .* {objective};"):
            TrainSettings(**values)


def test_the_papers_preset_sets_distance_and_weight():
    for name, value in (("beta", 2.0), ("distance", "cosine")):
        with pytest.raises(SettingsError, match=f"the preset paper sets {name}; leave"):
            TrainSettings(objective="consistency", preset="paper", **{name: value})


@pytest.mark.parametrize(("name", "value"), [("momentum", 0.9), ("nesterov", False)])
def test_settings_of_sgd_are_refused_for_adam(name, value):
    with pytest.raises(SettingsError, match=f"^{name} means nothing to the optimizer adam"):
        TrainSettings(optimizer="adam", **{name: value})
    TrainSettings(optimizer="sgd", **{name: value})


@pytest.mark.parametrize("text", ["foolbox:LinfPGD(epsilon=8/255,steps=10)", WIDE])
def test_a_method_with_settings(text):
    found = parse_method(text)
    assert found == MethodSpec("foolbox", "LinfPGD", {"epsilon": 8 / 255, "steps": 10})
    assert type(found.settings["steps"]) is int


def test_what_may_be_left_out_and_kinds_of_values():
    assert parse_method("Pgd") == parse_method("Pgd()") == MethodSpec("", "Pgd", {})
    assert str(parse_method("captum:Saliency(abs=False)")) == "captum:Saliency"
    assert parse_method("a:B(x=1, y=2)").without("x") == {"y": 2}
    assert parse_method(VALUES[0]).settings == VALUES[1]


@pytest.mark.parametrize(("text", "reason"), REFUSED.items(), ids=range(len(REFUSED)))
def test_anything_else_is_refused_in_one_sentence(text, reason):
    with pytest.raises(SettingsError, match=rf"names no method such as .*{reason}") as caught:
        parse_method(text)
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match="names no method"):
        AuditSettings(attack=(text,))


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_text_does_anything_else(name, settings):
    for text in (name, f"a:b({settings})", f"a:b(x={settings})"):
        try:
            assert isinstance(parse_method(text), MethodSpec)
        except SettingsError:
            continue
