"""Counts of masked pixels against labeled ones, and their intersection over union."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int32, Int64
from torch import Tensor

from advlens.datasets import Annotations, BrodenData
from advlens.dissection.masks import Masks

Counting = Literal["category", "netdissect-lite"]


@dataclass(frozen=True)
class Groups:
    """Labels grouped by the categories that list them, nearly always just one.

    Attributes:
        of_label: group of each label number; −1 means none.
        members: categories of each group.
    """

    of_label: Int64[Tensor, " labels"]
    members: Bool[Tensor, "groups categories"]

    @classmethod
    def of(cls, data: BrodenData) -> "Groups":
        """The groups of a data set."""
        kinds = sorted({concept.listed for concept in data.concepts})
        of_label = torch.full((data.label_count,), -1)
        for concept in data.concepts:
            of_label[concept.number] = kinds.index(concept.listed)
        return cls(of_label, torch.tensor([[c in kind for c in data.categories] for kind in kinds]))


@dataclass(frozen=True)
class Truth:
    """The labels of a batch, in the form that is counted.

    Attributes:
        maps: label of each pixel, 0 for none, image after image.
        whole: labels of the whole image, 0 for none.
        carries: whether an image is annotated in a category.
        pixels: number of pixels with each label, over the whole batch.
    """

    maps: Int32[Tensor, "depth n_pixels"]
    whole: Int64[Tensor, "n some"]
    carries: Bool[Tensor, "n categories"]
    pixels: Int64[Tensor, " labels"]

    @classmethod
    def of(cls, annotations: Annotations, labels: int, device: torch.device) -> "Truth":
        """The labels of some annotated images.

        Args:
            annotations: the images' annotations.
            labels: largest label number + 1.
            device: the device of the masks.
        """
        maps = annotations.maps.to(device).transpose(0, 1).flatten(1)
        whole = annotations.whole.to(device).long()
        pixels = torch.bincount(maps.flatten(), minlength=labels)
        size = annotations.maps.shape[2] * annotations.maps.shape[3]
        pixels += torch.bincount(whole.flatten(), minlength=labels) * size
        return cls(maps, whole, annotations.carries.to(device), pixels)


class Tally:
    """Masked pixels of each unit, by label and by group of labels.

    Args:
        units: number of units in the layer.
        groups: the label groups.
        counting: "category" counts a mask in every image annotated in a category that lists the
            label, as Bau et al. 2017 define it; "netdissect-lite" only where the mask touches some
            label of the category, as NetDissect-Lite does.
    """

    def __init__(self, units: int, groups: Groups, counting: Counting):
        self.groups, self.counting = groups, counting
        self.intersection = torch.zeros(units, len(groups.of_label), dtype=torch.int64)
        self.area = torch.zeros(units, len(groups.members), dtype=torch.int64)

    def update(self, masks: Masks, truth: Truth) -> None:
        """Count the masks of a batch against its labels."""
        units, labels = self.intersection.shape
        images = len(truth.carries)
        sizes = torch.bincount(masks.images * units + masks.units, minlength=images * units)
        sizes = sizes.view(images, units)
        counts = sizes.new_zeros(units * labels)
        for labels_there in (maps.index_select(0, masks.places) for maps in truth.maps):
            counts += torch.bincount(masks.units * labels + labels_there, minlength=units * labels)
        counts = counts.view(units, labels)
        for whole in truth.whole.T:
            counts.index_add_(1, whole, sizes.T.contiguous())
        self.intersection += counts.cpu()
        members = self.groups.members.to(sizes.device, torch.float64)
        if self.counting == "category":
            counted = (truth.carries.double() @ members.T > 0)[:, None].expand(-1, units, -1)
        else:
            counted = self._touched(masks, truth, sizes) @ (members @ members.T) > 0
        # sums of pixels stay far below 2^53, so double is exact; GPUs cannot multiply integers
        self.area += torch.einsum("iu,iug->ug", sizes.double(), counted.double()).long().cpu()

    def _touched(
        self, masks: Masks, truth: Truth, sizes: Int64[Tensor, "n units"]
    ) -> Float64[Tensor, "n units groups"]:
        """1 where a mask touches a label of a group, else 0."""
        images, units = sizes.shape
        groups = self.groups.of_label.to(sizes.device)
        touched = sizes.new_zeros(images, units, len(self.groups.members) + 1, dtype=torch.float64)
        for labels_there in (maps.index_select(0, masks.places) for maps in truth.maps):
            # −1, no group: the last column
            touched[masks.images, masks.units, groups[labels_there]] = 1
        everywhere = torch.arange(images, device=sizes.device)
        for whole in truth.whole.T:
            touched[everywhere, :, groups[whole]] = 1
        return touched[..., :-1]

    def iou(self, pixels: Int64[Tensor, " labels"]) -> Float64[Tensor, "units labels"]:
        """Intersection over union of each unit with each label, Bau et al. 2017, equation 2.

        It is 0 for label 0 and for numbers that no category lists.

        Args:
            pixels: number of pixels with each label, over all images.
        """
        groups = self.groups.of_label
        union = self.area[:, groups] + pixels - self.intersection
        shares = self.intersection.double() / union.clamp(min=1)
        shares[:, groups < 0] = 0
        return shares


def best(
    iou: Float64[Tensor, "units labels"],
) -> tuple[Int64[Tensor, " units"], Float64[Tensor, " units"]]:
    """Each unit's label of highest IoU, and that IoU.

    Ties go to the lowest label number; the label is 0 if every IoU is 0.
    """
    labels = torch.from_numpy(np.argmax(iou.numpy(), axis=1))
    return labels, iou.gather(1, labels[:, None])[:, 0]
