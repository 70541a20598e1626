"""Training that continues: the same command after any interruption ends with the same weights.

All randomness is a function of (seed, epoch, image id), so a checkpoint needs no generator state.
"""

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from advlens.attacks import Attack, Pgd
from advlens.checkpoint import load_checkpoint, save_checkpoint
from advlens.datasets import ImageData
from advlens.errors import NumericError, RunError, SettingsError
from advlens.files import locked
from advlens.models import Classifier, save_weights
from advlens.objectives import Objective, Standard, TrainingBatch
from advlens.prepared import Prepared, live_features, prepare
from advlens.runs import fingerprint, write_text
from advlens.seeding import derived
from advlens.signals import remembered_signals
from advlens.threat import L2


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of a training run.

    SGD with Nesterov momentum under a one-cycle schedule; random crops of the images padded by 4
    pixels, and flips. The epoch with the best mean of natural and adversarial accuracy on a
    validation split, cut from the training set, is kept.

    Attributes:
        objective: the loss.
        epochs: passes over the training set.
        batch_size: images per step.
        learning_rate: the peak of the schedule.
        momentum: of SGD.
        weight_decay: L2 penalty on all parameters.
        validation: number of training images held out to choose the epoch.
        validation_attack: the attack whose accuracy counts there.
        precision: "bf16" runs the step in mixed precision; validation is always float32.
        checkpoint_every: seconds between checkpoints.
        seed: of initialization, order, augmentation and attacks.
    """

    objective: Objective = field(default_factory=Standard)
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    validation: int = 1000
    validation_attack: Attack = field(default_factory=lambda: Pgd(threat=L2(epsilon=0.5), steps=10))
    precision: Literal["float32", "bf16"] = "float32"
    checkpoint_every: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "validation"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise SettingsError(f"{name} must be a positive number, not {value}")
        if self.precision not in ("float32", "bf16"):
            raise SettingsError(f"precision must be float32 or bf16, not {self.precision!r}")

    def __call__(
        self,
        classifier: Classifier,
        data: ImageData,
        out: Path,
        *,
        report: Callable[[str], None] = print,
    ) -> Classifier:
        """Train in place, continuing what `out` holds; return the classifier with its best weights.

        Writes `last.pt` (everything needed to continue), then `metrics.jsonl` (a line per epoch)
        and `best.safetensors`, which follow from it, into `out`. At SIGTERM or SIGINT it writes
        them and exits with 143 or 130.

        Raises:
            RunError: another process trains in `out`, or it holds a run with other settings.
            NumericError: a loss or gradient is not finite; the last checkpoint stays.
        """
        out = Path(out)
        with locked(out), remembered_signals() as interrupted:
            return _Run(self, classifier, data, out, report, interrupted).train()


class _Run:
    def __init__(
        self, settings: Training, classifier: Classifier, data: ImageData, out: Path,
        report: Callable[[str], None], interrupted: Callable[[], int],
    ):  # fmt: skip
        if settings.validation >= len(data):
            raise SettingsError(
                f"{settings.validation} validation images of {len(data)} leave none to train on"
            )
        self.settings, self.out, self.report, self.interrupted = settings, out, report, interrupted
        self.device = next(classifier.parameters()).device
        self.classifier = classifier.to(memory_format=torch.channels_last)
        self.held_out = data.subset(settings.validation, seed=settings.seed).positions
        mask = torch.ones(len(data), dtype=torch.bool)
        mask[self.held_out] = False
        self.ids = mask.nonzero().squeeze(1)
        self.images = data.images(range(len(data))).to(self.device)  # uint8, on the device
        self.labels = data.labels.to(self.device)
        self.steps_per_epoch = math.ceil(len(self.ids) / settings.batch_size)
        self.total = settings.epochs * self.steps_per_epoch
        self.optimizer = torch.optim.SGD(
            classifier.parameters(), lr=settings.learning_rate, momentum=settings.momentum,
            weight_decay=settings.weight_decay, nesterov=True,
        )  # fmt: skip
        self.prepared: Prepared | None = None
        self.traced: nn.Module | None = None
        self.fresh = False  # whether the prepared copy has the current weights
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []  # of the epoch under way
        self.rows: list[dict[str, Any]] = []  # of the epochs that are judged
        self.best, self.best_weights = -1.0, dict[str, Tensor]()
        start = fingerprint((*classifier.named_parameters(), *classifier.named_buffers()))
        self.identity = json.dumps([repr(settings), data.fingerprint(), repr(classifier), start])

    def train(self) -> Classifier:
        last = self.out / "last.pt"
        if last.exists():
            self._restore(load_checkpoint(last))
        started = saved = time.monotonic()
        before = self.seconds
        size = self.settings.batch_size
        bar = tqdm(
            total=self.total * size, initial=self.step * size, unit=" images", unit_scale=True,
            disable=None,
        )  # fmt: skip
        with bar:
            while len(self.rows) < self.settings.epochs:
                ended = self.step == (len(self.rows) + 1) * self.steps_per_epoch
                if ended:
                    self._validate()
                else:
                    self._one_step()
                    self.step += 1
                    bar.update(size)
                now = time.monotonic()
                self.seconds = before + now - started
                if ended or self.interrupted() or now - saved > self.settings.checkpoint_every:
                    saved = now
                    save_checkpoint(last, self._state())
                    self._publish()
                if number := self.interrupted():
                    self.report(
                        f"stopped at step {self.step} of {self.total}; the same command continues"
                    )
                    raise SystemExit(128 + number)
        self.classifier.load_state_dict(self.best_weights)
        return self.classifier.eval()

    def _one_step(self) -> None:
        epoch, position = divmod(self.step, self.steps_per_epoch)
        settings = self.settings
        random = torch.Generator().manual_seed(derived(settings.seed, epoch) % 2**63)
        order = torch.randperm(len(self.ids), generator=random)
        chosen = order[position * settings.batch_size : (position + 1) * settings.batch_size]
        shifts = torch.randint(0, 9, (2, len(self.ids)), generator=random)[:, chosen]
        flips = torch.rand(len(self.ids), generator=random)[chosen] < 0.5
        ids = self.ids[chosen]
        images = augment(self.images[ids.to(self.device)], shifts, flips)
        for group in self.optimizer.param_groups:
            group["lr"] = one_cycle(self.step / self.total) * settings.learning_rate
        self.classifier.train()
        batch = TrainingBatch(
            network=self.classifier, prepared=self._copy, features=self._with_features,
            images=images,
            labels=self.labels[ids.to(self.device)], ids=ids, seed=derived(settings.seed, epoch, 1),
        )  # fmt: skip
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            loss = settings.objective(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.classifier.parameters() if p.grad is not None]
        size = torch.nn.utils.get_total_norm(gradients)
        value, length = torch.stack([loss.detach().float(), size]).tolist()
        if not (math.isfinite(value) and math.isfinite(length)):
            raise NumericError(
                f"at step {self.step + 1} the loss is {value} and its gradient's length {length}; "
                f"lower the learning rate (now up to {settings.learning_rate}); the last "
                f"checkpoint in {self.out} is intact"
            )
        self.optimizer.step()
        self.fresh = False
        self.losses.append(value)

    def _copy(self) -> Prepared:
        """The prepared copy with the current weights, for the attack inside the step."""
        if self.prepared is None:
            dtype = torch.bfloat16 if self.settings.precision == "bf16" else torch.float32
            self.prepared = Prepared(self.classifier, dtype)
        elif not self.fresh:
            self.prepared.update(self.classifier)
        self.fresh = True
        return self.prepared

    def _with_features(self) -> nn.Module:
        """The live network returning its last maps too; traced once."""
        if self.traced is None:
            self.traced = live_features(self.classifier)
        return self.traced

    def _validate(self) -> None:
        """Judge the epoch that has ended; where a signal comes, leave that to the next process."""
        prepared, attack = prepare(self.classifier), self.settings.validation_attack
        natural = adversarial = 0
        size = self.settings.batch_size
        for start in range(0, len(self.held_out), size):
            ids = self.held_out[start : start + size]
            if self.interrupted():
                return
            images = self.images[ids.to(self.device)].float() / 255
            labels = self.labels[ids.to(self.device)]
            with torch.no_grad():
                clean = prepared(images)
            attacked = attack.outcomes(prepared, images, labels, ids=ids, clean=clean)
            natural += int((clean.argmax(dim=1) == labels).sum())
            adversarial += int((attacked.argmax(dim=1) == labels).sum())
        count = len(self.held_out)
        row = {
            "epoch": len(self.rows) + 1,
            "loss": sum(self.losses) / len(self.losses),
            "natural": natural / count,
            "adversarial": adversarial / count,
            "n": count,
            "seconds": round(self.seconds, 1),
        }
        self.rows.append(row)
        self.losses = []
        self.report(
            f"epoch {row['epoch']}/{self.settings.epochs}: loss {row['loss']:.4f}, validation "
            f"natural {natural / count:.1%}, attacked {adversarial / count:.1%} (n = {count}), "
            f"{row['seconds']:.0f} s"
        )
        score = (natural + adversarial) / (2 * count)
        if score > self.best:
            self.best = score
            self.best_weights = {k: v.clone() for k, v in self.classifier.state_dict().items()}

    def _state(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "classifier": self.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "rows": self.rows,
            "best": self.best,
            "best_weights": self.best_weights,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        if state.get("identity") != self.identity:
            raise RunError(
                f"{self.out} holds a run with other settings, data or model; choose another --out"
            )
        self.classifier.load_state_dict(state["classifier"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]
        self.rows, self.best, self.best_weights = (
            state["rows"],
            state["best"],
            state["best_weights"],
        )
        self._publish()
        self.report(f"continuing at step {self.step} of {self.total}")

    def _publish(self) -> None:
        """Write what follows from the checkpoint; after it, so that no kill leaves them apart."""
        write_text(self.out / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows))
        if self.rows:
            best = copy.deepcopy(self.classifier)
            best.load_state_dict(self.best_weights)
            save_weights(best, self.out / "best.safetensors")


def one_cycle(progress: float) -> float:
    """Share of the peak learning rate: up linearly for the first quarter, then down to 0."""
    return min(progress / 0.25, (1 - progress) / 0.75)


def augment(images: Tensor, shifts: Tensor, flips: Tensor) -> Tensor:
    """Crops of the images padded by 4 black pixels, and horizontal flips.

    Args:
        images: uint8, N×3×H×W.
        shifts: rows and columns of the crop's corner, 0 to 8, shape 2×N.
        flips: whether to mirror each image, shape N.

    Returns:
        Float pixels in [0, 1], N×3×H×W, channels last.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (4, 4, 4, 4)).permute(0, 2, 3, 1)
    rows = shifts[0].view(-1, 1) + torch.arange(height)
    columns = torch.arange(width).expand(count, -1)
    columns = torch.where(flips.view(-1, 1), width - 1 - columns, columns) + shifts[1].view(-1, 1)
    index = torch.arange(count).view(-1, 1, 1), rows.unsqueeze(2), columns.unsqueeze(1)
    crops = padded[tuple(part.to(images.device) for part in index)]
    return crops.permute(0, 3, 1, 2).float() / 255
