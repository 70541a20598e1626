"""The parts of a layer's maps that are kept while images stream by."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from advlens.arrays import Ids
from advlens.dissection.masks import Cells
from advlens.distributed import Processes
from advlens.statistics import TopK, UpperTail


@dataclass
class Observation:
    """A unit's largest values, its strongest images, and the cells that may hold masked pixels.

    Attributes:
        tail: the largest values, for the thresholds.
        top: images by spatial maximum.
        cells: for each batch, the cells that may exceed a threshold; None once given up.
    """

    tail: UpperTail
    top: TopK
    cells: list[Cells] | None = field(default_factory=list)

    def update(
        self,
        maps: Float[Tensor, "n units h w"],
        ids: Ids,
        bounds: Float[Tensor, " units"] | None = None,
    ) -> None:
        """Process the maps of a batch.

        Args:
            maps: the layer's maps.
            ids: the images' ids.
            bounds: other thresholds at which masks are needed as well.
        """
        self.tail.update(maps.transpose(0, 1).flatten(1))
        self.top.update(maps.amax(dim=(2, 3)).float(), ids.to(maps.device))
        if self.cells is not None:
            self.cells.append(Cells.above(maps, self.bounds(bounds).to(maps.device)))

    def bounds(self, others: Float[Tensor, " units"] | None = None) -> Float[Tensor, " units"]:
        """Lower bounds of the thresholds, as far as known; maps are never negative."""
        own = self.tail.bound.clamp(min=0)
        return own if others is None else torch.minimum(own, others)

    def compact(self, others: Float[Tensor, " units"] | None = None) -> None:
        """Drop the cells below all thresholds."""
        if self.cells is not None:
            self.cells = [cells.select(self.bounds(others)) for cells in self.cells]

    def merge(self, processes: Processes) -> None:
        """Merge what the other processes saw; the cells stay with their process."""
        tails, tops = processes.gathered(self.tail.kept()), processes.gathered(self.top.kept())
        for rank in range(processes.count):
            if rank != processes.rank:
                tail = UpperTail(self.tail.share, self.tail.n, len(tails[rank]))
                top = TopK(self.top.k, len(tops[rank]))
                tail.values, top.keys = tails[rank], tops[rank]
                self.tail.merge(tail)
                self.top.merge(top)

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Everything needed to resume after a kill."""
        kept = {f"{prefix}.tail": self.tail.kept(), f"{prefix}.top": self.top.kept()}
        if self.cells is not None:
            sizes = torch.tensor([len(cells.images) for cells in self.cells])
            columns = zip(*(cells.tensors for cells in self.cells), strict=True)
            kept[f"{prefix}.sizes"] = sizes
            kept |= {f"{prefix}.cells.{i}": torch.cat(c) for i, c in enumerate(columns)}
        return kept

    def restore(self, state: dict[str, Tensor], prefix: str, device: torch.device) -> None:
        """Resume from a state."""
        self.tail.values = state[f"{prefix}.tail"].to(device)
        self.top.keys = state[f"{prefix}.top"].to(device)
        self.cells = None
        if f"{prefix}.sizes" in state:
            sizes = state[f"{prefix}.sizes"].tolist()
            columns = [
                torch.split(state[f"{prefix}.cells.{i}"].to(device), sizes) for i in range(4)
            ]
            self.cells = [Cells(*parts) for parts in zip(*columns, strict=True)]
