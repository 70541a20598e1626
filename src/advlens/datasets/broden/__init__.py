"""Images with labels for every pixel, in the Broden layout: reading, fetching, making."""

from advlens.datasets.broden.building import build_broden
from advlens.datasets.broden.data import Annotations, BrodenData
from advlens.datasets.broden.fetching import fetch_broden
from advlens.datasets.broden.layout import Concept

__all__ = ["Annotations", "BrodenData", "Concept", "build_broden", "fetch_broden"]
