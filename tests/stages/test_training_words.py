"""Settings in words say what differs, and nothing that is not so."""

import dataclasses

import pytest

from advlens.attacks import AdamAttack, FeatureAttack, Fgsm, Pgd
from advlens.attacks.threat import L2, Linf, Uniform
from advlens.training import Augmentation, Training
from advlens.training.objectives import (
    Adversarial,
    FeatureConsistency,
    Objective,
    Standard,
    Trades,
    Unrelaxed,
)
from advlens.training.words import in_words

PGD = Pgd(threat=L2(epsilon=0.5), steps=7)
FEATURES = FeatureAttack(threat=L2(epsilon=0.25), steps=3)
DRAWN = Fgsm(threat=Linf(epsilon=Uniform(low=4 / 255, high=16 / 255)))


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (Standard(), "standard training"),
        (Adversarial(attack=PGD), "adversarial training (PGD-7, L2 ε = 0.5)"),
        (
            FeatureConsistency(alpha=0.25, beta=2.0, attack=DRAWN),
            "training for consistent features (FGSM, L∞ ε = 4/255 to 16/255, alpha 0.25, beta 2)",
        ),
        (
            FeatureConsistency(attack=DRAWN, distance="cosine", layer="layer3"),
            "training for consistent features (FGSM, L∞ ε = 4/255 to 16/255, alpha 0.5, beta 1, "
            "distance cosine, layer layer3)",
        ),
        (
            Trades(weight=6.0, attack=Pgd(threat=Linf(epsilon=8 / 255), steps=10)),
            "TRADES (PGD-10, L∞ ε = 8/255, weight 6)",
        ),
        (
            Unrelaxed(attack=PGD, feature_attack=FEATURES, alpha=0.5),
            "unrelaxed training for consistent features (PGD-7, L2 ε = 0.5, feature attack-3, "
            "L2 ε = 0.25, alpha 0.5, beta 1)",
        ),
    ],
)
def test_the_objective_names_its_attack_and_its_weights(objective: Objective, words: str) -> None:
    assert in_words(Training(objective=objective), None).objective == words


def test_the_attack_of_the_validation_is_named() -> None:
    attack = Pgd(threat=Linf(epsilon=8 / 255), steps=3)
    words = in_words(Training(validation_attack=attack), "a-recipe")
    assert words.attack == "PGD-3, L∞ ε = 8/255"
    assert words.recipe == "a-recipe"
    words = in_words(Training(validation_attack=AdamAttack(weight=1.0)), None)
    assert (words.attack, words.recipe) == ("Adam attack, 20 steps", "")


def test_the_settings_as_they_are_by_default() -> None:
    assert in_words(Training(), None).settings == (
        "SGD with Nesterov momentum 0.9, learning rate up to 0.2 and down to 0 in one cycle, "
        "weight decay 0.0005, batches of 128, crops of images padded by 4 pixels, flips, float32, "
        "seed 0"
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"optimizer": "adam"}, "Adam,"),
        ({"nesterov": False}, "SGD with momentum 0.9,"),
        ({"schedule": "cosine", "learning_rate": 0.01}, "from 0.01 down to 0 along a cosine"),
        ({"schedule": "plateau", "learning_rate": 0.05}, "from 0.05, lowered on plateaus"),
        ({"schedule": "constant"}, "learning rate 0.2,"),
        ({"clip": 0.1}, "gradients clipped at 0.1"),
        ({"average": 0.999}, "weights averaged with decay 0.999"),
        ({"precision": "bf16"}, "bf16 in the training step"),
        ({"seed": 7}, "seed 7"),
        (
            {"augmentation": Augmentation(crop=0, resized_crop=(0.08, 1.0), rotation=20)},
            "batches of 128, resized crops of 8% to 100% of the area, flips, rotations up to 20°,",
        ),
        (
            {"augmentation": Augmentation(crop=0, flip=False)},
            "batches of 128, images as they are, float32",
        ),
    ],
)
def test_what_differs_is_said(changed: dict[str, object], words: str) -> None:
    settings = in_words(dataclasses.replace(Training(), **changed), None).settings
    assert words in settings
    assert words not in in_words(Training(), None).settings
