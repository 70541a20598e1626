"""The state of a training: what a checkpoint holds, and what is published of it."""

import copy
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer

from advlens.datasets import ImageData
from advlens.distributed import Processes
from advlens.errors import CheckpointError, RunError
from advlens.folders import parse_object
from advlens.models import Classifier, save_weights
from advlens.models.classifier import device_of
from advlens.runs.checkpoint import as_bytes, from_bytes, load_checkpoint, misfit, save_checkpoint
from advlens.runs.folder import ABOUT, differences, fingerprint, write_text
from advlens.runs.tables import Row

SAVED = ("step", "seconds", "busy", "learning_rate", "sums", "rows", "best", "best_weights")
"""The attributes that a checkpoint holds as they are."""
JUDGED = {"epoch", "loss", "natural", "adversarial", "n", "images_per_second", "seconds", "kept"}
"""The columns that every row has."""


@dataclass(kw_only=True, eq=False)
class State:
    """How far a training is. All random numbers follow from the step, so no generator is kept.

    Attributes:
        identity: the settings, the data and the start, as JSON; only the first process knows it.
        classifier: the classifier in training.
        optimizer: its optimizer.
        steps_per_epoch: steps of an epoch.
        steps: steps of the whole training.
        average: the moving average of the classifier's state; empty where none is asked for.
        step: steps done.
        seconds: time spent, with that of the interrupted processes before.
        busy: time spent in the steps of the epoch under way.
        learning_rate: learning rate of the last step.
        sums: the terms of the loss, summed over the images seen in the epoch under way.
        rows: one row for each epoch that is judged, as in `metrics.jsonl`.
        best: the best score so far.
        best_weights: the state of the classifier that is kept; empty before the first epoch ends.
        clock: when `tick` was last called.
    """

    identity: str
    classifier: Classifier
    optimizer: Optimizer
    steps_per_epoch: int
    steps: int
    average: dict[str, Tensor]
    step: int = 0
    seconds: float = 0.0
    busy: float = 0.0
    learning_rate: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    best: float = -1.0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    clock: float = 0.0

    @property
    def epoch(self) -> int:
        """The epoch under way, counted from 0."""
        return len(self.rows)

    def tick(self) -> float:
        """Add the seconds since the last call to `seconds`, and return them."""
        passed = time.monotonic() - self.clock
        self.clock += passed
        self.seconds += passed
        return passed

    def add(self, means: Mapping[str, float], images: float) -> None:
        """Add the terms of a step, given as means over its images."""
        for name, mean in means.items():
            self.sums[name] = self.sums.get(name, 0.0) + mean * images

    def update_average(self, decay: float) -> None:
        """Move the average towards the classifier's state after a step.

        The first steps count more, so that the random start is forgotten: the decay is at most
        (1 + step)/(10 + step). Counters are copied.
        """
        share = 1 - min(decay, (1 + self.step) / (10 + self.step))
        for name, tensor in self.classifier.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, share)
            else:
                self.average[name].copy_(tensor)

    def end_epoch(
        self,
        judged: Classifier,
        measured: Mapping[str, float],
        *,
        n: int,
        trained: int,
        keep: Literal["best", "last"],
    ) -> None:
        """Add the row of the epoch under way and begin the next one.

        Args:
            judged: the weights that were measured; they are kept if they are the "best" so far,
                or in any case where the "last" ones are.
            measured: what `validation.MEASURED` names, as means over `n` held-out images.
            n: number of held-out images.
            trained: number of images that an epoch trains on.
            keep: whose weights are kept.
        """
        self.tick()
        means = {name: total / trained for name, total in self.sums.items()}
        score = (measured["natural"] + measured["adversarial"]) / 2
        kept = keep == "last" or score > self.best
        row = {
            "epoch": self.epoch + 1,
            "loss": means.pop("loss"),
            "learning_rate": self.learning_rate,
            **{f"train_{name}": mean for name, mean in means.items()},
            **measured,
            "n": n,
            "images_per_second": round(trained / self.busy, 1),
            "seconds": round(self.seconds, 1),
            "kept": kept,
        }
        self.rows.append(row)
        self.sums, self.busy = {}, 0.0
        if kept:
            self.best = score
            self.best_weights = {k: v.clone() for k, v in judged.state_dict().items()}

    def save(self, out: Path) -> None:
        """Write `last.pt`."""
        save_checkpoint(out / "last.pt", self._content())

    def publish(self, out: Path) -> None:
        """Write what follows from `last.pt`; after it, so that no kill leaves them apart."""
        write_text(out / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows))
        if self.rows:
            best = copy.deepcopy(self.classifier)
            best.load_state_dict(self.best_weights)
            save_weights(best, out / "best.safetensors")

    def load(self, out: Path, processes: Processes) -> bool:
        """Continue from `last.pt`, or else start as the first process does; all do the same.

        Returns:
            Whether this process has read a checkpoint; only the first one reads.

        Raises:
            RunError: the checkpoint belongs to another run.
            CheckpointError: the checkpoint is damaged, or laid out in another way.
        """
        path, content = out / "last.pt", None
        if processes.first and path.exists():
            content = load_checkpoint(path)
            self._check(path, content)
        known = content is not None
        if processes.count > 1:
            packed = as_bytes(content or self._content()) if processes.first else b""
            content = from_bytes(processes.spread(packed, device_of(self.classifier)))
        if content is not None:
            self._restore(content)
        return known

    def _content(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "identity": self.identity,
            "classifier": self.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            **{name: getattr(self, name) for name in SAVED},
        }

    def _restore(self, content: Mapping[str, Any]) -> None:
        device = device_of(self.classifier)
        self.classifier.load_state_dict(content["classifier"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.average = {name: tensor.to(device) for name, tensor in content["average"].items()}
        for name in SAVED:
            setattr(self, name, content[name])

    def _check(self, path: Path, content: dict[str, Any]) -> None:
        """Refuse the checkpoint of another run, and one that no run has written."""
        expected = self._content() | {"optimizer": {}}  # {} stands for anything
        if content.get("best_weights") != {}:
            expected["best_weights"] = expected["classifier"]
        problem = misfit(content, expected)
        if not problem:
            try:
                identity = parse_object(content["identity"].encode())
            except ValueError:
                problem = "its identity cannot be read"
            else:
                if others := differences(identity, json.loads(self.identity)):
                    raise RunError(
                        f"{path.parent} holds a run with other settings, data or model: {others}; "
                        "choose another --out, or remove the folder to start again"
                    )
        problem = problem or self._problem(content) or self._optimizer_problem(content["optimizer"])
        if problem:
            raise CheckpointError(f"{path} is damaged: {problem}; remove it to start again")

    def _problem(self, content: Mapping[str, Any]) -> str:
        """What in a checkpoint of the right layout contradicts itself, or nothing."""
        rows, step = content["rows"], content["step"]
        if not 0 <= step <= self.steps or step // self.steps_per_epoch - len(rows) not in (0, 1):
            return f"it is at step {step} of {self.steps} with {len(rows)} epochs judged"
        if bool(rows) != bool(content["best_weights"]):
            return "its kept weights do not go with its epochs"
        if bool(content["average"]) != bool(self.average):
            return "its averaged weights do not go with the settings"
        begun = step > len(rows) * self.steps_per_epoch
        if begun and not ("loss" in content["sums"] and content["busy"] > 0):
            return "it has no loss or no time of the epoch under way"
        numbers = [*content["sums"].values()]
        for place, row in enumerate(rows, 1):
            if not isinstance(row, dict) or not row.keys() >= JUDGED or row["epoch"] != place:
                return f"the row of epoch {place} is none"
            numbers += row.values()
        if any(not isinstance(n, int | float) or not abs(n) < 1e300 for n in numbers):
            return "a number of an epoch is none"
        return ""

    def _optimizer_problem(self, content: Any) -> str:
        """Why the optimizer cannot continue from a state of it, or nothing."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        try:
            for place, parameter in enumerate(parameters):
                for tensor in content["state"].get(place, {}).values():
                    if isinstance(tensor, Tensor) and tensor.shape not in ((), parameter.shape):
                        return f"the optimizer's state of parameter {place} has another shape"
            self.optimizer.load_state_dict(content)
        except Exception as error:  # torch does not check all of it itself
            return f"its optimizer's state cannot be used ({type(error).__name__})"
        return ""


def identity(settings: object, classifier: Classifier, data: ImageData) -> str:
    """What tells this training from others, as JSON: settings, start and data."""
    start = fingerprint((*classifier.named_parameters(), *classifier.named_buffers()))
    return json.dumps(
        {
            "settings": {name: repr(value) for name, value in vars(settings).items()},
            "network": repr(classifier),
            "weights to start from": start,
            "images": data.fingerprint(),
            ABOUT: {"images": f"{data.name}, {len(data):,} images"},
        }
    )
