"""What every attribution promises, and exactly the passes that it is allowed."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from advlens import ExpectedGradients
from advlens.attribution import Faithfulness, IntegratedGradients, RandomAttribution, Stability
from advlens.attribution.baselines import blurred
from advlens.errors import DataError, NumericError, SettingsError
from advlens.prepared import prepare
from flops import counted_resnet, flops
from smooth_network import Breaks, Counting, Mixed, state_of

METHODS = {
    "noise": IntegratedGradients(steps=3, baselines=2, seed=1),
    "black": IntegratedGradients(steps=3, baseline="black", target="logit"),
    "blurred": IntegratedGradients(steps=3, baseline="blurred", tolerance=0.02, max_steps=12),
    "expected": ExpectedGradients(samples=6, seed=1),
    "plain": ExpectedGradients(samples=5, target="probability", stratified=False),
    "random": RandomAttribution(),
}
M, N, BACKGROUND = 5, 8, 12
BATCHES = {
    "integrated": lambda many: IntegratedGradients(steps=many, baselines=3),
    "tolerance": lambda many: IntegratedGradients(steps=2, tolerance=1e-30, max_steps=2 * many),
    "expected": lambda many: ExpectedGradients(samples=2 * many),
    "faithfulness": lambda many: Faithfulness(steps=many),
}


def each(methods):
    return pytest.mark.parametrize("method", methods.values(), ids=methods)


def call(method, model, images, *arguments, **given):
    """Expected gradients get a background."""
    if isinstance(method, ExpectedGradients):
        generator = torch.Generator().manual_seed(0)
        given.setdefault("background", torch.rand(4, 3, 8, 8, generator=generator))
    return method(model, images, *arguments, **given)


@each(METHODS)
def test_result_for_labels_and_for_predicted_classes(method, smooth, pixels, labels):
    found = call(method, smooth, pixels, labels)
    assert (found.values.shape, found.values.dtype) == (pixels.shape, pixels.dtype)
    assert found.maps.shape == (24, 8, 8)
    assert torch.equal(found.targets, labels)
    assert found.gap.shape == found.error.shape == found.points.shape == (24,)
    assert (found.gap.isnan() if isinstance(method, RandomAttribution) else found.gap >= 0).all()
    assert (found.values.flatten(1) != 0).any(dim=1).all()
    empty = call(method, smooth, pixels[:0])
    assert empty.values.shape == (0, 3, 8, 8)
    assert empty.gap.shape == empty.targets.shape == (0,)
    found, predicted = call(method, smooth, pixels), smooth(pixels).argmax(dim=1)
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

    def part(chosen):
        return call(method, model, pixels[chosen], labels[chosen], ids=ids[chosen]).values

    parts = torch.cat([part(slice(i, i + 5)) for i in range(0, 24, 5)])
    torch.testing.assert_close(parts, together.values, **close)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(part(order), together.values[order], **close)


@each({name: METHODS[name] for name in ("noise", "expected", "plain", "random")})
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
    model = prepare(smooth)
    for images in ((pixels - 0.45) / 0.25, pixels * 255):
        with pytest.raises(DataError, match=r"images must lie in \[0, 1\]"):
            call(method, model, images, labels)


@pytest.mark.parametrize("logits", [True, False], ids=["logits", "gradient"])
@each({name: method for name, method in METHODS.items() if name != "random"})
def test_non_finite_values_are_an_error(method, logits, smooth, pixels, labels):
    says = "Breaks returns NaN" if logits else f"{type(method).__name__}: the model returns NaN"
    with pytest.raises(NumericError, match=says):
        call(method, Breaks(smooth, -1, logits), pixels, labels)
    if isinstance(method, IntegratedGradients):  # broken on the way only
        broken = Breaks(smooth, 0.6, True)
        with pytest.raises(NumericError, match="check its weights"):
            method(broken, pixels * 0.5, labels, baselines=torch.ones(3, 8, 8))


@each(METHODS)
def test_no_residue(method, pixels, labels):
    model, before = Mixed(pixels), pixels.clone()
    state, first = state_of(model), call(method, model, pixels, labels).values
    with pytest.raises(SettingsError):
        call(method, model, pixels, labels + 99)
    assert state_of(model) == state
    assert torch.equal(before, pixels)
    assert torch.equal(call(method, prepare(model), pixels, labels).values, first)
    assert torch.equal(call(method, model.eval(), pixels, labels).values, first)


@pytest.fixture(scope="module")
def resnet():
    model, pixels, unit = counted_resnet(6 + BACKGROUND)
    return model, pixels[:6], pixels[6:], unit


@pytest.mark.parametrize("batch_size", [4, 64])
@pytest.mark.parametrize("known", [True, False])
def test_integrated_gradients(batch_size, known, resnet):
    """Two units a point; the image itself is one point, whatever the number of baselines."""
    model, images, _, unit = resnet
    labels = torch.arange(6) if known else None
    for settings, points in (
        ({"baseline": "black"}, 1 + M),
        ({"baseline": "blurred", "target": "logit"}, 1 + M),
        ({"baselines": 3}, 1 + 3 * M),
        ({"formula": "paper", "baselines": 2}, 1 + 2 * M),
        ({"baseline": "black", "tolerance": 1e-30, "max_steps": 4 * M}, 1 + 4 * M),
    ):
        method = IntegratedGradients(steps=M, batch_size=batch_size, **settings)
        cost = flops(lambda method=method: method(model, images, labels))
        blur = flops(lambda: blurred(images)) if method.baseline == "blurred" else 0
        assert cost - blur == 12 * points * unit
        assert method(model, images, labels).points.tolist() == [points] * 6


def test_a_tolerance_costs_only_the_images_that_exceed_it_and_measures_their_passes(resnet):
    model, images, _, unit = resnet
    gaps = IntegratedGradients(steps=M, baseline="black")(model, images).gap
    settings = {"tolerance": gaps.median().item(), "max_steps": 2 * M}
    method = IntegratedGradients(steps=M, baseline="black", **settings)
    points = method(model, images).points
    assert points.tolist() == [1 + M * (1 + (gap > gaps.median()).item()) for gap in gaps]
    assert flops(lambda: method(model, images)) == 2 * int(points.sum()) * unit
    model, images, _, unit = resnet
    random = RandomAttribution()(model, images)
    assert flops(lambda: RandomAttribution()(model, images)) == 6 * unit
    curves = Faithfulness(steps=7)
    assert flops(lambda: curves(model, images, random.maps, random.targets)) == 6 * 14 * unit
    method, changes = IntegratedGradients(steps=M, baseline="black"), Stability(draws=3)
    cost = flops(lambda: changes(method, model, images, method(model, images)))
    assert cost == 4 * 12 * (1 + M) * unit


@pytest.mark.parametrize("batch_size", [4, 64])
@pytest.mark.parametrize("stratified", [True, False])
def test_expected_gradients(batch_size, stratified, resnet):
    """Two units a sample, one an image and a background image, which the gap is taken from."""
    model, images, background, unit = resnet
    method = ExpectedGradients(samples=N, stratified=stratified, batch_size=batch_size)
    cost = flops(lambda: method(model, images, background=background))
    assert cost == (6 * (2 * N + 1) + BACKGROUND) * unit


@pytest.mark.parametrize("make", BATCHES.values(), ids=BATCHES)
def test_the_largest_batch_is_the_one_set(make, pixels):
    """Whatever the number of images and steps; and no batch but the last of a row is smaller."""
    counting = Counting(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)))
    model, background = prepare(counting, pixels), torch.rand(40, 3, 8, 8)
    for count, many, size in ((1, 40, 16), (24, 3, 16), (8, 40, 16), (24, 40, 7)):
        Counting.seen.clear()
        method, given = replace(make(many), batch_size=size), {}
        if isinstance(method, ExpectedGradients):
            given["background"] = background
        if isinstance(method, Faithfulness):
            given |= {"maps": pixels[:count].sum(dim=1), "targets": torch.zeros(count).long()}
        method(model, pixels[:count], **given)
        assert max(Counting.seen) <= size
        assert sum(seen < size for seen in Counting.seen) <= 8
        assert len(Counting.seen) <= sum(Counting.seen) / size + 8
