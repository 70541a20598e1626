"""Network dissection (Bau et al. 2017), on real images and under attack (D19, D22)."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from advlens.attacks import Attack
from advlens.checks import check_numbers, check_positive, check_types
from advlens.datasets import BrodenData
from advlens.dissection.layer import Concepts, Kind
from advlens.dissection.tally import Counting
from advlens.dissection.walk import Dissector
from advlens.distributed import Processes
from advlens.errors import SettingsError
from advlens.models.classifier import device_of
from advlens.prepared import Prepared, prepare


@dataclass(frozen=True, kw_only=True)
class Dissection:
    """Name what each unit detects: its best concept by intersection over union.

    A unit's mask is the part of its activation map, upsampled bilinearly to the size of the label
    maps, that exceeds the unit's threshold T_k: the value with P(a_k > T_k) = `quantile` over all
    positions of all images, exactly.

    Attributes:
        layers: names of convolutions (default: the last one).
        quantile: share of the positions above a threshold.
        upsampling: "receptive-field" places a map's positions at the centers of their receptive
            fields; "bilinear" spreads them evenly.
        counting: "category" counts a mask in every image annotated in the label's category;
            "netdissect-lite" only where it touches a label of the category, as that tool does.
        top: number of strongest images to keep for each unit.
        memory: bytes for the kept parts of the maps; if they do not suffice, the images pass twice.
        batch_size: images per step.
        seed: the seed of the label permutation (and of nothing else).
    """

    layers: tuple[str, ...] = ()
    quantile: float = 0.005
    upsampling: Literal["receptive-field", "bilinear"] = "receptive-field"
    counting: Counting = "category"
    top: int = 8
    memory: int = 2**31
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        check_numbers(self, "quantile", above=0, below=1)
        check_positive(self, "top", "batch_size")

    def __call__(
        self, model: nn.Module, data: BrodenData, attack: Attack | None = None
    ) -> dict[str, dict[Kind, Concepts]]:
        """Dissect some layers.

        Args:
            model: pixels in [0, 1] → logits; without an attack, any output.
            data: images with labeled pixels, of the model's size.
            attack: the attack that makes the adversarial images. These have no labels: one that
                needs them leaves the class that the model predicts.

        Returns:
            For each layer the concepts on the real images and, with an attack, on the adversarial
            ones: both with the thresholds of the real images and with their own.

        Raises:
            DataError: an image or a label map cannot be read.
            ModelError: the model has no such layer.
            SettingsError: the data are no images with labeled pixels.
            NumericError: an activation is not finite.
        """
        walk = self.begin(prepare(model), data, attack)
        device = device_of(model)
        again = True
        while again:
            for batch in data.batches(self.batch_size):
                walk.update(batch.ids, batch.images.to(device))
            again = walk.again()
        return walk.compute()

    def begin(
        self,
        prepared: Prepared,
        data: BrodenData,
        attack: Attack | None = None,
        processes: Processes = Processes(),
    ) -> Dissector:
        """A dissection that is fed batch by batch, in several processes if needed.

        Raises:
            ModelError: the model has no such layer.
            SettingsError: the data are no images with labeled pixels.
        """
        if not isinstance(data, BrodenData):
            raise SettingsError(
                'data must be images with labeled pixels, as advlens.load_data("broden:DIR") '
                f"gives them, not {type(data).__name__}"
            )
        return Dissector(
            prepared,
            data,
            attack,
            processes,
            layers=self.layers,
            quantile=self.quantile,
            upsampling=self.upsampling,
            counting=self.counting,
            top=self.top,
            memory=self.memory,
            seed=self.seed,
        )
