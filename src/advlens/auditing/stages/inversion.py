"""Do images with the same representation look the same (B23 eq. 15)?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from advlens.arrays import Images, PerImage
from advlens.auditing.jobs import synthesized
from advlens.auditing.per_image import in_blocks
from advlens.auditing.pictures import slug, write_png
from advlens.auditing.reference import feature_network
from advlens.auditing.stage import Context, Look, Need, Stage, View, Work
from advlens.auditing.subjects import Subject
from advlens.datasets import ImageData
from advlens.drawing import enlarged
from advlens.features import Inversion, noise_images
from advlens.fid.distances import feature_distances
from advlens.fid.representations import FeatureNetwork
from advlens.intervals import mean_interval
from advlens.runs.folder import Tables
from advlens.runs.tables import Row
from advlens.settings import AuditSettings

STARTS = ("noise", "image")
OWN = "representation"
"""The distance in a model's own features, which are not those of another model."""


@dataclass(frozen=True, kw_only=True)
class InversionStage:
    """Images inverted from noise and from an image of another class, and how near they come.

    Attributes:
        network: the network whose features measure the distance between an image and its inversion.
        method: the method that inverts.
        starts: what it starts from: noise, and an image of another class where there is one.
        count: size of the seeded, class-balanced subset.
        shown: number of these in the report.
    """

    network: FeatureNetwork
    method: Inversion = field(default_factory=Inversion)
    starts: tuple[str, ...] = STARTS
    count: int = 8
    shown: int = 4
    seed: int = 0
    name: str = "inversion"
    records: bool = False
    needs: tuple[Need, ...] = ("representation", "gradients")

    def images(self, data: ImageData) -> tuple[ImageData, Sequence[int]]:
        return data, ()  # few, and of no use one by one

    def passes(self, images: int) -> float:
        steps = len(self.starts) * min(self.count, images) * 2 * self.method.steps
        return steps + self._seen(images)

    def looks(self, images: int) -> list[Look]:
        return [Look(self.network, self._seen(images))]

    def _seen(self, images: int) -> int:
        """Images whose features are compared: targets, starts and what is made of these."""
        return min(self.count, images) * (1 + 2 * len(self.starts))

    def start(self, context: Context) -> "_Inversion":
        return _Inversion(self, context)


def stages(subject: Subject, settings: AuditSettings) -> list[Stage]:
    """The stage that inverts the representations of some images."""
    one_class = bool((subject.data.labels == subject.data.labels[0]).all())
    if one_class:
        subject.warnings.append(
            f"All images of {subject.data.name} are of one class, so representations are "
            "inverted from noise alone, not from an image of another class"
        )
    inversion = InversionStage(
        network=feature_network(subject, settings),
        method=Inversion(steps=settings.inversion_steps, precision=settings.precision),
        starts=STARTS[:1] if one_class else STARTS,
        count=settings.inverted,
        shown=settings.shown or InversionStage.shown,
        seed=settings.seed,
    )
    return [inversion]


class _Inversion(Work):
    def __init__(self, stage: InversionStage, context: Context):
        self.stage, self.context = stage, context
        chosen = context.data.subset(min(stage.count, len(context.data)), seed=stage.seed)
        self.ids: list[int] = chosen.positions.tolist()

    def update(self, view: View) -> None:
        """Ignore the stream."""

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore nothing: only `synthesized` saves state."""

    def merge(self, other: Self) -> None:
        """Merge nothing: this work sees no images."""

    def compute(self) -> Tables:
        targets = self.context.data.images(self.ids).float() / 255
        shape, seed = self.context.data.image_shape, self.stage.seed
        starts = {"noise": noise_images(torch.tensor(self.ids), shape, seed=seed)}
        others = list[int]()
        if "image" in self.stage.starts:
            others = self._others()
            starts["image"] = self.context.data.images(others).float() / 255
        wanted = self._seen(targets)
        rows: list[Row] = []
        each: list[Row] = []
        pictures: list[Row] = []
        for start in self.stage.starts:
            job = f"inversion.from-{start}"
            method = self.stage.method
            made = synthesized(self.context, job, method, starts[start], targets).cpu()
            if not self.context.processes.first:
                continue
            measured, before = (
                self._measured(self._seen(images), wanted) for images in (made, starts[start])
            )
            rows += [self._row(start, *key, measured[key], before[key]) for key in measured]
            each += [
                {"model": self.context.name, "start": start, "measure": measure, **block}
                for (measure, _), values in measured.items()
                for block in in_blocks("values", values.tolist())
            ]
            pictures += self._pictures(
                start,
                starts[start],
                targets,
                made,
                measured[OWN, self.context.name],
                others if start == "image" else None,
            )
        return {"inversion": rows, "inversion_images": each, "inversion_pictures": pictures}

    def _others(self) -> list[int]:
        """For each image one of another class: the next among those chosen, or any of the data."""
        labels = self.context.data.labels
        others = []
        for place, image in enumerate(self.ids):
            around = [*self.ids[place + 1 :], *self.ids[:place], *range(len(labels))]
            others.append(next(o for o in around if labels[o] != labels[image]))
        return others

    def _seen(self, images: Images) -> dict[tuple[str, str], Tensor]:
        """The values of each image that are compared, by measure and network."""
        parts = [self._values(part) for part in torch.split(images, self.context.batch_size)]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def _values(self, images: Images) -> dict[tuple[str, str], Tensor]:
        context, network = self.context, self.stage.network
        given = images.to(context.device)
        with torch.no_grad():
            own = context.prepared.representation(given)
        features = network(given)
        return {
            (OWN, context.name): own,
            ("pixels", ""): images.flatten(1),
            **{
                (f"{source.layer} ({source.dimension} features)", source.network): features[layer]
                for layer, source in network.sources.items()
            },
        }

    def _measured(
        self, seen: dict[tuple[str, str], Tensor], wanted: dict[tuple[str, str], Tensor]
    ) -> dict[tuple[str, str], PerImage]:
        """Distance of each image from its target; in the own representation, relative to length."""
        distances = {key: feature_distances(seen[key], wanted[key]).cpu() for key in seen}
        own = OWN, self.context.name
        distances[own] /= wanted[own].double().norm(dim=1).cpu()
        return distances

    def _row(
        self, start: str, measure: str, network: str, values: PerImage, before: PerImage
    ) -> Row:
        mean, low, high = mean_interval(values.tolist(), least=0)
        method = self.stage.method
        return {
            "model": self.context.name,
            "start": start,
            "measure": measure,
            "features": network,
            "steps": method.steps,
            "epsilon": method.epsilon,
            "step_size": method.step_size,
            "mean": mean,
            "low": low,
            "high": high,
            "n": len(values),
            "untouched": before.mean().item(),
            "spread": values.std().item() if len(values) > 1 else None,
        }

    def _pictures(
        self,
        start: str,
        starts: Images,
        targets: Images,
        made: Images,
        distances: PerImage,
        others: Sequence[int] | None,
    ) -> list[Row]:
        data = self.context.data
        rows: list[Row] = []
        for rank in range(min(self.stage.shown, len(made))):
            files = {}
            for kind, images in (("start", starts), ("target", targets), ("inverted", made)):
                stem = f"inversion-{slug(self.context.name)}-{start}-{rank}-{kind}"
                files[kind] = f"figures/images/{stem}.png"
                write_png(enlarged(images[rank]), self.context.folder / files[kind])
            label = data.classes[int(data.labels[self.ids[rank]])]
            other = "" if others is None else data.classes[int(data.labels[others[rank]])]
            rows.append(
                {
                    "model": self.context.name,
                    "start": start,
                    "rank": rank,
                    "target_label": label,
                    "start_label": other,
                    "start_file": files["start"],
                    "target_file": files["target"],
                    "file": files["inverted"],
                    "distance": distances[rank].item(),
                }
            )
        return rows
