"""How a model was trained: what the training left behind, as tables."""

from advlens.stages.training.metrics import left_beside, training_tables
from advlens.stages.training.words import Words, in_words

__all__ = ["Words", "in_words", "left_beside", "training_tables"]
