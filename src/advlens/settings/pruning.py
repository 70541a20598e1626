"""The settings of pruning, in addition to those of the audit that follows it."""

from dataclasses import dataclass
from typing import Annotated

from advlens.checks import check_number, check_positive
from advlens.errors import SettingsError
from advlens.settings.audit import AuditSettings, Stages
from advlens.settings.numbers import NoHint


@dataclass(frozen=True, kw_only=True)
class FineTuneSettings:
    """How models are pruned and fine-tuned.

    Attributes:
        sparsity: shares of the channels of every convolution to prune, each ≥ 0 and < 1; 0
            fine-tunes the whole network, which shows the effect of fine-tuning alone.
        recipes: the recipe that fine-tunes each model, in order, or one for all (default: the
            recipe with the model's name).
        epochs: passes over the training images.
        learning_rate: peak of the schedule (default: a tenth of the recipe's).
        train_images: size of a seeded, class-balanced subset to fine-tune on (default: all images).
        threads: CPU threads (default: torch's choice); the same number gives the same bits.
    """

    sparsity: tuple[float, ...] = (0.25, 0.5, 0.75)
    recipes: Annotated[tuple[str, ...], NoHint] = ()
    epochs: int = 5
    learning_rate: Annotated[float | None, NoHint] = None
    train_images: Annotated[int | None, NoHint] = None
    threads: Annotated[int | None, NoHint] = None


@dataclass(frozen=True, kw_only=True)
class PruneSettings(AuditSettings, FineTuneSettings):
    """How models are pruned and fine-tuned, and what the audit of all of them measures.

    Raises:
        SettingsError: a value is out of range.
    """

    stages: Stages = ("accuracy", "neurons", "attribution", "inversion")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "epochs", "learning_rate", "train_images", "threads", where="")
        if not self.sparsity:
            raise SettingsError("sparsity names no share of channels; give some, such as .25 .5")
        labels = [f"{value:g}" for value in self.sparsity]
        for value, label in zip(self.sparsity, labels, strict=True):
            check_number("sparsity", value, least=0, below=1)
            if labels.count(label) > 1:
                raise SettingsError(f"sparsity has {label} twice; give each share once")
