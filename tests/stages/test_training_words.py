"""Settings in words say what differs, and nothing that is not so."""

import dataclasses

import pytest

from advlens import L2, AdamAttack, Augmentation, FeatureAttack, Fgsm, Linf, Pgd, Training, Uniform
from advlens.training import objectives
from advlens.training.objectives import FeatureConsistency, Objective
from advlens.training.words import in_words

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
