"""Models whose passes differ: expectation over transformation, and accuracy over draws."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advlens import L2, load_data
from advlens.attacks import Bim, Divergence, GradientAttack, LeastLikely, Pgd, base
from advlens.evaluation import Accuracy
from advlens.intervals import wilson
from advlens.prepared import prepare
from every_attack import ATTACKS, BALL, each, pixels_apart
from randomized_network import Live, Shifted
from steps_by_hand import moved

SHIFTS = (0, 3, 1, 5)
DRAWS = len(SHIFTS)

DRAWING = {name: attack for name, attack in ATTACKS.items() if isinstance(attack, GradientAttack)}


@each(DRAWING)
def test_draws_of_a_model_that_does_not_vary_change_nothing(attack, smooth, pixels, labels):
    given, three = (prepare(smooth), pixels, labels), replace(attack, draws=3)
    atol = pixels_apart(attack)  # means of equal float32 numbers
    torch.testing.assert_close(three(*given), attack(*given), rtol=0, atol=atol)
    atol = 3e-3 if isinstance(attack, Divergence) else 1e-3
    expected = attack.outcomes(*given)
    torch.testing.assert_close(three.outcomes(*given), expected, rtol=1e-3, atol=atol)


def by_hand(network: nn.Module, images: Tensor, goals: Tensor, sign: int, steps: int) -> Tensor:
    """Each image's worst iterate in L2 ε = .4 by the mean over all shifts, in float64."""
    found = []
    for image, goal in zip(images.double(), goals.tolist(), strict=True):
        current, worst = image, (-1.0, -torch.inf, image)
        for _ in range(steps + 1):
            scores, hits, total = [], [], torch.zeros_like(image)
            for shift in SHIFTS:
                inputs = current.clone().requires_grad_()
                logits = network(torch.roll(inputs[None], shift, 3))[0]
                others = torch.cat([logits[:goal], logits[goal + 1 :]])
                odds = sign * (others.exp().sum().log() - logits[goal])
                total += torch.autograd.grad(odds, inputs)[0]
                scores.append(odds.item())
                hits.append((int(logits.argmax()) == goal) == (sign < 0))
            seen = (sum(hits) / DRAWS, sum(scores) / DRAWS, current)
            worst = max(worst, seen, key=lambda look: look[:2])
            current = moved(L2, current, total, 2.5 * 0.4 / steps, image, 0.4)
        found.append(worst[2])
    return torch.stack(found)


def test_gradients_and_choices_are_means_over_draws(smooth, pixels, labels):
    """A model that takes its shifts by turns: so many draws are its exact mean."""
    images, labels = pixels[:10], labels[:10]
    double, model = copy.deepcopy(smooth).double(), Live(Shifted(smooth, SHIFTS))
    bim = Bim(threat=BALL, steps=3, draws=DRAWS)
    expected = by_hand(double, images, labels, 1, 3).float()
    torch.testing.assert_close(bim(model, images, labels), expected, rtol=0, atol=2e-5)
    single = replace(bim, draws=1)(model, images, labels)
    assert (single - expected).abs().amax() > 0.01  # one draw is not the mean
    with torch.no_grad():
        mean = sum(double(torch.roll(images.double(), shift, 3)) for shift in SHIFTS)
    expected = by_hand(double, images, mean.argmin(dim=1), -1, 3).float()
    found = LeastLikely(threat=BALL, steps=3, draws=DRAWS)(model, images)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@each(ATTACKS)
def test_no_image_is_spared_by_a_lucky_draw(attack, smooth, pixels, labels):
    """All are attacked, whatever one pass says of them, and a fresh pass decides."""
    if isinstance(attack, GradientAttack):
        attack = replace(attack, draws=2)
    model = Live(Shifted(smooth, (0,)))
    with torch.no_grad():
        attacked = model(attack(model, pixels, labels))
        rows = attack.outcomes(model, pixels, labels)
    torch.testing.assert_close(rows, attacked, rtol=1e-4, atol=1e-4)
    assert (rows != model(pixels)).any(dim=1).all()


def test_neither_given_logits_nor_rounding_hide_that_a_model_is_randomized(
    smooth, pixels, labels, monkeypatch
):
    """An image that one pass misclassifies is attacked all the same."""
    model, bim = Shifted(smooth, most=3), Bim(threat=BALL, steps=2, draws=2)
    wrong = torch.eye(5)[torch.zeros(len(pixels), dtype=torch.int64)]
    rows = bim.outcomes(model, pixels, torch.ones(len(pixels), dtype=torch.int64), clean=wrong)
    assert (rows != wrong).any(dim=1).all()
    # As that of 41 float32 ones, each times 1/41, does: fooled in every draw stays fooled
    attack, mean = Pgd(threat=BALL, steps=3, draws=3), base._mean
    expected = attack.outcomes(smooth, pixels, labels)

    def less(looks):
        return (found := mean(looks))._replace(reached=found.reached * (1 - 2**-23))

    monkeypatch.setattr(base, "_mean", less)
    assert torch.equal(attack.outcomes(smooth, pixels, labels), expected)


def test_accuracy_of_a_randomized_model_is_that_of_a_plain_loop():
    """A network behind a random shift: attacked and counted over the live model."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pool = nn.Conv2d(3, 8, 5, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        network = nn.Sequential(*pool, nn.Linear(128, 10)).eval()
    network[4].weight.data *= 8
    random.seed(0)
    (batch,) = load_data("sample").subset(24, seed=0).batches(24)
    images, still = batch.images, prepare(network)
    labels = still(images).argmax(dim=1)
    labels[::4] = (labels[::4] + 1) % 10
    live, attack = Live(Shifted(still, most=2)), Pgd(threat=L2(epsilon=0.2), steps=2, draws=3)
    clean = live(images).detach()
    natural, attacked = Accuracy(draws=6), Accuracy(draws=6)
    for accuracy, how in ((natural, None), (attacked, attack)):
        accuracy.update_under(how, live, images, labels, ids=batch.ids, clean=clean)

    def plain(pixels: Tensor) -> tuple[float, float]:
        """Top-1 and top-5 over 10 fresh passes."""
        with torch.no_grad():
            ranked = torch.stack([live(pixels).topk(5).indices for _ in range(10)])
        hits = ranked == labels[:, None]
        return hits[..., 0].double().mean().item(), hits.any(dim=-1).double().mean().item()

    found, moved_images = attacked.compute(), attack(live, images, labels, ids=batch.ids)
    for row, pixels in ((natural.compute(), images), (found, moved_images)):
        top1, top5 = plain(pixels)
        assert 0 <= row["top1_spread"] < 0.2
        assert row["top1_low"] <= top1 <= row["top1_high"]
        assert (row["top5"], row["draws"]) == (pytest.approx(top5, abs=0.08), 6)
    assert 0 < found["top1_spread"] < 0.2


@pytest.mark.parametrize("shared", [0.0, 1.0], ids=["drawn for each image", "shared by a pass"])
def test_the_interval_holds_the_truth(shared):
    """Images are drawn, and passes: the truth is the mean over all of both."""
    rng, n, draws, inside = np.random.default_rng(0), 100, 10, []
    logits = 2 * rng.normal(size=200_000) + shared * rng.normal(size=200_000)
    truth = (1 / (1 + np.exp(-logits))).mean()
    for _ in range(300):
        logits = 2 * rng.normal(size=(n, 1)) + shared * rng.normal(size=(1, draws))
        right = rng.random((n, draws)) < 1 / (1 + np.exp(-logits))
        by_draw = [int(count) for count in right.sum(axis=0)]
        accuracy = Accuracy(n=n, top1=sum(by_draw), draws=draws, by_draw=by_draw)
        low, high = accuracy.interval()
        assert accuracy.spread == pytest.approx(np.std(right.mean(axis=0), ddof=1))
        inside.append(low <= truth <= high)
    assert np.mean(inside) >= 0.93


def test_counts_over_draws_merge_and_come_back():
    model = Live(Shifted(nn.Sequential(nn.Flatten(), nn.Linear(12, 7)), SHIFTS))
    images, labels = torch.rand(9, 3, 2, 2), torch.arange(9) % 7
    clean = model(images).detach()
    whole, parts = Accuracy(draws=DRAWS), [Accuracy(draws=DRAWS) for _ in range(3)]
    whole.update_under(None, model, images, labels, ids=labels, clean=clean)
    for part, place in zip(parts, (slice(4), slice(4, 9)), strict=False):
        part.update_under(None, model, images[place], labels[place], ids=labels, clean=clean)
    again = Accuracy(draws=DRAWS)
    again.restore([sum(column) for column in zip(*(p.counts() for p in parts), strict=True)])
    first, *others = parts
    for other in others:
        first.merge(other)
    assert whole == first == again
    assert whole.top1 == sum(whole.by_draw)
    single = Accuracy(n=10, top1=4, top5=7)
    assert single.counts() == [10, 4, 7]
    assert single.interval() == wilson(4, 10)
    for right in (0, 40):  # no spread at the ends, and no division by 0
        certain = Accuracy(n=10, top1=right, draws=4, by_draw=[right // 4] * 4)
        assert certain.interval() == wilson(right / 4, 10)
