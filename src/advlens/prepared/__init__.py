"""The frozen evaluation copy of a model, and its units."""

from advlens.prepared.frozen import Prepared, prepare
from advlens.prepared.geometry import Fields
from advlens.prepared.inputs import check_classes, check_labels, number_images, place_images
from advlens.prepared.trial import CHECKED
from advlens.prepared.units import check_layer, live_features

__all__ = [
    "CHECKED",
    "Fields",
    "Prepared",
    "check_classes",
    "check_labels",
    "check_layer",
    "live_features",
    "number_images",
    "place_images",
    "prepare",
]
