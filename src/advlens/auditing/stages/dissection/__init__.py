"""What each unit detects, on real images and under attack: network dissection (D19, D22)."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from advlens.attacks import AdamAttack, Attack, LeastLikely
from advlens.attacks.threat import L2
from advlens.auditing.calibration import calibrated, is_open
from advlens.auditing.forecasting import attack_passes
from advlens.auditing.relations import similarity_of
from advlens.auditing.stage import Context, Need, Stage, View, Work
from advlens.auditing.stages.dissection.pictures import picture_rows, shown_units
from advlens.auditing.stages.dissection.rows import share_rows, transition_rows, unit_rows
from advlens.auditing.subjects import Subject, outputs
from advlens.consistency import Similarity
from advlens.datasets import BrodenData, ImageData
from advlens.dissection import Dissection, Dissector
from advlens.interop import make_attack
from advlens.intervals import wilson
from advlens.maps import DiscrepancyMap
from advlens.prepared import Prepared, check_layer
from advlens.runs.folder import Tables
from advlens.runs.tables import Row
from advlens.settings import DRAWS, UNITS, AuditSettings, DissectSettings

LAST, ALL = "last", "all"


@dataclass(frozen=True, kw_only=True)
class DissectionStage:
    """The concept of every unit, on real images and under an attack that needs no labels.

    Attributes:
        data: images with labeled pixels, of the model's size.
        method: how units are dissected; its layers may be "last" or "all".
        attack: the attack that makes the adversarial images, if any; the λ of an Adam attack may
            have yet to be calibrated, on some of the images.
        minimum: IoU above which a unit detects its best concept.
        units: the units that are shown with their images: how many of each layer, or which ones, as
            LAYER:NUMBER.
        discrepancy: whether the pictures of these units get discrepancy maps.
        similarity: how alike the model's classes are (default: as its WordNet ids say, or 1 within
            a class, else 0).
    """

    data: BrodenData
    method: Dissection
    attack: Attack | None
    minimum: float = 0.04
    units: int | tuple[str, ...] = UNITS
    discrepancy: bool = False
    similarity: Similarity | None = field(default=None, repr=False)
    name: str = "dissection"
    records: bool = False
    needs: tuple[Need, ...] = ("units",)

    def images(self, data: ImageData) -> tuple[ImageData, Sequence[int]]:
        return self.data, range(len(self.data))

    def passes(self, images: int) -> float:
        attacked = 0 if self.attack is None else attack_passes(self.attack)
        return len(self.data) * (1 + attacked)

    def start(self, context: Context) -> "_Dissection":
        return _Dissection(self, context)


def stages(subject: Subject, settings: AuditSettings) -> list[Stage]:
    """Dissection as part of an audit, on the images that --concepts names."""
    if subject.concepts is None:
        return []
    text = settings.attack_on_concepts
    chosen = DissectSettings(
        layers=settings.layers,
        attack=text or "least-likely",
        steps=10 if text else settings.neuron_steps,
        step_size=None if text else settings.neuron_step_size,
        units=settings.units or settings.shown or UNITS,
        discrepancy=settings.discrepancy,
        seed=settings.seed,
        precision=settings.precision,
    )
    stage = dissection_stage(subject, chosen, settings.draws)
    return [dataclasses.replace(stage, similarity=similarity_of(subject, settings))]


def dissection_stage(
    subject: Subject, settings: DissectSettings, draws: int = DRAWS
) -> DissectionStage:
    """The stage that the settings ask for; the attack has draws if the model needs them."""
    data = subject.concepts
    assert data is not None
    if subject.prepared.layers:
        for name in {*settings.layers} - {LAST, ALL}:
            check_layer(name, subject.prepared.layers)
    shape = outputs(subject, data, settings)
    given: dict[str, Any] = {
        "seed": settings.seed,
        "draws": draws if subject.prepared.randomized else 1,
        "precision": settings.precision,
    }
    attack: Attack | None = None
    if len(shape) != 1:
        if settings.attack != "none":
            subject.notes.append(
                f"{subject.classifier.name} returns no logits, so its units were dissected on real "
                "images only."
            )
    elif settings.attack == "adam":
        attack = AdamAttack(weight=None, steps=settings.steps, **given)
    elif settings.attack not in DissectSettings.NAMES:
        attack = make_attack(settings.attack, **given)
        attack.given(data.labels, None)  # refuses one that needs targets
    elif settings.attack == "least-likely":
        attack = LeastLikely(
            threat=L2(epsilon=subject.neuron_epsilon),
            steps=settings.steps,
            step_size=settings.step_size,
            **given,
        )
    if settings.upsampling == "receptive-field":
        unknown = [name for name in subject.prepared.layers if not subject.prepared.fields(name)]
        if unknown:
            subject.notes.append(
                f"Receptive fields of {subject.classifier.name} are not known for "
                f"{', '.join(unknown[:3])}{' …' if unknown[3:] else ''}; maps of these layers are "
                "upsampled plainly."
            )
    method = Dissection(
        layers=settings.layers,
        quantile=settings.quantile,
        upsampling=settings.upsampling,
        counting=settings.counting,
        seed=settings.seed,
    )
    return DissectionStage(
        data=data,
        method=method,
        attack=attack,
        minimum=settings.minimum,
        units=settings.units,
        discrepancy=settings.discrepancy,
    )


def dissected_layers(prepared: Prepared, wanted: Sequence[str]) -> dict[str, int]:
    """The layers that "last", "all" and names stand for, and the number of their units."""
    return {
        name: units
        for name, units in prepared.layers.items()
        if ALL in wanted or name in wanted or (name == prepared.last and LAST in wanted)
    }


class _Dissection(Work):
    merges_itself = True  # thresholds in the middle, counts at the end

    def __init__(self, stage: DissectionStage, context: Context):
        self.stage, self.context = stage, context
        prepared, wanted = context.prepared, stage.method.layers
        for name in {*wanted} - {LAST, ALL}:
            check_layer(name, prepared.layers)
        layers = tuple(dissected_layers(prepared, wanted))
        self.method = dataclasses.replace(stage.method, layers=layers)
        self.attack = stage.attack
        self.walk: Dissector | None = None  # set up when the attack is settled
        if not is_open(self.attack):
            self._begin()

    def _begin(self) -> None:
        self.walk = self.method.begin(
            self.context.prepared, self.stage.data, self.attack, self.context.processes
        )

    @property
    def _walk(self) -> Dissector:
        if self.walk is None:
            if self.attack is not None:
                self.attack = calibrated(self.attack, self.context, labeled=False)
            self._begin()
        assert self.walk is not None
        return self.walk

    def update(self, view: View) -> None:
        self._walk.update(view.ids, view.images)

    def again(self) -> bool:
        return self._walk.again()

    def state(self) -> dict[str, Tensor]:
        kept = {f"dissection.{key}": value for key, value in self._walk.state().items()}
        if isinstance(self.attack, AdamAttack):
            assert self.attack.weight is not None
            kept["dissection.weight"] = torch.tensor(self.attack.weight, dtype=torch.float64)
        return kept

    def restore(self, state: dict[str, Tensor]) -> None:
        if isinstance(self.attack, AdamAttack):
            weight = state["dissection.weight"].item()
            self.attack = dataclasses.replace(self.attack, weight=weight)
        self._begin()
        mine = {key.removeprefix("dissection."): value for key, value in state.items()}
        self._walk.restore(mine)

    def merge(self, other: Self) -> None:
        """Merge nothing: the walk exchanges what the processes saw."""

    def compute(self) -> Tables:
        walk, stage, model = self._walk, self.stage, self.context.name
        layers = walk.compute()
        names = {concept.number: concept for concept in stage.data.concepts}
        tables: Tables = {
            "dissection": unit_rows(model, layers, names),
            "dissection_shares": share_rows(model, layers, names, stage.data, stage.minimum),
            "dissection_transitions": transition_rows(
                model, layers, names, stage.data, stage.minimum
            ),
            "dissection_images": [self._images_row()],
        }
        if self.context.processes.first:
            usual = [walk.prepared.last] if ALL in stage.method.layers else list(layers)
            tables["dissection_pictures"] = [
                row
                for layer, units in shown_units(layers, usual, stage.units, stage.minimum).items()
                for row in picture_rows(
                    self.context,
                    walk,
                    layer,
                    layers[layer],
                    units,
                    DiscrepancyMap(batch_size=self.context.batch_size, seed=self.context.seed)
                    if stage.discrepancy
                    else None,
                    stage.similarity,
                )
            ]
        return tables

    def _images_row(self) -> Row:
        walk, stage, method = self._walk, self.stage, self.method
        attacked: Row = dict.fromkeys(
            (
                "attack",
                "norm",
                "epsilon",
                "steps",
                "settings",
                "targeted",
                "weight",
                "distance",
                "success",
                "success_low",
                "success_high",
            )
        )
        if walk.attack is not None:
            n = len(stage.data)
            weight, draws = (vars(walk.attack).get(name) for name in ("weight", "draws"))
            hits = int(walk.reached.sum())
            low, high = wilson(hits, n)
            attacked = {
                **walk.attack.columns(),
                "settings": walk.attack.unusual(seed=self.context.seed, weight=weight, draws=draws),
                "targeted": walk.attack.aims(walk.prepared.shape[0]),
                "weight": weight,
                "distance": walk.distances.mean().item(),
                "success": hits / n,
                "success_low": low,
                "success_high": high,
            }
        return {
            "model": self.context.name,
            "data": stage.data.name,
            "n": len(stage.data),
            "labels": len(stage.data.concepts),
            **attacked,
            "upsampling": method.upsampling,
            "counting": method.counting,
            "quantile": method.quantile,
            "minimum": stage.minimum,
            "passes": walk.passes,
        }
