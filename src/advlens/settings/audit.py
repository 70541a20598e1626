"""The settings of an audit, and of a single attack."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tyro.conf import FlagCreatePairsOff, UseAppendAction, arg

from advlens.checks import check_number, check_numbers, check_path, check_positive, check_seed
from advlens.errors import SettingsError
from advlens.plugins import STAGES
from advlens.settings.choices import Components, Units, parse_unit
from advlens.settings.models import ImageSettings, StepSettings
from advlens.settings.numbers import DRAWS, AutoRadii, AutoRadius, NoHint, Radius, several
from advlens.settings.spec import parse_method
from advlens.words import perhaps

Norm = Literal["linf", "l2"]
Target = Annotated[str | None, arg(metavar="CLASS"), NoHint]
Stages = Annotated[tuple[str, ...], arg(metavar=f"{{{','.join(STAGES.names)}}}")]


PRESETS = {
    "d19": ("Fgsm(norm=Linf, epsilon=1/255)", "LeastLikely(norm=Linf, epsilon=4/255, steps=10)"),
    "d22": ("AdamAttack(steps=20)", "AdamAttack(steps=20)"),
}
"""The attacks of a paper: on units, and on units as detectors of concepts."""

SAME_CLASS = "same-class"
NEAREST = "nearest"
"""The positive definite similarity nearest to WordNet's; as `nearest:FILE`, to that of a file."""

QUICK: dict[str, Any] = {
    "steps": 10,
    "sweep_images": 50,
    "sweep_steps": 5,
    "neuron_steps": 5,
    "explained": 16,
    "points": 20,
    "baselines": 3,
    "samples": 50,
    "visualization_steps": 200,
    "inverted": 16,
    "inversion_steps": 200,
}
"""Settings of a quick audit that are not given otherwise."""


def check_stages(names: Sequence[str]) -> None:
    """Raise SettingsError if there is no name, or one that no stage has."""
    if not names:
        raise SettingsError(f"stages names no stage; give some of {', '.join(STAGES.names)}")
    for name in names:
        if name not in STAGES.names:
            raise SettingsError(
                f"stages names {name!r}, which is not a stage{perhaps(name, STAGES.names)}; there "
                f"are {', '.join(STAGES.names)}"
            )


@dataclass(frozen=True, kw_only=True)
class AuditSettings(StepSettings, ImageSettings):
    """What an audit measures, and how.

    Attributes:
        images: size of a seeded, class-balanced subset to audit (default: all images).
        norm: the norms of the balls in which PGD attacks.
        epsilon: L2 radius of PGD in pixel units, or several; auto is .5 for images below 96
            pixels, 1.5 below 160, else 3. The first is that of the other stages, too.
        epsilon_linf: L∞ radius of PGD in pixel units, or several; auto is 8/255 for images below
            96 pixels, else 4/255.
        steps: PGD steps.
        fgsm: L∞ radii of FGSM (D19: 1/255, D22: 4/255).
        natural: measure only natural accuracy: no attack, no sweep.
        expect_accuracy: the known natural accuracy of the models, one value for all or one for
            each; if the 95% interval of a measured accuracy excludes it, the audit ends before its
            first attack.
        target: a class, by its name or number, that attacks aim at; images of it are left out. Or
            "data": each image's own target, from the column target of a table (docs/data.md). Adds
            PGD towards the targets to the accuracy, and attacks units towards them.
        attack: an additional attack, such as "Pgd(norm=Linf, epsilon=8/255)",
            "foolbox:NAME(epsilon=…)" or "torchattacks:NAME(epsilon=…)" (docs/interop.md); repeat
            --attack for more.
        autoattack: number of images for AutoAttack in L2, a seeded, class-balanced subset; 0
            disables it.
        autoattack_linf: radius of an additional AutoAttack in L∞; 0 disables it.
        draws: passes over each image for a randomized model; attacks average gradients over them,
            and accuracy is their mean. Other models take one.
        sweep_images: size of the subset for the sweep over epsilon and the sanity checks.
        sweep_steps: PGD steps on that subset.
        preset: the attacks of a paper in place of the default ones: d19 measures units under FGSM
            1/255 and dissects them under the least-likely attack in L∞ 4/255; d22 does both under
            the Adam attack, with λ calibrated.
        neuron_attack: the attack under which units are measured, such as
            "Pgd(norm=Linf, epsilon=4/255)" or "AdamAttack(steps=20)" (docs/interop.md); by default
            the least-likely attack in L2 that the next settings describe.
        concept_attack: the attack under which units are dissected; by default the same one.
        neuron_epsilon: L2 radius of the least-likely attack on the units; auto is twice epsilon.
        neuron_steps: steps of that attack.
        neuron_step_size: step size of that attack in pixel units, scaled in proportion at other
            radii; auto is 2.5 radius / steps.
        success: the success rate for the comparison of models at equal success.
        top: share of the images that represents a unit.
        sigma: width of the class similarity exp(−d²/2σ²).
        synsets: table of class,wnid lines, for data whose class names WordNet does not resolve.
        similarity: how alike the classes are, in place of WordNet: same-class, 1 within a class and
            0 between classes, or a CSV file with a matrix, a tree or distances of pairs
            (docs/measures.md); nearest:FILE takes the positive definite matrix nearest to a file's,
            nearest that nearest to WordNet's.
        concepts: broden:DIR, images with labeled pixels on which units are also dissected.
        layers: the convolutions to dissect; "last" is the last one, "all" means all of them.
        units: units to show with their real and adversarial images, such as layer4.1.conv2:147,
            layer3.0.conv1:12 (default: units of the last layer, half of highest LC, half of median
            LC). The dissection shows those of its layers. A model without them shows its default.
        shown: maximum number shown of the fooled, wrong, least and most robust images each, of the
            explained images, of the inverted ones, of the images generated for each class with
            their starts, and of the units of a layer if none is named (default: 4, 6, 4, 3 with one
            start, 6).
        discrepancy: show which part of each image a unit responds to; takes up to thousands of
            passes per image.
        explained: number of images whose predictions are attributed to their pixels.
        attribution: an additional attribution method, such as captum:DeepLift or
            "captum:Occlusion(sliding_window_shapes=(3,8,8))"; repeat --attribution for more.
        points: number of intervals of Integrated Gradients.
        baselines: number of noise baselines of Integrated Gradients for each image.
        samples: number of samples of expected gradients for each image.
        visualized: number of components of the representation to visualize, drawn by the seed.
        components: components to visualize instead, such as 130,492, numbered from 0.
        visualization_steps: gradient steps per visualization (B23: 400).
        inverted: number of images whose representations are inverted, from noise and from another
            class.
        inversion_steps: gradient steps per inversion (B23: 10000).
        generated: number of images generated for each class.
        generation_steps: gradient steps per generated image (B23: 60).
        gaussians: the images that the Gaussians of generated images' starts are fitted to: train,
            the training images, or half of the audited ones where there are none; paper, the
            audited images that generated ones are then compared with (B23).
        inception: the folder of the FID Inception network (advlens data inception); without it,
            distances use the packaged cifar10-reference, and say so.
        batch_size: images per step.
        skip_damaged: leave unreadable images out of all counts, and list them in
            results/skipped.csv; without it, the audit names them and stops before it begins.
        seed: seed of all randomness.
        device: "cpu", "cuda", "cuda:1" …; "auto" uses a GPU if there is one.
        stages: the analyses to run. A named stage that cannot run is an error; a default one is
            left out with a warning.
        quick: fewer steps, and as many images and stages as about five minutes allow on this
            machine; settings that differ from their defaults stay as they are.
    """

    images: Annotated[int | None, NoHint] = None
    norm: tuple[Literal["Linf", "L2"], ...] = ("Linf", "L2")
    epsilon: AutoRadii = None
    epsilon_linf: AutoRadii = None
    steps: int = 20
    fgsm: tuple[Radius, ...] = (1 / 255, 4 / 255)
    natural: FlagCreatePairsOff[bool] = False
    expect_accuracy: tuple[float, ...] = ()
    target: Target = None
    attack: UseAppendAction[Annotated[tuple[str, ...], arg(metavar="ATTACK"), NoHint]] = ()
    autoattack: int = 0
    autoattack_linf: Radius = 0.0
    draws: int = DRAWS
    sweep_images: int = 500
    sweep_steps: int = 10
    preset: Annotated[Literal["d19", "d22"] | None, NoHint] = None
    neuron_attack: Annotated[str | None, arg(metavar="ATTACK", help_behavior_hint="")] = None
    concept_attack: Annotated[str | None, arg(metavar="ATTACK", help_behavior_hint="")] = None
    neuron_epsilon: AutoRadius = None
    neuron_steps: int = 10
    neuron_step_size: AutoRadius = None
    success: float = 0.95
    top: float = 0.01
    sigma: float = 1.0
    synsets: Annotated[Path | None, NoHint] = None
    similarity: Annotated[str | None, NoHint] = None
    concepts: Annotated[str | None, NoHint] = None
    layers: tuple[str, ...] = ("last",)
    units: Units = ()
    shown: Annotated[int | None, NoHint] = None
    discrepancy: bool = False
    explained: int = 16
    attribution: UseAppendAction[Annotated[tuple[str, ...], arg(metavar="METHOD"), NoHint]] = ()
    points: int = 50
    baselines: int = 10
    samples: int = 200
    visualized: int = 4
    components: Components = ()
    visualization_steps: int = 400
    inverted: int = 8
    inversion_steps: int = 1000
    generated: int = 10
    generation_steps: int = 60
    gaussians: Literal["train", "paper"] = "train"
    inception: Annotated[Path | None, NoHint] = None
    batch_size: int = 128
    skip_damaged: bool = False
    seed: int = 0
    device: str = "auto"
    stages: Stages = STAGES.names
    quick: FlagCreatePairsOff[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            self,
            "images",
            "steps",
            "sweep_images",
            "sweep_steps",
            "neuron_epsilon",
            "neuron_steps",
            "neuron_step_size",
            "sigma",
            "batch_size",
            "shown",
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
            where="",
        )
        check_seed(self, where="")
        check_numbers(self, "top", "success", where="", above=0, most=1)
        self._check_radii()
        named = filter(None, (self.neuron_attack, self.concept_attack))
        for text in (*self.attack, *self.attribution, *named):
            parse_method(text)
        if self.attack_on_units:
            for name in ("neuron_epsilon", "neuron_steps", "neuron_step_size"):
                if getattr(self, name) != getattr(type(self), name):
                    raise SettingsError(
                        f"{name} means nothing to {self.attack_on_units}; leave it out"
                    )
        for text in self.units:
            parse_unit(text)
        for component in self.components:
            check_number("components", component, least=0)
        check_numbers(self, "autoattack", where="", least=0)
        check_numbers(self, "draws", where="", least=2)
        check_numbers(self, "autoattack_linf", where="", least=0, most=1)
        if self.autoattack_linf and not self.autoattack:
            raise SettingsError("autoattack_linf needs autoattack, the number of its images")
        for value in self.expect_accuracy:
            if not 0 <= value <= 1:
                raise SettingsError(
                    f"expect_accuracy must be a share between 0 and 1, such as .93, not {value}"
                )
        self._check_stages()
        if self.samples % 2:
            raise SettingsError(f"samples must be an even number, not {self.samples}")
        if self.synsets is not None:
            check_path("synsets names the file", self.synsets, "file")
        if self.similarity is not None:
            self._check_similarity()

    def _check_radii(self) -> None:
        if not self.norm:
            raise SettingsError("norm names no norm; give Linf, L2 or both")
        for name in ("epsilon", "epsilon_linf"):
            if getattr(self, name) == ():
                raise SettingsError(f"{name} names no radius; give one or several, or auto")
            for value in several(getattr(self, name)):
                check_number(name, value, above=0)
        for value in several(self.epsilon_linf):
            if value > 1:
                raise SettingsError(
                    f"epsilon_linf is {value:g}, but pixels lie between 0 and 1; 8 gray levels are "
                    "8/255"
                )
        if not all(0 < value <= 1 for value in self.fgsm):
            raise SettingsError(
                f"fgsm radii must lie between 0 and 1 in pixel units, not {self.fgsm}"
            )

    def _check_stages(self) -> None:
        """Whether the stages can do what the other settings ask for."""
        check_stages(self.stages)
        if self.precision == "bf16" and (self.natural or {*self.stages} == {"attribution"}):
            raise SettingsError(
                "precision is that of gradient steps, which natural and the stage attribution do "
                "not take; leave it out"
            )
        if "accuracy" not in self.stages:
            for name in ("natural", "autoattack"):
                if getattr(self, name):
                    raise SettingsError(f"{name} needs the stage accuracy; add it to stages")
        if self.natural and (self.attack or self.autoattack):
            raise SettingsError(
                "natural leaves all attacks out; give it without attack, autoattack"
            )
        for name, able in (
            ("target", ("accuracy", "neurons")),
            ("units", ("neurons", "dissection")),
            ("components", ("visualization",)),
        ):
            if getattr(self, name) and self.natural:
                raise SettingsError(f"natural measures accuracy alone; give it without {name}")
            if getattr(self, name) and not {*able} & {*self.stages}:
                raise SettingsError(f"{name} needs the stage {' or '.join(able)}; add it to stages")
        if self.by_name and "dissection" in self.stages and self.concepts is None:
            raise SettingsError(
                "the stage dissection needs concepts, such as broden:DIR; give them, or leave it "
                "out of stages"
            )

    def _check_similarity(self) -> None:
        if self.synsets is not None and self.similarity != NEAREST:
            raise SettingsError(
                "similarity takes the place of WordNet, to which synsets leads; give one of them"
            )
        if self.natural or not {"neurons", "dissection"} & {*self.stages}:
            raise SettingsError("similarity needs the stage neurons; add it to stages")
        if self.similarity_file is not None:
            check_path("similarity names the file", self.similarity_file, "file")
        elif self.similarity == SAME_CLASS and self.sigma != 1:
            raise SettingsError("sigma means nothing to the similarity same-class; leave it out")

    @property
    def similarity_file(self) -> Path | None:
        """The file that says how alike the classes are, if one does."""
        if self.similarity in (None, SAME_CLASS, NEAREST):
            return None
        return Path(str(self.similarity).removeprefix(f"{NEAREST}:")).expanduser()

    @property
    def attack_on_units(self) -> str | None:
        """The attack under which units are measured, if it is named."""
        return self.neuron_attack or (PRESETS[self.preset][0] if self.preset else None)

    @property
    def attack_on_concepts(self) -> str | None:
        """The attack under which units are dissected, if it is named."""
        preset = PRESETS[self.preset][1] if self.preset else None
        return self.concept_attack or preset or self.neuron_attack

    @property
    def by_name(self) -> bool:
        """Whether the stages are named by the user rather than chosen."""
        return self.stages != type(self).stages and not self.quick


@dataclass(frozen=True, kw_only=True)
class AttackSettings(StepSettings, ImageSettings):
    """The settings of one attack on a set of images.

    Attributes:
        method: fgsm, bim, pgd, the iterative least-likely-class method, the Adam optimization
            attack, the feature attack, or Gaussian noise as a control.
        norm: norm of the ball around an image; adam has no ball.
        target: a class, by its name or number, that fgsm, bim, pgd or adam aim at; images of it are
            left out. Or "data": each image's own target, from the column target of a table
            (docs/data.md).
        epsilon: radius of the ball in pixel units; auto is 8/255 in linf, .5 in l2.
        steps: gradient steps (default: 20; fgsm and noise have none).
        step_size: step size in pixel units; auto is 2.5 epsilon / steps, 5/255 for adam.
        weight: λ of adam (default: the smallest that succeeds on 95 % of 96 images).
        layer: the convolution whose features are attacked (default: the last).
        draws: number of passes that a gradient is averaged over, for a randomized model.
        images: size of a seeded, class-balanced subset to attack (default: all images).
        batch_size: images per step.
        seed: seed of all randomness.
        device: "cpu", "cuda", "cuda:1" …; "auto" uses a GPU if there is one.
    """

    method: Literal["fgsm", "bim", "pgd", "least-likely", "adam", "feature", "noise"] = "pgd"
    norm: Norm = "linf"
    target: Target = None
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
        "least-likely": ("weight", "layer", "target"),
        "adam": ("epsilon", "layer"),
        "feature": ("weight", "target"),
        "noise": ("steps", "step_size", "weight", "layer", "target", "precision"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("epsilon", "steps", "step_size", "weight", "images", "batch_size")
        check_positive(self, *positive, where="")
        check_numbers(self, "draws", where="", least=1)
        check_seed(self, where="")
        for name in self._MEANS_NOTHING[self.method]:
            if getattr(self, name) not in (None, "float32"):
                raise SettingsError(
                    f"{name} means nothing to the method {self.method}; leave it out"
                )
