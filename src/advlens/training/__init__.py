"""Training that continues: the same command after any interruption ends with the same weights."""

from advlens.training.augmentation import Augmentation
from advlens.training.loop import Training

__all__ = ["Augmentation", "Training"]
