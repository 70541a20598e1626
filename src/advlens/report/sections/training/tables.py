"""The tables of a training, as the report reads them."""

from collections.abc import Mapping
from dataclasses import dataclass

from advlens.intervals import wilson
from advlens.runs.results import Results, Rows
from advlens.runs.tables import Row
from advlens.words import Estimate


@dataclass(frozen=True)
class History:
    """The epochs of one model, at least one, and its settings in words, if they are known."""

    model: str
    epochs: Rows
    words: Mapping[str, str]

    @property
    def kept(self) -> Row:
        """The epoch whose weights are the model's."""
        return self.epochs.where(kept=True)[0]

    @property
    def last(self) -> Row:
        return self.epochs[-1]

    @property
    def peak(self) -> Row:
        """The first epoch of the highest adversarial accuracy on held-out images."""
        return max(self.epochs, key=lambda row: row["adversarial"])

    @property
    def attack(self) -> str:
        """That of the validation."""
        return self.words.get("attack", "the validation attack")


def histories(results: Results) -> list[History]:
    """From `training.csv` and `training_settings.csv`, in the order of the run."""
    rows = results.table("training")
    words = results.table("training_settings").by("model")
    trained = list[History]()
    for model in results.models:
        mine = rows.where(model=model)
        if mine.one(kept=True):
            trained.append(History(model, mine, words.get(model, {})))
    return trained


def share(row: Row, column: str) -> Estimate:
    """An accuracy on held-out images, with its interval where their number is known."""
    n = row["n"]
    low, high = (None, None) if n is None else wilson(round(row[column] * n), n)
    return Estimate(value=row[column], low=low, high=high, n=n or 0)
