"""Reproductions: a paper's models trained, audited side by side, and its table beside ours.

Each is a file in `reproductions/` with the models and their recipes, the settings of the audit, the
rows of the table, and where ours lie among the results.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from advlens.auditing import audit
from advlens.datasets import ImageData
from advlens.errors import RunError, SettingsError
from advlens.files import locked
from advlens.models import Classifier, load_model, network_of
from advlens.runs.folder import write_csv, write_text
from advlens.runs.results import Results
from advlens.runs.tables import Row
from advlens.settings import AuditSettings, TrainSettings, parse_number
from advlens.settings.files import settings_from
from advlens.settings.packaged import packaged, recipe_settings
from advlens.workflows.training import load_classifier, load_images, sample_parts, train

SEED = 0
"""Seed of the parts of the data that the quick form uses."""


def reproduce(
    name: str,
    data: str | None,
    out: Path,
    *,
    quick: bool,
    command: str,
    report: Callable[[str], None] = print,
) -> Path:
    """Train the models that `out` does not hold yet, audit them, and write the table.

    Args:
        name: name of the reproduction.
        data: a specification (see `load_data`); the quick form uses the packaged sample.
        out: the folder to write: one for each model, `audit`, `results/reproduction.csv` and
            `reproduction.md`.
        quick: run the short form.
        command: shown as the way to reproduce it.
        report: called with lines for the user.

    Returns:
        The path of `reproduction.md`.

    Raises:
        SettingsError: the reproduction or form does not exist, or data is missing.
        AdvlensError: as in training and the audit; finished work is kept.
    """
    content = packaged("reproductions", name)
    if quick and "quick" not in content:
        raise SettingsError(f"{name} has no quick form; leave --quick out")
    if data in (None, "sample") and not quick:
        raise SettingsError(f"{name} needs {content['needs']}")
    form = "quick form: little data, a small network" if quick else "full form"
    work = Work(content, content["quick"] if quick else {}, data or "sample", out, command)
    with locked(out):
        for number, label in enumerate(content["models"], start=1):
            report(f"model {number} of {len(content['models'])}: {label}")
            work.train(label)
        report(f"audit of {len(content['models'])} models")
        names = work.audit()
        rows = [row for wanted in content["rows"] for row in compared(wanted, out / "audit", names)]
        write_csv(out / "results" / "reproduction.csv", [{**row, "quick": quick} for row in rows])
        lines = [f"# {name} ({form})", "", f"{content['about']} ({content['source']})", ""]
        lines += [*table(rows), "", *orders(content["rows"], rows), "", f"Made by `{command}`."]
        text = "\n".join(lines) + "\n"
        write_text(out / "reproduction.md", text)
    report(f"\n{text}")
    return out / "reproduction.md"


@dataclass(frozen=True)
class Work:
    """A reproduction in progress.

    Attributes:
        content: the content of its file.
        quick: the file's settings for the quick form; empty for the full one.
    """

    content: Mapping[str, Any]
    quick: Mapping[str, Any]
    data: str
    out: Path
    command: str

    def train(self, label: str) -> None:
        """Train one model, unless it is already trained."""
        recipe = self.content["models"][label].get("recipe")
        if recipe is None:
            return
        spec, settings = self.training(label)
        classifier = load_classifier(spec, settings)
        images, test = self.images(classifier)
        train(
            classifier,
            images,
            test,
            self.out / label,
            settings,
            command=self.command,
            recipe=f"{recipe}, quick form" if self.quick else recipe,
        )

    def training(self, label: str) -> tuple[str, TrainSettings]:
        """The specification of a model before its training, and its training settings."""
        values, start = self._settings(label), self.content["models"][label].get("start")
        spec = str(values.pop("model"))
        settings = settings_from(TrainSettings, values, f"the settings of {label}")
        return (spec if start is None else self._spec(start)), settings

    def _settings(self, label: str) -> dict[str, Any]:
        """The settings of a model's recipe, with the changes of the quick form."""
        model = self.content["models"][label]
        settings = recipe_settings(model["recipe"])
        if self.quick:
            settings |= self.quick.get("train", {}) | model.get("quick", {})
        return settings

    def audit(self) -> dict[str, str]:
        """Audit all models; return their names in the tables, by label."""
        models = [self._spec(label) for label in self.content["models"]]
        values = self.content["audit"] | self.quick.get("audit", {})
        settings = settings_from(AuditSettings, values, "the audit's settings")
        data: str | ImageData = self.data
        if self.quick:
            _, data = self.images(load_model(models[0]))
        out = self.out / "audit"
        audit(models, data, out, settings=settings, command=self.command)
        return dict(zip(self.content["models"], Results.read(out).models, strict=True))

    def _spec(self, label: str) -> str:
        """The specification of a trained model."""
        model = self.content["models"][label]
        if "recipe" not in model:
            return str(model["model"])
        network = network_of(self._settings(label)["model"])
        return f"{network}@{self.out / label / 'model.safetensors'}"

    def images(self, classifier: Classifier) -> tuple[ImageData, ImageData]:
        """Disjoint images for training and testing."""
        if not self.quick:
            return load_images(self.data, classifier)
        count, tested = self.quick["train_images"], self.quick["test_images"]
        if self.data != "sample":
            images, test = load_images(self.data, classifier)
            return images.subset(count, seed=SEED), test.subset(tested, seed=SEED)
        rest, part = sample_parts(classifier, tested)
        return rest.subset(count, seed=SEED), part


def compared(wanted: Mapping[str, Any], run: Path, names: Mapping[str, str]) -> list[Row]:
    """The paper's value and ours for each model of a row.

    Raises:
        RunError: the results hold no such row, or several.
    """
    path = run / "results" / f"{wanted['table']}.csv"
    column, scale = wanted["column"], 100 if wanted.get("percent") else 1
    ours: dict[str, Any] = dict.fromkeys((column, f"{column}_low", f"{column}_high"), float | None)
    texts = dict.fromkeys(("model", *wanted.get("where", {})), str)
    candidates = Results.read(run).table(wanted["table"], {**texts, **ours, "n": int})
    rows: list[Row] = []
    for label, value in wanted["paper"].items():
        where = {"model": names[label], **wanted.get("where", {})}
        fits = [
            row for row in candidates if all(_same(row[key], is_) for key, is_ in where.items())
        ]
        if len(fits) != 1:
            raise RunError(f"{path} has {len(fits)} rows for {where}; remove {run} and start again")
        value_here, low, high = (
            math.nan if fits[0][name] is None else fits[0][name] * scale for name in ours
        )
        rows.append(
            {
                "what": wanted["what"],
                "model": label,
                "paper": float(value),
                "ours": value_here,
                "low": low,
                "high": high,
                "n": fits[0]["n"],
            }
        )
    return rows


def _same(text: str, wanted: str) -> bool:
    """Whether a cell holds a value: as text, or as a number up to the digits of a table."""
    if text == wanted:
        return True
    try:
        return math.isclose(parse_number(text), parse_number(wanted), rel_tol=1e-4)
    except ValueError:
        return False


def table(rows: Sequence[Row]) -> list[str]:
    """The comparison as a Markdown table."""
    cells: list[tuple[str, ...]] = [("", "model", "paper", "ours (95 % interval)", "n")]
    cells += [
        (
            row["what"],
            row["model"],
            f"{row['paper']:.4g}",
            f"{row['ours']:.3g} ({row['low']:.3g} to {row['high']:.3g})",
            f"{row['n']:,}",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, tuple("-" * width for width in widths))
    return [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]


def orders(wanted: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> list[str]:
    """For each row of several models, whether ours are in the paper's order."""
    lines = []
    for one in wanted:
        mine = [row for row in rows if row["what"] == one["what"]]
        if len(mine) < 2 or not one.get("ordered", True):
            continue
        mine.sort(key=lambda row: -row["paper"])
        holds = all(a["ours"] > b["ours"] for a, b in pairwise(mine))
        apart = all(a["low"] > b["high"] for a, b in pairwise(mine))
        said = "holds here" if holds else "does not hold here"
        if holds and not apart:
            said += ", but the intervals overlap"
        lines.append(f"- {one['what']}: {' > '.join(row['model'] for row in mine)} {said}.")
    return ["The paper's order:", "", *lines] if lines else []
