"""Projected gradient steps that make images, shared by visualization, inversion and generation.

    x ← Π(x ± σ g/‖g‖₂)

for each image by itself: g is the gradient of its own objective, and Π projects it into the L2 ball
around its start and into [0, 1] (Engstrom et al. 2019; B23, section 2.3.2). A step is one forward
and one backward pass; nothing is random.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from advlens.arrays import Images, PerImage
from advlens.attacks.threat import L2
from advlens.checks import Precision, check_positive, check_types
from advlens.drawing import MOST, drawn, frame_of, pictures_html
from advlens.errors import NumericError, RunError, SettingsError
from advlens.features.fake_relu import pass_blocked_gradients
from advlens.prepared import Prepared, place_images, prepare
from advlens.prepared.mixing import check_steps
from advlens.prepared.precision import stepping

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

ImageScore = Callable[[Images], PerImage]

CHECKED = 100
"""Steps between checks of gradients for NaN: each check makes a GPU wait."""


@dataclass(frozen=True)
class Synthesized:
    """Images made from a model.

    Attributes:
        images: pixels in [0, 1], N×3×H×W, after the last step.
        objective: each image's objective before its last step, known without another pass.
        steps: gradient steps made on each image.
    """

    images: Images
    objective: PerImage
    steps: int

    def plot(self) -> "Figure":
        """The first images."""
        return drawn({"made": [*self.images[:MOST]]})

    def to_frame(self) -> "pandas.DataFrame":
        """A row for each image: its objective, and the steps."""
        objectives = self.objective.tolist()
        return frame_of([{"objective": each, "steps": self.steps} for each in objectives])

    def _repr_html_(self) -> str:
        return pictures_html({"made": [*self.images[:MOST]]})


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """The settings that the methods share.

    Attributes:
        epsilon: radius of the L2 ball around the start, in pixel units.
        step_size: length of a step, in pixel units.
        steps: gradient steps K; K forward and K backward passes.
        batch_size: images per step; sets the memory of a pass.
        precision: with "bf16" all gradients but the last are taken in bfloat16; the objective is
            that of the last step, in float32.
    """

    epsilon: float
    step_size: float
    steps: int
    batch_size: int = 64
    precision: Precision = "float32"
    direction: ClassVar[int] = 1
    """1 raises the objective, −1 lowers it."""

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "epsilon", "step_size", "steps", "batch_size")

    def __call__(self, model: nn.Module, starts: Images, targets: Tensor) -> Synthesized:
        """Turn N starts into images, in full batches.

        Args:
            model: pixels in [0, 1] → logits; pass its prepared copy to save the preparation.
            starts: the starting images, pixels in [0, 1], N×3×H×W.
            targets: the goal of each image, as the method defines it.

        Raises:
            DataError: starts or images to invert are not pixels in [0, 1].
            SettingsError: targets do not fit the starts or the model; or the machine or the model
                does not bear the precision.
            ModelError: the model has no linear layer, so no representation.
            NumericError: a gradient is not finite.
        """
        work = self.begin(model, starts, targets)
        for _ in work:
            pass
        return work.result()

    def begin(self, model: nn.Module, starts: Images, targets: Tensor) -> "Steps":
        """Start the same computation step by step, for long work that must be saved and resumed.

        Arguments and errors are those of a call.
        """
        return Steps(self, prepare(model), starts, targets)

    def _checked(self, targets: Tensor) -> Tensor:
        raise NotImplementedError

    def _score_of(self, model: Prepared, targets: Tensor) -> ImageScore:
        """The objective of one batch."""
        raise NotImplementedError


class Steps:
    """The steps of a method on N images, batch by batch.

    Iterating makes the steps one by one and yields the number made so far, of `len(steps)`; it can
    stop anywhere and continue later. `state()` is all that `restore` needs to continue in another
    process, bit-identical on a CPU.

    Attributes:
        images: the current images.
        objective: each image's objective before its latest step; NaN before the first.
        done: number of steps made, over all batches.
    """

    def __init__(self, method: Synthesis, model: Prepared, starts: Images, targets: Tensor):
        self._method, self._model = method, model
        # one memory layout for any input, because sums and their rounding depend on it
        self._starts = place_images(model, starts).detach().contiguous()
        if not isinstance(targets, Tensor):
            raise SettingsError(
                f"{type(method).__name__}: targets must be a tensor, not a "
                f"{type(targets).__name__}; pass torch.as_tensor(targets)"
            )
        if len(targets) != len(starts):
            raise SettingsError(
                f"{type(method).__name__}: {len(starts)} starts but {len(targets)} targets; give "
                "one target for each start"
            )
        check_steps(model, self._starts, method.precision)
        self._targets = method._checked(targets.detach().to(self._starts.device))
        self.images = self._starts.clone()
        self.objective = self._starts.new_full((len(starts),), math.nan)
        self.done = 0
        self._sizes: list[Tensor] = []

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self._method.batch_size) * self._method.steps

    def __iter__(self) -> Iterator[int]:
        size, steps = self._method.batch_size, self._method.steps
        while self.done < len(self):
            first = self.done // steps * size
            part = slice(first, first + size)
            objective = self._method._score_of(self._model, self._targets[part])
            for _ in range(self.done % steps, steps):
                self._step(part, objective)
                self.done += 1
                if len(self._sizes) == CHECKED or self.done % steps == 0:
                    self._check()
                yield self.done

    def _step(self, part: slice, objective: ImageScore) -> None:
        ball, start = L2(epsilon=self._method.epsilon), self._starts[part]
        last = self.done % self._method.steps == self._method.steps - 1
        precision = "float32" if last else self._method.precision
        with torch.enable_grad():
            inputs = self.images[part].detach().requires_grad_()
            with stepping(inputs.device, precision):
                values = objective(inputs)
            pass_blocked_gradients(values)
            (gradient,) = torch.autograd.grad(values.sum(), inputs)
        length = self._method.direction * self._method.step_size
        moved = torch.add(inputs.detach(), ball.steepest(gradient), alpha=length)
        self._sizes.append(_largest(values.detach()) + _largest(gradient))
        self.images[part] = ball.project(moved, start)
        self.objective[part] = values.detach()

    def _check(self) -> None:
        finite = torch.stack(self._sizes).isfinite().tolist() if self._sizes else []
        if not all(finite):
            step = (self.done - len(finite) + finite.index(False)) % self._method.steps + 1
            raise NumericError(
                f"{type(self._method).__name__}: the gradient at step {step} is not finite; the "
                "model returns NaN or infinity on images in [0, 1]: check its weights"
            )
        self._sizes = []

    def state(self) -> dict[str, Tensor]:
        """The images, their objectives and the number of steps made, as copies.

        Raises:
            NumericError: a gradient was not finite, so nothing is worth saving.
        """
        self._check()
        return {
            "images": self.images.clone(),
            "objective": self.objective.clone(),
            "done": torch.tensor(self.done),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Resume from `state` of the same model, starts, targets and settings.

        Raises:
            RunError: the state has other images, or more steps.
        """
        shape, done = tuple(state["images"].shape), int(state["done"])
        if shape != tuple(self.images.shape) or not 0 <= done <= len(self):
            raise RunError(
                f"a state of step {done} on images {shape} is not one of {len(self)} steps on "
                f"{tuple(self.images.shape)}; remove it to start again"
            )
        self.images.copy_(state["images"])
        self.objective.copy_(state["objective"])
        self.done, self._sizes = done, []

    def result(self) -> Synthesized:
        """The finished images.

        Raises:
            SettingsError: some steps are left.
        """
        if self.done < len(self):
            raise SettingsError(f"{len(self) - self.done} steps are left; iterate to make them")
        return Synthesized(self.images, self.objective, self._method.steps)


def _largest(values: Tensor) -> Tensor:
    largest: Tensor = torch.linalg.vector_norm(values, ord=torch.inf)
    return largest
