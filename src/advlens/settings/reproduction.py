"""The settings of a reproduction: which part of a paper, on which models and data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, UseAppendAction, arg

from advlens.checks import check_positive, check_seed
from advlens.errors import SettingsError
from advlens.settings.models import ComputeSettings
from advlens.settings.numbers import NoHint


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings(ComputeSettings):
    """Which part of a paper is reproduced, on which models and data.

    Attributes:
        quick: the short form, on packaged images and models: it shows in minutes that every table
            and figure is made, and is no evidence on the paper's numbers.
        models: train and audit only these of the paper's models.
        table: make only these tables of the paper, by number.
        figure: make only these figures of the paper, by number.
        use: LABEL=FILE or LABEL=MODEL: take trained weights, or a model as --model of audit takes
            it, for this label, and do not train it; repeat --use for more.
        concepts: broden:DIR, images with labeled pixels for the tables of detected concepts;
            without them those tables are left out.
        inception: the folder of the FID Inception network (advlens data inception); without it,
            distances use the packaged cifar10-reference, and the page says so.
        epochs: passes over the training images (default: the recipe's).
        seed: seed of all randomness.
        device: "cpu", "cuda", "cuda:1" …; "auto" uses a GPU if there is one.

    Raises:
        SettingsError: a value is out of range, or `use` is not of its form.
    """

    quick: FlagCreatePairsOff[bool] = False
    models: Annotated[tuple[str, ...], arg(metavar="LABEL"), NoHint] = ()
    table: Annotated[tuple[int, ...], NoHint] = ()
    figure: Annotated[tuple[int, ...], NoHint] = ()
    use: UseAppendAction[Annotated[tuple[str, ...], arg(metavar="LABEL=FILE"), NoHint]] = ()
    concepts: Annotated[str | None, NoHint] = None
    inception: Annotated[Path | None, NoHint] = None
    epochs: Annotated[int | None, NoHint] = None
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "epochs", where="")
        check_seed(self, where="")
        for text in self.use:
            if not all(text.partition("=")):
                raise SettingsError(
                    f"use must be LABEL=FILE or LABEL=MODEL, as in l2=model.safetensors, not {text}"
                )

    @property
    def used(self) -> dict[str, str]:
        """The file or model that is taken for a label."""
        return {label: spec for label, _, spec in (text.partition("=") for text in self.use)}
