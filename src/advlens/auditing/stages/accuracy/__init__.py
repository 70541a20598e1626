"""Accuracy on the images and under attack."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from advlens.attacks import AdamAttack, Attack, Fgsm, Pgd
from advlens.attacks.base import NATURAL
from advlens.attacks.threat import L2, Linf, Threat
from advlens.auditing.calibration import calibrated
from advlens.auditing.forecasting import attack_passes
from advlens.auditing.per_image import in_blocks
from advlens.auditing.stage import Context, Need, Stage, View, Work
from advlens.auditing.stages.accuracy.autoattack import AutoAttackStage
from advlens.auditing.stages.accuracy.examples import example_rows
from advlens.auditing.stages.accuracy.predictions import Predictions, who_is_wrong
from advlens.auditing.stages.accuracy.radii import doubt
from advlens.auditing.subjects import Subject
from advlens.datasets import ImageData
from advlens.errors import SettingsError
from advlens.evaluation import Accuracy, averaged
from advlens.interop import AutoAttack, ForeignAttack, make_attack
from advlens.intervals import wilson
from advlens.runs.folder import Tables
from advlens.runs.tables import Row
from advlens.settings import AuditSettings
from advlens.words import NORMS


@dataclass(frozen=True, kw_only=True)
class AccuracyStage:
    """Top-1 and top-5 accuracy, natural and under each attack, on all images.

    Attributes:
        attacks: the attacks, run as they are, with their own draws.
        draws: passes over each natural or attacked image, for a randomized model.
        shown: examples of each kind.
    """

    attacks: Sequence[Attack]
    draws: int = 1
    shown: int = 4
    name: str = "accuracy"
    records: bool = False
    needs: tuple[Need, ...] = ("labels",)

    def images(self, data: ImageData) -> tuple[ImageData, Sequence[int]]:
        return data, range(len(data))

    def passes(self, images: int) -> float:
        return images * (self.draws + sum(map(attack_passes, self.attacks)))

    def start(self, context: Context) -> "Counts":
        attacks = {str(i): attack for i, attack in enumerate(self.attacks)}
        return _Accuracy(context, {"natural": None, **attacks}, self.draws, self.shown)


def stages(subject: Subject, settings: AuditSettings) -> list[Stage]:
    """Accuracy on all images, and AutoAttack on some of them if requested."""
    draws = subject.draws(settings)
    attacks = [] if settings.natural else _attacks(subject, settings)
    shown = settings.shown or AccuracyStage.shown
    chosen: list[Stage] = [AccuracyStage(attacks=attacks, draws=draws, shown=shown)]
    if settings.autoattack:
        chosen.append(_autoattack(subject, settings))
    return chosen


def _attacks(subject: Subject, settings: AuditSettings) -> list[Attack]:
    given = subject.given(settings)
    attacks: list[Attack] = [Fgsm(threat=Linf(epsilon=e), **given) for e in settings.fgsm]
    for ball in (Linf, L2):
        if ball.norm in settings.norm:
            radii = subject.radii[ball.norm]
            attacks += [Pgd(threat=ball(epsilon=e), steps=settings.steps, **given) for e in radii]
            if settings.target is not None:
                aimed = given | {"steps": settings.steps, "label": "target"}
                attacks += [Pgd(threat=ball(epsilon=e), **aimed) for e in radii]
    attacks += [make_attack(text, **given) for text in settings.attack]
    for attack in attacks:
        attack.given(subject.data.labels, subject.data.targets)  # refuses one that lacks targets
    # by what tables say about it: an attack that is given twice is measured once
    told = {(*attack.columns().values(), attack.unusual(**given)): attack for attack in attacks}
    subject.warnings += filter(None, (doubt(a, subject.data.image_shape) for a in told.values()))
    return [*told.values()]


def _autoattack(subject: Subject, settings: AuditSettings) -> AutoAttackStage:
    if subject.prepared.randomized:
        raise SettingsError(
            f"{subject.classifier.name} is randomized, and AutoAttack counts an image as lost at "
            "one lucky draw of the model; leave out --autoattack, or audit this model by itself"
        )
    threats: list[Threat] = [L2(epsilon=subject.epsilon)]
    if settings.autoattack_linf:
        threats.append(Linf(epsilon=settings.autoattack_linf))
    return AutoAttackStage(
        attacks=[AutoAttack(threat=threat, seed=settings.seed) for threat in threats],
        count=settings.autoattack,
        seed=settings.seed,
    )


class Counts(Work):
    """Counts of right predictions on the images and under each attack, in one table."""

    table = "accuracy"

    def __init__(self, context: Context, attacks: dict[str, Attack | None], draws: int):
        self.context, self.attacks, self.draws = context, attacks, draws
        self.counts = {key: Accuracy(draws=draws) for key in attacks}
        self.unattacked = dict.fromkeys(attacks, 0)
        """Images for which an attack of another library finds no starting point."""

    def update(self, view: View) -> None:
        self._calibrate()
        for key, attack in self.attacks.items():
            known = _unattacked(attack)
            self._take(key, attack, view)
            self.unattacked[key] += _unattacked(attack) - known

    def _calibrate(self) -> None:
        """Find the λ of Adam attacks that have none."""
        for key, attack in self.attacks.items():
            if attack is not None:
                self.attacks[key] = calibrated(attack, self.context, labeled=True)

    def _take(self, key: str, attack: Attack | None, view: View) -> None:
        """Count the right predictions of a batch under an attack."""
        self.counts[key].update_under(
            attack, view.prepared, view.images, view.labels, ids=view.ids, clean=view.logits
        )

    def state(self) -> dict[str, Tensor]:
        counted = [accuracy.counts() for accuracy in self.counts.values()]
        unattacked = torch.tensor([*self.unattacked.values()])
        weights = {
            f"{self.table}.weight.{key}": torch.tensor(attack.weight, dtype=torch.float64)
            for key, attack in self.attacks.items()
            if isinstance(attack, AdamAttack) and attack.weight is not None
        }
        return {
            f"{self.table}.counts": torch.tensor(counted),
            f"{self.table}.left": unattacked,
        } | weights

    def restore(self, state: dict[str, Tensor]) -> None:
        for accuracy, row in zip(
            self.counts.values(), state[f"{self.table}.counts"].tolist(), strict=True
        ):
            if not all(0 <= count <= row[0] * self.draws for count in row):
                raise ValueError(f"{row} are not counts of {row[0]} images")
            accuracy.restore(row)
        for key, attack in self.attacks.items():
            weight = state.get(f"{self.table}.weight.{key}")
            if isinstance(attack, AdamAttack) and weight is not None:
                self.attacks[key] = replace(attack, weight=weight.item())
        left = state[f"{self.table}.left"].tolist()
        self.unattacked = dict(zip(self.attacks, left, strict=True))

    def merge(self, other: Self) -> None:
        for key, accuracy in self.counts.items():
            accuracy.merge(other.counts[key])
            self.unattacked[key] += other.unattacked[key]

    def compute(self) -> Tables:
        left: list[Row] = [
            {
                "model": self.context.name,
                **attack.columns(),
                "unattacked": self.unattacked[key],
                "n": self.counts[key].n,
            }
            for key, attack in self.attacks.items()
            if attack is not None and self.unattacked[key]
        ]
        return {self.table: [self._row(key) for key in self.attacks], "unattacked": left}

    def _row(self, key: str) -> Row:
        told = self._told(key)
        settings = told.pop("settings")
        measured = self.counts[key].compute()
        return {"model": self.context.name, **told, **measured, "settings": settings}

    def _told(self, key: str) -> dict[str, Any]:
        """The columns that tell which attack it is."""
        attack = self.attacks[key]
        if attack is None:
            return {**NATURAL, "settings": ""}
        settings = attack.unusual(seed=self.context.seed, draws=self.draws)
        return {**attack.columns(), "settings": settings}


class _Accuracy(Counts):
    """Counts that also keep what is predicted on each image: who is wrong, and how."""

    def __init__(self, context: Context, attacks: dict[str, Attack | None], draws: int, shown: int):
        super().__init__(context, attacks, draws)
        self.shown = shown
        self.seen = Predictions(len(attacks), len(context.data))

    def _take(self, key: str, attack: Attack | None, view: View) -> None:
        """Attack every image to the end: what is predicted on the attacked images counts, too."""
        images, labels, clean = view.images, view.labels, None
        if attack is not None:
            wanted = attack.given(labels, view.targets)
            images, clean = attack(view.prepared, images, wanted, ids=view.ids), view.logits
        drawn = [view.logits]
        if attack is not None or self.draws > 1:
            with torch.no_grad():
                drawn = [view.prepared(images) for _ in range(self.draws)]
        if self.draws > 1:
            self.counts[key].update_draws(drawn, labels)
        else:
            self.counts[key].update(drawn[0], labels, clean)
        logits = averaged(drawn) if self.draws > 1 else drawn[0]
        self.seen.take(list(self.attacks).index(key), view.ids, logits, labels)

    def state(self) -> dict[str, Tensor]:
        return super().state() | self.seen.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        super().restore(state)
        self.seen.restore(state, len(self.context.data.classes))

    def merge(self, other: Self) -> None:
        super().merge(other)
        self.seen.merge(other.seen)

    def compute(self) -> Tables:
        tables = super().compute() | {"targets": self._reached()}
        data, named = self.context.data, {"model": self.context.name}
        right = self.seen.right(data.labels)
        wrong: dict[str, list[Row]] = {}
        for key in ("natural", *(key for norm in NORMS for key in self._strongest(norm))):
            number = list(self.attacks).index(key)
            told = named | self._told(key)
            for name, rows in who_is_wrong(self.seen, number, data, right[number]).items():
                wrong.setdefault(name, []).extend(told | dict(row) for row in rows)
        if self.draws > 1:  # of a randomized model: accuracy is no count of images, nor is an
            return tables | wrong  # attack the same when it is repeated for an example
        images: list[Row] = [
            {**named, **self._told(key), **block}
            for key, marks in zip(self.attacks, right.int().tolist(), strict=True)
            for block in in_blocks("right", marks, separator="")
        ]
        return tables | {"accuracy_images": images, "examples": self._examples()} | wrong

    def _reached(self) -> list[Row]:
        """How often attacks that aim at targets reach them."""
        data, rows = self.context.data, list[Row]()
        for number, (key, attack) in enumerate(self.attacks.items()):
            if attack is not None and data.targets is not None and attack.aims_at_targets:
                hits = int((self.seen.predicted[number] == data.targets).sum())
                low, high = wilson(hits, len(data))
                rows.append(
                    {
                        "model": self.context.name,
                        **self._told(key),
                        "success": hits / len(data),
                        "low": low,
                        "high": high,
                        "n": len(data),
                    }
                )
        return rows

    def _examples(self) -> list[Row]:
        """Under the iterated attack in L∞ that leaves the least; in L2 if there is none in L∞."""
        for key in (key for norm in NORMS for key in self._strongest(norm)):
            attack = self.attacks[key]
            if attack is not None and attack.within() is not None:  # others are not by image id
                named = {"model": self.context.name, **self._told(key)}
                number = list(self.attacks).index(key)
                rows = example_rows(self.context, attack, self.seen, number, self.shown)
                return [named | dict(row) for row in rows]
        return []

    def _strongest(self, norm: str) -> list[str]:
        """The iterated attack in a norm that leaves the least, if any; of equals the larger one."""
        told = {key: self._told(key) for key in self.attacks}
        iterated = [
            key
            for key, row in told.items()
            if row["norm"] == norm and row["steps"] > 1 and row["epsilon"] is not None
        ]
        return sorted(iterated, key=lambda key: (self.counts[key].top1, -told[key]["epsilon"]))[:1]


def _unattacked(attack: Attack | None) -> int:
    return len(attack.unattacked) if isinstance(attack, ForeignAttack) else 0
