"""What each unit stands for on real images, and whether that holds under attack."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from advlens.attacks import Attack, Fgsm, GaussianNoise, LeastLikely, smallest
from advlens.attacks.base import NATURAL, least_likely
from advlens.attacks.threat import L2, Linf
from advlens.auditing.stage import Context, Need, Stage, View, Work
from advlens.auditing.stages.neurons.curves import curve
from advlens.auditing.stages.neurons.pictures import picture_rows, shown_units
from advlens.auditing.stages.neurons.rows import class_rows, finite, image_rows
from advlens.auditing.subjects import Subject
from advlens.consistency import (
    MEASURES,
    LayerConsistency,
    layer_consistency,
    random_floor,
    uniform_floor,
)
from advlens.datasets import ImageData
from advlens.errors import DataError
from advlens.intervals import wilson
from advlens.maps import DiscrepancyMap
from advlens.runs.folder import Tables
from advlens.runs.tables import Row
from advlens.settings import UNITS, AuditSettings
from advlens.statistics import TopK
from advlens.wordnet import similarity_matrix

UNSEEN = -1  # marks a class of images that another process saw
MAIN, EQUAL, FGSM, NOISE = "least-likely", "equal-success", "fgsm", "noise"


@dataclass(frozen=True, kw_only=True)
class NeuronStage:
    """LC, consis_adv, CS1 and CS2 of every unit of every convolution, on all images.

    Four sets are compared with the real images: the least-likely attack at one epsilon for all
    models, the same attack at each model's own epsilon that reaches `success`, FGSM, and Gaussian
    noise of the first attack's length as a control.

    Attributes:
        epsilon: L2 radius of the least-likely attack.
        steps: steps of the least-likely attack.
        step_size: step size of the least-likely attack, scaled in proportion at other radii
            (default: 2.5 epsilon / steps).
        success: share of images on which the attack at equal success must succeed.
        calibration: number of images on which its epsilon is searched.
        fgsm_epsilon: L∞ radius of FGSM.
        top: share of the images that represents a unit (D22: .01).
        sigma: width of the class similarity (D22 eq. 10).
        units: the units that are shown with their images, as LAYER:NUMBER (default: some of the
            last layer).
        shown: number of units of the last layer that are shown if none is named.
        discrepancy: whether the pictures of units get discrepancy maps, which take a pass per
            picture and occluder position.
        draws: draws of the attacks on a randomized model.
    """

    epsilon: float
    steps: int = 10
    step_size: float | None = None
    success: float = 0.95
    calibration: int = 96
    fgsm_epsilon: float = 1 / 255
    top: float = 0.01
    sigma: float = 1.0
    units: tuple[str, ...] = ()
    shown: int = UNITS
    discrepancy: bool = False
    seed: int = 0
    draws: int = 1
    name: str = "neurons"
    records: bool = True
    needs: tuple[Need, ...] = ("synsets", "units")

    def images(self, data: ImageData) -> tuple[ImageData, Sequence[int]]:
        return data, range(len(data))

    def start(self, context: Context) -> "_Neurons":
        return _Neurons(self, context)


def stages(subject: Subject, settings: AuditSettings) -> list[Stage]:
    """The stage that measures the consistency of every unit under attack."""
    neurons = NeuronStage(
        epsilon=subject.neuron_epsilon,
        steps=settings.neuron_steps,
        step_size=settings.neuron_step_size,
        success=settings.success,
        fgsm_epsilon=min(settings.fgsm, default=1 / 255),
        top=settings.top,
        sigma=settings.sigma,
        units=settings.units,
        shown=settings.shown or UNITS,
        discrepancy=settings.discrepancy,
        seed=settings.seed,
        draws=subject.draws(settings),
    )
    return [neurons]


class _Neurons(Work):
    def __init__(self, stage: NeuronStage, context: Context):
        self.stage, self.context = stage, context
        data = context.data
        if data.synsets is None:
            raise DataError(
                f"consistency needs the WordNet id of every class, but those of {data.name} are "
                "not known; name the class folders by wnid, or give a table with --synsets"
            )
        self.similarity = torch.from_numpy(similarity_matrix(data.synsets, stage.sigma))
        self.k = max(2, round(stage.top * len(data)))
        threat = L2(epsilon=stage.epsilon)
        given: dict[str, Any] = {"seed": stage.seed, "draws": stage.draws}
        self.main = LeastLikely(
            threat=threat, steps=stage.steps, step_size=stage.step_size, **given
        )
        self.sets: dict[str, Attack] = {
            MAIN: self.main,
            EQUAL: self.main,  # the first update finds its epsilon, unless it is restored
            FGSM: Fgsm(threat=Linf(epsilon=stage.fgsm_epsilon), **given),
            NOISE: GaussianNoise(threat=threat, seed=stage.seed),
        }
        self.equal_epsilon: float | None = None
        layers = context.prepared.layers
        self.tops = {
            name: {layer: TopK(self.k, units) for layer, units in layers.items()}
            for name in ("real", *self.sets)
        }
        size = len(data)
        self.targets = torch.full((size,), UNSEEN, dtype=torch.int32)
        self.predicted = {name: self.targets.clone() for name in self.tops}

    def update(self, view: View) -> None:
        if self.equal_epsilon is None:
            self._aim(self._calibrated())
        self._take("real", view.logits, view.responses, view)
        self.targets[view.ids] = least_likely(view.logits).cpu().int()
        for name, attack in self.sets.items():
            attacked = attack(view.prepared, view.images, view.labels, ids=view.ids)
            with torch.no_grad():
                self._take(name, *view.prepared.record(attacked), view)

    def _take(self, name: str, logits: Tensor, responses: dict[str, Tensor], view: View) -> None:
        self.predicted[name][view.ids] = logits.argmax(dim=1).cpu().int()
        for layer, top in self.tops[name].items():
            top.update(responses[layer], view.ids)

    def _calibrated(self) -> float:
        """The smallest epsilon at which the least-likely attack reaches the required success.

        Radii are doubled until one does. If none does, the most successful one is taken: with few
        steps success does not keep rising, and the tables report it.
        """
        data, prepared, stage = self.context.data, self.context.prepared, self.stage
        subset = data.subset(min(stage.calibration, len(data)), seed=stage.seed)
        device = self.context.device
        batches = [batch.images.to(device) for batch in subset.batches(self.context.batch_size)]
        with torch.no_grad():
            goals = [self.main.goal(prepared(images)) for images in batches]

        def share(epsilon: float) -> float:
            attack = self._at(epsilon)
            hits = [
                goal.reached(attack.outcomes(prepared, images))
                for images, goal in zip(batches, goals, strict=True)
            ]
            return torch.cat(hits).double().mean().item()

        shares: dict[float, float] = {}
        for power in range(-5, 6):
            epsilon = stage.epsilon * 2.0**power
            shares[epsilon] = share(epsilon)
            if shares[epsilon] >= stage.success:
                return smallest(
                    lambda radius: share(radius) >= stage.success, epsilon / 2, epsilon, ratio=1.15
                )
        return max(shares, key=lambda epsilon: shares[epsilon])

    def _aim(self, epsilon: float) -> None:
        self.equal_epsilon = epsilon
        self.sets[EQUAL] = self._at(epsilon)

    def _at(self, epsilon: float) -> LeastLikely:
        """The least-likely attack at another radius."""
        size = self.stage.step_size
        scaled = None if size is None else size * epsilon / self.stage.epsilon
        return dataclasses.replace(self.main, threat=L2(epsilon=epsilon), step_size=scaled)

    def state(self) -> dict[str, Tensor]:
        kept = {f"neurons.top.{name}.{layer}": top.keys for name, layer, top in self._each_top()}
        kept |= {f"neurons.predicted.{name}": values for name, values in self.predicted.items()}
        kept["neurons.targets"] = self.targets
        if self.equal_epsilon is not None:
            kept["neurons.epsilon"] = torch.tensor(self.equal_epsilon, dtype=torch.float64)
        return kept

    def restore(self, state: dict[str, Tensor]) -> None:
        for name, layer, top in self._each_top():
            top.keys = state[f"neurons.top.{name}.{layer}"]
        self.predicted = {name: state[f"neurons.predicted.{name}"] for name in self.predicted}
        self.targets = state["neurons.targets"]
        if "neurons.epsilon" in state:
            self._aim(state["neurons.epsilon"].item())

    def merge(self, other: Self) -> None:
        for name, tops in self.tops.items():
            for layer, top in tops.items():
                top.merge(other.tops[name][layer])
            torch.maximum(self.predicted[name], other.predicted[name], out=self.predicted[name])
        torch.maximum(self.targets, other.targets, out=self.targets)

    def compute(self) -> Tables:
        if not self.context.processes.first:
            return {}
        labels, targets = self.context.data.labels, self.targets.long()
        measured = {
            name: {
                layer: layer_consistency(
                    self.tops["real"][layer], top, labels, targets, self.similarity
                )
                for layer, top in self.tops[name].items()
            }
            for name in self.sets
        }
        main = measured[MAIN]
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
                for row in class_rows(self.context, layer, consistency)
            ],
            "layers": [self._layer_row(layer, consistency) for layer, consistency in main.items()],
            "consistency": [
                row
                for name, layers in measured.items()
                for layer, consistency in layers.items()
                for row in self._consistency_rows(name, layer, consistency)
            ],
            "consistency_images": list(self._image_rows(measured, last)),
            "floors": self._floor_rows(),
            "table1_d19": [self._table1_row(last, measured[FGSM][last])],
            "curves": [
                {"model": self.context.name, "images": name, **row}
                for name in (MAIN, EQUAL)
                for row in curve(list(measured[name].values()))
            ],
        }
        attacked = self.sets[MAIN]
        tables["pictures"] = [
            row
            for layer, units in shown_units(main, self.stage.units, self.stage.shown).items()
            for row in picture_rows(
                self.context,
                layer,
                units,
                attacked,
                tops={"real": self.tops["real"][layer], "adversarial": self.tops[MAIN][layer]},
                predicted={"real": self.predicted["real"], "adversarial": self.predicted[MAIN]},
                similarity=self.similarity,
                discrepancy=self._discrepancy(),
            )
        ]
        return tables

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
        if name in (MAIN, EQUAL):
            hits = self.predicted[name] == self.targets
        else:
            hits = self.predicted[name] != self.context.data.labels
        low, high = wilson(int(hits.sum()), len(hits))
        return {"success": hits.double().mean().item(), "success_low": low, "success_high": high}

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
            "n": len(self.targets),
        }
        for name in MEASURES:
            interval = consistency.intervals[name]
            row |= {f"{name}_mean": interval.mean, f"{name}_low": interval.low}
            row |= {f"{name}_high": interval.high}
        row["lc_corrected_mean"] = consistency.intervals["lc"].corrected
        return {key: finite(value) for key, value in row.items()}

    def _consistency_rows(self, name: str, layer: str, consistency: LayerConsistency) -> list[Row]:
        attack = self.sets[name]
        return [
            {
                "model": self.context.name,
                "layer": layer,
                "images": name,
                **attack.columns(),
                **self._success(name),
                "measure": measure,
                "mean": finite(consistency.intervals[measure].mean),
                "low": finite(consistency.intervals[measure].low),
                "high": finite(consistency.intervals[measure].high),
                "units": int((~consistency.dead).sum()),
                "n": len(self.targets),
            }
            for measure in self._measures(name)
        ]

    def _image_rows(
        self, measured: dict[str, dict[str, LayerConsistency]], layer: str
    ) -> Iterator[Row]:
        """What each image contributes to a layer's means, for comparisons on the same images."""
        real = measured[MAIN][layer]  # the same in all sets
        yield from image_rows(self.context, layer, real, ["lc"], images="real", **NATURAL)
        for name, layers in measured.items():
            measures = [measure for measure in self._measures(name) if measure != "lc"]
            named = {"images": name, **self.sets[name].columns()}
            yield from image_rows(self.context, layer, layers[layer], measures, **named)

    def _measures(self, name: str) -> Sequence[str]:
        """The measures of a set of attacked images: without a target there is no CS2."""
        return MEASURES if name in (MAIN, EQUAL) else MEASURES[:-1]

    def _floor_rows(self) -> list[Row]:
        labels = self.context.data.labels
        lc, cs1 = random_floor(labels, self.similarity, self.k, seed=self.stage.seed)
        some = f"of {self.k} random images"
        floors = (
            ("LC, all classes alike", "lc", "uniform", uniform_floor(self.similarity)),
            (f"LC {some}", "lc", "random", lc),
            (f"CS1 {some}", "cs1", "random", cs1),
        )
        return [
            {
                "model": self.context.name,
                "floor": floor,
                "measure": measure,
                "kind": kind,
                "value": value,
                "n": len(labels),
            }
            for floor, measure, kind, value in floors
        ]

    def _table1_row(self, layer: str, consistency: LayerConsistency) -> Row:
        row: dict[str, object] = {"model": self.context.name, "layer": layer}
        for column, measure in (("consis", "lc"), ("consis_adv", "consis_adv")):
            interval = consistency.intervals[measure]
            row |= {column: interval.mean, f"{column}_low": interval.low}
            row |= {f"{column}_high": interval.high}
        row |= {**self.sets[FGSM].columns(), **self._success(FGSM)}
        row |= {"units": int((~consistency.dead).sum()), "n": len(self.targets)}
        return {key: finite(value) for key, value in row.items()}
