"""A finished run in MLflow, Weights & Biases or TensorBoard, each an extra of the package."""

import importlib
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
from PIL import Image

from advlens.errors import SettingsError
from advlens.runs.reader import RunResults, read_run

ARTIFACTS = ("results", "figures", "report.html")
"""What MLflow keeps of a run folder: tables, figures and the report."""


def log_to_mlflow(run: str | Path) -> str:
    """Log a run folder to the active MLflow run, or to a new one that is named after the folder.

    Settings become parameters, accuracies metrics, and the tables, figures and report artifacts.

    Args:
        run: a finished run folder of `advlens audit` or `dissect`.

    Returns:
        The id of the MLflow run.

    Raises:
        RunError: as `read_run`.
        SettingsError: MLflow is not installed.
    """
    read = read_run(run)
    mlflow = _imported("mlflow", "mlflow")
    active = mlflow.active_run()
    with nullcontext(active) if active else mlflow.start_run(run_name=read.folder.name) as into:
        mlflow.log_params(_settings(read))
        mlflow.log_metrics({re.sub(r"[^\w./: -]", "_", name): v for name, v in _metrics(read)})
        for name in ARTIFACTS:
            if (path := read.folder / name).exists():  # not every run has figures
                mlflow.log_artifact(str(path))
    return str(into.info.run_id)


def log_to_wandb(run: str | Path, **init: Any) -> None:
    """Log a run folder to the active run of Weights & Biases, or to a new one.

    Settings become the configuration, accuracies the summary, tables and figures tables and images.

    Args:
        run: a finished run folder of `advlens audit` or `dissect`.
        init: keywords of `wandb.init` for a new run, such as `project` and `mode="offline"`.

    Raises:
        RunError: as `read_run`.
        SettingsError: wandb is not installed.
    """
    read = read_run(run)
    wandb = _imported("wandb", "wandb")
    active, new = wandb.run, {"project": "advlens", "name": read.folder.name} | init
    with nullcontext(active) if active else wandb.init(**new) as into:
        into.config.update(_settings(read))
        into.summary.update(dict(_metrics(read)))
        for name in read.tables:
            columns = read.results.columns(name)
            rows = [[row[column] for column in columns] for row in read.rows(name)]
            into.log({f"results/{name}": wandb.Table(columns=columns, data=rows)})
        for path in _figures(read):
            into.log({f"figures/{path.stem}": wandb.Image(str(path))})


def log_to_tensorboard(run: str | Path, folder: str | Path) -> None:
    """Write a run folder's accuracies as scalars, its tables as texts and its figures as images.

    Args:
        run: a finished run folder of `advlens audit` or `dissect`.
        folder: where the events go; TensorBoard's `--logdir` is this folder or one above it.

    Raises:
        RunError: as `read_run`.
        SettingsError: TensorBoard is not installed.
    """
    read = read_run(run)
    tensorboard = _imported("torch.utils.tensorboard", "tensorboard")
    with tensorboard.SummaryWriter(str(folder)) as writer:
        for name, value in _metrics(read):
            writer.add_scalar(name, value)
        for name in read.tables:
            text = (read.folder / "results" / f"{name}.csv").read_text(encoding="utf-8")
            writer.add_text(f"results/{name}", indent(text, " " * 4))  # Markdown's code
        for path in _figures(read):
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            writer.add_image(f"figures/{path.stem}", pixels, dataformats="HWC")


def _settings(run: RunResults) -> dict[str, Any]:
    return {name: value for name, value in run.record["settings"].items() if value is not None}


def _metrics(run: RunResults) -> Iterator[tuple[str, float]]:
    """The share of images predicted right by each model under each attack, by name."""
    for row in run.results.table("accuracy"):
        words = (row["attack"], row["norm"], row["epsilon"], row["steps"], row["settings"])
        attack = " ".join(str(word) for word in words if word)
        yield f"top1/{row['model']}/{attack}", row["top1"]


def _figures(run: RunResults) -> list[Path]:
    return sorted((run.folder / "figures").glob("*.png"))


def _imported(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"{extra} is not installed; install it with: pip install 'advlens[{extra}]'"
        ) from error
