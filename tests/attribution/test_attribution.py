"""What every attribution promises, whatever its definition."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from advlens.attribution import ExpectedGradients, IntegratedGradients, RandomAttribution
from advlens.errors import DataError, NumericError, SettingsError
from advlens.prepared import prepare

METHODS = {
    "noise": IntegratedGradients(steps=3, baselines=2, seed=1),
    "black": IntegratedGradients(steps=3, baseline="black", target="logit"),
    "blurred": IntegratedGradients(steps=3, baseline="blurred", tolerance=0.02, max_steps=12),
    "expected": ExpectedGradients(samples=6, seed=1),
    "plain": ExpectedGradients(samples=5, target="probability", stratified=False),
    "random": RandomAttribution(),
}
FOLLOW = {name: method for name, method in METHODS.items() if name != "random"}
RANDOM = {name: METHODS[name] for name in ("noise", "expected", "plain", "random")}


def each(methods):
    return pytest.mark.parametrize("method", methods.values(), ids=methods)


def call(method, model, images, *arguments, **given):
    """Expected gradients get a background."""
    if isinstance(method, ExpectedGradients):
        generator = torch.Generator().manual_seed(0)
        given.setdefault("background", torch.rand(4, 3, 8, 8, generator=generator))
    return method(model, images, *arguments, **given)


@each(METHODS)
def test_result(method, smooth, pixels, labels):
    found = call(method, smooth, pixels, labels)
    assert found.values.shape == pixels.shape
    assert found.values.dtype == pixels.dtype
    assert found.maps.shape == (24, 8, 8)
    assert torch.equal(found.targets, labels)
    assert found.gap.shape == found.error.shape == found.points.shape == (24,)
    assert (found.gap.isnan() if isinstance(method, RandomAttribution) else found.gap >= 0).all()
    assert (found.values.flatten(1) != 0).any(dim=1).all()


@each(METHODS)
def test_the_predicted_class_is_explained_where_no_label_is_given(method, smooth, pixels):
    found = call(method, smooth, pixels)
    predicted = smooth(pixels).argmax(dim=1)
    assert torch.equal(found.targets, predicted)
    same = call(method, smooth, pixels, predicted)
    torch.testing.assert_close(found.values, same.values, rtol=0, atol=0)


@each(METHODS)
def test_same_result_in_any_batch(method, smooth, pixels, labels):
    close = {"rtol": 1e-4, "atol": 1e-5}
    ids, model = torch.arange(100, 124), prepare(smooth)
    together = call(method, model, pixels, labels, ids=ids)
    assert torch.equal(call(method, model, pixels, labels, ids=ids).values, together.values)
    for size in (1, 5, 1000):
        found = call(replace(method, batch_size=size), model, pixels, labels, ids=ids)
        torch.testing.assert_close(found.values, together.values, **close)
        torch.testing.assert_close(found.error, together.error, equal_nan=True, **close)
        assert torch.equal(found.points, together.points)
    parts = [
        call(method, model, pixels[i : i + 5], labels[i : i + 5], ids=ids[i : i + 5]).values
        for i in range(0, 24, 5)
    ]
    torch.testing.assert_close(torch.cat(parts), together.values, **close)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    shuffled = call(method, model, pixels[order], labels[order], ids=ids[order])
    torch.testing.assert_close(shuffled.values, together.values[order], **close)


@each(RANDOM)
def test_seed_and_ids_decide(method, smooth, pixels, labels):
    found = call(method, smooth, pixels, labels).values
    assert torch.equal(call(method, smooth, pixels, labels, ids=torch.arange(24)).values, found)
    for other in (
        call(method, smooth, pixels, labels, ids=torch.arange(24) + 1),
        call(replace(method, seed=99), smooth, pixels, labels),
    ):
        assert (other.values != found).flatten(1).any(dim=1).all()


def test_random_numbers_change_with_the_image(smooth, pixels, labels):
    found = RandomAttribution()(smooth, pixels, labels)
    assert found.values.mean().item() == pytest.approx(0, abs=0.05)
    assert found.values.std().item() == pytest.approx(1, abs=0.05)
    changed = pixels.clone()
    changed[:12, 0, 0, 0] = 0.123
    other = RandomAttribution()(smooth, changed, labels)
    assert (other.values[:12] != found.values[:12]).flatten(1).float().mean() > 0.99
    assert torch.equal(other.values[12:], found.values[12:])
    assert not found.points.any()


@each(METHODS)
def test_empty_batch(method, smooth, pixels):
    found = call(method, smooth, pixels[:0])
    assert found.values.shape == (0, 3, 8, 8)
    assert found.gap.shape == found.targets.shape == (0,)


@each(METHODS)
def test_grad_mode_and_channels_last_images_do_not_matter(method, smooth, pixels, labels):
    expected = call(method, smooth, pixels, labels).values
    with torch.no_grad():
        assert torch.equal(call(method, smooth, pixels, labels).values, expected)
    found = call(method, smooth, pixels.clone().requires_grad_(), labels).values
    assert torch.equal(found, expected)
    assert not found.requires_grad
    found = call(method, smooth, pixels.to(memory_format=torch.channels_last), labels).values
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@each(METHODS)
def test_images_must_be_pixels(method, smooth, pixels, labels):
    for images in ((pixels - 0.45) / 0.25, pixels * 255):
        with pytest.raises(DataError, match=r"images must lie in \[0, 1\]"):
            call(method, smooth, images, labels)


@each(METHODS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda labels: labels[:5], "one class number .* for each of the 24 images"),
        (lambda labels: labels.float(), "one class number .* not torch.float32"),
        (lambda labels: labels + 1, "classes of the model, 0 to 4, not 1 to 5"),
        (lambda labels: labels - 1, "classes of the model, 0 to 4, not -1 to 3"),
    ],
)
def test_labels_must_be_classes(method, change, words, smooth, pixels, labels):
    with pytest.raises(SettingsError, match=words):
        call(method, smooth, pixels, change(labels))


class Breaks(nn.Module):
    """Returns NaN, or has an infinite gradient, for dark images."""

    def __init__(self, network: nn.Module, logits: bool):
        super().__init__()
        self.network, self.logits = network, logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        under = torch.relu(0.3 - x.mean(dim=(1, 2, 3))).unsqueeze(1)
        # the root's gradient at 0 is infinite
        broken = torch.where(under > 0, torch.nan, 0.0) if self.logits else (under - under).sqrt()
        return self.network(x) + broken


@pytest.mark.parametrize("logits", [True, False], ids=["logits", "gradient"])
@each(FOLLOW)
def test_non_finite_values_are_an_error(method, logits, smooth, pixels, labels):
    given = {"background": torch.zeros(2, 3, 8, 8)} if "Expected" in repr(method) else {}
    says = "Breaks returns NaN" if logits else f"{type(method).__name__}: the model returns NaN"
    with pytest.raises(NumericError, match=says):
        call(method, Breaks(smooth, logits), pixels * 0.5, labels, **given)
    if isinstance(method, IntegratedGradients):  # broken on the way only
        with pytest.raises(NumericError, match="check its weights"):
            method(Breaks(smooth, True), pixels, labels, baselines=torch.zeros(3, 8, 8))


class Mixed(nn.Module):
    """Batch normalization and dropout, in mixed modes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5)
        )
        self.linear = nn.Linear(4 * 6 * 6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.flatten(self.body(x), 1))


def state_of(model: nn.Module) -> list:
    """Everything that a method could leave behind."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return [
        [(name, m.training, len(m._forward_hooks)) for name, m in model.named_modules()],
        [(name, t.requires_grad, t.tolist()) for name, t in tensors.items()],
        [None if t.grad is None else t.grad.tolist() for t in tensors.values()],
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        torch.is_grad_enabled(),
    ]


@each(METHODS)
def test_no_residue(method, pixels, labels):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Mixed().train()
    model.body[1].eval()
    model.body[0].weight.requires_grad_(False)
    model(pixels).sum().backward()
    before, images = state_of(model), pixels.clone()
    first = call(method, model, pixels, labels)
    with pytest.raises(SettingsError):
        call(method, model, pixels, labels + 99)
    assert state_of(model) == before
    assert torch.equal(images, pixels)
    again = partial(call, method, prepare(model), pixels, labels)
    assert torch.equal(again().values, first.values)
    assert torch.equal(call(method, model.eval(), pixels, labels).values, first.values)
