"""What each unit stands for on real images, and whether that holds under attack."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import torch
from torch import Tensor

from advlens.attacks import Attack, Bim, Fgsm, LeastLikely
from advlens.attacks.adam import CALIBRATION
from advlens.attacks.base import NATURAL
from advlens.attacks.threat import L2, Linf
from advlens.auditing.calibration import some_batches
from advlens.auditing.forecasting import attack_passes
from advlens.auditing.relations import similarity_of
from advlens.auditing.stage import Context, Need, Stage, View, Work
from advlens.auditing.stages.neurons.attacked import (
    EQUAL,
    FGSM,
    AttackedSets,
    Settled,
)
from advlens.auditing.stages.neurons.curves import curve
from advlens.auditing.stages.neurons.floors import floor_rows
from advlens.auditing.stages.neurons.pictures import Seen, picture_rows, shown_units
from advlens.auditing.stages.neurons.rows import class_rows, finite, image_rows
from advlens.auditing.subjects import Subject
from advlens.consistency import (
    MEASURES,
    LayerConsistency,
    Similarity,
    layer_consistencies,
)
from advlens.datasets import ImageData
from advlens.interop import make_attack
from advlens.intervals import wilson
from advlens.maps import DiscrepancyMap
from advlens.runs.folder import Tables
from advlens.runs.tables import Row
from advlens.settings import UNITS, AuditSettings
from advlens.statistics import TopK

SETTLING = 6
"""Runs of the main attack on some images until its radius of equal success is found, about."""
UNSEEN = -1  # marks a class of images that another process saw


@dataclass(frozen=True, kw_only=True)
class NeuronStage:
    """LC, consis_adv, CS1 and CS2 of every unit of every convolution, on all images.

    Attributes:
        sets: the sets of adversarial images that are compared with the real ones.
        top: share of the images that represents a unit (D22: .01).
        similarity: how alike the classes are, C (D22 eq. 10).
        units: the units that are shown with their images, as LAYER:NUMBER (default: some of the
            last layer).
        shown: number of units of the last layer that are shown if none is named.
        discrepancy: whether the pictures of units get discrepancy maps, which take a pass per
            picture and occluder position.
    """

    sets: AttackedSets
    similarity: Similarity = field(repr=False)
    top: float = 0.01
    units: tuple[str, ...] = ()
    shown: int = UNITS
    discrepancy: bool = False
    seed: int = 0
    name: str = "neurons"
    records: bool = True
    needs: tuple[Need, ...] = ("labels", "units")

    def images(self, data: ImageData) -> tuple[ImageData, Sequence[int]]:
        return data, range(len(data))

    def passes(self, images: int) -> float:
        main = attack_passes(self.sets.main)
        settling = min(CALIBRATION, images) * SETTLING * main
        return settling + images * (2 * main + attack_passes(self.sets.fgsm) + 3)

    def start(self, context: Context) -> "_Neurons":
        return _Neurons(self, context)


def stages(subject: Subject, settings: AuditSettings) -> list[Stage]:
    """The stage that measures the consistency of every unit under attack."""
    if settings.similarity is None and subject.unnamed and subject.prepared.layers:
        subject.warnings.append(
            f"LC, CS1 and CS2 take all classes as unrelated: {subject.unnamed}, or say with "
            "--similarity FILE how they are related; images of one class count as 1 and those of "
            "two as 0, as with --similarity same-class"
        )
    given = subject.given(settings)
    if settings.attack_on_units is not None:
        main = make_attack(settings.attack_on_units, **given)
        main.given(subject.data.labels, subject.data.targets)  # refuses one that lacks targets
    else:
        aim = LeastLikely if settings.target is None else partial(Bim, label="target")
        main = aim(
            threat=L2(epsilon=subject.neuron_epsilon),
            steps=settings.neuron_steps,
            step_size=settings.neuron_step_size,
            **given,
        )
    fgsm = Fgsm(threat=Linf(epsilon=min(settings.fgsm, default=1 / 255)), **given)
    neurons = NeuronStage(
        sets=AttackedSets(main, fgsm, settings.success),
        similarity=similarity_of(subject, settings),
        top=settings.top,
        units=settings.units,
        shown=settings.shown or UNITS,
        discrepancy=settings.discrepancy,
        seed=settings.seed,
    )
    return [neurons]


class _Neurons(Work):
    def __init__(self, stage: NeuronStage, context: Context):
        self.stage, self.context = stage, context
        data = context.data
        self.similarity = stage.similarity
        self.k = max(2, round(stage.top * len(data)))
        self.main, self.names = stage.sets.name, stage.sets.names
        self.settled: Settled | None = None
        self.sets: dict[str, Attack] = {}  # known once the rest is settled
        layers = context.prepared.layers
        self.tops = {
            name: {layer: TopK(self.k, units) for layer, units in layers.items()}
            for name in ("real", *self.names)
        }
        unseen = torch.full((len(data),), UNSEEN, dtype=torch.int32)
        self.predicted = {name: unseen.clone() for name in self.tops}
        self.aims = {name: unseen.clone() for name in self.names}
        self.reached = {name: unseen.to(torch.int8) for name in self.names}
        self.distances = {name: torch.zeros(len(data)) for name in self.names}

    def update(self, view: View) -> None:
        if self.settled is None:
            self._settle(self.stage.sets.settle(self.context.prepared, some_batches(self.context)))
        self._take("real", view.logits, view.responses, view)
        made: dict[int, tuple[Tensor, Tensor, dict[str, Tensor]]] = {}
        for name, attack in self.sets.items():
            if id(attack) not in made:  # the main attack may be the one at equal success
                labels = attack.given(view.labels, view.targets)
                attacked = attack(view.prepared, view.images, labels, ids=view.ids)
                with torch.no_grad():
                    made[id(attack)] = (attacked, *view.prepared.record(attacked))
            attacked, logits, responses = made[id(attack)]
            self._take(name, logits, responses, view)
            goal = attack.goal(view.logits, attack.given(view.labels, view.targets))
            aims = goal.classes if goal.targeted else logits.argmax(dim=1)
            self.aims[name][view.ids] = aims.cpu().int()
            self.reached[name][view.ids] = goal.reached(logits).cpu().to(torch.int8)
            distances = (attacked - view.images.to(attacked)).flatten(1).norm(dim=1)
            self.distances[name][view.ids] = distances.float().cpu()

    def _take(self, name: str, logits: Tensor, responses: dict[str, Tensor], view: View) -> None:
        self.predicted[name][view.ids] = logits.argmax(dim=1).cpu().int()
        for layer, top in self.tops[name].items():
            top.update(responses[layer], view.ids)

    def _settle(self, settled: Settled) -> None:
        self.settled, self.sets = settled, self.stage.sets.attacks(settled)

    def state(self) -> dict[str, Tensor]:
        kept = {f"neurons.top.{name}.{layer}": top.keys for name, layer, top in self._each_top()}
        kept |= {f"neurons.predicted.{name}": values for name, values in self.predicted.items()}
        for name in self.names:
            kept[f"neurons.aims.{name}"] = self.aims[name]
            kept[f"neurons.reached.{name}"] = self.reached[name]
            kept[f"neurons.distances.{name}"] = self.distances[name]
        if self.settled is not None:
            settled = dataclasses.astuple(self.settled)
            kept["neurons.settled"] = torch.tensor(settled, dtype=torch.float64)
        return kept

    def restore(self, state: dict[str, Tensor]) -> None:
        for name, layer, top in self._each_top():
            top.keys = state[f"neurons.top.{name}.{layer}"]
        self.predicted = {name: state[f"neurons.predicted.{name}"] for name in self.predicted}
        self.aims = {name: state[f"neurons.aims.{name}"] for name in self.names}
        self.reached = {name: state[f"neurons.reached.{name}"] for name in self.names}
        self.distances = {name: state[f"neurons.distances.{name}"] for name in self.names}
        if "neurons.settled" in state:
            self._settle(Settled(*state["neurons.settled"].tolist()))

    def merge(self, other: Self) -> None:
        for name, tops in self.tops.items():
            for layer, top in tops.items():
                top.merge(other.tops[name][layer])
            torch.maximum(self.predicted[name], other.predicted[name], out=self.predicted[name])
        for mine, theirs in (
            (self.aims, other.aims),
            (self.reached, other.reached),
            (self.distances, other.distances),
        ):
            for name in self.names:
                torch.maximum(mine[name], theirs[name], out=mine[name])

    def compute(self) -> Tables:
        if not self.context.processes.first:
            return {}
        measured = self._measured()
        main = measured[self.main]
        last = next(reversed(main))
        tables: Tables = {
            "units": [
                row
                for layer, consistency in main.items()
                for row in self._unit_rows(layer, consistency, measured[FGSM][layer])
            ],
            "unit_classes": [
                row
                for layer, consistency in main.items()
                for row in class_rows(self.context, layer, consistency, self.main)
            ],
            "layers": [self._layer_row(layer, consistency) for layer, consistency in main.items()],
            "consistency": [
                row
                for name, layers in measured.items()
                for layer, consistency in layers.items()
                for row in self._consistency_rows(name, layer, consistency)
            ],
            "consistency_images": list(self._image_rows(measured, last)),
            "floors": floor_rows(self.context, self.similarity, self.k, seed=self.stage.seed),
            "table1_d19": [self._table1_row(last, measured[FGSM][last])],
            "curves": [
                {"model": self.context.name, "images": name, **row}
                for name in self._aimed
                for row in curve(list(measured[name].values()))
            ],
        }
        tables["pictures"] = [
            row
            for layer, units in shown_units(main, self.stage.units, self.stage.shown).items()
            for row in picture_rows(
                self.context,
                layer,
                units,
                self._kinds(layer),
                similarity=self.similarity,
                discrepancy=self._discrepancy(),
            )
        ]
        return tables

    def _measured(self) -> dict[str, dict[str, LayerConsistency]]:
        """The measures of each set of adversarial images and layer."""
        found: dict[str, dict[str, LayerConsistency]] = {name: {} for name in self.names}
        aims = {name: classes.long() for name, classes in self.aims.items()}
        for layer, real in self.tops["real"].items():
            sets = {name: (self.tops[name][layer], aims[name]) for name in self.names}
            layers = layer_consistencies(real, sets, self.context.data.labels, self.similarity)
            for name, consistency in layers.items():
                found[name][layer] = consistency
        return found

    def _kinds(self, layer: str) -> dict[str, Seen]:
        """The images that are shown; those at equal success where the main attack reaches less."""
        sets = {"real": "real", "adversarial": self.main}
        reached = {name: self._success(name)["success"] for name in self._aimed}
        if reached.get(EQUAL, 0) > reached[self.main]:
            sets[EQUAL] = EQUAL
        return {
            kind: Seen(
                self.sets.get(name),
                self.main if kind == "real" else name,
                self.tops[name][layer],
                self.predicted[name],
            )
            for kind, name in sets.items()
        }

    def _discrepancy(self) -> DiscrepancyMap | None:
        stage, batch_size = self.stage, self.context.batch_size
        return DiscrepancyMap(batch_size=batch_size, seed=stage.seed) if stage.discrepancy else None

    def _each_top(self) -> list[tuple[str, str, TopK]]:
        for tops in self.tops.values():
            for top in tops.values():
                top.compute()  # so that no value is left out of the keys
        return [
            (name, layer, top) for name, tops in self.tops.items() for layer, top in tops.items()
        ]

    def _success(self, name: str) -> dict[str, float]:
        """Share of images on which a set's attack reached its goal, with its interval."""
        hits = self.reached[name] == 1
        low, high = wilson(int(hits.sum()), len(hits))
        return {"success": hits.double().mean().item(), "success_low": low, "success_high": high}

    @property
    def _aimed(self) -> list[str]:
        """The sets of the main attack, at equal epsilon and at equal success."""
        return [name for name in self.names if name in (self.main, EQUAL)]

    def _unit_rows(self, layer: str, main: LayerConsistency, fgsm: LayerConsistency) -> list[Row]:
        columns = {name: values.tolist() for name, values in main.values.items()}
        columns["lc_corrected"] = main.corrected.tolist()
        columns["consis_adv_fgsm"] = fgsm.values["consis_adv"].tolist()
        return [
            {
                "model": self.context.name,
                "layer": layer,
                "unit": unit,
                "dead": dead,
                **{name: None if dead else column[unit] for name, column in columns.items()},
                "attacked": self.main,
            }
            for unit, dead in enumerate(main.dead.tolist())
        ]

    def _layer_row(self, layer: str, consistency: LayerConsistency) -> Row:
        row: dict[str, object] = {
            "model": self.context.name,
            "layer": layer,
            "units": len(consistency.dead),
            "dead": int(consistency.dead.sum()),
            "top": consistency.top,
            "n": len(self.context.data),
            "attacked": self.main,
        }
        for name in MEASURES:
            interval = consistency.intervals[name]
            row |= {f"{name}_mean": interval.mean, f"{name}_low": interval.low}
            row |= {f"{name}_high": interval.high}
        row["lc_corrected_mean"] = consistency.intervals["lc"].corrected
        return {key: finite(value) for key, value in row.items()}

    def _consistency_rows(self, name: str, layer: str, consistency: LayerConsistency) -> list[Row]:
        attack, fgsm = self.sets[name], self.stage.sets.fgsm
        return [
            {
                "model": self.context.name,
                "layer": layer,
                "images": name,
                **attack.columns(),
                "settings": attack.unusual(seed=self.stage.seed, draws=fgsm.draws),
                "targeted": attack.aims(self.context.prepared.shape[0]),
                "distance": self.distances[name].double().mean().item(),
                **self._success(name),
                "measure": measure,
                "mean": finite(consistency.intervals[measure].mean),
                "low": finite(consistency.intervals[measure].low),
                "high": finite(consistency.intervals[measure].high),
                "units": int((~consistency.dead).sum()),
                "n": len(self.context.data),
            }
            for measure in self._measures(name)
        ]

    def _image_rows(
        self, measured: dict[str, dict[str, LayerConsistency]], layer: str
    ) -> Iterator[Row]:
        """What each image contributes to a layer's means, for comparisons on the same images."""
        real = measured[self.main][layer]  # the same in all sets
        yield from image_rows(self.context, layer, real, ["lc"], images="real", **NATURAL)
        for name, layers in measured.items():
            measures = [measure for measure in self._measures(name) if measure != "lc"]
            named = {"images": name, **self.sets[name].columns()}
            yield from image_rows(self.context, layer, layers[layer], measures, **named)

    def _measures(self, name: str) -> Sequence[str]:
        """The measures of a set of attacked images: CS2 is only of the main attack."""
        return MEASURES if name in self._aimed else MEASURES[:-1]

    def _table1_row(self, layer: str, consistency: LayerConsistency) -> Row:
        row: dict[str, object] = {"model": self.context.name, "layer": layer}
        for column, measure in (("consis", "lc"), ("consis_adv", "consis_adv")):
            interval = consistency.intervals[measure]
            row |= {column: interval.mean, f"{column}_low": interval.low}
            row |= {f"{column}_high": interval.high}
        row |= {**self.sets[FGSM].columns(), **self._success(FGSM)}
        row |= {"units": int((~consistency.dead).sum()), "n": len(self.context.data)}
        return {key: finite(value) for key, value in row.items()}
