"""One layer of a dissection: what is observed while images stream by, and what is then counted."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from advlens.dissection.masks import Cells, masks
from advlens.dissection.observation import Observation
from advlens.dissection.tally import Tally, Truth, best
from advlens.dissection.upsampling import Upsampling
from advlens.distributed import Processes
from advlens.drawing import figure_html, frame_of, scattered, table_html
from advlens.statistics import TopK

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

Kind = Literal["real", "adversarial", "adversarial-reestimated"]


def images_of(kind: Kind) -> str:
    """The images that a kind of masks is made on."""
    return "real" if kind == "real" else "adversarial"


@dataclass(frozen=True)
class Concepts:
    """What the units of a layer detect on one kind of images.

    Attributes:
        labels: each unit's label of highest IoU; ties go to the lowest number; 0 means none.
        iou: the IoU of that label.
        thresholds: T_k of each unit, in the units of its activation.
        permuted_labels: the same for each unit's masks with the labels of other images: the level
            of chance.
        permuted_iou: the IoU of that label.
        dead: whether the unit is positive nowhere on these images.
        ious: the IoU of every unit with every label number.
        top: the images of highest spatial maximum.
    """

    labels: Int64[Tensor, " units"]
    iou: Float64[Tensor, " units"]
    thresholds: Float32[Tensor, " units"]
    permuted_labels: Int64[Tensor, " units"]
    permuted_iou: Float64[Tensor, " units"]
    dead: Bool[Tensor, " units"]
    ious: Float64[Tensor, "units labels"]
    top: TopK

    def plot(self) -> "Figure":
        """The IoU of each unit against the IoU by chance."""
        most = float(torch.cat([self.iou, self.permuted_iou]).max()) or 1.0
        return scattered(self.permuted_iou, self.iou, "IoU by chance", "IoU", most)

    def to_frame(self) -> "pandas.DataFrame":
        """A row for each unit: label, IoU, threshold, IoU by chance, whether it is dead."""
        return frame_of(self._rows())

    def _repr_html_(self) -> str:
        return table_html(self._rows()) + figure_html(self.plot())

    def _rows(self) -> list[dict[str, Any]]:
        columns = {
            "label": self.labels,
            "iou": self.iou,
            "threshold": self.thresholds,
            "iou by chance": self.permuted_iou,
            "dead": self.dead,
        }
        lists = [values.tolist() for values in columns.values()]
        return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


class Layer:
    """The accumulators of one layer.

    Args:
        upsampling: the upsampling of its maps.
        seen: observations on real and adversarial images.
        tallies: the counts for each kind of masks, with the labels and with permuted ones.
    """

    def __init__(
        self,
        upsampling: Upsampling,
        seen: dict[str, Observation],
        tallies: dict[Kind, tuple[Tally, Tally]],
    ):
        self.upsampling, self.seen, self.tallies = upsampling, seen, tallies
        self.thresholds: dict[Kind, Tensor] = {}

    @property
    def complete(self) -> bool:
        """Whether all cells that may hold masked pixels have been kept."""
        return all(seen.cells is not None for seen in self.seen.values())

    @property
    def nbytes(self) -> int:
        """Memory of the kept cells, in bytes."""
        return sum(cells.nbytes for seen in self.seen.values() for cells in seen.cells or ())

    def compact(self) -> None:
        """Drop the cells that can no longer hold masked pixels."""
        real = self.seen["real"].bounds()
        for images, seen in self.seen.items():
            seen.compact(None if images == "real" else real)

    def settle(self, processes: Processes) -> None:
        """Merge what the other processes saw, and fix the thresholds."""
        for seen in self.seen.values():
            seen.merge(processes)
        for kind in self.tallies:
            own = "adversarial" if kind == "adversarial-reestimated" else "real"
            self.thresholds[kind] = self.seen[own].tail.compute()

    def count(self, kind: Kind, cells: Cells, truths: tuple[Truth, Truth]) -> None:
        """Count the masks of a batch against its labels, and against permuted ones."""
        above = masks(cells, self.thresholds[kind], self.upsampling)
        for tally, truth in zip(self.tallies[kind], truths, strict=True):
            tally.update(above, truth)

    def merge_counts(self, processes: Processes, device: torch.device) -> None:
        """Add up the counts of all processes."""
        for tally in (tally for pair in self.tallies.values() for tally in pair):
            tally.intersection = processes.total(tally.intersection.to(device)).cpu()
            tally.area = processes.total(tally.area.to(device)).cpu()

    def concepts(self, kind: Kind, pixels: Int64[Tensor, " labels"]) -> Concepts:
        """What the units detect.

        Args:
            kind: the kind of masks.
            pixels: number of pixels with each label, over all images.
        """
        ious, permuted = (tally.iou(pixels) for tally in self.tallies[kind])
        (labels, iou), (others, chance) = best(ious), best(permuted)
        top = self.seen[images_of(kind)].top
        return Concepts(
            labels=labels,
            iou=iou,
            thresholds=self.thresholds[kind].cpu(),
            permuted_labels=others,
            permuted_iou=chance,
            dead=top.compute()[0][:, 0] <= 0,
            ious=ious,
            top=top,
        )

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Everything needed to resume after a kill."""
        kept = {f"{prefix}.thresholds.{kind}": values for kind, values in self.thresholds.items()}
        for images, seen in self.seen.items():
            kept |= seen.state(f"{prefix}.{images}")
        for kind, pair in self.tallies.items():
            for number, tally in enumerate(pair):
                kept[f"{prefix}.intersection.{kind}.{number}"] = tally.intersection
                kept[f"{prefix}.area.{kind}.{number}"] = tally.area
        return kept

    def restore(self, state: dict[str, Tensor], prefix: str, device: torch.device) -> None:
        """Resume from a state."""
        for images, seen in self.seen.items():
            seen.restore(state, f"{prefix}.{images}", device)
        for kind, pair in self.tallies.items():
            if f"{prefix}.thresholds.{kind}" in state:
                self.thresholds[kind] = state[f"{prefix}.thresholds.{kind}"].to(device)
            for number, tally in enumerate(pair):
                tally.intersection = state[f"{prefix}.intersection.{kind}.{number}"]
                tally.area = state[f"{prefix}.area.{kind}.{number}"]
