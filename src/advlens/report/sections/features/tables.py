"""The tables of what a model has learned, as the report reads them."""

import re
from functools import cached_property
from typing import NamedTuple, get_args

from advlens.report.tables import Tables, table
from advlens.runs.columns import Made
from advlens.runs.results import Rows
from advlens.runs.tables import Row
from advlens.words import Estimate, count

KINDS = get_args(Made)
DISTANCES = ("fid", "kid")
OWN = ("representation", "pixels")
"""Measures of an inversion that no other network takes."""
STARTS = {"noise": "noise", "image": "an image of another class"}


class Network(NamedTuple):
    """What measures the distance of two sets of images."""

    features: str
    dimension: int | None
    resize: str

    @property
    def text(self) -> str:
        """Such as "Inception-v3, 2048 features, images resized bilinearly to 299×299"."""
        size = "" if self.dimension is None else f"{self.dimension} features"
        resize = f"images {self.resize}" if self.resize else ""
        return ", ".join(filter(None, (self.features, size, resize)))

    @property
    def is_inception(self) -> bool:
        """Whether these are the features that published scores rest on."""
        return "inception" in self.features.lower() and self.dimension == 2048


class FeatureTables(Tables):
    """The tables of visualization, inversion and generation."""

    inversion = table("inversion")
    inversion_pictures = table("inversion_pictures")
    visualization_pictures = table("visualization_pictures")
    generation = table("generation")
    generation_pictures = table("generation_pictures")

    @property
    def any(self) -> bool:
        """Whether there is one of them."""
        shown = self.inversion_pictures or self.visualization_pictures or self.generation_pictures
        return bool(shown or self.inversion or self.generation)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the data's classes."""
        return tuple(self.results.record["data"]["classes"])

    @cached_property
    def starts(self) -> list[str]:
        """Of inversions."""
        return self.inversion.values("start")

    @cached_property
    def layers(self) -> list[str]:
        """Measures of an inversion that are distances in another network's features."""
        return [measure for measure in self.inversion.values("measure") if measure not in OWN]

    def layer(self, measure: str) -> str:
        """Whose features a measure of an inversion compares: "192 features of Inception-v3"."""
        features = self.inversion.where(measure=measure)[0]["features"]
        return f"{layer_name(measure)} of {features}"

    def inverted(self, start: str, measure: str) -> dict[str, Estimate]:
        """Mean distance of inverted images from their targets for each model."""
        return self.inversion.where(start=start, measure=measure).estimates()

    @cached_property
    def networks(self) -> list[Network]:
        """Those that FID and KID were taken with."""
        return list(dict.fromkeys(map(network, self.distances)))

    @cached_property
    def distances(self) -> Rows:
        """Rows of FID and KID."""
        return self.generation.where(measure=DISTANCES)

    def distance(self, images: str, measure: str, measured: Network) -> dict[str, Estimate]:
        """FID or KID of a kind of images from real ones, for each model."""
        keys = measured._asdict()
        return self.distances.where(images=images, measure=measure, **keys).estimates()

    def compared(self) -> str:
        """The sets of images behind FID and KID, in sentences; runs of earlier versions named none.

        Models that see other images have sentences of their own.
        """
        rows = self.distances.where(measure="fid")
        made = [
            f" Gaussians are fitted to {of_set(row, 'n_fitted', 'fitted_set')}; what is made from "
            f"them is compared with {of_set(row, 'n_real', 'real_set')}."
            for row in rows.where(images="generated")
            if row["fitted_set"]
        ]
        real = [
            f" Real images are {of_set(row, 'n', 'set')}, compared with "
            f"{of_set(row, 'n_real', 'real_set')}."
            for row in rows.where(images="real")
            if row["set"]
        ]
        return "".join(dict.fromkeys(made + real))

    @cached_property
    def leaks(self) -> list[str]:
        """Images that Gaussians are fitted to and generated images are compared with."""
        rows = self.distances.where(images="generated")
        return [s for s, other in rows.values("fitted_set", "real_set") if s and s == other]

    @cached_property
    def recognizers(self) -> list[str]:
        """Networks that were asked which class generated images show."""
        return self.generation.where(measure="recognized").values("features")

    def recognized(self, images: str, recognizer: str) -> dict[str, Estimate]:
        """Share of images that a network takes for the wanted class, for each model."""
        rows = self.generation.where(images=images, measure="recognized", features=recognizer)
        return rows.estimates()


def layer_name(measure: str) -> str:
    """A layer that goes by its size, "192 (192 features)", says so once."""
    return re.sub(r"^(\d+) \(\1 features\)$", r"\1 features", measure)


def of_set(row: Row, size: str, name: str) -> str:
    """A set of images behind a row of `generation.csv`: "10,000 images (CIFAR-10 test)"."""
    return f"{count(row[size] or 0)} images ({row[name]})"


def network(row: Row) -> Network:
    """That of a row of `generation.csv`."""
    return Network(row["features"], row["dimension"], row["resize"])
