"""Which pixels drive a prediction (B23, section 2.3), and how good that attribution is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from advlens.attribution import (
    Attribution,
    ExpectedGradients,
    Faithfulness,
    IntegratedGradients,
    RandomAttribution,
    Stability,
    rank_correlation,
    sparseness,
    total_variation,
)
from advlens.auditing.per_image import in_blocks
from advlens.auditing.pictures import slug, write_png
from advlens.auditing.stage import Context, Need, Stage, View, Work
from advlens.auditing.subjects import Part, Subject
from advlens.datasets import ImageData
from advlens.drawing import FULL_COLOR, enlarged, heat_map
from advlens.interop import CaptumAttribution, OwnAttribution, make_attribution
from advlens.intervals import mean_interval, median_interval
from advlens.runs.folder import Tables
from advlens.runs.measures import ATTRIBUTIONS
from advlens.runs.tables import Row
from advlens.settings import AuditSettings

BACKGROUND = 100
"""Images that expected gradients draw from."""
INTEGRATED, EXPECTED, RANDOM = "IntegratedGradients", "ExpectedGradients", "Random"
MEASURING = 150
"""Forward passes that the measures of one image take, about."""


@dataclass(frozen=True, kw_only=True)
class AttributionStage:
    """Integrated Gradients, expected gradients and others, beside random numbers; their measures.

    Attributes:
        count: size of the seeded, class-balanced subset.
        integrated, expected: the methods.
        methods: additional methods.
        background: number of images that expected gradients draw from.
        training: the training images to take these from; else other images of the data.
        draws: noise draws for the stability.
        shown: number of images whose heat maps are shown.
    """

    count: int = 32
    integrated: IntegratedGradients = field(default_factory=IntegratedGradients)
    expected: ExpectedGradients = field(default_factory=ExpectedGradients)
    methods: Sequence[CaptumAttribution | OwnAttribution] = ()
    background: int = BACKGROUND
    training: Part | None = None
    draws: int = 2
    shown: int = 6
    seed: int = 0
    name: str = "attribution"
    records: bool = False
    needs: tuple[Need, ...] = ("gradients",)

    def images(self, data: ImageData) -> tuple[ImageData, Sequence[int]]:
        return data, _chosen(data, self.count, self.seed)

    def passes(self, images: int) -> float:
        gradients = (self.integrated.steps + 1) * self.integrated.baselines + self.expected.samples
        return min(self.count, images) * (2 * gradients * (1 + self.draws) + MEASURING)

    def start(self, context: Context) -> "_Attributions":
        return _Attributions(self, context)


def _chosen(data: ImageData, count: int, seed: int) -> list[int]:
    return data.subset(min(count, len(data)), seed=seed).positions.tolist()


def stages(subject: Subject, settings: AuditSettings) -> list[Stage]:
    """The stage that attributes some predictions to pixels."""
    attribution = AttributionStage(
        count=settings.explained,
        shown=settings.shown or AttributionStage.shown,
        seed=settings.seed,
        integrated=IntegratedGradients(
            steps=settings.points, baselines=settings.baselines, seed=settings.seed
        ),
        expected=ExpectedGradients(samples=settings.samples, seed=settings.seed),
        methods=[make_attribution(text, seed=settings.seed) for text in settings.attribution],
        training=subject.training_images(BACKGROUND, settings.seed),
    )
    return [attribution]


class _Attributions(Work):
    def __init__(self, stage: AttributionStage, context: Context):
        self.stage, self.context = stage, context
        self.ids = _chosen(context.data, stage.count, stage.seed)
        self.background = self._behind().to(context.device).float() / 255
        self.methods: dict[str, Callable[..., Attribution]] = {
            INTEGRATED: self._small(stage.integrated),
            EXPECTED: partial(self._small(stage.expected), background=self.background),
            RANDOM: self._small(RandomAttribution(seed=stage.seed)),
        }
        for method in stage.methods:
            self.methods[method.name] = partial(self._small(method), background=self.background)
        count, (_, height, width) = len(self.ids), context.data.image_shape
        self.values = {
            f"{method}.{measure}": torch.full((count,), torch.nan, dtype=torch.float64)
            for method in self.methods
            for measure in ATTRIBUTIONS
        }
        self.drawn = [name for name in self.methods if name != RANDOM]
        self.maps = torch.zeros(len(self.drawn), min(stage.shown, count), height, width)
        self.points = dict.fromkeys(self.methods, 0.0)
        self.predicted = torch.zeros(count, dtype=torch.int64)
        self.probability = torch.zeros(count)

    def _behind(self) -> Tensor:
        """The background images, 0 to 255."""
        stage, data = self.stage, self.context.data
        if stage.training is not None:
            images = stage.training.images
            return images.images(_chosen(images, stage.background, stage.seed))
        # for one seed, a smaller subset is part of a larger one
        more = _chosen(data, stage.count + stage.background, stage.seed)
        return data.images([image for image in more if image not in set(self.ids)] or self.ids)

    def _small(self, method: Any) -> Any:
        """The method, which takes no more at a time than the audit's batches hold."""
        own = getattr(method, "batch_size", None)
        if own is None or own <= self.context.batch_size:
            return method
        return replace(method, batch_size=self.context.batch_size)

    def update(self, view: View) -> None:
        rows = torch.tensor([self.ids.index(image) for image in view.ids.tolist()])
        probability, self.predicted[rows] = (v.cpu() for v in view.logits.softmax(dim=1).max(dim=1))
        self.probability[rows] = probability.to(self.probability)
        made: dict[str, Attribution] = {}
        for name, method in self.methods.items():
            made[name] = method(view.prepared, view.images, None, ids=view.ids)
            self.points[name] += float(made[name].points.sum())
            self._measure(name, method, made[name], view, rows)
        partner = {INTEGRATED: EXPECTED, EXPECTED: INTEGRATED, RANDOM: INTEGRATED}
        partner |= {method.name: INTEGRATED for method in self.stage.methods}
        for name, other in partner.items():
            alike = rank_correlation(made[name].maps, made[other].maps)
            self.values[f"{name}.agreement"][rows] = alike.double().cpu()
        for place, name in enumerate(self.drawn):
            shown = rows < self.maps.shape[1]
            self.maps[place, rows[shown]] = made[name].maps[shown].to(self.maps)

    def _measure(
        self,
        name: str,
        method: Callable[..., Attribution],
        made: Attribution,
        view: View,
        rows: Tensor,
    ) -> None:
        curves = Faithfulness(batch_size=self.context.batch_size)(
            view.prepared, view.images, made.maps, made.targets
        )
        changes = Stability(draws=self.stage.draws, seed=self.stage.seed)(
            method, view.prepared, view.images, made, ids=view.ids
        )
        measured = {
            "insertion": curves.insertion_area,
            "deletion": curves.deletion_area,
            "sparseness": sparseness(made.maps),
            "variation": total_variation(made.maps),
            "stability": changes.mean(dim=1),
            "gap": made.gap,
        }
        for measure, values in measured.items():
            self.values[f"{name}.{measure}"][rows] = values.double().cpu()

    def state(self) -> dict[str, Tensor]:
        kept = {f"attribution.{key}": values for key, values in self.values.items()}
        return kept | {
            "attribution.maps": self.maps,
            "attribution.points": torch.tensor(list(self.points.values()), dtype=torch.float64),
            "attribution.predicted": self.predicted,
            "attribution.probability": self.probability,
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        self.values = {key: state[f"attribution.{key}"] for key in self.values}
        self.maps = state["attribution.maps"]
        self.predicted = state["attribution.predicted"]
        self.probability = state["attribution.probability"]
        self.points = dict(zip(self.methods, state["attribution.points"].tolist(), strict=True))

    def merge(self, other: Self) -> None:
        for key, values in self.values.items():
            values.copy_(torch.where(values.isnan(), other.values[key], values))
        for name in self.points:
            self.points[name] += other.points[name]
        self.maps += other.maps  # 0 for images that the other process saw
        self.predicted += other.predicted
        self.probability += other.probability

    def compute(self) -> Tables:
        if not self.context.processes.first:
            return {}
        return {
            "attribution": [
                row
                for name in self.methods
                for measure in ATTRIBUTIONS
                if (row := self._measure_row(name, measure)) is not None
            ],
            "attribution_images": list(self._image_rows()),
            "attribution_methods": [self._method_row(name) for name in self.methods],
            "attribution_pictures": self._pictures(),
        }

    def _measure_row(self, name: str, measure: str) -> Row | None:
        values = self.values[f"{name}.{measure}"]
        known = values[values.isfinite()].tolist()
        if not known:
            return None  # random numbers have no completeness gap
        # the gap is skewed and ≥ 0, which the interval of its mean would not respect
        told = ATTRIBUTIONS[measure]
        mean, low, high = (
            median_interval(known) if measure == "gap" else mean_interval(known, *told.range)
        )
        return {
            "model": self.context.name,
            "method": name,
            "measure": measure,
            "better": told.better,
            "mean": mean,
            "low": low,
            "high": high,
            "n": len(known),
            **self._ahead(name, measure),
        }

    def _image_rows(self) -> Iterator[Row]:
        for name in self.methods:
            for measure in ATTRIBUTIONS:
                if (name, measure) == (EXPECTED, "agreement"):
                    continue  # that with Integrated Gradients, which is there already
                named = {"model": self.context.name, "method": name, "measure": measure}
                for block in in_blocks("values", self.values[f"{name}.{measure}"].tolist()):
                    yield {**named, **block}

    def _ahead(self, name: str, measure: str) -> Row:
        """How much the method is better than random numbers, image by image."""
        sign = 1 if ATTRIBUTIONS[measure].better == "higher" else -1
        chance = self.values[f"{RANDOM}.{measure}"]
        apart = sign * (self.values[f"{name}.{measure}"] - chance)
        known = apart[apart.isfinite()].tolist() if name != RANDOM else []
        least, most = ATTRIBUTIONS[measure].range
        interval = mean_interval(known, least - most, most - least) if known else (None,) * 3
        return dict(zip(("ahead", "ahead_low", "ahead_high"), interval, strict=True))

    def _method_row(self, name: str) -> Row:
        integrated, expected, count = self.stage.integrated, self.stage.expected, len(self.ids)
        noise, training = integrated.baseline == "noise", self.stage.training
        source = "other images of the data" if training is None else f"images of {training.name}"
        words = {
            INTEGRATED: (
                integrated.target,
                f"{integrated.baselines} noise images" if noise else integrated.baseline,
                integrated.formula,
            ),
            EXPECTED: (expected.target, f"{len(self.background)} {source}", ""),
            RANDOM: ("", "", ""),
        } | {method.name: (method.target, method.starts_from, "") for method in self.stage.methods}
        target, baseline, formula = words[name]
        return {
            "model": self.context.name,
            "method": name,
            "target": target,
            "baseline": baseline,
            "points": self.points[name] / count,
            "formula": formula,
            "n": count,
        }

    def _pictures(self) -> list[Row]:
        data, names = self.context.data, self.context.data.classes
        shown = self.ids[: self.maps.shape[1]]
        images = data.images(shown).float() / 255
        rows: list[Row] = []
        for rank, (number, image) in enumerate(zip(shown, images, strict=True)):
            large = enlarged(image)
            for name in ("", *self.drawn):
                stem = f"attribution-{slug(self.context.name)}-{rank}-{slug(name or 'image')}"
                file, picture = f"figures/images/{stem}.png", large
                if name:
                    heat = self.maps[self.drawn.index(name), rank]
                    # full color at the same multiple of the map's own mean size for all models
                    heat = enlarged((heat / heat.abs().mean().clamp_min(1e-12))[None])[0]
                    picture = heat_map(large, heat, FULL_COLOR)
                write_png(picture, self.context.folder / file)
                gap = self.values[f"{name}.gap"][rank].item() if name else torch.nan
                rows.append(
                    {
                        "model": self.context.name,
                        "rank": rank,
                        "id": number,
                        "method": name,
                        "label": names[int(data.labels[number])],
                        "predicted": names[int(self.predicted[rank])],
                        "probability": self.probability[rank].item(),
                        "file": file,
                        "gap": None if gap != gap else gap,
                    }
                )
        return rows
