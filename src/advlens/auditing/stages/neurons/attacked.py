"""The sets of adversarial images that units are measured on, and the attacks that make them."""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from advlens.attacks import AdamAttack, Attack, Fgsm, GaussianNoise, smallest
from advlens.attacks.threat import L2
from advlens.datasets import Batch
from advlens.prepared import Prepared
from advlens.words import readable

EQUAL, FGSM, NOISE = "equal-success", "fgsm", "noise"


@dataclass(frozen=True)
class Settled:
    """What is found on some images before the pass; NaN where the main attack needs none.

    Attributes:
        weight: λ of a main attack that is an Adam attack.
        equal: the radius of the attack at equal success, or its λ.
        length: L2 length of the noise that serves as a control.
    """

    weight: float
    equal: float
    length: float


@dataclass(frozen=True)
class AttackedSets:
    """The attacks behind the sets, by the sets' names.

    The main attack comes first, and its set has the attack's name. Then come the same attack at
    equal success (if it has a radius or a λ), FGSM (if that is not the main attack), and Gaussian
    noise as long as the main attack's changes.

    Attributes:
        main: the main attack; the λ of an Adam attack may have yet to be calibrated.
        fgsm: the FGSM attack.
        success: success rate of the attack at equal success, and of an Adam attack's λ.
    """

    main: Attack
    fgsm: Fgsm
    success: float

    @property
    def name(self) -> str:
        """The name of the main attack's set, such as least-likely or foolbox-linf-pgd."""
        kind = str(self.main.columns()["attack"]).partition("(")[0]
        return readable(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", kind))

    @property
    def names(self) -> list[str]:
        """The names of all sets."""
        equal = [EQUAL] if self._adjustable else []
        return [*dict.fromkeys([self.name, *equal, FGSM, NOISE])]

    @property
    def _adjustable(self) -> bool:
        return isinstance(self.main, AdamAttack) or self.main.radius is not None

    def settle(self, prepared: Prepared, batches: Sequence[Batch]) -> Settled:
        """Find λ, the radius of equal success and the length of the noise on some images.

        From the given radius on, radii are doubled until one reaches the success, then halved while
        they do. If none does, the most successful one is taken: with few steps success does not
        keep rising, and the tables report it.
        """
        main = self.main
        if isinstance(main, AdamAttack):
            images = torch.cat([batch.images for batch in batches])
            labels = torch.cat([main.given(each.labels, each.targets) for each in batches])
            equal = main.calibrate(prepared, images, labels, success=self.success)
            main = equal if main.weight is None else main
            return Settled(_weight(main), _weight(equal), _length(main, prepared, batches))
        if main.radius is None:
            return Settled(math.nan, math.nan, _length(main, prepared, batches))
        equal_radius = self._equal_radius(main.radius, prepared, batches)
        if main.columns()["norm"] == L2.norm:
            return Settled(math.nan, equal_radius, main.radius)
        return Settled(math.nan, equal_radius, _length(main, prepared, batches))

    def _equal_radius(self, given: float, prepared: Prepared, batches: Sequence[Batch]) -> float:
        with torch.no_grad():
            goals = [
                self.main.goal(prepared(each.images), self.main.given(each.labels, each.targets))
                for each in batches
            ]

        def share(radius: float) -> float:
            attack = self.main.with_radius(radius)
            hits = [
                goal.reached(attack.outcomes(prepared, each.images, goal.classes, ids=each.ids))
                for each, goal in zip(batches, goals, strict=True)
            ]
            return torch.cat(hits).double().mean().item()

        shares: dict[float, float] = {}

        def reaches(radius: float) -> bool:
            if radius not in shares:
                shares[radius] = share(radius)
            return shares[radius] >= self.success

        for power in (*range(6), *range(-1, -6, -1)):
            high = given * 2.0**power
            if reaches(high):
                break
        else:
            return max(shares, key=lambda radius: shares[radius])
        while high > given * 2.0**-5 and reaches(high / 2):
            high /= 2
        return smallest(reaches, high / 2, high, ratio=1.15)

    def attacks(self, settled: Settled) -> dict[str, Attack]:
        """The attack of each set."""
        main, equal = self.main, self.main
        if isinstance(main, AdamAttack):
            main = dataclasses.replace(main, weight=settled.weight)
            equal = main
            if settled.equal != settled.weight:
                equal = dataclasses.replace(main, weight=settled.equal)
        elif self._adjustable:
            equal = main.with_radius(settled.equal)
        noise = GaussianNoise(threat=L2(epsilon=settled.length), seed=main.seed)
        every = {FGSM: self.fgsm, NOISE: noise, EQUAL: equal, self.name: main}
        return {name: every[name] for name in self.names}


def _weight(attack: AdamAttack) -> float:
    assert attack.weight is not None
    return attack.weight


def _length(attack: Attack, prepared: Prepared, batches: Sequence[Batch]) -> float:
    """The mean L2 length of an attack's changes."""
    changes = [
        attack(prepared, each.images, attack.given(each.labels, each.targets), ids=each.ids)
        - each.images
        for each in batches
    ]
    mean: float = torch.cat(changes).flatten(1).norm(dim=1).double().mean().item()
    return mean
