"""AutoAttack on a subset: the field's common measure, in its reference implementation."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from jaxtyping import Int64
from torch import Tensor

from advlens.attribution.base import chunks
from advlens.auditing.per_image import in_blocks
from advlens.auditing.stage import Context, Need, View, Work
from advlens.datasets import ImageData
from advlens.interop.autoattack import PARTS, AutoAttack
from advlens.intervals import wilson
from advlens.runs.folder import Tables
from advlens.runs.tables import Row

ROUNDS = ("natural", *PARTS)
MOST = 9_000
"""Forward passes for an image that no attack fools: 100 steps of 19 attacks, and 5 000 queries."""


@dataclass(frozen=True, kw_only=True)
class AutoAttackStage:
    """Accuracy under AutoAttack, after each of its attacks.

    Attributes:
        attacks: one attack for each ball.
        count: size of the seeded, class-balanced subset.
    """

    attacks: Sequence[AutoAttack]
    count: int
    seed: int = 0
    name: str = "autoattack"
    records: bool = False
    needs: tuple[Need, ...] = ("labels",)

    def images(self, data: ImageData) -> tuple[ImageData, Sequence[int]]:
        return data, ()  # see _Rounds.update

    def passes(self, images: int) -> float:
        return len(self.attacks) * min(self.count, images) * MOST

    def start(self, context: Context) -> "_Rounds":
        return _Rounds(self, context)


class _Rounds(Work):
    def __init__(self, stage: AutoAttackStage, context: Context):
        self.stage, self.context = stage, context
        chosen = context.data.subset(min(stage.count, len(context.data)), seed=stage.seed)
        self.ids = chosen.positions

    def update(self, view: View) -> None:
        """Ignore the stream: what the attacks draw must not depend on kills."""

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore nothing: only `_lost` saves state."""

    def merge(self, other: Self) -> None:
        """Merge nothing: this work sees no images."""

    def compute(self) -> Tables:
        final: list[Row] = []
        rounds: list[Row] = []
        images: list[Row] = []
        for attack in self.stage.attacks:
            lost = self.context.dealt(len(self.ids), partial(self._lost, attack))
            named = {"model": self.context.name, **attack.columns()}
            for number, after in enumerate(ROUNDS):
                right, n = int((lost > number).sum()), len(lost)
                low, high = wilson(right, n)
                row = {"top1": right / n, "top1_low": low, "top1_high": high, "n": n}
                rounds.append({**named, "after": after, **row})
            marks = (lost == len(ROUNDS)).int().tolist()
            images += [
                {**named, "settings": "", **block} for block in in_blocks("right", marks, "")
            ]
            unknown = {"top5": None, "draws": None, "top1_spread": None, "settings": ""}
            final.append({**named, **unknown, **row})
        return {"accuracy": final, "autoattack": rounds, "accuracy_images": images}

    def _lost(self, attack: AutoAttack, mine: Sequence[int]) -> Int64[Tensor, " n"]:
        """The round in which the model fails on each image; the number of rounds if in none.

        Results are saved after each round of each batch, because a round can take an hour.
        """
        context, ids = self.context, self.ids[list(mine)]
        job = context.own(f"{self.stage.name}.{attack.threat.norm}-{context.batch_size}")
        steps = [
            (batch, number)
            for batch in chunks(len(ids), context.batch_size)
            for number in range(len(ROUNDS))
        ]
        done, lost = 0, torch.full((len(ids),), len(ROUNDS))
        if (saved := context.run.state(context.number, job, len(steps))) is not None:
            done, kept = saved[0], saved[1]["lost"]
            lost.copy_(kept.clamp(0, len(ROUNDS)))
        label = f"AutoAttack, {attack.threat.norm}"
        with context.progress(
            [self.stage.name], label, len(steps), done=done, unit="rounds"
        ) as progress:
            for batch, number in steps[done:]:
                left = batch.start + (lost[batch] == len(ROUNDS)).nonzero()[:, 0]
                if len(left):
                    lost[left[~self._right(attack, number, ids[left])]] = number
                done += 1
                context.run.save_state(context.number, job, done, {"lost": lost})
                progress.update(1)
        return lost

    def _right(self, attack: AutoAttack, number: int, ids: Tensor) -> Tensor:
        """Whether the model is right on each image after this round."""
        data, prepared = self.context.data, self.context.prepared
        images = data.images(ids.tolist()).to(self.context.device).float() / 255
        labels = data.labels[ids].to(self.context.device)
        with torch.no_grad():
            if number:
                images = attack.part(ROUNDS[number], prepared, images, labels, ids)
            right: Tensor = prepared(images).argmax(dim=1) == labels
        return right.cpu()
