"""Training as the command line offers it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from advlens.attacks import Attack, Divergence, FeatureAttack, Fgsm, Pgd
from advlens.attacks.threat import L2, Linf, Threat, Uniform
from advlens.auditing.subjects import transform_of
from advlens.datasets import ImageData, has_parts, load_data
from advlens.distributed import Processes, local_device
from advlens.errors import SettingsError
from advlens.models import Classifier, load_model
from advlens.prepared.precision import rounded
from advlens.runs.tensorboard import tensorboard_writer
from advlens.settings import TrainSettings
from advlens.training import Augmentation, Training
from advlens.training.images import split
from advlens.training.objectives import (
    PAPERS,
    Adversarial,
    FeatureConsistency,
    Objective,
    Standard,
    Trades,
    Unrelaxed,
)
from advlens.workflows.trained import finish

TEST_STEPS = 20
VALIDATION_STEPS = 10
SAME = (
    "epochs",
    "batch_size",
    "optimizer",
    "learning_rate",
    "nesterov",
    "weight_decay",
    "schedule",
    "clip",
    "average",
    "validation",
    "keep",
    "precision",
    "channels_last",
    "compile",
    "seed",
)
"""Settings that `Training` has under the same name."""


def make_training(settings: TrainSettings) -> Training:
    """The training that the settings of the command line stand for."""
    return Training(
        objective=_objective(settings),
        augmentation=Augmentation(
            crop=settings.crop,
            flip=settings.flip,
            rotation=settings.rotation,
            resized_crop=settings.resized_crop,
        ),
        validation_attack=Pgd(threat=_threat(settings), steps=VALIDATION_STEPS),
        **_given(settings, momentum="momentum"),
        **{name: getattr(settings, name) for name in SAME},
    )


def make_test_attack(settings: TrainSettings) -> Attack:
    """The attack of the final test."""
    return Pgd(threat=_threat(settings), steps=TEST_STEPS, seed=settings.seed)


def load_classifier(model: str, settings: TrainSettings) -> Classifier:
    """The classifier to train, on its device; its name says if it starts from weights.

    Raises:
        AdvlensError: `load_model` refuses the name or the settings.
    """
    classifier = load_model(
        model,
        device=local_device(settings.device),
        seed=settings.seed,
        ignore_keys=settings.ignore_keys,
        head=settings.head,
    )
    if classifier.weights is not None:
        classifier.name += ", fine-tuned"
    return classifier


def load_images(
    data: str,
    classifier: Classifier,
    exif_orientation: bool = False,
    *,
    test: str | None = None,
) -> tuple[ImageData, ImageData]:
    """Training and test images, with labels that number the classifier's classes.

    Training images have the size before the center crop, so that random crops are parts of them.
    The classes of a classifier that knows none are those of the training images.

    Args:
        data: what holds the training images.
        classifier: the classifier that is trained.
        exif_orientation: whether files are turned as their EXIF entry says.
        test: what holds the test images (default: `data`, which then has both parts).

    Raises:
        SettingsError: `data` has no parts, and `test` is not given or the same.
        AdvlensError: `load_data` refuses the name, or the files are damaged.
    """
    apart = test is None or has_parts(data)
    if not apart and test == data:
        raise SettingsError(
            f"{data} has no parts to train and to test on; name other images with --test"
        )
    center = transform_of(classifier, exif_orientation)
    if center.width is not None:
        raise SettingsError(
            f"{classifier.name} takes images of {center.size}×{center.width}; only networks for "
            "square images are trained"
        )
    whole = center if data.startswith("exact:") else replace(center, size=classifier.resize)
    train = load_data(data, split="train" if apart else "test", transform=whole)
    tested = load_data(test or data, transform=center)
    known = classifier.classes, classifier.synsets
    train = train.aligned(*known)
    if known == (None, None):
        known = train.classes, train.synsets
    return train, tested.aligned(*known)


def sample_parts(classifier: Classifier, tested: int) -> tuple[ImageData, ImageData]:
    """The packaged sample, split into images to train on and `tested` others, always the same."""
    whole = load_data("sample").aligned(classifier.classes, classifier.synsets)
    trained, held_out = split(whole, tested, seed=0)
    return whole.part(trained.tolist()), whole.part(held_out.tolist())


def train(
    classifier: Classifier,
    data: ImageData,
    test: ImageData,
    out: Path,
    settings: TrainSettings,
    *,
    command: str,
    recipe: str | None = None,
    processes: Processes = Processes(),
) -> dict[str, Any]:
    """Train and measure once on the test set, continuing what `out` holds.

    Args:
        classifier: the classifier to train in place, on its device.
        data: training images, with labels that number the classifier's classes.
        test: test images, with labels of the same kind.
        out: the folder to write.
        settings: how to train.
        command: the command line, which the model card shows.
        recipe: name of the recipe, if any.
        processes: those that train together.

    Returns:
        Accuracy on the test set, as `trained.finish` returns it.

    Raises:
        AdvlensError: `Training` or `trained.finish` refuses the settings or the folder.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    training = make_training(settings)
    on_epoch = tensorboard_writer(out) if settings.tensorboard and processes.first else None
    with rounded(**settings.rounding):
        training(classifier, data, out, processes=processes, on_epoch=on_epoch)
    with rounded(deterministic=settings.deterministic):
        return finish(
            classifier,
            test,
            out,
            training,
            make_test_attack(settings),
            half=settings.half,
            data=data.name,
            command=command,
            recipe=recipe,
            processes=processes,
        )


def _threat(settings: TrainSettings) -> Threat:
    if settings.norm == "linf":
        return Linf(epsilon=settings.epsilon or 8 / 255)
    return L2(epsilon=settings.epsilon or 0.5)


def _objective(settings: TrainSettings) -> Objective:
    if settings.objective == "standard":
        return Standard()
    inner = _inner(settings)
    if settings.objective == "adversarial":
        return Adversarial(attack=Pgd(**inner))
    if settings.objective == "trades":
        return Trades(attack=Divergence(**inner), **_given(settings, weight="beta"))
    weights = _given(settings, alpha="alpha", beta="beta")
    if settings.objective == "unrelaxed":
        feature_attack = FeatureAttack(**inner, layer=settings.layer)
        return Unrelaxed(attack=Pgd(**inner), feature_attack=feature_attack, **weights)
    printed: dict[str, Any] = {}
    if settings.preset == "paper":
        printed = {"distance": "summed", "beta": 1.0}
    return FeatureConsistency(
        attack=Fgsm(threat=inner["threat"]),
        **weights,
        **printed,
        **_given(
            settings,
            distance="distance",
            layer="layer",
            gradient="gradient",
            clean_pass="clean_pass",
        ),
    )


def _inner(settings: TrainSettings) -> dict[str, Any]:
    """The settings of the attack inside a step."""
    threat = PAPERS if settings.objective in ("consistency", "unrelaxed") else _threat(settings)
    if settings.epsilon_range is not None:
        low, high = settings.epsilon_range
        threat = replace(threat, epsilon=Uniform(low=low, high=high))
    steps = settings.attack_steps or (10 if settings.objective == "trades" else 2)
    step_size = settings.step_size
    if step_size is None and isinstance(threat.epsilon, float):
        step_size = 1.2 * threat.epsilon / steps
    return {"threat": threat, "steps": steps, "step_size": step_size, "select": "last"}


def _given(settings: TrainSettings, **names: str) -> dict[str, Any]:
    """The settings that are not None, by their names in the class that is built from them."""
    values = {name: getattr(settings, setting) for name, setting in names.items()}
    return {name: value for name, value in values.items() if value is not None}
