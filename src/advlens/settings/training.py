"""The settings of a training run, in four groups and as a whole."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from tyro.conf import OmitArgPrefixes

from advlens.checks import Precision, check_numbers, check_positive, check_seed
from advlens.errors import SettingsError
from advlens.settings.audit import Norm
from advlens.settings.models import ImageSettings
from advlens.settings.numbers import AutoRadius, NoHint, Range


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """What is minimized, and the attack that measures the model.

    Attributes:
        objective: cross entropy on the images (standard), on attacked ones (adversarial; Madry et
            al. 2018), on both with the distance of their features (consistency; D19 eq. 6) or with
            the divergence of their predictions (trades; Zhang et al. 2019), or the consistent loss
            with an attack of its own on the features (unrelaxed; D19 eq. 5).
        norm: norm of the ball for attacks; consistency and unrelaxed always train in linf.
        epsilon: radius of the ball in pixel units; auto is .5 in l2, 8/255 in linf.
        epsilon_range: range from which training draws a radius for each image; consistency and
            unrelaxed use 4/255 to 16/255, others epsilon.
        attack_steps: steps of the attack in training (default: 2; trades: 10).
        step_size: step size in pixel units; auto is 1.2 epsilon / attack steps, or 2.5 times the
            radius / attack steps if the radius is drawn.
        alpha: weight of the loss on real images, 0 to 1 (consistency: .5; unrelaxed: 0).
        preset: paper, for the consistent loss as D19 and D22 print it: the squared distance of the
            features, summed over their elements, with weight 1.
        beta: weight of the term that ties real and attacked images, ≥ 0 (default: 25 for
            consistency, 1 for unrelaxed, 6 for trades).
        distance: distance of features, averaged over elements, summed over them, or between
            directions (default: squared).
        layer: the layer of the features: a convolution (default: the last), or "representation".
        gradient: path of the distance's gradient, through both sides or only the attacked one
            (default: both).
        clean_pass: shared: the attack reuses the step's own pass over the real images, which saves
            one pass in eight; separate: it makes its own pass (default: separate).
    """

    objective: Literal["standard", "adversarial", "consistency", "trades", "unrelaxed"] = "standard"
    norm: Norm = "l2"
    epsilon: AutoRadius = None
    epsilon_range: Range = None
    attack_steps: Annotated[int | None, NoHint] = None
    step_size: AutoRadius = None
    alpha: Annotated[float | None, NoHint] = None
    preset: Annotated[Literal["paper"] | None, NoHint] = None
    beta: Annotated[float | None, NoHint] = None
    distance: Annotated[Literal["squared", "summed", "absolute", "cosine"] | None, NoHint] = None
    layer: Annotated[str | None, NoHint] = None
    gradient: Annotated[Literal["both", "attacked"] | None, NoHint] = None
    clean_pass: Annotated[Literal["separate", "shared"] | None, NoHint] = None


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How it is minimized.

    Attributes:
        epochs: passes over the training set.
        batch_size: images per step, over all processes.
        optimizer: sgd or adam.
        learning_rate: peak of the schedule.
        momentum: momentum of sgd (default: .9).
        nesterov: use Nesterov momentum.
        weight_decay: L2 penalty on all parameters.
        schedule: up and down (one-cycle), down along half a cosine (cosine), divided by ten when
            the loss stalls (plateau), or constant.
        clip: largest absolute value of a gradient's elements (default: no limit).
        average: decay of a moving average of the weights, such as .999, which replaces them at the
            end.
    """

    epochs: int = 20
    batch_size: int = 128
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.2
    momentum: Annotated[float | None, NoHint] = None
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: Literal["one-cycle", "cosine", "plateau", "constant"] = "one-cycle"
    clip: Annotated[float | None, NoHint] = None
    average: Annotated[float | None, NoHint] = None


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """How training images are augmented.

    Attributes:
        crop: width of the black border for random crops, in pixels.
        flip: mirror half of the images.
        rotation: maximum rotation either way, in degrees.
        resized_crop: range of the area of a random part, such as .08 1, which is resized; crop must
            be 0 then.
    """

    crop: int = 4
    flip: bool = True
    rotation: float = 0.0
    resized_crop: Range = None


@dataclass(frozen=True, kw_only=True)
class RunSettings(ImageSettings):
    """How the run is validated, computed and stored.

    Attributes:
        validation: number of training images that are held out.
        keep: keep the epoch with the best mean of natural and adversarial accuracy on them, or the
            last one.
        precision: bf16 runs the step in mixed precision; accuracies are always float32.
        tf32: let a GPU round products and convolutions of a step to TensorFloat-32, which is
            faster; accuracies are always float32.
        channels_last: use the channels-last memory layout, which is faster almost everywhere.
        compile: run the network through torch.compile.
        half: store the weights in float16; the test measures the stored weights.
        tensorboard: also write each epoch's numbers as TensorBoard events.
        threads: CPU threads (default: torch's choice); the same number gives the same bits.
        seed: seed of initialization, order, augmentation and attacks.
        device: "cpu", "cuda", "cuda:1" …; "auto" uses a GPU if there is one.
    """

    validation: int = 1000
    keep: Literal["best", "last"] = "best"
    precision: Precision = "float32"
    channels_last: bool = True
    compile: bool = False
    half: bool = False
    tensorboard: bool = False
    threads: Annotated[int | None, NoHint] = None
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class TrainSettings(ObjectiveSettings, OptimizerSettings, AugmentationSettings, RunSettings):
    """How a classifier is trained and how it is measured; see the groups.

    Raises:
        SettingsError: a value is out of range, or means nothing to the objective.
    """

    _MEANS_NOTHING: ClassVar[dict[str, tuple[str, ...]]] = {
        "standard": (
            "epsilon_range",
            "attack_steps",
            "step_size",
            "alpha",
            "preset",
            "beta",
            "distance",
            "layer",
            "gradient",
            "clean_pass",
        ),
        "adversarial": ("alpha", "preset", "beta", "distance", "layer", "gradient", "clean_pass"),
        "consistency": ("attack_steps", "step_size"),
        "trades": ("alpha", "preset", "distance", "layer", "gradient", "clean_pass"),
        "unrelaxed": ("preset", "distance", "gradient", "clean_pass"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            self,
            "epochs",
            "batch_size",
            "learning_rate",
            "validation",
            "epsilon",
            "attack_steps",
            "step_size",
            "clip",
            "threads",
            where="",
        )
        check_numbers(self, "weight_decay", "beta", "crop", where="", least=0)
        check_numbers(self, "alpha", where="", least=0, most=1)
        check_numbers(self, "momentum", "average", where="", least=0, below=1)
        check_numbers(self, "rotation", where="", least=0, most=180)
        check_seed(self, where="")
        for name in ("epsilon_range", "resized_crop"):
            low, high = getattr(self, name) or (0.5, 0.5)
            if not (0 < low <= high < math.inf and (high <= 1 or name == "epsilon_range")):
                limit = "" if name == "epsilon_range" else " ≤ 1"
                raise SettingsError(
                    f"{name} must be two finite numbers, 0 < low ≤ high{limit}, "
                    f"not {low:g} and {high:g}"
                )
        for name in self._MEANS_NOTHING[self.objective]:
            if getattr(self, name) is not None:
                raise SettingsError(
                    f"{name} means nothing to the objective {self.objective}; leave it out"
                )
        if self.preset is not None:
            for name in ("beta", "distance"):
                if getattr(self, name) is not None:
                    raise SettingsError(f"the preset {self.preset} sets {name}; leave it out")
        if self.optimizer == "adam" and (self.momentum is not None or not self.nesterov):
            name = "nesterov" if self.momentum is None else "momentum"
            raise SettingsError(f"{name} means nothing to the optimizer adam; leave it out")


def train_settings(
    objective: OmitArgPrefixes[ObjectiveSettings] = ObjectiveSettings(),
    optimizer: OmitArgPrefixes[OptimizerSettings] = OptimizerSettings(),
    images: OmitArgPrefixes[AugmentationSettings] = AugmentationSettings(),
    run: OmitArgPrefixes[RunSettings] = RunSettings(),
) -> TrainSettings:
    """All groups together; the command line builds this one, so that its help shows the groups."""
    return TrainSettings(**vars(objective), **vars(optimizer), **vars(images), **vars(run))
