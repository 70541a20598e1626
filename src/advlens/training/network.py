"""The forms of a classifier that a training step needs; all share its weights."""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from advlens.arrays import Ids, Images, Labels
from advlens.checks import Precision
from advlens.distributed import Processes, synchronized
from advlens.models import Classifier
from advlens.models.classifier import device_of
from advlens.prepared import Prepared, live_features, prepare
from advlens.prepared.precision import mixed
from advlens.training.objectives import TrainingBatch


class LiveNetwork:
    """A classifier in training.

    Args:
        classifier: it is laid out in memory here, and trained in place.
        images: images that its prepared copy is tried on.
        processes: those that train together.
        precision: "float32", or "bf16" for mixed precision.
        channels_last: whether to lay it out channels last where it bears that.
        compiled: whether to run it through torch.compile.

    Attributes:
        shape: that of its output for one image.
        parameters: what is trained.
        notes: what a user should know of the prepared copy, in sentences.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: Images,
        processes: Processes,
        *,
        precision: Precision,
        channels_last: bool,
        compiled: bool,
    ):
        self.device, self.precision = device_of(classifier), precision
        self._classifier = classifier
        dtype = torch.bfloat16 if precision == "bf16" else None
        self._prepared = prepare(classifier, images, dtype=dtype)
        self.notes, self.shape = self._prepared.notes, self._prepared.shape
        self._layout = torch.contiguous_format
        if channels_last and self._prepared.channels_last and not _is_corrupted(classifier):
            self._layout = torch.channels_last
            classifier.to(memory_format=torch.channels_last)
        self.parameters = [p for p in classifier.parameters() if p.requires_grad]
        self._compile = compiled
        self._live = synchronized(classifier, processes)
        self._network = self._compiled(self._live)
        self._features = functools.cache(self._with_features)

    def batch(
        self, images: Images, labels: Labels, ids: Ids, *, seed: int, share: float
    ) -> TrainingBatch:
        """What the objective sees of a step, the network in training mode."""
        self._live.train()
        return TrainingBatch(
            network=self._network,
            prepared=functools.cache(self._refolded),
            features=self._features,
            images=images.contiguous(memory_format=self._layout),
            labels=labels.to(self.device),
            ids=ids,
            seed=seed,
            share=share,
        )

    def mixed(self) -> torch.autocast:
        """The precision of a step, as a context."""
        return mixed(self.device, self.precision)

    def gradients(self) -> list[Tensor]:
        """The gradients of the last backward pass."""
        return [p.grad for p in self.parameters if p.grad is not None]

    def first_not_finite(self) -> str:
        """The first parameter whose gradient is not finite, or "none"."""
        named = self._classifier.named_parameters()
        broken = (n for n, p in named if p.grad is not None and not p.grad.isfinite().all())
        return next(broken, "none")

    def _with_features(self, layer: str | None) -> nn.Module:
        """The network as a module images → (logits, features)."""
        traced = self._prepared.traced
        network: nn.Module = self._compiled(live_features(self._live.train(), layer, traced=traced))
        return network

    def _compiled(self, network: nn.Module) -> Any:
        return torch.compile(network) if self._compile else network

    def _refolded(self) -> Prepared:
        """The prepared copy with the current weights, for the attack inside a step."""
        self._prepared.update(self._classifier)
        return self._prepared


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
