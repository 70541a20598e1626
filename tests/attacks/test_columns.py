"""How attacks name themselves in the tables of a run."""

from dataclasses import dataclass, field

import pytest
import torch

from advlens import AdamAttack, AutoAttack, Bim, Divergence, Fgsm, Pgd, make_attack
from advlens.attacks import Attack, FeatureAttack, GaussianNoise, GradientAttack, LeastLikely
from advlens.attacks.base import NATURAL
from advlens.attacks.threat import L2, Linf, Threat, Uniform
from advlens.runs.tables import TABLES
from advlens.words import attack_name

BALL = L2(epsilon=0.5)
OURS = dataclass(frozen=True, kw_only=True)
DRAWN = Linf(epsilon=Uniform(low=4 / 255, high=16 / 255))
RADII = {
    "drawn": (DRAWN, 16 / 255, "epsilon=uniform from 0.0156863 to 0.0627451"),
    "drawn alike": (L2(epsilon=Uniform(low=0.5, high=0.5)), 0.5, ""),
    "one per image": (L2(epsilon=torch.tensor([0.5, 0.25, 1])), 1.0, "epsilon=0.25 to 1"),
    "alike per image": (L2(epsilon=torch.tensor([0.5, 0.5])), 0.5, ""),
}


@OURS
class Own(Attack):
    """A user's own attack, without a ball."""

    tries: int = 50
    kinds: list[str] = field(default_factory=list)


@OURS
class OwnInBall(Own):
    """And one in a ball, which takes steps and does not say so."""

    threat: Threat
    steps: int = 9


@OURS
class OwnBall(Attack):
    """And one whose ball is none of ours."""

    threat: str
    found: list[int] = field(default_factory=list, init=False)


@OURS
class OwnSteps(GradientAttack):
    """And one that climbs gradients."""

    threat: Threat
    steps: int = 9


FOOLBOX = make_attack("foolbox:L1PGD(epsilon=3, steps=8, rel_stepsize=.1)")
TORCHATTACKS = make_attack("torchattacks:CW(epsilon=.5, steps=5)")
COLUMNS: dict[str, tuple[Attack, tuple[str, str, float | None, int]]] = {
    "fgsm": (Fgsm(threat=Linf(epsilon=0.25)), ("Fgsm", "Linf", 0.25, 1)),
    "whole radius": (Fgsm(threat=Linf(epsilon=1)), ("Fgsm", "Linf", 1.0, 1)),
    "bim": (Bim(threat=BALL, steps=3), ("Bim", "L2", 0.5, 3)),
    "pgd": (Pgd(threat=BALL), ("Pgd", "L2", 0.5, 20)),
    "least likely": (LeastLikely(threat=BALL, steps=2), ("LeastLikely", "L2", 0.5, 2)),
    "feature": (FeatureAttack(threat=BALL, steps=4), ("FeatureAttack", "L2", 0.5, 4)),
    "divergence": (Divergence(threat=BALL, steps=5), ("Divergence", "L2", 0.5, 5)),
    "adam": (AdamAttack(steps=7), ("AdamAttack", "", None, 7)),
    "noise": (GaussianNoise(threat=BALL), ("GaussianNoise", "L2", 0.5, 1)),
    "autoattack": (AutoAttack(threat=BALL), ("AutoAttack", "L2", 0.5, 1)),
    "foolbox": (FOOLBOX, ("foolbox:L1PGD(rel_stepsize=0.1)", "L1", 3.0, 8)),
    "torchattacks": (TORCHATTACKS, ("torchattacks:CW", "L2", 0.5, 5)),
    "own": (Own(), ("Own", "", None, 1)),
    "own ball": (OwnBall(threat="a cube"), ("OwnBall", "", None, 1)),
    "own in a ball": (OwnInBall(threat=BALL), ("OwnInBall", "L2", 0.5, 1)),
    "own steps": (OwnSteps(threat=BALL), ("OwnSteps", "L2", 0.5, 9)),
}


@pytest.mark.parametrize(("attack", "expected"), COLUMNS.values(), ids=COLUMNS)
def test_an_attack_names_itself_and_tells_no_defaults(attack, expected):
    columns = attack.columns()
    assert tuple(columns.values()) == expected
    assert isinstance(columns["epsilon"], float | None)
    assert columns.keys() == NATURAL.keys() < TABLES["accuracy"].columns.keys()
    assert attack.unusual() == ("threat=a cube" if isinstance(attack, OwnBall) else "")


@pytest.mark.parametrize(("threat", "largest", "told"), RADII.values(), ids=RADII)
@pytest.mark.parametrize("kind", [Fgsm, Pgd, FeatureAttack, GaussianNoise, OwnInBall])
def test_radii_that_differ_are_told(kind, threat, largest, told):
    attack = kind(threat=threat)
    assert attack.columns()["epsilon"] == largest
    assert attack.unusual() == told


TOLD = [
    (Pgd(threat=BALL, steps=3, step_size=0.1, restarts=3), {}, "step_size=0.1, restarts=3"),
    (Pgd(threat=BALL, seed=4, draws=2), {}, "seed=4, draws=2"),
    (Pgd(threat=BALL, seed=4, draws=2), {"seed": 4, "draws": 2}, ""),
    (Pgd(threat=BALL), {"seed": 4, "draws": 2}, "seed=0, draws=1"),
    (Fgsm(threat=DRAWN, label="predicted"), {}, RADII["drawn"][2] + ", label=predicted"),
    (AdamAttack(weight=1 / 3, targeted=False), {}, "weight=0.333333, targeted=False"),
    (Own(tries=5, kinds=["a"]), {}, "tries=5, kinds=['a']"),
    (OwnInBall(threat=BALL, steps=10), {}, "steps=10"),
    (OwnSteps(threat=BALL, steps=10), {}, ""),
    (OwnBall(threat="a cube"), {}, "threat=a cube"),
    (make_attack("foolbox:LinfPGD(epsilon=.1)", seed=3), {"seed": 3}, ""),
    (make_attack("foolbox:LinfPGD(epsilon=.1)", seed=3), {}, "seed=3"),
]


@pytest.mark.parametrize(("attack", "usual", "told"), TOLD)
def test_settings_that_are_not_as_usual_are_told(attack, usual, told):
    assert attack.unusual(**usual) == told


def test_what_an_attack_has_found_is_no_setting_and_no_radius_is_none_in_words():
    attack = OwnBall(threat="a cube")
    attack.found.append(3)
    assert attack.unusual() == "threat=a cube"
    foreign = make_attack("foolbox:BoundaryAttack(epsilon=.1)")
    foreign.unattacked.append(3)
    assert foreign.unusual() == ""
    rows = [attack.columns() | {"settings": attack.unusual()} for attack in (Own(tries=3), Own())]
    assert [attack_name(row) for row in rows] == ["Own (tries=3)", "Own"]
    assert attack_name(Fgsm(threat=DRAWN).columns()) == "FGSM, L∞ ε = 16/255"
