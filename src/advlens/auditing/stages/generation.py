"""Images that a model generates for a class, and their distance to real images (B23 eq. 16)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import torch
from torch import Tensor

from advlens.arrays import Images, Labels
from advlens.auditing.jobs import streamed, synthesized
from advlens.auditing.pictures import slug, write_png
from advlens.auditing.reals import Reals
from advlens.auditing.reference import feature_network, reference
from advlens.auditing.stage import Context, Look, Need, Stage, View, Work
from advlens.auditing.subjects import Part, Subject
from advlens.datasets import Batch, ImageData
from advlens.drawing import enlarged
from advlens.features import ClassGaussian, ClassGeneration
from advlens.fid.distances import Distance
from advlens.fid.representations import FeatureNetwork
from advlens.fid.sets import FEWEST, SeenSet
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
KID_IMAGES = 10_000
"""Maximum number of images of each set in a KID, whose features are kept."""


@dataclass(frozen=True, kw_only=True)
class GenerationStage:
    """Images generated for each class from a Gaussian, and their distances from real images.

    The untouched starts, and real images compared with others, are the two bounds.

    Attributes:
        reals: the real images that Gaussians are fitted to, and those that are compared.
        network: the network whose features define the distances.
        judge: an independent classifier that says what it sees, if there is one.
        method: the method that makes the images.
        per_class: images per class.
        shown: number of these, and of their starts, in the report (default: as in `SHOWN`).
    """

    reals: Reals
    network: FeatureNetwork
    judge: Classifier | None
    method: ClassGeneration = field(default_factory=ClassGeneration)
    per_class: int = 10
    shown: int | None = None
    seed: int = 0
    name: str = "generation"
    records: bool = False
    needs: tuple[Need, ...] = ("labels", "gradients", "pairs")

    def images(self, data: ImageData) -> tuple[ImageData, Sequence[int]]:
        return data, ()  # real images are read once for all models

    def passes(self, images: int) -> float:
        return self._made * (2 * self.method.steps + 2)  # and how sure it is of starts and results

    def looks(self, images: int) -> list[Look]:
        parts = dict.fromkeys((*self.reals.bound, self.reals.scored))
        real = sum(min(len(part.images), images) for part in parts)
        shared = Look(self.network, real + self._made, shared=True)  # these and the starts
        judged = [] if self.judge is None else [Look(self.judge, 2 * self._made)]
        return [shared, Look(self.network, self._made), *judged]

    @property
    def _made(self) -> int:
        return len(self.reals.classes) * self.per_class

    def start(self, context: Context) -> "_Generation":
        return _Generation(self, context)


def stages(subject: Subject, settings: AuditSettings) -> list[Stage]:
    """The stage that generates images of each class."""
    judge = reference(device_of(subject.classifier))
    small = subject.data.image_shape[1] < 96
    # B23's settings for CIFAR-10 and for Small ImageNet 150
    epsilon, step_size = (30.0, 0.5) if small else (40.0, 1.0)
    generation = GenerationStage(
        reals=Reals.of(subject, settings),
        network=feature_network(subject, settings),
        judge=judge if subject.data.classes == judge.classes else None,
        method=ClassGeneration(
            epsilon=epsilon,
            step_size=step_size,
            steps=settings.generation_steps,
            precision=settings.precision,
        ),
        per_class=settings.generated,
        shown=settings.shown,
        seed=settings.seed,
    )
    return [generation]


class _Generation(Work):
    def __init__(self, stage: GenerationStage, context: Context):
        self.stage, self.context = stage, context
        self.layer, self.source = list(stage.network.sources.items())[-1]

    def update(self, view: View) -> None:
        """Ignore the stream."""

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore nothing: only jobs save states."""

    def merge(self, other: Self) -> None:
        """Merge nothing: this work sees no images."""

    def compute(self) -> Tables:
        context, stage, reals = self.context, self.stage, self.stage.reals
        classes = reals.classes
        labels = torch.tensor(classes).repeat_interleave(stage.per_class)
        starts = self._gaussians().sample(labels, seed=stage.seed)
        seen = {part: self._seen(part) for part in dict.fromkeys((*reals.bound, reals.scored))}
        job = f"starts-{reals.fitted.fingerprint[:16]}"
        sets = {"start": self._look(job, starts, labels, shared=True)}
        made = synthesized(context, JOB, stage.method, starts, labels).cpu()
        sets["generated"] = self._look("generation.features", made, labels, shared=False)
        judged = self._judged("start", starts, labels) + self._judged("generated", made, labels)
        if not context.processes.first:
            return {}
        first, second = (seen[part] for part in reals.bound)
        rows = [self._row("real", distance) for distance in first.distances(second)]
        for kind, own in sets.items():
            rows += [self._row(kind, distance) for distance in own.distances(seen[reals.scored])]
        pictures = self._pictures(classes, labels, starts, made)
        return {"generation": rows + judged, "generation_pictures": pictures}

    def _gaussians(self) -> ClassGaussian:
        """Fitted once for all models that see the same images."""
        context, part = self.context, self.stage.reals.fitted

        def fit(gaussian: ClassGaussian, batch: Batch) -> None:
            gaussian.update(batch.images, batch.labels, batch.ids)

        return streamed(
            context,
            f"gaussians-{part.fingerprint[:16]}",
            partial(ClassGaussian, len(part.images.classes), part.images.image_shape),
            fit,
            partial(part.images.batches, context.batch_size),
            len(part.images),
            shared=True,
        )

    def _seen(self, part: Part) -> SeenSet:
        """The features of real images, computed once for all models that see the same images."""
        context, images, reals = self.context, part.images, self.stage.reals
        count = min(KID_IMAGES, len(images))
        kept = images.subset(count, seed=self.stage.seed).positions
        balanced = reals.balanced and part is reals.bound[0]
        return streamed(
            context,
            f"features-{part.fingerprint[:16]}",
            partial(SeenSet, self.source, kept, images.labels[kept] if balanced else None),
            self._add,
            partial(images.batches, context.batch_size, device=context.device),
            len(images),
            shared=True,
        )

    def _look(self, job: str, images: Images, labels: Labels, *, shared: bool) -> SeenSet:
        """The features of images that were made, a fixed number for each class."""
        context, per_class = self.context, self.stage.per_class
        most = max(KID_IMAGES * per_class // len(images), FEWEST)  # of each class
        kept = (torch.arange(len(images)) % per_class < most).nonzero()[:, 0]

        def batches(mine: list[int]) -> Iterator[Batch]:
            for first in range(0, len(mine), context.batch_size):
                ids = torch.tensor(mine[first : first + context.batch_size])
                pixels = images[ids].to(context.device)
                yield Batch(ids=ids, images=pixels, labels=labels[ids])

        start = partial(SeenSet, self.source, kept, labels[kept])
        return streamed(context, job, start, self._add, batches, len(images), shared=shared)

    def _add(self, seen: SeenSet, batch: Batch) -> None:
        seen.update(self.stage.network(batch.images)[self.layer], batch.ids)

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
            **self._sets(kind, self.stage.reals.scored.name),
        }

    def _sets(self, kind: str, other: str) -> Row:
        """The names of both sets of images, and where the starts come from."""
        reals = self.stage.reals
        if kind == "real":
            first, second = reals.bound
            return {
                "set": first.name,
                "real_set": second.name,
                "fitted_set": "",
                "n_fitted": None,
            }
        return {
            "set": f"{kind} images",
            "real_set": other,
            "fitted_set": reals.fitted.name,
            "n_fitted": len(reals.fitted.images),
        }

    def _judged(self, kind: str, images: Images, labels: Labels) -> list[Row]:
        """How sure the model is of the class, and how often an independent network sees it."""
        shares = self._each(images, lambda part: self.context.prepared(part).softmax(dim=1))
        own = shares.gather(1, labels[:, None])[:, 0].double().tolist()
        mean, low, high = mean_interval(own, 0, 1)
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
            **self._sets(kind, ""),
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
        data, rows = self.stage.reals.scored.images, list[Row]()
        shown = {kind: self.stage.shown or count for kind, count in SHOWN.items()}
        shown["real"] = SHOWN["real"]
        for label in classes[:MOST_CLASSES]:
            scored = (data.labels == label).nonzero()[: shown["real"], 0]
            real = data.images(scored.tolist()).float() / 255
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
