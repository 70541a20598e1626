"""The frozen evaluation copy of a model, and the units on the way through it."""

from advlens.prepared.frozen import Prepared, prepare
from advlens.prepared.units import live_features

__all__ = ["Prepared", "live_features", "prepare"]
