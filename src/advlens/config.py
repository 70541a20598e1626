"""Settings that the command line and the library share; importing them does not import torch."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import FlagCreatePairsOff, arg
from tyro.constructors import PrimitiveConstructorSpec

from advlens.errors import SettingsError


def parse_number(text: str) -> float:
    """A number written as 0.0157 or as 4/255.

    Raises:
        ValueError: it is neither.
    """
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator if slash else 1)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is not a number such as 0.0157 or 4/255") from None


def show_number(value: float | None) -> str:
    """The shortest of the two ways to write a radius; "auto" for None."""
    if value is None:
        return "auto"
    steps = value * 255
    return (
        f"{round(steps)}/255"
        if steps and abs(steps - round(steps)) < 1e-9 and value < 1
        else f"{value:g}"
    )


Radius = Annotated[
    float,
    PrimitiveConstructorSpec(
        nargs=1, metavar="NUMBER", instance_from_str=lambda words: parse_number(words[0]),
        is_instance=lambda value: isinstance(value, float),
        str_from_instance=lambda value: [show_number(value)],
    ),
]  # fmt: skip
AutoRadius = Annotated[
    float | None,
    PrimitiveConstructorSpec(
        nargs=1, metavar="NUMBER|auto",
        instance_from_str=lambda words: None if words[0] == "auto" else parse_number(words[0]),
        is_instance=lambda value: value is None or isinstance(value, float),
        str_from_instance=lambda value: [show_number(value)],
    ),
]  # fmt: skip
NoHint = arg(help_behavior_hint="")
"""For what is None by default: the help says in words what that means."""
StageName = Literal["accuracy", "sweep", "neurons"]
Norm = Literal["linf", "l2"]


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """What an audit measures, and how.

    Attributes:
        images: audit a seeded, class-balanced subset of so many images (default: all of them).
        epsilon: L2 radius of PGD in pixel units; auto is .5 for images below 96 pixels, 1.5
            below 160, else 3.
        steps: PGD steps.
        fgsm: L∞ radii of FGSM (D19: 1/255, D22: 4/255).
        sweep_images: images of the subset for the sweep over epsilon and the sanity checks.
        sweep_steps: PGD steps on that subset.
        neuron_epsilon: L2 radius of the least-likely attack on the units; auto is twice epsilon.
        neuron_steps: steps of that attack.
        success: the success rate at which models are compared at equal success.
        top: share of the images that stands for a unit.
        sigma: width of the class similarity exp(−d²/2σ²).
        synsets: table of class,wnid lines for data whose class names WordNet does not settle.
        batch_size: images per step.
        seed: of everything random.
        device: "cpu", "cuda", "cuda:1" …; "auto" takes a GPU where there is one.
        stages: the analyses.
    """

    images: Annotated[int | None, NoHint] = None
    epsilon: AutoRadius = None
    steps: int = 20
    fgsm: tuple[Radius, ...] = (1 / 255, 4 / 255)
    sweep_images: int = 500
    sweep_steps: int = 10
    neuron_epsilon: AutoRadius = None
    neuron_steps: int = 10
    success: float = 0.95
    top: float = 0.01
    sigma: float = 1.0
    synsets: Annotated[Path | None, NoHint] = None
    batch_size: int = 128
    seed: int = 0
    device: str = "auto"
    stages: tuple[StageName, ...] = ("accuracy", "sweep", "neurons")

    def __post_init__(self) -> None:
        _positive(
            self, "images", "epsilon", "steps", "sweep_images", "sweep_steps", "neuron_epsilon",
            "neuron_steps", "sigma", "batch_size",
        )  # fmt: skip
        _seed(self.seed)
        for name in ("top", "success"):
            if not 0 < getattr(self, name) <= 1:
                raise SettingsError(
                    f"{name} must be a share between 0 and 1, not {getattr(self, name)}"
                )
        if not all(0 < value <= 1 for value in self.fgsm):
            raise SettingsError(
                f"fgsm radii must lie between 0 and 1 in pixel units, not {self.fgsm}"
            )
        if not self.stages:
            raise SettingsError("stages names no stage; give accuracy, sweep or neurons")
        if self.synsets is not None and not self.synsets.is_file():
            raise SettingsError(f"synsets names the file {self.synsets}, which does not exist")


@dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """One attack on a set of images.

    Attributes:
        method: fgsm, bim, pgd, the iterative least-likely-class method, the Adam optimization
            attack, the feature attack, or Gaussian noise as a control.
        norm: of the ball around an image; adam has none.
        epsilon: its radius in pixel units; auto is 8/255 in linf, .5 in l2.
        steps: gradient steps (default: 20; fgsm and noise have none).
        step_size: length of a step in pixel units; auto is 2.5 epsilon / steps, 5/255 for adam.
        weight: λ of adam (default: the smallest that succeeds on 95 % of 96 images).
        layer: the convolution whose features are attacked (default: the last).
        images: attack a seeded, class-balanced subset of so many images (default: all).
        batch_size: images per step.
        seed: of everything random.
        device: "cpu", "cuda", "cuda:1" …; "auto" takes a GPU where there is one.
    """

    method: Literal["fgsm", "bim", "pgd", "least-likely", "adam", "feature", "noise"] = "pgd"
    norm: Norm = "linf"
    epsilon: AutoRadius = None
    steps: Annotated[int | None, NoHint] = None
    step_size: AutoRadius = None
    weight: Annotated[float | None, NoHint] = None
    layer: Annotated[str | None, NoHint] = None
    images: Annotated[int | None, NoHint] = None
    batch_size: int = 128
    seed: int = 0
    device: str = "auto"

    _MEANS_NOTHING: ClassVar[dict[str, tuple[str, ...]]] = {
        "fgsm": ("steps", "step_size", "weight", "layer"),
        "bim": ("weight", "layer"),
        "pgd": ("weight", "layer"),
        "least-likely": ("weight", "layer"),
        "adam": ("epsilon", "layer"),
        "feature": ("weight",),
        "noise": ("steps", "step_size", "weight", "layer"),
    }

    def __post_init__(self) -> None:
        _positive(self, "epsilon", "steps", "step_size", "weight", "images", "batch_size")
        _seed(self.seed)
        for name in self._MEANS_NOTHING[self.method]:
            if getattr(self, name) is not None:
                raise SettingsError(
                    f"{name} means nothing to the method {self.method}; leave it out"
                )


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a classifier is trained and what it is measured under.

    Attributes:
        objective: cross entropy on the images (standard), on images under PGD (adversarial; Madry
            et al. 2018), or the consistent loss under FGSM of 4/255 to 16/255 (consistency; D19).
        epochs: passes over the training set.
        batch_size: images per step.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: L2 penalty on all parameters.
        validation: number of training images held out to choose the epoch.
        precision: bf16 runs the training step in mixed precision; accuracies are always float32.
        norm: of the attack in training (adversarial), in validation and in the final test.
        epsilon: its radius in pixel units; auto is .5 in l2, 8/255 in linf.
        attack_steps: PGD steps in training (adversarial).
        step_size: their length in pixel units; auto is 1.2 epsilon / attack steps.
        alpha: weight of the loss on real images, 0 to 1 (consistency).
        beta: weight of the feature distance, ≥ 0 (consistency).
        half: store the weights in float16; the test measures them as stored.
        threads: CPU threads (default: torch's choice); the same number gives the same bits.
        seed: of initialization, order, augmentation and attacks.
        device: "cpu", "cuda", "cuda:1" …; "auto" takes a GPU where there is one.
    """

    objective: Literal["standard", "adversarial", "consistency"] = "standard"
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.2
    weight_decay: float = 5e-4
    validation: int = 1000
    precision: Literal["float32", "bf16"] = "float32"
    norm: Norm = "l2"
    epsilon: AutoRadius = None
    attack_steps: int = 2
    step_size: AutoRadius = None
    alpha: float = 0.5
    beta: float = 1.0
    half: FlagCreatePairsOff[bool] = False
    threads: Annotated[int | None, NoHint] = None
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        _positive(
            self, "epochs", "batch_size", "learning_rate", "validation", "epsilon", "attack_steps",
            "step_size", "threads",
        )  # fmt: skip
        _seed(self.seed)
        for name, highest in (("weight_decay", math.inf), ("beta", math.inf), ("alpha", 1.0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= highest):
                limit = "" if highest == math.inf else f" and ≤ {highest:g}"
                raise SettingsError(f"{name} must be a finite number ≥ 0{limit}, not {value}")


def _positive(settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise SettingsError(f"{name} must be a positive number, not {value}")


def _seed(seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise SettingsError(f"seed must be a whole number from 0 to 2⁶³ − 1, not {seed}")
