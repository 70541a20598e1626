"""The settings of a dissection."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from tyro.conf import arg

from advlens.checks import check_numbers, check_positive, check_seed
from advlens.errors import SettingsError
from advlens.settings.choices import UNITS, CountOrUnits, parse_unit
from advlens.settings.models import StepSettings
from advlens.settings.numbers import AutoRadius, NoHint
from advlens.settings.spec import parse_method

Layers = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DissectSettings(StepSettings):
    """How units are dissected.

    Attributes:
        layers: names of convolutions; "last" is the last one, "all" means all of them.
        attack: the attack that makes the adversarial images: least-likely in L2, adam (D22, λ
            calibrated), none, or any other such as "LeastLikely(norm=Linf, epsilon=4/255)" (D19;
            docs/interop.md). Images have no labels here, so an attack that needs them leaves the
            predicted class.
        epsilon: L2 radius of least-likely in pixel units; auto is 1 for images below 96
            pixels, 3 below 160, else 6.
        steps: steps of least-likely and adam.
        step_size: step size of least-likely in pixel units; auto is 2.5 epsilon / steps.
        quantile: share of a unit's activations above its threshold.
        minimum: IoU above which a unit detects its best concept.
        upsampling: receptive-field places a map's positions at the centers of their receptive
            fields; bilinear spreads them evenly.
        counting: category counts a mask in every image labeled in the concept's category;
            netdissect-lite, with bilinear upsampling, does what that tool does.
        units: the units that are shown with their images: how many of each layer, or which ones,
            such as layer4.1.conv2:147,layer4.1.conv2:12.
        discrepancy: show which part of each image the unit responds to; takes thousands of passes
            per image.
        images: size of a seeded subset to dissect on (default: all images).
        batch_size: images per step.
        skip_damaged: leave unreadable images out of all counts, and list them in
            results/skipped.csv; without it, the dissection names them and stops at the start.
        seed: seed of all randomness.
        device: "cpu", "cuda", "cuda:1" …; "auto" uses a GPU if there is one.
    """

    layers: Layers = ("last",)
    attack: Annotated[str, arg(metavar="ATTACK")] = "least-likely"
    epsilon: AutoRadius = None
    steps: int = 10
    step_size: AutoRadius = None
    quantile: float = 0.005
    minimum: float = 0.04
    upsampling: Literal["receptive-field", "bilinear"] = "receptive-field"
    counting: Literal["category", "netdissect-lite"] = "category"
    units: CountOrUnits = UNITS
    discrepancy: bool = False
    images: Annotated[int | None, NoHint] = None
    batch_size: int = 64
    skip_damaged: bool = False
    seed: int = 0
    device: str = "auto"

    NAMES: ClassVar[tuple[str, ...]] = ("least-likely", "adam", "none")

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("epsilon", "steps", "step_size", "images", "batch_size")
        check_positive(self, *positive, where="")
        if isinstance(self.units, int):
            check_positive(self, "units", where="")
        elif not self.units:
            raise SettingsError("units names no unit; give a number, or some units as LAYER:NUMBER")
        else:
            for text in self.units:
                parse_unit(text)
        check_numbers(self, "quantile", "minimum", where="", above=0, below=1)
        check_seed(self, where="")
        if self.attack not in self.NAMES:
            parse_method(self.attack)
        for name in ("epsilon", "step_size"):
            if getattr(self, name) is not None and self.attack != "least-likely":
                raise SettingsError(
                    f"{name} means nothing to the attack {self.attack}; leave it out"
                )
        if self.precision == "bf16" and self.attack == "none":
            raise SettingsError("precision means nothing to the attack none; leave it out")
        if not self.layers:
            raise SettingsError("layers names no layer; give last, all, or names of convolutions")
