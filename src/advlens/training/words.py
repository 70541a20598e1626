"""A training's settings in words."""

import dataclasses
from dataclasses import dataclass

from advlens.attacks import Attack
from advlens.training import Training
from advlens.training.objectives import Objective
from advlens.words import attack_name, radius_text

OBJECTIVES = {
    "Standard": "standard training",
    "Adversarial": "adversarial training",
    "FeatureConsistency": "training for consistent features",
    "Trades": "TRADES",
    "Unrelaxed": "unrelaxed training for consistent features",
}
SCHEDULES = {
    "one-cycle": "up to {} and down to 0 in one cycle",
    "cosine": "from {} down to 0 along a cosine",
    "plateau": "from {}, lowered on plateaus",
    "constant": "{}",
}


@dataclass(frozen=True, kw_only=True)
class Words:
    """How a model was trained.

    Attributes:
        recipe: the recipe's name, or nothing.
        objective: the objective, such as "adversarial training (PGD-2, L2 ε = 0.5)".
        attack: the attack of the validation.
        settings: the other settings.
    """

    recipe: str
    objective: str
    attack: str
    settings: str


def in_words(training: Training, recipe: str | None) -> Words:
    """The settings of a training for people; its repr has all of them exactly."""
    return Words(
        recipe=recipe or "",
        objective=_objective(training.objective),
        attack=_attack(training.validation_attack),
        settings=_settings(training),
    )


def _objective(objective: Objective) -> str:
    """The kind, then its attacks and numbers, and what else differs from the defaults."""
    name = type(objective).__name__
    attacks, parts = [], []
    for field in dataclasses.fields(objective):
        value = getattr(objective, field.name)
        if isinstance(value, Attack):
            attacks.append(_attack(value))
        elif isinstance(value, int | float):
            parts.append(f"{field.name} {value:g}")
        elif value != field.default:
            parts.append(f"{field.name.replace('_', ' ')} {value}")
    parts = [*attacks, *parts]
    return OBJECTIVES.get(name, name) + (f" ({', '.join(parts)})" if parts else "")


def _attack(attack: Attack) -> str:
    """ "PGD-2, L2 ε = 0.5", "FGSM, L∞ ε = 4/255 to 16/255"."""
    row, ball = attack.columns(), attack.within()
    if ball is None or not ball.spread:
        return attack_name(row)
    return f"{attack_name(row | {'epsilon': ball.radii[0]})} to {radius_text(row)}"


def _settings(training: Training) -> str:
    momentum = f" with {'Nesterov ' if training.nesterov else ''}momentum {training.momentum:g}"
    rate = SCHEDULES[training.schedule].format(f"{training.learning_rate:g}")
    parts = [
        f"SGD{momentum}" if training.optimizer == "sgd" else "Adam",
        f"learning rate {rate}",
        f"weight decay {training.weight_decay:g}",
        f"batches of {training.batch_size}",
        f"gradients clipped at {training.clip:g}" if training.clip else "",
        f"weights averaged with decay {training.average:g}" if training.average else "",
        *_augmentation(training),
        "the last epoch kept" if training.keep == "last" else "",
        "bf16 in the training step" if training.precision == "bf16" else "float32",
        f"seed {training.seed}",
    ]
    return ", ".join(filter(None, parts))


def _augmentation(training: Training) -> list[str]:
    varied = training.augmentation
    scale = varied.resized_crop
    parts = [
        f"crops of images padded by {varied.crop} pixels" if varied.crop else "",
        f"resized crops of {scale[0]:.0%} to {scale[1]:.0%} of the area" if scale else "",
        "flips" if varied.flip else "",
        f"rotations up to {varied.rotation:g}°" if varied.rotation else "",
    ]
    return [part for part in parts if part] or ["images as they are"]
