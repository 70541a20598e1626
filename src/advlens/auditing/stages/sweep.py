"""Accuracy against epsilon, and sanity checks that masked gradients fail."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from advlens.attacks import Attack, Bim, Fgsm, Pgd
from advlens.attacks.threat import L2, Linf
from advlens.auditing.forecasting import attack_passes
from advlens.auditing.stage import Context, Need, Stage, View
from advlens.auditing.stages.accuracy import Counts
from advlens.auditing.subjects import Subject
from advlens.checks import Precision
from advlens.datasets import ImageData
from advlens.evaluation import must_fall, must_have_gradients, must_reach_chance
from advlens.losses import log_odds
from advlens.runs.folder import Tables
from advlens.runs.tables import Row
from advlens.settings import AuditSettings

SWEEP_L2 = (0.25, 0.5, 1.0, 2.0, 4.0)  # multiples of the main attack's radius
SWEEP_LINF = (1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255)
LARGE_L2 = 2.0
"""A radius from which an attack takes a tenth of any model's accuracy; in L∞ 16/255 is one."""
CHECK_LINF = 4 / 255
CHECK_STEPS = (1, 2, 5)


@dataclass(frozen=True, kw_only=True)
class SweepStage:
    """Accuracy against epsilon on a seeded subset, and sanity checks that masked gradients fail.

    Attributes:
        epsilon: radius of the main L2 attack; the sweep covers a quarter of it to four times.
        count: size of the subset.
        steps: PGD steps.
        draws: draws of the attacks, and passes over each image, for a randomized model.
        precision: that of the attacks' gradients.
    """

    epsilon: float
    count: int
    steps: int
    seed: int
    draws: int = 1
    precision: Precision = "float32"
    name: str = "sweep"
    records: bool = False
    needs: tuple[Need, ...] = ("labels",)

    def images(self, data: ImageData) -> tuple[ImageData, Sequence[int]]:
        return data, data.subset(min(self.count, len(data)), seed=self.seed).positions.tolist()

    def passes(self, images: int) -> float:
        steps = sum(map(attack_passes, filter(None, self._attacks().values())))
        if self.draws == 1:  # fooled images are dropped: half of the steps are more than most take
            steps /= 2
        return min(self.count, images) * (self.draws + 2 + steps)

    def start(self, context: Context) -> "_Sweep":
        return _Sweep(context, self._attacks(), self.draws)

    def _attacks(self) -> dict[str, Attack | None]:
        """The attacks by what rows say of them."""

        given: dict[str, Any] = {"draws": self.draws, "precision": self.precision}

        def pgd(threat: L2 | Linf, steps: int = self.steps) -> Pgd:
            return Pgd(threat=threat, steps=steps, seed=self.seed, **given)

        attacks: dict[str, Attack | None] = {"natural": None}
        for share in SWEEP_L2:
            attacks[f"L2 {self.epsilon * share:g}"] = pgd(L2(epsilon=self.epsilon * share))
        for epsilon in SWEEP_LINF:
            attacks[f"L∞ {epsilon * 255:g}/255"] = pgd(Linf(epsilon=epsilon))
        attacks["free"] = pgd(Linf(epsilon=1.0))
        attacks["single"] = Fgsm(threat=Linf(epsilon=CHECK_LINF), **given)
        for steps in (*CHECK_STEPS, self.steps):
            attacks[f"steps {steps}"] = Bim(threat=L2(epsilon=self.epsilon), steps=steps, **given)
        return attacks


def stages(subject: Subject, settings: AuditSettings) -> list[Stage]:
    """The stage that sweeps epsilon on a subset of the images."""
    sweep = SweepStage(
        epsilon=subject.epsilon,
        count=settings.sweep_images,
        steps=settings.sweep_steps,
        seed=settings.seed,
        draws=subject.draws(settings),
        precision=settings.precision,
    )
    return [sweep]


class _Sweep(Counts):
    table = "sweep"
    blind = 0
    """Images on which the gradient that attacks climb is exactly 0."""

    def _take(self, key: str, attack: Attack | None, view: View) -> None:
        """Measure top-1 alone: fooled images are dropped, which saves most of the steps."""
        if attack is None or self.draws > 1:
            super()._take(key, attack, view)
            return
        given = {"ids": view.ids, "clean": view.logits}
        logits = attack.outcomes(view.prepared, view.images, view.labels, **given)
        self.counts[key].update(logits, view.labels, view.logits)

    def _row(self, key: str) -> Row:
        row = super()._row(key)
        return row if self.attacks[key] is None else {**row, "top5": None}

    def update(self, view: View) -> None:
        super().update(view)
        with torch.enable_grad():
            images = view.images.detach().requires_grad_()
            odds = log_odds(view.prepared(images), view.labels)
            (gradient,) = torch.autograd.grad(odds.sum(), images)
        self.blind += int((gradient.flatten(1) == 0).all(dim=1).sum())

    def state(self) -> dict[str, Tensor]:
        return super().state() | {"sweep.blind": torch.tensor(self.blind)}

    def restore(self, state: dict[str, Tensor]) -> None:
        super().restore(state)
        self.blind = int(state["sweep.blind"])
        if not 0 <= self.blind <= self.counts["natural"].n:
            raise ValueError(f"{self.blind} is not a count of {self.counts['natural'].n} images")

    def merge(self, other: Self) -> None:
        super().merge(other)
        self.blind += other.blind

    def compute(self) -> Tables:
        l2 = [key for key in self.attacks if key.startswith("L2 ")]
        linf = [key for key in self.attacks if key.startswith("L∞ ")]
        steps = [key for key in self.attacks if key.startswith("steps ")]
        counts, classes = self.counts, len(self.context.data.classes)

        def falls(check: str, keys: list[str], *, large: bool) -> object:
            chance = 1 / classes if large else None
            return must_fall(check, keys, [counts[key] for key in keys], chance=chance)

        checks = [
            falls(
                "accuracy falls with epsilon (L2)",
                ["natural", *l2],
                large=float(l2[-1].split()[1]) >= LARGE_L2,
            ),
            falls("accuracy falls with epsilon (L∞)", ["natural", *linf], large=True),
            falls("accuracy falls with the number of steps", ["natural", *steps], large=False),
            must_fall(
                "a single step does not beat iterated ones",
                ["FGSM", "PGD"],
                [counts["single"], counts[f"L∞ {CHECK_LINF * 255:g}/255"]],
            ),
            must_have_gradients("gradients do not vanish", self.blind, counts["natural"].n),
            must_reach_chance(
                "with every pixel free, accuracy is at most chance",
                counts["free"],
                classes,
            ),
        ]
        return {
            "sweep": [self._row(key) for key in ("natural", *l2, *linf)],
            "checks": [{"model": self.context.name, **vars(check)} for check in checks],
        }
