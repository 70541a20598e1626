"""What an audit measures, and what an attack is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import FlagCreatePairsOff, UseAppendAction, arg

from advlens.errors import SettingsError
from advlens.plugins import STAGES
from advlens.settings.models import ModelSettings
from advlens.settings.numbers import (
    DRAWS,
    AutoRadius,
    NoHint,
    Radius,
    check_between,
    check_positive,
    check_seed,
)
from advlens.settings.spec import parse_method
from advlens.words import perhaps

Norm = Literal["linf", "l2"]
Stages = Annotated[tuple[str, ...], arg(metavar=f"{{{','.join(STAGES.names)}}}")]


def check_stages(names: Sequence[str]) -> None:
    """Raise SettingsError for no stage, and for a name that none has."""
    if not names:
        raise SettingsError(f"stages names no stage; give some of {', '.join(STAGES.names)}")
    for name in names:
        if name not in STAGES.names:
            raise SettingsError(
                f"stages names {name!r}, which is no stage{perhaps(name, STAGES.names)}; there are "
                f"{', '.join(STAGES.names)}"
            )


@dataclass(frozen=True, kw_only=True)
class AuditSettings(ModelSettings):
    """What an audit measures, and how.

    Attributes:
        images: audit a seeded, class-balanced subset of so many images (default: all of them).
        epsilon: L2 radius of PGD in pixel units; auto is .5 for images below 96 pixels, 1.5
            below 160, else 3.
        steps: PGD steps.
        fgsm: L∞ radii of FGSM (D19: 1/255, D22: 4/255).
        natural: measure natural accuracy alone: no attack, no sweep.
        expect_accuracy: the natural accuracy that is known of the models, one for all or one for
            each; where the 95% interval of what is found does not hold it, the audit ends before
            its first attack.
        attack: one more attack, such as "Pgd(norm=Linf, epsilon=8/255)", "foolbox:NAME(epsilon=…)"
            or "torchattacks:NAME(epsilon=…)" (docs/interop.md); give --attack once for each.
        autoattack: AutoAttack in L2 on a seeded, class-balanced subset of so many images; 0 is not
            at all.
        autoattack_linf: AutoAttack as well in L∞ of this radius; 0 is not at all.
        draws: fresh passes of a model whose passes differ: attacks average their gradients over so
            many, and accuracy is a mean over so many; of other models, one.
        sweep_images: images of the subset for the sweep over epsilon and the sanity checks.
        sweep_steps: PGD steps on that subset.
        neuron_epsilon: L2 radius of the least-likely attack on the units; auto is twice epsilon.
        neuron_steps: steps of that attack.
        neuron_step_size: length of a step of that attack in pixel units, at other radii in
            proportion; auto is 2.5 radius / steps.
        success: the success rate at which models are compared at equal success.
        top: share of the images that stands for a unit.
        sigma: width of the class similarity exp(−d²/2σ²).
        synsets: table of class,wnid lines for data whose class names WordNet does not settle.
        concepts: broden:DIR, images with labeled pixels on which units are dissected as well.
        layers: the convolutions that are dissected; "last" is the last one, "all" are all of them.
        discrepancy: show which part of each image a unit responds to; takes up to thousands of
            passes per image.
        explained: images whose predictions are attributed to their pixels.
        attribution: one more method of attribution, such as captum:DeepLift or
            "captum:Occlusion(sliding_window_shapes=(3,8,8))"; give --attribution once for each.
        points: intervals of Integrated Gradients.
        baselines: noise images that Integrated Gradients start from, for each image.
        samples: of expected gradients, for each image.
        visualized: components of the representation that are made visible.
        visualization_steps: gradient steps of each (B23: 400).
        inverted: images whose representations are inverted, from noise and from another class.
        inversion_steps: gradient steps of each (B23: 10000).
        generated: images made for each class.
        generation_steps: gradient steps of each (B23: 60).
        inception: the folder of the FID Inception network (advlens data inception); without it
            distances are measured with the packaged cifar10-reference, and say so.
        batch_size: images per step.
        skip_damaged: leave images that cannot be read out of all counts, and list them in
            results/skipped.csv; without it they are named before the audit begins, and end it.
        seed: of everything random.
        device: "cpu", "cuda", "cuda:1" …; "auto" takes a GPU where there is one.
        stages: the analyses; one that is named and cannot run is an error, one of the default is
            left out and said.
    """

    images: Annotated[int | None, NoHint] = None
    epsilon: AutoRadius = None
    steps: int = 20
    fgsm: tuple[Radius, ...] = (1 / 255, 4 / 255)
    natural: FlagCreatePairsOff[bool] = False
    expect_accuracy: tuple[float, ...] = ()
    attack: UseAppendAction[Annotated[tuple[str, ...], arg(metavar="ATTACK")]] = ()
    autoattack: int = 0
    autoattack_linf: Radius = 0.0
    draws: int = DRAWS
    sweep_images: int = 500
    sweep_steps: int = 10
    neuron_epsilon: AutoRadius = None
    neuron_steps: int = 10
    neuron_step_size: AutoRadius = None
    success: float = 0.95
    top: float = 0.01
    sigma: float = 1.0
    synsets: Annotated[Path | None, NoHint] = None
    concepts: Annotated[str | None, NoHint] = None
    layers: tuple[str, ...] = ("last",)
    discrepancy: bool = False
    explained: int = 16
    attribution: UseAppendAction[Annotated[tuple[str, ...], arg(metavar="METHOD")]] = ()
    points: int = 50
    baselines: int = 10
    samples: int = 200
    visualized: int = 4
    visualization_steps: int = 400
    inverted: int = 8
    inversion_steps: int = 1000
    generated: int = 10
    generation_steps: int = 60
    inception: Annotated[Path | None, NoHint] = None
    batch_size: int = 128
    skip_damaged: bool = False
    seed: int = 0
    device: str = "auto"
    stages: Stages = STAGES.names

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            self,
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
            "explained",
            "points",
            "baselines",
            "samples",
            "visualized",
            "visualization_steps",
            "inverted",
            "inversion_steps",
            "generated",
            "generation_steps",
        )
        check_seed(self.seed)
        for name in ("top", "success"):
            if not 0 < getattr(self, name) <= 1:
                raise SettingsError(
                    f"{name} must be a share between 0 and 1, not {getattr(self, name)}"
                )
        if not all(0 < value <= 1 for value in self.fgsm):
            raise SettingsError(
                f"fgsm radii must lie between 0 and 1 in pixel units, not {self.fgsm}"
            )
        for text in (*self.attack, *self.attribution):
            parse_method(text)
        check_between(self, 0, math.inf, "autoattack")
        check_between(self, 2, math.inf, "draws")
        check_between(self, 0, 1, "autoattack_linf")
        if self.autoattack_linf and not self.autoattack:
            raise SettingsError("autoattack_linf needs autoattack, the number of its images")
        for value in self.expect_accuracy:
            if not 0 <= value <= 1:
                raise SettingsError(
                    f"expect_accuracy must be a share between 0 and 1, such as .93, not {value}"
                )
        check_stages(self.stages)
        if "accuracy" not in self.stages:
            for name in ("natural", "autoattack"):
                if getattr(self, name):
                    raise SettingsError(f"{name} needs the stage accuracy; add it to stages")
        if self.natural and (self.attack or self.autoattack):
            raise SettingsError(
                "natural leaves all attacks out; give it without attack, autoattack"
            )
        if self.by_name and "dissection" in self.stages and self.concepts is None:
            raise SettingsError(
                "the stage dissection needs concepts, such as broden:DIR; give them, or leave it "
                "out of stages"
            )
        if self.samples % 2:
            raise SettingsError(f"samples must be an even number, not {self.samples}")
        if self.synsets is not None and not self.synsets.is_file():
            raise SettingsError(f"synsets names the file {self.synsets}, which does not exist")

    @property
    def by_name(self) -> bool:
        """Whether the stages are asked for by name, and are not those of the default."""
        return self.stages != type(self).stages


@dataclass(frozen=True, kw_only=True)
class AttackSettings(ModelSettings):
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
        draws: fresh passes that a gradient is averaged over, of a model whose passes differ.
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
    draws: int = DRAWS
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
        super().__post_init__()
        check_positive(self, "epsilon", "steps", "step_size", "weight", "images", "batch_size")
        check_between(self, 1, math.inf, "draws")
        check_seed(self.seed)
        for name in self._MEANS_NOTHING[self.method]:
            if getattr(self, name) is not None:
                raise SettingsError(
                    f"{name} means nothing to the method {self.method}; leave it out"
                )
