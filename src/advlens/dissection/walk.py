"""A dissection of images that stream by."""

import os
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from advlens.arrays import Ids, Images
from advlens.attacks import Attack
from advlens.datasets import Annotations, BrodenData
from advlens.dissection.layer import Concepts, Kind, Layer, images_of
from advlens.dissection.masks import Cells
from advlens.dissection.observation import Observation
from advlens.dissection.tally import Counting, Groups, Tally, Truth
from advlens.dissection.upsampling import Upsampling
from advlens.distributed import Processes
from advlens.errors import ModelError, RunError, SettingsError
from advlens.prepared import Prepared, check_layer
from advlens.statistics import TopK, UpperTail

CELL = 28  # bytes
SLACK = 1 << 27  # bytes of kept maps that may gather before they are compacted


class Dissector:
    """Call `update` with each batch, as long as `again` says so; then `compute`.

    The first pass finds the thresholds and keeps exactly those parts of the maps that may exceed
    them. These are then counted without another look at the images. If they need more than the
    allowed memory, a second pass counts instead.

    Args:
        prepared: the model's frozen copy.
        data: images with labeled pixels.
        attack: the attack that makes the adversarial images, if any.
        processes: those that share the images; each one updates with its own.
        layers, quantile, upsampling, counting, top, memory, seed: see `Dissection`.

    Attributes:
        passes: 1, or 2 if the maps did not fit.
        predicted: class predicted on each image, by kind of images; −1 means none.
        reached: 1 where the attack reached its goal on an image, else 0.
        distances: L2 distance of each adversarial image from its real one, in pixel units.
    """

    def __init__(
        self,
        prepared: Prepared,
        data: BrodenData,
        attack: Attack | None,
        processes: Processes = Processes(),
        *,
        layers: Sequence[str],
        quantile: float,
        upsampling: Literal["receptive-field", "bilinear"],
        counting: Counting,
        top: int,
        memory: int,
        seed: int,
    ):
        if not prepared.layers:
            raise ModelError("the model has no convolution whose units could be dissected")
        self.prepared, self.data, self.attack, self.processes = prepared, data, attack, processes
        self.names = tuple(layers) or (prepared.last,)
        for name in self.names:
            check_layer(name, prepared.layers)
        self.quantile, self.upsampling, self.counting = quantile, upsampling, counting
        self.top, self.memory = top, memory
        self.kinds: tuple[Kind, ...] = (
            ("real", "adversarial", "adversarial-reestimated") if attack else ("real",)
        )
        self.images = ("real", "adversarial") if attack else ("real",)
        self.passes = 1
        self.layers: dict[str, Layer] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.kept = 0
        self.ids: list[list[int]] = []
        self.predicted = {kind: torch.full((len(data),), -1) for kind in self.images}
        self.reached = torch.zeros(len(data), dtype=torch.int64)
        self.distances = torch.zeros(len(data))
        self.groups = Groups.of(data)
        self.pixels = torch.zeros(data.label_count, dtype=torch.int64)
        self.permutation = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))

    def update(self, ids: Ids, images: Images) -> None:
        """Process a batch of the data's images, pixels in [0, 1]."""
        maps_of = dict(self._maps(ids, images))
        if self.passes == 1:
            self._observe(ids, maps_of, images.shape[2:])
            return
        truths = self._truths(ids.tolist())
        for name, layer in self.layers.items():
            for kind in self.kinds:
                cells = Cells.above(maps_of[images_of(kind)][name], layer.thresholds[kind])
                layer.count(kind, cells, truths)

    def _maps(self, ids: Ids, images: Images) -> Iterator[tuple[str, dict[str, Tensor]]]:
        with torch.no_grad():
            outputs, maps = self.prepared.maps(images, self.names)
        assert outputs is not None
        if outputs.ndim == 2:
            self.predicted["real"][ids] = outputs.argmax(dim=1).cpu()
        yield "real", maps
        if self.attack is None:
            return
        if outputs.ndim != 2:
            raise ModelError(
                f"the model returns {tuple(outputs.shape[1:])} for each image, but an attack needs "
                "a row of logits; dissect it without an attack, or give the whole classifier"
            )
        # in place of labels, which these images do not have, as they have no targets
        classes = self.attack.given(outputs.argmax(dim=1), None)
        attacked = self.attack(self.prepared, images, classes, ids=ids)
        self.distances[ids] = (attacked - images).flatten(1).norm(dim=1).float().cpu()
        goal = self.attack.goal(outputs, classes)
        with torch.no_grad():
            outputs, maps = self.prepared.maps(attacked, self.names)
        assert outputs is not None
        self.predicted["adversarial"][ids] = outputs.argmax(dim=1).cpu()
        self.reached[ids] = goal.reached(outputs).long().cpu()
        yield "adversarial", maps

    def _observe(
        self, ids: Ids, maps_of: dict[str, dict[str, Tensor]], image_shape: Sequence[int]
    ) -> None:
        self.ids.append(ids.tolist())
        if not self.layers:
            for name, maps in maps_of["real"].items():
                self._begin(name, (*maps.shape[1:], *image_shape), maps.device)
            self._check_room(next(iter(maps_of["real"].values())).device)
            if self._expected() > self.memory:
                self._forget()
        for name in self.names:
            real = maps_of["real"][name]
            seen = self.layers[name].seen
            seen["real"].update(real, ids)
            if self.attack is not None:
                bounds = seen["real"].bounds()
                seen["adversarial"].update(maps_of["adversarial"][name], ids, bounds)
        if sum(layer.nbytes for layer in self.layers.values()) > 2 * self.kept + SLACK:
            self._compact()

    def _begin(self, name: str, shape: tuple[int, ...], device: torch.device) -> None:
        units, *sides = self.shapes[name] = shape
        fields = None if self.upsampling == "bilinear" else self.prepared.fields(name)
        upsampling = Upsampling.of(
            (sides[0], sides[1]), self.data.label_shape, (sides[2], sides[3]), fields
        )
        positions = len(self.data) * sides[0] * sides[1]
        seen = {
            kind: Observation(UpperTail(self.quantile, positions, units), TopK(self.top, units))
            for kind in self.images
        }
        tallies = {
            kind: (
                Tally(units, self.groups, self.counting),
                Tally(units, self.groups, self.counting),
            )
            for kind in self.kinds
        }
        self.layers[name] = Layer(upsampling.to(device), seen, tallies)

    def _check_room(self, device: torch.device) -> None:
        """Fail at once, not after hours, if the tails of all layers do not fit."""
        kept = sum(
            seen.tail.rank * units
            for (units, *_), layer in zip(self.shapes.values(), self.layers.values(), strict=True)
            for seen in layer.seen.values()
        )
        size = 2 * 4 * kept  # float32, and as much again waits to be sorted in
        memory = (
            torch.cuda.get_device_properties(device).total_memory
            if device.type == "cuda"
            else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        )
        if size > memory:
            raise SettingsError(
                f"exact thresholds of {len(self.names)} layers on {len(self.data)} images take "
                f"{size / 1e9:.0f} GB of memory, but there are {memory / 1e9:.0f} GB; dissect "
                "fewer layers at a time"
            )

    def _expected(self) -> float:
        """Maximum bytes of cells above the thresholds: a position is a corner of four cells."""
        positions = sum(units * rows * columns for units, rows, columns, *_ in self.shapes.values())
        above = self.quantile * positions * len(self.data) / self.processes.count
        return 4 * CELL * above * len(self.images)

    def _forget(self) -> None:
        for layer in self.layers.values():
            for seen in layer.seen.values():
                seen.cells = None

    def _compact(self) -> None:
        for layer in self.layers.values():
            layer.compact()
        self.kept = sum(layer.nbytes for layer in self.layers.values())

    def again(self) -> bool:
        """Whether another pass over the images is needed; ask at the end of each pass."""
        if self.passes == 2:
            return False
        for layer in self.layers.values():
            layer.settle(self.processes)
        self._compact()
        if all(layer.complete for layer in self.layers.values()):
            self._count_kept()
            return False
        self.passes = 2
        return True

    def _count_kept(self) -> None:
        labels = self.data.annotation_batches(self.ids)
        others = self.data.annotation_batches([self.permutation[ids].tolist() for ids in self.ids])
        for number, pair in enumerate(zip(labels, others, strict=True)):
            truths = self._counted(*pair)
            for layer in self.layers.values():
                for kind in self.kinds:
                    cells = layer.seen[images_of(kind)].cells
                    assert cells is not None
                    layer.count(kind, cells[number], truths)

    def _truths(self, ids: Sequence[int]) -> tuple[Truth, Truth]:
        others = self.permutation[list(ids)].tolist()
        return self._counted(self.data.annotations(ids), self.data.annotations(others))

    def _counted(self, labels: Annotations, others: Annotations) -> tuple[Truth, Truth]:
        """The labels of a batch, which are also recorded, and those of other images."""
        device = self.prepared.device
        truth = Truth.of(labels, self.data.label_count, device)
        self.pixels += truth.pixels.cpu()
        return truth, Truth.of(others, self.data.label_count, device)

    def compute(self) -> dict[str, dict[Kind, Concepts]]:
        """What each layer's units detect on each kind of images; the same in all processes."""
        device = self.prepared.device
        self.pixels = self.processes.total(self.pixels.to(device)).cpu()
        for classes in self.predicted.values():
            classes += 1  # 0 in all processes except the one that saw the image
            classes.copy_(self.processes.total(classes.to(device)))
            classes -= 1
        self.distances = self.processes.total(self.distances.to(device)).cpu()
        self.reached = self.processes.total(self.reached.to(device)).cpu()
        for layer in self.layers.values():
            layer.merge_counts(self.processes, device)
        return {
            name: {kind: layer.concepts(kind, self.pixels) for kind in self.kinds}
            for name, layer in self.layers.items()
        }

    def state(self) -> dict[str, Tensor]:
        """Everything needed to resume after a kill."""
        kept = {
            "passes": torch.tensor(self.passes),
            "pixels": self.pixels,
            "reached": self.reached,
            "distances": self.distances,
            "ids": torch.tensor([i for ids in self.ids for i in ids], dtype=torch.int64),
            "sizes": torch.tensor([len(ids) for ids in self.ids], dtype=torch.int64),
        }
        kept |= {f"predicted.{kind}": classes for kind, classes in self.predicted.items()}
        for name, layer in self.layers.items():
            kept[f"{name}.shape"] = torch.tensor(self.shapes[name])
            kept |= layer.state(name)
        return kept

    def restore(self, state: dict[str, Tensor]) -> None:
        """Resume from a state.

        Raises:
            RunError: the state belongs to other images.
        """
        for key, own in self.state().items():
            given = state[key]
            if key not in ("ids", "sizes") and (given.dtype, given.shape) != (own.dtype, own.shape):
                raise RunError(f"a state's {key} is not of {len(self.data)} images; remove it")
        self.passes, self.pixels = int(state["passes"]), state["pixels"]
        self.reached, self.distances = state["reached"], state["distances"]
        self.predicted = {kind: state[f"predicted.{kind}"] for kind in self.images}
        sizes = state["sizes"].tolist()
        self.ids = [part.tolist() for part in torch.split(state["ids"], sizes)]
        device = self.prepared.device
        for name in self.names:
            self._begin(name, tuple(state[f"{name}.shape"].tolist()), device)
            self.layers[name].restore(state, name, device)
