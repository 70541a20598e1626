"""The tables of a training, as the report reads them."""

from collections.abc import Mapping
from dataclasses import dataclass

from advlens.intervals import wilson
from advlens.runs.results import Results, Row
from advlens.words import Estimate


@dataclass(frozen=True)
class History:
    """The epochs of one model, at least one, and its settings in words, if they are known."""

    model: str
    epochs: list[Row]
    words: Mapping[str, str]

    @property
    def kept(self) -> Row:
        """The epoch whose weights are the model's."""
        return next(row for row in self.epochs if row["kept"])

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
    rows = results.table("training") or []
    settings = results.table("training_settings") or []
    words = {row["model"]: row for row in settings}
    found = []
    for model in results.models:
        mine = [row for row in rows if row["model"] == model]
        if any(row["kept"] for row in mine):
            found.append(History(model, mine, words.get(model, {})))
    return found


def share(row: Row, column: str) -> Estimate:
    """An accuracy on held-out images, with its interval where their number is known."""
    n = row["n"]
    low, high = (None, None) if n is None else wilson(round(row[column] * n), n)
    return Estimate(value=row[column], low=low, high=high, n=n or 0)
