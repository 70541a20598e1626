"""What raises a component of the representation most, and the images that do (B23 eq. 13, 14)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from advlens.auditing.jobs import synthesized
from advlens.auditing.pictures import slug, write_png
from advlens.auditing.stage import Context, Need, Stage, View, Work
from advlens.auditing.subjects import Subject
from advlens.datasets import ImageData
from advlens.drawing import enlarged
from advlens.errors import ModelError, SettingsError
from advlens.features import FeatureVisualization, noise_images
from advlens.prepared import Prepared
from advlens.runs.folder import Tables
from advlens.runs.tables import Row
from advlens.settings import AuditSettings
from advlens.statistics import TopK

JOB = "visualization.images"


@dataclass(frozen=True, kw_only=True)
class VisualizationStage:
    """Some components of the representation, each visualized from noise.

    Attributes:
        method: the method that visualizes.
        components: the components (default: some that are drawn by the seed).
        count: number of components that are drawn.
        shown: images of highest and of lowest activation beside each visualization.
    """

    method: FeatureVisualization = field(default_factory=FeatureVisualization)
    components: tuple[int, ...] = ()
    count: int = 4
    shown: int = 4
    seed: int = 0
    name: str = "visualization"
    records: bool = False
    needs: tuple[Need, ...] = ("representation", "gradients")

    def images(self, data: ImageData) -> tuple[ImageData, Sequence[int]]:
        return data, range(len(data))

    def passes(self, images: int) -> float:
        return images + 2 * self.method.steps * (len(self.components) or self.count)

    def start(self, context: Context) -> "_Visualization":
        return _Visualization(self, context)


def stages(subject: Subject, settings: AuditSettings) -> list[Stage]:
    """The stage that visualizes some components of the representation.

    Raises:
        SettingsError: the representation has no component of such a number.
    """
    if settings.components:
        _check_components(subject, settings.components)
    visualization = VisualizationStage(
        method=FeatureVisualization(
            steps=settings.visualization_steps, precision=settings.precision
        ),
        components=tuple(dict.fromkeys(settings.components)),
        count=settings.visualized,
        seed=settings.seed,
    )
    return [visualization]


def _check_components(subject: Subject, components: Sequence[int]) -> None:
    try:
        size = _dimension(subject.prepared, subject.data)
    except ModelError:  # without a representation the stage cannot run, which is said elsewhere
        return
    for component in components:
        if component >= size:
            raise SettingsError(
                f"components names {component}, but the representation of "
                f"{subject.classifier.name} has {size} components, numbered from 0"
            )


def _dimension(prepared: Prepared, data: ImageData) -> int:
    """The number of components of the representation."""
    probe = torch.zeros(1, *data.image_shape, device=prepared.device)
    with torch.no_grad():
        return prepared.representation(probe).shape[1]


class _Visualization(Work):
    def __init__(self, stage: VisualizationStage, context: Context):
        self.stage, self.context = stage, context
        random = torch.Generator().manual_seed(stage.seed)
        order = torch.randperm(_dimension(context.prepared, context.data), generator=random)
        drawn = order[: stage.count].sort().values
        self.components = torch.tensor(stage.components) if stage.components else drawn
        count = len(self.components)
        self.tops = {kind: TopK(stage.shown, count) for kind in ("most", "least")}

    def update(self, view: View) -> None:
        with torch.no_grad():
            values = view.prepared.representation(view.images)
        chosen = values[:, self.components]
        self.tops["most"].update(chosen, view.ids)
        self.tops["least"].update(-chosen, view.ids)

    def state(self) -> dict[str, Tensor]:
        return {f"visualization.{kind}": top.kept() for kind, top in self.tops.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        for kind, top in self.tops.items():
            top.keys = state[f"visualization.{kind}"]

    def merge(self, other: Self) -> None:
        for kind, top in self.tops.items():
            top.merge(other.tops[kind])

    def compute(self) -> Tables:
        context, stage = self.context, self.stage
        starts = noise_images(self.components, context.data.image_shape, seed=stage.seed)
        images = synthesized(context, JOB, stage.method, starts, self.components)
        if not context.processes.first:
            return {}
        with torch.no_grad():
            parts = map(context.prepared.representation, torch.split(images, context.batch_size))
            made = torch.cat([*parts])[torch.arange(len(self.components)), self.components].cpu()
        rows: list[Row] = []
        for place, component in enumerate(self.components.tolist()):
            rows.append(self._row(component, "visualized", 0, made[place], images[place]))
            for kind, sign in (("most", 1), ("least", -1)):
                values, ids = (part[place] for part in self.tops[kind].compute())
                shown = context.data.images(ids.tolist()).float() / 255
                for rank, (value, number) in enumerate(zip(values, ids.tolist(), strict=True)):
                    label = context.data.classes[int(context.data.labels[number])]
                    rows.append(self._row(component, kind, rank, sign * value, shown[rank], label))
        return {"visualization_pictures": rows}

    def _row(
        self,
        component: int,
        kind: str,
        rank: int,
        activation: Tensor,
        image: Tensor,
        label: str = "",
    ) -> Row:
        stem = f"visualization-{slug(self.context.name)}-{component}-{kind}-{rank}"
        file = f"figures/images/{stem}.png"
        write_png(enlarged(image), self.context.folder / file)
        return {
            "model": self.context.name,
            "component": component,
            "kind": kind,
            "rank": rank,
            "file": file,
            "activation": activation.item(),
            "label": label,
        }
