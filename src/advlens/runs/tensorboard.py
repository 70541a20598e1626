"""A training run's epochs for TensorBoard; needs the extra `advlens[tensorboard]`."""

from collections.abc import Callable, Mapping
from pathlib import Path

from advlens.errors import SettingsError

VALIDATION = ("natural", "adversarial", "natural_loss", "adversarial_loss")


def tensorboard_writer(out: Path) -> Callable[[Mapping[str, float]], None]:
    """A function that adds an epoch's row to `out/tensorboard`, for `Training(on_epoch=…)`.

    A resumed training run repeats its earlier epochs: the first row tells TensorBoard to forget
    what an earlier process wrote for that epoch and later ones.

    Args:
        out: the folder of the training.

    Raises:
        SettingsError: the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SettingsError(
            "TensorBoard's package is missing; install it by pip install 'advlens[tensorboard]', "
            "or leave --tensorboard out"
        ) from error
    writer: SummaryWriter | None = None

    def add(row: Mapping[str, float]) -> None:
        nonlocal writer
        epoch = int(row["epoch"])
        if writer is None:
            writer = SummaryWriter(str(Path(out) / "tensorboard"), purge_step=epoch)
        for name, value in row.items():
            if name not in ("epoch", "n", "kept"):
                writer.add_scalar(_tag(name), value, epoch)
        writer.flush()

    return add


def _tag(name: str) -> str:
    """Tags that group the charts of training images and of held-out images."""
    if name in VALIDATION:
        return f"validation/{name if name.endswith('loss') else f'{name}_accuracy'}"
    return name.replace("train_", "training/", 1) if name.startswith("train_") else f"run/{name}"
