"""Images that a model generates for a class, and their distance to real images (B23 eq. 16)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from advlens.arrays import Ids, Images, Labels
from advlens.auditing.jobs import synthesized
from advlens.auditing.pictures import enlarged, slug, write_png
from advlens.auditing.reference import feature_network, reference
from advlens.auditing.stage import Context, Need, Stage, View, Work
from advlens.auditing.subjects import Subject
from advlens.datasets import DataView, ImageData
from advlens.features import ClassGaussian, ClassGeneration
from advlens.fid.distances import Distance, FeatureStatistics, fid, kid
from advlens.fid.representations import FeatureNetwork
from advlens.intervals import mean_interval, wilson
from advlens.models import Classifier
from advlens.models.classifier import device_of
from advlens.runs.folder import Tables
from advlens.runs.tables import Row
from advlens.settings import AuditSettings

JOB = "generation.images"
SHOWN = {"real": 2, "start": 1, "generated": 3}
"""Pictures per class, by kind, unless the user says how many generated ones and starts."""
MOST_CLASSES = 10
"""Maximum number of classes shown."""
KID_IMAGES = 5000
"""Maximum number of real images of each half in a KID, whose features are kept."""


@dataclass(frozen=True, kw_only=True)
class GenerationStage:
    """Images generated for each class from a Gaussian fitted to one half of its images.

    They are compared with the other half, which the fit has not seen: B23 fits on the images that
    it scores against. The untouched starts, and one half against the other, are the two bounds.

    Attributes:
        network: the network whose features define the distances.
        judge: an independent classifier that says what it sees, if there is one.
        method: the method that makes the images.
        per_class: images per class.
        shown: number of these, and of their starts, in the report (default: as in `SHOWN`).
    """

    network: FeatureNetwork
    judge: Classifier | None
    method: ClassGeneration = field(default_factory=ClassGeneration)
    per_class: int = 10
    shown: int | None = None
    seed: int = 0
    name: str = "generation"
    records: bool = False
    needs: tuple[Need, ...] = ("gradients", "pairs")

    def images(self, data: ImageData) -> tuple[ImageData, Sequence[int]]:
        return data, range(len(data))

    def start(self, context: Context) -> "_Generation":
        return _Generation(self, context)


def fitted_half(data: ImageData, seed: int) -> DataView:
    """The images that the Gaussians are fitted to: half of each class, drawn by the seed."""
    return data.subset(len(data) // 2, seed=seed)


def stages(subject: Subject, settings: AuditSettings) -> list[Stage]:
    """The stage that generates images of each class."""
    judge = reference(device_of(subject.classifier))
    small = subject.data.image_shape[1] < 96
    # B23's settings for CIFAR-10 and for Small ImageNet 150
    epsilon, step_size = (30.0, 0.5) if small else (40.0, 1.0)
    generation = GenerationStage(
        network=feature_network(subject, settings),
        judge=judge if subject.data.classes == judge.classes else None,
        method=ClassGeneration(
            epsilon=epsilon, step_size=step_size, steps=settings.generation_steps
        ),
        per_class=settings.generated,
        shown=settings.shown,
        seed=settings.seed,
    )
    return [generation]


class _Generation(Work):
    def __init__(self, stage: GenerationStage, context: Context):
        self.stage, self.context = stage, context
        data = context.data
        self.layer, self.source = list(stage.network.sources.items())[-1]
        self.gaussian = ClassGaussian(len(data.classes), data.image_shape)
        self.half = torch.ones(len(data), dtype=torch.int64)
        self.half[fitted_half(data, stage.seed).positions] = 0
        self.moments = [FeatureStatistics(self.source) for _ in range(2)]
        self.ids = [torch.empty(0, dtype=torch.int64) for _ in range(2)]
        self.kept = [torch.empty(0, self.source.dimension) for _ in range(2)]

    def update(self, view: View) -> None:
        half = self.half[view.ids]
        fitted = half == 0
        self.gaussian.update(view.images.cpu()[fitted], view.labels.cpu()[fitted], view.ids[fitted])
        features = self.stage.network(view.images)[self.layer].cpu()
        for number in range(2):
            own = half == number
            self.moments[number].update(features[own])
            self._keep(number, view.ids[own], features[own])

    def _keep(self, number: int, ids: Ids, features: Tensor) -> None:
        """Keep the features of the first images of a half, in order."""
        joined = torch.cat([self.ids[number], ids])
        order = joined.argsort()[:KID_IMAGES]
        self.ids[number] = joined[order]
        self.kept[number] = torch.cat([self.kept[number], features])[order]

    def state(self) -> dict[str, Tensor]:
        kept = {f"generation.gaussian.{key}": v for key, v in self.gaussian.state().items()}
        for number, moments in enumerate(self.moments):
            kept[f"generation.n.{number}"] = torch.tensor(moments.n)
            kept[f"generation.mean.{number}"] = moments.mean
            kept[f"generation.scatter.{number}"] = moments.scatter
            kept[f"generation.kept.{number}"] = self.kept[number]
            kept[f"generation.ids.{number}"] = self.ids[number]
        return kept

    def restore(self, state: dict[str, Tensor]) -> None:
        prefix = "generation.gaussian."
        self.gaussian.restore(
            {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
        )
        for number, moments in enumerate(self.moments):
            moments.n = int(state[f"generation.n.{number}"])
            moments.mean = state[f"generation.mean.{number}"]
            moments.scatter = state[f"generation.scatter.{number}"]
            self.kept[number] = state[f"generation.kept.{number}"]
            self.ids[number] = state[f"generation.ids.{number}"]

    def merge(self, other: Self) -> None:
        self.gaussian.merge(other.gaussian)
        for number, moments in enumerate(self.moments):
            moments.merge(other.moments[number])
            self._keep(number, other.ids[number], other.kept[number])

    def compute(self) -> Tables:
        context, stage = self.context, self.stage
        classes = [c for c in range(len(context.data.classes)) if int(self.gaussian.count[c]) > 1]
        labels = torch.tensor(classes).repeat_interleave(stage.per_class)
        starts = self.gaussian.sample(labels, seed=stage.seed)
        made = synthesized(context, JOB, stage.method, starts, labels).cpu()
        rows = [self._row("real", distance) for distance in self._bounds()]
        for kind, images in (("start", starts), ("generated", made)):
            rows += [self._row(kind, distance) for distance in self._distances(images, labels)]
            rows += self._judged(kind, images, labels)
        if not context.processes.first:
            return {}
        pictures = self._pictures(classes, labels, starts, made)
        return {"generation": rows, "generation_pictures": pictures}

    def _bounds(self) -> list[Distance]:
        """The distances between the two halves of the real images."""
        first, second = self.kept
        distances = [fid(self.moments[0].compute(), self.moments[1].compute())]
        return distances + (
            [kid(first, second, self.source)] if min(map(len, self.kept)) > 2 else []
        )

    def _distances(self, images: Images, labels: Labels) -> list[Distance]:
        features = self._features(images)
        moments = FeatureStatistics(self.source)
        moments.update(features)
        distances = [fid(moments.compute(), self.moments[1].compute())]
        enough = min(len(features), len(self.kept[1])) > 2
        if not enough:
            return distances
        fixed = labels if labels.bincount()[labels].min() >= 3 else None
        return [*distances, kid(features, self.kept[1], self.source, classes=fixed)]

    def _features(self, images: Images) -> Tensor:
        network = self.stage.network
        return self._each(images, lambda part: network(part)[self.layer])

    def _each(self, images: Images, look: Callable[[Images], Tensor]) -> Tensor:
        """A network's output for each image, on the CPU."""
        context = self.context

        def seen(mine: list[int]) -> Tensor:
            parts = torch.split(images[mine], context.batch_size)
            with torch.no_grad():
                return torch.cat([look(part.to(context.device)).cpu() for part in parts])

        return context.dealt(len(images), seen)

    def _row(self, kind: str, distance: Distance) -> Row:
        low, high = distance.interval or (None, None)
        return {
            "model": self.context.name,
            "images": kind,
            "measure": distance.measure.lower(),
            "features": self.source.network,
            "dimension": self.source.dimension,
            "resize": self.source.resize,
            "mean": distance.value,
            "low": low,
            "high": high,
            "n": distance.n[0],
            "n_real": distance.n[1],
        }

    def _judged(self, kind: str, images: Images, labels: Labels) -> list[Row]:
        """How sure the model is of the class, and how often an independent network sees it."""
        shares = self._each(images, lambda part: self.context.prepared(part).softmax(dim=1))
        own = shares.gather(1, labels[:, None])[:, 0].double().tolist()
        mean, low, high = mean_interval(own)
        named: Row = {
            "model": self.context.name,
            "images": kind,
            "measure": "confidence",
            "features": self.context.name,
            "dimension": 0,
            "resize": "",
            "mean": mean,
            "low": low,
            "high": high,
            "n": len(own),
            "n_real": 0,
        }
        if self.stage.judge is None:
            return [named]
        judge = self.stage.judge.to(self.context.device)
        seen = self._each(images, lambda part: judge(part).argmax(dim=1))
        hits = int((seen == labels).sum())
        low, high = wilson(hits, len(labels))
        return [
            named,
            {
                **named,
                "measure": "recognized",
                "features": judge.name,
                "mean": hits / len(labels),
                "low": low,
                "high": high,
            },
        ]

    def _pictures(
        self, classes: list[int], labels: Labels, starts: Images, made: Images
    ) -> list[Row]:
        data, rows = self.context.data, list[Row]()
        shown = {kind: self.stage.shown or count for kind, count in SHOWN.items()}
        shown["real"] = SHOWN["real"]
        for label in classes[:MOST_CLASSES]:
            scored = ((data.labels == label) & (self.half == 1)).nonzero()[:, 0]
            real = data.images(scored[: shown["real"]].tolist()).float() / 255
            mine = (labels == label).nonzero()[:, 0]
            kinds = {"real": real, "start": starts[mine], "generated": made[mine]}
            for kind, images in kinds.items():
                for rank, image in enumerate(images[: shown[kind]]):
                    stem = f"generation-{slug(self.context.name)}-{label}-{kind}-{rank}"
                    file = f"figures/images/{stem}.png"
                    write_png(enlarged(image), self.context.folder / file)
                    rows.append(
                        {
                            "model": self.context.name,
                            "class": data.classes[label],
                            "kind": kind,
                            "rank": rank,
                            "file": file,
                        }
                    )
        return rows
