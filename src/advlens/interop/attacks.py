"""Attacks by name: ours, foolbox's and torchattacks'."""

import inspect
import math
import re
import warnings
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from advlens.arrays import Ids, Images, Labels, Logits, PerImage
from advlens.attacks import (
    AdamAttack,
    Attack,
    Bim,
    FeatureAttack,
    Fgsm,
    GaussianNoise,
    Goal,
    GradientAttack,
    LeastLikely,
    Pgd,
)
from advlens.attacks.base import needed
from advlens.attacks.threat import L2, Linf
from advlens.checks import Precision
from advlens.errors import ModelError, SettingsError
from advlens.interop.guests import check_arguments, guest, library, library_class, users
from advlens.prepared import Prepared
from advlens.seeding import derived
from advlens.settings.spec import MethodSpec, parse_method

ORDERS = {"L0": 0.0, "L1": 1.0, "L2": 2.0, "Linf": math.inf}
BALL = ("epsilon", "norm")
OURS = (*BALL, "label")
"""Settings that are not the attack's own."""
SEARCHED = {
    "BoundaryAttack": 50,
    "HopSkipJumpAttack": 50,
    "L0BrendelBethgeAttack": 1000,
    "L1BrendelBethgeAttack": 1000,
    "L2BrendelBethgeAttack": 1000,
    "LinfinityBrendelBethgeAttack": 1000,
}
"""foolbox's attacks that start at an adversarial image → steps of its search for one."""
UNFIT = {
    "foolbox:BinarizationRefinementAttack": "refines images that another attack has made",
    "foolbox:DatasetAttack": "needs images of its own",
    "torchattacks:LGV": "trains models of its own",
    "torchattacks:MultiAttack": "wraps other attacks; name those one by one",
}
AIMLESS = ("LinfFastGradientAttack", "L2FastGradientAttack", "L1FastGradientAttack", "FAB")
"""Classes that claim a targeted mode which they refuse, or in which they change no image."""
OWN: dict[str, type[Attack]] = {
    kind.__name__: kind
    for kind in (AdamAttack, Bim, FeatureAttack, Fgsm, GaussianNoise, LeastLikely, Pgd)
}


@dataclass(frozen=True, kw_only=True)
class Ball:
    """What an attack of another library may change: a length, in pixel units of [0, 1].

    Attributes:
        norm: "L0" (pixel values changed at all), "L1", "L2" or "Linf".
        epsilon: its largest value.
    """

    norm: str
    epsilon: float

    def __post_init__(self) -> None:
        if self.norm not in ORDERS:
            raise SettingsError(f"norm must be one of {', '.join(ORDERS)}, not {self.norm!r}")
        if isinstance(self.epsilon, bool) or not isinstance(self.epsilon, int | float):
            raise SettingsError(f"epsilon must be a number such as 8/255, not {self.epsilon!r}")
        if not 0 < self.epsilon < math.inf:
            raise SettingsError(f"epsilon must be a finite number > 0, not {self.epsilon}")

    def holds(self, difference: Images) -> Tensor:
        """Whether each change lies inside, up to float32's rounding."""
        flat = difference.flatten(1).double()
        length: PerImage = torch.linalg.vector_norm(flat, ord=ORDERS[self.norm], dim=1)
        return length <= self.epsilon * (1 + 1e-5) + 1e-6


@dataclass(frozen=True, kw_only=True)
class ForeignAttack(Attack):
    """An attack of another library, on our prepared model, measured by us.

    Its random numbers are drawn for a batch at once, from the seed and the batch's ids: the same
    batches give the same images in any order, other batches other images. An image counts as
    attacked only inside the ball: where an attack that takes no radius ends outside, the image
    stays as it was.

    Attributes:
        name: library and class, with the settings that are neither ball nor steps.
        threat: the ball.
        steps: as the attack's settings say; 1 where they do not.
        kind: its class.
        settings: of the attack itself.
        label: "true" leads away from each image's label; "target" towards the class that is given
            in its place.
        unattacked: ids of the images so far that it found nothing to start from for; they stay as
            they were.
    """

    name: str
    threat: Ball
    steps: int
    kind: Any
    settings: dict[str, Any]
    label: Literal["true", "target"] = "true"
    unattacked: list[int] = field(default_factory=list, init=False, repr=False, compare=False)

    def columns(self) -> dict[str, Any]:
        threat = self.threat
        named = {"attack": self.name, "norm": threat.norm, "epsilon": float(threat.epsilon)}
        return named | {"steps": self.steps}

    def with_radius(self, epsilon: float) -> Self:
        """The same attack in a ball of another radius; step sizes stay as they are."""
        told = {"eps": epsilon} if "eps" in self.settings else {}
        threat = replace(self.threat, epsilon=epsilon)
        return replace(self, threat=threat, settings=self.settings | told)

    def unusual(self, **usual: object) -> str:
        """The label and the seed: the name tells the other settings."""
        told = {"label": (self.label, "true"), "seed": (self.seed, usual.get("seed", 0))}
        return ", ".join(f"{key}={own}" for key, (own, default) in told.items() if own != default)

    def goal(self, clean: Logits, labels: Labels | None = None) -> Goal:
        return replace(super().goal(clean, labels), targeted=self.aims_at_targets)

    def _attack(self, model: Prepared, images: Images, labels: Labels | None, ids: Ids) -> Images:
        seed = derived(self.seed, *ids.tolist())
        labels = needed(labels, model(images[:1]))  # theirs fail on others, a GPU for good
        with guest(self.name, model, seed) as host:
            changed, bounded = self._changed(host, images.clone(), labels.clone(), ids, seed)
            changed = changed.detach().to(images)
            if changed.shape != images.shape or not bool(changed.isfinite().all()):
                raise ModelError(f"{self.name} returns no images like those it was given")
        inside = ((changed >= -1e-6) & (changed <= 1 + 1e-6)).flatten(1).all(dim=1)
        inside &= self.threat.holds(changed - images)
        if bounded and not bool(inside.all()):
            raise ModelError(
                f"{self.name} leaves its ball ({self.threat.norm} epsilon = "
                f"{self.threat.epsilon:g}) or [0, 1] on {int((~inside).sum())} of {len(images)} "
                "images, so no accuracy under it means anything; check its norm and settings"
            )
        return torch.where(inside.view(-1, 1, 1, 1), changed.clamp(0, 1), images)

    def _changed(
        self, model: nn.Module, images: Images, labels: Labels, ids: Ids, seed: int
    ) -> tuple[Images, bool]:
        """The attack's images, and whether it was told the radius."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FoolboxAttack(ForeignAttack):
    """An attack of foolbox, which clips all results but those in L0 to the ball itself."""

    def _changed(
        self, model: nn.Module, images: Images, labels: Labels, ids: Ids, seed: int
    ) -> tuple[Images, bool]:
        foolbox = library("foolbox")
        bounds = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
        bounded = self.threat.norm != "L0"
        epsilon = self.threat.epsilon if bounded else None
        attack = self.kind(**self.settings)
        if self.kind.__name__ not in SEARCHED or self.settings.get("init_attack") is not None:
            aim = foolbox.criteria.TargetedMisclassification
            criterion = aim(labels) if self.aims_at_targets else labels
            _, clipped, _ = attack(bounds, images, criterion, epsilons=epsilon)
            return clipped, bounded
        # foolbox's own search; one image that it fails on would end the attack for all
        search = foolbox.attacks.LinearSearchBlendedUniformNoiseAttack
        starts = search(steps=SEARCHED[self.kind.__name__]).run(bounds, images, labels)
        ready = bounds(starts).argmax(dim=1) != labels
        self.unattacked.extend(ids.to(ready.device)[~ready].tolist())
        if bool(ready.any()):
            _, clipped, _ = attack(
                bounds,
                images[ready],
                labels[ready],
                epsilons=epsilon,
                starting_points=starts[ready],
            )
            images[ready] = clipped.detach()
        return images, bounded


@dataclass(frozen=True, kw_only=True)
class TorchattacksAttack(ForeignAttack):
    """An attack of torchattacks; those that minimize the change take no radius."""

    def _changed(
        self, model: nn.Module, images: Images, labels: Labels, ids: Ids, seed: int
    ) -> tuple[Images, bool]:
        known = inspect.signature(self.kind).parameters
        seeded = {"seed": seed % 2**32} if "seed" in known else {}  # theirs may be the clock's
        attack = self.kind(model, **seeded | self.settings)
        if self.aims_at_targets:
            attack.set_mode_targeted_by_label(quiet=True)
        return attack(images, labels), "eps" in known


def make_attack(
    text: str, *, seed: int = 0, draws: int = 1, precision: Precision = "float32"
) -> Attack:
    """The attack that a text names, such as `foolbox:LinfPGD(epsilon=8/255, steps=10)`.

    Args:
        text: `foolbox:Name(…)`, `torchattacks:Name(…)`, one of ours, `Pgd(norm=Linf, …)`, or a
            class of your own that is made from `Attack`, `package.module:Name(…)`.
            epsilon is the radius of the ball and norm its norm, where the attack does not imply
            one; the other settings are the attack's own. AdamAttack has no ball, and without a
            weight its λ has yet to be calibrated.
        seed: of everything random in the attack.
        draws: passes that an attack of ours averages its gradients over, unless the text says so.
        precision: that of the gradients of an attack of ours, unless the text says so.

    Raises:
        SettingsError: there is no such attack or setting, or the library is not installed.
    """
    spec = parse_method(text)
    attack = _made_of(spec, text, seed)
    if not isinstance(attack, GradientAttack):
        return attack
    given: dict[str, Any] = {"draws": draws, "precision": precision}
    return replace(attack, **{k: v for k, v in given.items() if k not in spec.settings})


def _made_of(spec: MethodSpec, text: str, seed: int) -> Attack:
    if spec.library not in _MAKERS:
        return _users(spec, seed)
    if str(spec) in UNFIT:
        raise SettingsError(f"{spec} cannot be measured: it {UNFIT[str(spec)]}")
    if "epsilon" not in spec.settings and str(spec) != AdamAttack.__name__:
        raise SettingsError(
            f"{text!r} has no radius; give it in pixel units, as in {spec}(epsilon=8/255)"
        )
    return _MAKERS[spec.library](spec, seed)


def _own(spec: MethodSpec, seed: int) -> Attack:
    if spec.name not in OWN:
        raise SettingsError(f"advlens has no attack {spec.name!r}; use one of {', '.join(OWN)}")
    if OWN[spec.name] is AdamAttack:
        return _plain(spec, AdamAttack, {"seed": seed, "weight": None})
    return _ours(spec, OWN[spec.name], seed)


def _plain(spec: MethodSpec, kind: type[Attack], given: dict[str, Any]) -> Attack:
    """An attack without a ball."""
    check_arguments(spec, kind, **spec.settings)
    return kind(**given | dict(spec.settings))


def _ours(spec: MethodSpec, kind: type[Attack], seed: int) -> Attack:
    norms = {"Linf": Linf, "L2": L2}
    if (norm := spec.settings.get("norm")) not in norms:
        raise SettingsError(f"{spec}: norm must be Linf or L2, not {norm!r}")
    ball = Ball(norm=norm, epsilon=spec.settings.get("epsilon", math.nan))
    settings = spec.without(*BALL) | {"threat": norms[norm](epsilon=ball.epsilon)}
    check_arguments(spec, kind, **settings)
    return kind(**{"seed": seed} | settings)


def _users(spec: MethodSpec, seed: int) -> Attack:
    """A class of the user's own; norm and epsilon make its threat, where it has one."""
    others = f"attacks; use foolbox:NAME, torchattacks:NAME or one of {', '.join(OWN)}"
    kind = users(spec, Attack, others)
    if "threat" in inspect.signature(kind).parameters:
        return _ours(spec, kind, seed)
    return _plain(spec, kind, {"seed": seed})


def _foolbox(spec: MethodSpec, seed: int) -> Attack:
    foolbox = library("foolbox")
    kind = library_class(spec, foolbox.attacks, foolbox.attacks.base.Attack)
    if inspect.isabstract(kind):
        raise SettingsError(f"{spec} is what attacks of foolbox are made from; name one of them")
    wanted = inspect.signature(kind.run).parameters["criterion"].annotation
    targeted = foolbox.criteria.TargetedMisclassification
    label = _label(spec, kind, targeted in (*get_args(wanted), wanted))
    if wanted is targeted and label != "target":
        raise SettingsError(f"{spec} works towards a target class; add label=target")
    settings = spec.without(*OURS)
    if "distance" in inspect.signature(kind).parameters and "norm" in spec.settings:
        norm = str(spec.settings["norm"])
        settings["distance"] = getattr(foolbox.distances, norm.lower(), None)
    check_arguments(spec, kind, **settings)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs, such as that something is compiled
            made = kind(**settings)
        norm = f"L{made.distance.p:g}"
    except ImportError as error:
        raise SettingsError(
            f"{spec} needs a library that is not installed: {error}; pip install "
            f"{error.name or 'it'}"
        ) from error
    except (TypeError, ValueError, AttributeError, AssertionError) as error:
        hint = "an attack without a distance of its own needs norm=L2 or the like"
        if not hasattr(kind, "distance"):
            hint = "its changes have no distance, so no ball bounds them"
        raise SettingsError(f"{spec} cannot be made: {error}; {hint}") from error
    steps = getattr(made, "steps", 1)
    return _made(FoolboxAttack, spec, seed, kind, [norm], settings, steps, label)


def _torchattacks(spec: MethodSpec, seed: int) -> Attack:
    torchattacks = library("torchattacks")
    kind = library_class(spec, torchattacks, torchattacks.attack.Attack)
    known = inspect.signature(kind).parameters
    if "eps" in spec.settings:
        raise SettingsError(f"{spec} cannot be made: give epsilon, not eps")
    # the class says in its description which norms it is for, and nowhere else
    said = re.search(r"Distance Measure\s*:(.*)", inspect.getdoc(kind) or "")
    norms = re.findall(r"L\w+", said[1]) if said else list(ORDERS)
    settings = spec.without(*OURS)
    if "eps" in known:
        check_arguments(spec, kind, None, **settings)
        settings["eps"] = spec.settings["epsilon"]
    if "norm" in known:
        settings["norm"] = spec.settings.get("norm", norms[0])
    check_arguments(spec, kind, None, **settings)
    steps = settings.get("steps", known["steps"].default if "steps" in known else 1)
    label = _label(spec, kind, "label" in spec.settings and _has_targets(kind, settings))
    return _made(TorchattacksAttack, spec, seed, kind, norms, settings, steps, label)


def _has_targets(kind: Any, settings: dict[str, Any]) -> bool:
    """Whether an attack of torchattacks says that it has a targeted mode."""
    try:
        return "targeted" in kind(nn.Linear(1, 1), **settings).supported_mode
    except Exception:  # it will fail on the model in a sentence
        return True


def _label(spec: MethodSpec, kind: Any, targeted: bool) -> Literal["true", "target"]:
    """The label that an attack leaves or aims at; SettingsError if it has no targeted mode."""
    label: Literal["true", "target"] = spec.settings.get("label", "true")
    if label not in ("true", "target"):
        raise SettingsError(f"{spec}: label must be true or target, not {label!r}")
    unable = not targeted or kind.__name__ in (*AIMLESS, *SEARCHED)
    if label == "target" and unable:
        raise SettingsError(f"{spec} does not work towards targets; leave out label=target")
    return label


def _made(
    adapter: type[ForeignAttack],
    spec: MethodSpec,
    seed: int,
    kind: Any,
    norms: list[str],
    settings: dict[str, Any],
    steps: Any,
    label: Literal["true", "target"],
) -> ForeignAttack:
    norm = str(spec.settings.get("norm", norms[0]))
    if norm not in norms:
        raise SettingsError(f"{spec} works in {' or '.join(norms)}, not in {norm}")
    try:
        ball = Ball(norm=norm, epsilon=spec.settings["epsilon"])
    except SettingsError as error:
        raise SettingsError(f"{spec}: {error}") from error
    return adapter(
        name=spec.said(*OURS, "steps"),
        threat=ball,
        steps=steps if isinstance(steps, int) else 1,
        kind=kind,
        settings=settings,
        label=label,
        seed=seed,
    )


_MAKERS = {"": _own, "foolbox": _foolbox, "torchattacks": _torchattacks}
