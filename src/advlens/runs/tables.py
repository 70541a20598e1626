"""The tables of a run: the columns of each, and their types."""

_OPEN = float | None
TERMS = (
    "natural_loss", "natural_accuracy", "adversarial_loss", "adversarial_accuracy", "distance",
    "divergence",
)  # fmt: skip
"""What an objective may note of the training images of an epoch."""
TRAINING = (
    {"epoch": int, "learning_rate": _OPEN, "loss": float}
    | {f"train_{term}": _OPEN for term in TERMS}
    | {"natural": float, "adversarial": float, "natural_loss": _OPEN, "adversarial_loss": _OPEN}
    | {"n": int | None, "images_per_second": _OPEN, "seconds": _OPEN}
)
TRAINING_SETTINGS = {"model": str, "recipe": str, "objective": str, "attack": str, "settings": str}
