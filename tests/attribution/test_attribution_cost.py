"""Every attribution does exactly the passes that it is allowed, and no more of them at once."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from advlens import ExpectedGradients
from advlens.attribution import Faithfulness, IntegratedGradients, RandomAttribution, Stability
from advlens.attribution.baselines import blurred
from advlens.prepared import prepare
from flops import counted_resnet, flops
from smooth_network import Counting

M, N, BACKGROUND = 5, 8, 12
BATCHES = {
    "integrated": lambda many: IntegratedGradients(steps=many, baselines=3),
    "tolerance": lambda many: IntegratedGradients(steps=2, tolerance=1e-30, max_steps=2 * many),
    "expected": lambda many: ExpectedGradients(samples=2 * many),
    "faithfulness": lambda many: Faithfulness(steps=many),
}


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
