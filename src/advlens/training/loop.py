"""The loop of a training run.

All randomness is a function of (seed, epoch, image id), so a checkpoint needs no generator state.
With several processes each one handles its part of every batch: gradients are summed over them,
batch normalization sees all of them, so the weights are the same everywhere.
"""

import contextlib
import copy
import functools
import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from advlens.arrays import Ids, Images, Labels
from advlens.datasets import ImageData
from advlens.distributed import Processes, synchronized
from advlens.errors import CheckpointError, NumericError, RunError, SettingsError
from advlens.folders import parse_object
from advlens.models import Classifier, save_weights
from advlens.models.classifier import device_of
from advlens.prepared import CHECKED, Prepared, live_features, prepare
from advlens.progress import Progress
from advlens.runs.checkpoint import as_bytes, from_bytes, load_checkpoint, misfit, save_checkpoint
from advlens.runs.folder import ABOUT, differences, fingerprint, write_text
from advlens.seeding import derived
from advlens.signals import ENDING
from advlens.training.augmentation import Augmentation
from advlens.training.images import TrainingImages
from advlens.training.objectives import TrainingBatch
from advlens.training.schedule import rate
from advlens.training.state import doubtful
from advlens.training.validation import MEASURED, measure
from advlens.training.weights import make_optimizer, sum_gradients, update_average

if TYPE_CHECKING:
    from advlens.training.settings import Training

Row = Mapping[str, float]


class Loop:
    """A run of `Training`; see there for the arguments."""

    def __init__(
        self,
        settings: "Training",
        classifier: Classifier,
        data: ImageData,
        out: Path,
        report: Callable[[str], None],
        processes: Processes,
        on_epoch: Callable[[Row], None] | None,
    ):
        if settings.validation >= len(data):
            raise SettingsError(
                f"{settings.validation} validation images of {len(data)} leave none to train on"
            )
        if settings.batch_size < processes.count:
            raise SettingsError(
                f"a batch of {settings.batch_size} images is too small for {processes.count} "
                "processes; give at least one to each"
            )
        self.settings, self.out, self.processes = settings, out, processes
        self.report, self.on_epoch = report, on_epoch
        self.device = device_of(classifier)
        self.classifier = classifier
        self.size = min(classifier.image_size, data.image_shape[1])
        (first,) = data.batches(CHECKED, range(min(CHECKED, len(data))), device=self.device)
        self.prepared = prepare(
            classifier,
            first.images[..., : self.size, : self.size],
            dtype=torch.bfloat16 if settings.precision == "bf16" else None,
        )
        for note in self.prepared.notes:
            report(note)
        self.layout = torch.contiguous_format
        bears = self.prepared.channels_last and not _is_corrupted(classifier)
        if settings.channels_last and bears:
            self.layout = torch.channels_last
            classifier.to(memory_format=torch.channels_last)
        self.live = synchronized(classifier, processes)
        self.network: nn.Module = self._compiled(self.live)
        self.features = functools.cache(
            lambda layer: self._compiled(
                live_features(self.live.train(), layer, traced=self.prepared.traced)
            )
        )
        self.parameters = [p for p in classifier.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(settings, self.parameters)
        self.held_out = data.subset(settings.validation, seed=settings.seed).positions
        mask = torch.ones(len(data), dtype=torch.bool)
        mask[self.held_out] = False
        self.ids = mask.nonzero().squeeze(1)
        self.images = TrainingImages(data, self.device, shown=processes.first)
        self.labels = data.labels
        self.steps_per_epoch = math.ceil(len(self.ids) / settings.batch_size)
        self.total = settings.epochs * self.steps_per_epoch
        self.fresh = False  # whether the prepared copy has the current weights
        self.step, self.learning_rate = 0, 0.0
        self.seconds = self.busy = 0.0  # in all; in this epoch's steps
        self.sums: dict[str, float] = {}  # over the images of the epoch under way
        self.rows: list[dict[str, Any]] = []  # of the epochs that are judged
        self.average: dict[str, Tensor] = {}
        if settings.average is not None:
            self.average = {k: v.clone() for k, v in classifier.state_dict().items()}
        self.best, self.best_weights = -1.0, dict[str, Tensor]()
        self.identity = ""
        if processes.first:
            start = fingerprint((*classifier.named_parameters(), *classifier.named_buffers()))
            self.identity = json.dumps(
                {
                    "settings": {f.name: repr(getattr(settings, f.name)) for f in fields(settings)},
                    "network": repr(classifier),
                    "weights to start from": start,
                    "images": data.fingerprint(),
                    ABOUT: {"images": f"{data.name}, {len(data):,} images"},
                }
            )

    def train(self, interrupted: Callable[[], int]) -> Classifier:
        """Train to the end, or until `interrupted` gives the number of a signal."""
        self.interrupted = interrupted
        self._continue()
        self.saved = self.clock = time.monotonic()
        with self._progress() as update:
            while len(self.rows) < self.settings.epochs:
                with contextlib.closing(self._rest_of_epoch()) as batches:
                    for ids, images, share in batches:
                        stop = self._one_step(ids, images, share)
                        self.step += 1
                        update(self.step)
                        self.busy += self._tick()
                        if stop:
                            self._stop(stop)
                        elif time.monotonic() - self.saved > self.settings.checkpoint_every:
                            self._save()
                            self._tick()
                if stop := self._validate():
                    self._stop(stop)
                self._save(judged=True)
        self.classifier.load_state_dict(self.best_weights)
        return self.classifier.eval()

    # A step

    def _rest_of_epoch(self) -> Generator[tuple[Ids, Images, float], None, None]:
        """This process's part of the batches left, and its share of each batch's images."""
        epoch = len(self.rows)
        random = torch.Generator().manual_seed(derived(self.settings.seed, epoch) % 2**63)
        order = torch.randperm(len(self.ids), generator=random)
        draws = torch.rand(Augmentation.DRAWS, len(self.ids), generator=random)
        # of nearly equal size, so that no small batch is left at the end
        batches = torch.tensor_split(order, self.steps_per_epoch)[
            self.step - epoch * self.steps_per_epoch :
        ]
        count, rank = self.processes.count, self.processes.rank
        parts = [torch.tensor_split(batch, count)[rank] for batch in batches]
        images = self.images.batches([self.ids[part] for part in parts])
        with contextlib.closing(images):
            for batch, part, pixels in zip(batches, parts, images, strict=True):
                varied = self.settings.augmentation(pixels, draws[:, part], self.size)
                varied = varied.contiguous(memory_format=self.layout)
                yield self.ids[part], varied, len(part) / len(batch)

    def _one_step(self, ids: Ids, images: Images, share: float) -> int:
        """One step of the optimizer; returns the signal that a process has received, or 0."""
        settings, epoch = self.settings, len(self.rows)
        losses = [row["loss"] for row in self.rows]
        self.learning_rate = settings.learning_rate * rate(
            settings.schedule, self.step / self.total, losses
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.live.train()
        batch = TrainingBatch(
            network=self.network,
            prepared=self._copy,
            features=self.features,
            images=images,
            labels=self.labels[ids].to(self.device),
            ids=ids,
            seed=derived(settings.seed, epoch, 1),
            share=share,
        )
        self.optimizer.zero_grad(set_to_none=True)
        with mixed(self.device, settings.precision):
            loss = settings.objective(batch)
        torch.autograd.backward(loss * share, inputs=self.parameters)
        terms = {"loss": loss.detach(), **batch.terms}
        values = torch.stack([term.float() for term in terms.values()]) * share
        received = torch.tensor([float(self.interrupted() == number) for number in ENDING])
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        values = torch.cat([values, received.to(values)])
        sum_gradients(self.processes, [*gradients, values])
        length = torch.nn.utils.get_total_norm(gradients)
        *found, size = torch.cat([values, length.view(1)]).tolist()
        if not (math.isfinite(found[0]) and math.isfinite(size)):
            raise self._not_finite(found[0], size)
        if settings.clip is not None:
            torch.nn.utils.clip_grad_value_(self.parameters, settings.clip)
        self.optimizer.step()
        self.fresh = False
        if settings.average is not None:
            update_average(self.average, self.classifier, settings.average, self.step)
        images_in_all = len(ids) / share
        for name, value in zip(terms, found, strict=False):
            self.sums[name] = self.sums.get(name, 0.0) + value * images_in_all
        return _signal(found[len(terms) :])

    def _not_finite(self, loss: float, length: float) -> NumericError:
        layer = next(
            (
                name
                for name, p in self.classifier.named_parameters()
                if p.grad is not None and not p.grad.isfinite().all()
            ),
            "none",
        )
        return NumericError(
            f"at step {self.step + 1} the loss is {loss} and its gradient's length {length} (first "
            f"parameter concerned: {layer}); lower the learning rate (now up to "
            f"{self.settings.learning_rate}); the last checkpoint in {self.out} is intact"
        )

    def _copy(self) -> Prepared:
        """The prepared copy with the current weights, for the attack inside the step."""
        if not self.fresh:
            self.prepared.update(self.classifier)
        self.fresh = True
        return self.prepared

    def _compiled(self, network: nn.Module) -> Any:
        return torch.compile(network) if self.settings.compile else network

    # The end of an epoch

    def _validate(self) -> int:
        """Judge the epoch that has ended; where a signal comes, leave that to the next process."""
        judged = self.classifier
        if self.average:
            judged = copy.deepcopy(judged)
            judged.load_state_dict(self.average)
        with contextlib.closing(self._held_out()) as batches:
            found = measure(judged, self.settings.validation_attack, batches)
        received = [float(self.interrupted() == number) for number in ENDING]
        values = torch.cat([found, found.new_tensor(received)])
        totals = self.processes.total(values).tolist()
        if stop := _signal(totals[len(found) :]):
            return stop
        shares = [value / len(self.held_out) for value in totals[: len(found)]]
        self._judge(judged, dict(zip(MEASURED, shares, strict=True)))
        return 0

    def _held_out(self) -> Generator[tuple[Ids, Images, Labels], None, None]:
        """This process's part of the held-out images, until a signal comes."""
        mine = self.held_out[list(self.processes.share(len(self.held_out)))]
        batches = torch.split(mine, self.settings.batch_size)
        with contextlib.closing(self.images.batches(batches)) as stream:
            for ids, pixels in zip(batches, stream, strict=True):
                if self.interrupted():
                    return
                top = round((pixels.shape[2] - self.size) / 2)
                center = pixels[:, :, top : top + self.size, top : top + self.size]
                yield ids, center.float() / 255, self.labels[ids].to(self.device)

    def _judge(self, judged: Classifier, validation: dict[str, float]) -> None:
        means = {name: value / len(self.ids) for name, value in self.sums.items()}
        self._tick()
        row: dict[str, Any] = {
            "epoch": len(self.rows) + 1,
            "loss": means.pop("loss"),
            "learning_rate": self.learning_rate,
            **{f"train_{name}": value for name, value in means.items()},
            **validation,
            "n": len(self.held_out),
            "images_per_second": round(len(self.ids) / self.busy, 1),
            "seconds": round(self.seconds, 1),
        }
        score = (row["natural"] + row["adversarial"]) / 2
        row["kept"] = self.settings.keep == "last" or score > self.best  # until a later one is
        self.rows.append(row)
        self.sums, self.busy = {}, 0.0
        if row["kept"]:
            self.best = score
            self.best_weights = {k: v.clone() for k, v in judged.state_dict().items()}

    # What stays

    def _continue(self) -> None:
        """Take up the state that the folder holds, or the first process's start, everywhere."""
        last, state = self.out / "last.pt", None
        if self.processes.first and last.exists():
            state = load_checkpoint(last)
            self._check(last, state)
        if self.processes.count > 1:
            content = as_bytes(state or self._state()) if self.processes.first else b""
            state = from_bytes(self.processes.spread(content, self.device))
        if state is not None:
            self._restore(state)
        if self.processes.first and last.exists():
            self._publish()
            self.report(f"continuing at step {self.step} of {self.total}")
            for row in self.rows if self.on_epoch else []:
                self.on_epoch(row)  # type: ignore[misc]

    def _check(self, last: Path, state: dict[str, Any]) -> None:
        """Refuse the checkpoint of another run, and one that no run has written."""
        wanted = self._state() | {"sums": {}, "optimizer": {}}
        wanted |= {} if state.get("best_weights") == {} else {"best_weights": wanted["classifier"]}
        said = misfit(state, wanted)
        if not said:
            try:
                found = parse_object(state["identity"].encode())
            except ValueError:
                found, said = {}, "its identity cannot be read"
            if not said and (others := differences(found, json.loads(self.identity))):
                raise RunError(
                    f"{self.out} holds a run with other settings, data or model: {others}; choose "
                    "another --out, or remove the folder to start anew"
                )
        said = said or doubtful(
            state, self.settings, self.parameters, self.total, self.steps_per_epoch
        )
        if said:
            raise CheckpointError(f"{last} is damaged: {said}; remove it to begin anew")

    def _state(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "classifier": self.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            "seconds": self.seconds,
            "busy": self.busy,
            "learning_rate": self.learning_rate,
            "sums": self.sums,
            "rows": self.rows,
            "best": self.best,
            "best_weights": self.best_weights,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.classifier.load_state_dict(state["classifier"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = {k: v.to(self.device) for k, v in state["average"].items()}
        for name in (
            "step",
            "seconds",
            "busy",
            "learning_rate",
            "sums",
            "rows",
            "best",
            "best_weights",
        ):
            setattr(self, name, state[name])

    def _save(self, *, judged: bool = False) -> None:
        """Write the state; after an epoch is judged, also what follows from it."""
        self.saved = time.monotonic()
        if not self.processes.first:
            return
        save_checkpoint(self.out / "last.pt", self._state())
        if judged:
            self._publish()
            row = self.rows[-1]
            self.report(
                f"epoch {row['epoch']}/{self.settings.epochs}: loss {row['loss']:.4f}, validation "
                f"natural {row['natural']:.1%}, attacked {row['adversarial']:.1%} "
                f"(n = {row['n']}), {row['images_per_second']:.0f} images/s, {row['seconds']:.0f} s"
            )
            if self.on_epoch:
                self.on_epoch(row)

    def _publish(self) -> None:
        """Write what follows from the checkpoint; after it, so that no kill leaves them apart."""
        write_text(self.out / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows))
        if self.rows:
            best = copy.deepcopy(self.classifier)
            best.load_state_dict(self.best_weights)
            save_weights(best, self.out / "best.safetensors")

    def _stop(self, number: int) -> None:
        self._save()
        if self.processes.first:
            self.report(f"stopped at step {self.step} of {self.total}; the same command continues")
        raise SystemExit(128 + number)

    def _tick(self) -> float:
        """Seconds since the last call, which are added to those of the run."""
        passed = time.monotonic() - self.clock
        self.clock += passed
        self.seconds += passed
        return passed

    @contextlib.contextmanager
    def _progress(self) -> Iterator[Callable[[int], None]]:
        """A bar, or a line each minute, in the first process; takes the number of steps done."""
        if not self.processes.first:
            yield lambda step: None
            return
        images = [step * len(self.ids) // self.steps_per_epoch for step in range(self.total + 1)]
        with Progress("training", images[-1], done=images[self.step], every=60.0) as progress:
            yield lambda step: progress.update(images[step] - images[step - 1])


def mixed(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to bfloat16 where the precision is "bf16".

    Each pass casts the weights anew. PyTorch 2.10 would keep a cast that an attack makes without a
    gradient, and later passes would give the weights none.
    """
    enabled = precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def _is_corrupted(model: nn.Module) -> bool:
    """Whether channels last would break the heap: a fault of oneDNN 3 on CPUs without AVX-512.

    Its weight gradient of a strided 1×1 convolution of fewer than 8 channels writes beyond its end.
    """
    return device_of(model).type == "cpu" and any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels < 8
        for module in model.modules()
    )


def _signal(received: Sequence[float]) -> int:
    """The first of the ending signals that a process has received, or 0."""
    return next((n for n, times in zip(ENDING, received, strict=True) if times), 0)
