"""attacks.base: what every attack promises, whatever its definition."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from advlens import L2, DataError, Linf, NumericError, Pgd, SettingsError, Uniform
from advlens.attacks import AdamAttack, Bim, FeatureAttack, Fgsm, GaussianNoise, Goal, LeastLikely
from advlens.attacks.base import least_likely
from advlens.losses import log_odds
from advlens.prepared import prepare
from every_attack import ATTACKS, BALL, each, logits_apart, pixels_apart
from smooth_network import Breaks, Mixed, state_of

IN_BALL = {name: attack for name, attack in ATTACKS.items() if not name.startswith("adam")}
NEED_LABELS = {"fgsm", "bim", "pgd", "pgd linf", "pgd restarts", "pgd last", "adam untargeted"}
RANDOM = {name for name in ATTACKS if name.startswith("pgd")}
RANDOM |= {"least likely random", "feature", "divergence", "noise"}
DRAWN = {
    name: replace(attack, threat=type(attack.threat)(epsilon=Uniform(low=0.1, high=0.4)))
    for name, attack in IN_BALL.items()
}
DRAWN_TOO = {f"{name} drawn": DRAWN[name] for name in ("fgsm", "pgd", "pgd restarts", "divergence")}


@pytest.fixture(scope="module")
def prepared_cases():
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 5))
    images = (torch.rand(3, 3, 8, 8, generator=generator) * 1.4 - 0.2).clamp(0, 1)
    return prepare(network), images, torch.tensor([0, 1, 2])


@settings(max_examples=200, deadline=None)
@given(
    norm=st.sampled_from([Linf, L2]),
    kind=st.sampled_from([Fgsm, Bim, Pgd, LeastLikely]),
    epsilon=st.one_of(st.just(0.0), st.floats(1e-4, 2)),
    steps=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_invariants(prepared_cases, norm, kind, epsilon, steps, seed):
    """Within the ball and [0, 1], identity at ε = 0, no better off than before."""
    model, images, labels = prepared_cases
    given = {"steps": steps} if kind != Fgsm else {}
    attack = kind(threat=norm(epsilon=epsilon), seed=seed, **given)
    found = attack(model, images, labels)
    length = attack.threat.length(found.double() - images.double())
    assert (length <= epsilon * (1 + 1e-5) + (1e-6 if norm is Linf else 0)).all()
    assert ((found >= 0) & (found <= 1)).all()
    if epsilon == 0:
        assert torch.equal(found, images)
    if kind in (Bim, LeastLikely):  # the image itself is their first iterate
        clean, attacked = model(images), model(found)
        goal = attack.goal(clean, labels)
        assert ((goal.score(attacked) >= goal.score(clean) - 1e-5) | goal.reached(attacked)).all()


@each(ATTACKS | DRAWN_TOO)
def test_same_result_in_any_batch(attack, smooth, pixels, labels):
    close = {"rtol": 0, "atol": pixels_apart(attack)}
    model, ids = prepare(smooth), torch.arange(100, 124)

    def part(chosen):
        return attack(model, pixels[chosen], labels[chosen], ids=ids[chosen])

    together = part(slice(None))
    assert torch.equal(attack(smooth, pixels, labels, ids=ids), together)
    for size in (1, 7):
        parts = [part(slice(i, i + size)) for i in range(0, 24, size)]
        torch.testing.assert_close(torch.cat(parts), together, **close)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(part(order), together[order], **close)


@each({name: ATTACKS[name] for name in RANDOM})
def test_seed_and_ids_decide(attack, smooth, pixels, labels):
    found = attack(smooth, pixels, labels)
    assert torch.equal(attack(smooth, pixels, labels, ids=torch.arange(24)), found)
    assert not torch.equal(attack(smooth, pixels, labels, ids=torch.arange(24) + 1), found)
    assert not torch.equal(replace(attack, seed=99)(smooth, pixels, labels), found)


@each(IN_BALL)
def test_one_epsilon_per_image(attack, smooth, pixels, labels):
    """That of the first is 0: it stays what it is."""
    epsilon = torch.linspace(0, attack.threat.epsilon, 24)
    threat, model = type(attack.threat), prepare(smooth)
    many = replace(attack, threat=threat(epsilon=epsilon))
    found, rows = many(model, pixels, labels), many.outcomes(model, pixels, labels)
    assert torch.equal(found[0], pixels[0])
    for i in (0, 5, 23):
        one = replace(attack, threat=threat(epsilon=epsilon[i].item()))
        part, given = (model, pixels[i : i + 1], labels[i : i + 1]), {"ids": torch.tensor([i])}
        close = {"rtol": 0, "atol": pixels_apart(attack)}
        torch.testing.assert_close(found[i : i + 1], one(*part, **given), **close)
        close = {"rtol": 1e-4, "atol": logits_apart(attack)}
        torch.testing.assert_close(rows[i : i + 1], one.outcomes(*part, **given), **close)


@each(ATTACKS)
def test_images_must_be_pixels_and_labels_there(attack, smooth, pixels, labels):
    if any(attack is ATTACKS[name] for name in NEED_LABELS):
        for call in (attack, attack.outcomes):
            with pytest.raises(SettingsError, match="needs the true labels; pass them, or attack"):
                call(smooth, pixels)
    else:
        assert torch.equal(attack(smooth, pixels), attack(smooth, pixels, labels))
    model = prepare(smooth)
    for images in ((pixels - 0.45) / 0.25, pixels * 255, pixels.nan_to_num() * torch.nan):
        for call in (attack, attack.outcomes):
            with pytest.raises(DataError, match=r"images must lie in \[0, 1\]"):
                call(model, images, labels)
    slightly = torch.where(pixels == 0, -3e-8, pixels)
    assert torch.equal(attack(model, slightly, labels), attack(model, pixels, labels))
    assert attack(model, pixels[:0], labels[:0]).shape == (0, 3, 8, 8)
    assert attack.outcomes(model, pixels[:0], labels[:0]).shape == (0, 5)


@each(ATTACKS | DRAWN_TOO)
def test_other_pixels_whatever_the_grad_mode_and_layout(attack, smooth, pixels, labels):
    expected = attack(smooth, pixels, labels)
    assert (expected.shape, expected.dtype) == (pixels.shape, pixels.dtype)
    assert ((expected >= 0) & (expected <= 1)).all()
    assert (expected != pixels).flatten(1).any(dim=1).all()
    with torch.no_grad():
        assert torch.equal(attack(smooth, pixels, labels), expected)
    found = attack(smooth, pixels.clone().requires_grad_(), labels)
    assert torch.equal(found, expected)
    assert not found.requires_grad
    found = attack(smooth, pixels.to(memory_format=torch.channels_last), labels)
    torch.testing.assert_close(found, expected, rtol=0, atol=pixels_apart(attack))


@each(DRAWN)
def test_radii_are_drawn_from_seed_and_id(attack, smooth, pixels, labels):
    """The same in the call and in outcomes, of all images and of some of them."""
    attack, ids, model = replace(attack, seed=5), torch.arange(24) * 7, prepare(smooth)
    radii = attack.threat.epsilon.draw(5, ids)
    by_hand = replace(attack, threat=type(attack.threat)(epsilon=radii))
    found = attack(model, pixels, labels, ids=ids)
    assert torch.equal(found, by_hand(model, pixels, labels, ids=ids))
    length = attack.threat.length(found.double() - pixels.double())
    assert (length <= radii * (1 + 1e-5) + 1e-6).all()
    assert length.max() > 0.25  # beyond the smallest radius
    rows = attack.outcomes(model, pixels, labels, ids=ids)
    assert torch.equal(rows, by_hand.outcomes(model, pixels, labels, ids=ids))
    some = torch.tensor([20, 3, 5])
    part = attack.outcomes(model, pixels[some], labels[some], ids=ids[some])
    torch.testing.assert_close(part, rows[some], rtol=1e-4, atol=logits_apart(attack))
    assert not torch.equal(replace(attack, seed=6)(model, pixels, labels, ids=ids), found)


FIRST, LATER = "step 1 is not finite; the model returns NaN", "step [1-9] is not finite"


@pytest.fixture
def late(pixels):
    dark = pixels.clamp(0.1, 0.3)
    bright = dark.clone()
    bright[5, 0, 0, 0] = 0.9
    return dark, bright


@pytest.mark.parametrize("logits", [True, False], ids=["logits", "gradient"])
@each({name: ATTACKS[name] for name in ATTACKS if name not in ("noise", "feature")})
def test_non_finite_values_are_an_error(attack, logits, smooth, pixels, labels, late):
    broken = Breaks(smooth, -1, logits)
    at_once = "Breaks returns NaN on images in" if logits else "step 1 is not finite"
    for call in (attack, attack.outcomes):
        with pytest.raises(NumericError, match=at_once):
            call(broken, pixels, labels)
    # the copy is compared on two images; the method itself looks at those that come later
    with pytest.raises(NumericError, match=FIRST):
        attack(prepare(Breaks(smooth, 0.7, logits), late[0]), late[1], labels)
    if not isinstance(attack, Fgsm):  # the first iterates lie below the limit
        images = pixels.clamp(0.3, 0.85)
        with pytest.raises(NumericError, match=LATER):
            attack(prepare(Breaks(smooth, 0.855, logits), images), images, labels)


def test_non_finite_features_and_last_scores_are_errors(smooth, pixels, labels, late):
    images, broken = pixels.clamp(0.1, 0.85), Breaks(smooth, 0.855, logits=True)
    with pytest.raises(NumericError, match="step 2 is not finite; the model returns NaN"):
        Bim(threat=Linf(epsilon=0.05), steps=1)(broken, images, labels)
    convolution = smooth.conv1
    smooth.conv1 = Breaks(convolution, 0.4, logits=True)  # it reads 2x − 1
    with pytest.raises(NumericError, match=FIRST):
        FeatureAttack(threat=BALL)(prepare(smooth, late[0]), late[1])
    convolution.bias.data.fill_(torch.nan)
    with pytest.raises(NumericError, match="SmoothNetwork returns NaN on images in"):
        FeatureAttack(threat=BALL)(smooth, late[0])


@each(ATTACKS | DRAWN_TOO)
def test_no_residue_and_the_models_mode_does_not_matter(attack, pixels, labels):
    model = Mixed(pixels)
    model.linear.register_forward_hook(lambda *_: None)
    before, first = state_of(model), attack(model, pixels, labels)
    attack.outcomes(model, pixels, labels)
    assert state_of(model) == before
    assert torch.isfinite(first).all()
    assert torch.equal(attack(prepare(model), pixels, labels), first)
    assert torch.equal(attack(model.eval(), pixels, labels), first)
    for images in (pixels * 2, pixels):
        model.linear.weight.data.fill_(torch.nan)
        before = state_of(model)
        try:
            attack(model, images, labels)
        except (DataError, NumericError):
            pass
        else:
            assert isinstance(attack, (GaussianNoise, FeatureAttack))  # do not look at the logits
        assert str(state_of(model)) == str(before)  # as text, where NaN equals NaN


def test_many_calls_leave_memory_alone(smooth, pixels, labels):
    """400 calls that kept the gradients of 96 images would keep 28 MiB."""

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    model, attack = prepare(smooth), Bim(threat=BALL, steps=1)
    pixels, labels = pixels.repeat(4, 1, 1, 1), labels.repeat(4)
    for calls in (50, 400):
        before = resident()
        for _ in range(calls):
            attack(model, pixels, labels)
        for _ in range(calls // 20):
            attack(smooth, pixels, labels)
    assert resident() - before < 20


@each(ATTACKS | DRAWN_TOO)
def test_outcomes_count_as_the_full_attack(attack, smooth, pixels, labels):
    close = {"rtol": 1e-4, "atol": logits_apart(attack)}
    with torch.no_grad():
        clean, kept = smooth(pixels), smooth(pixels)
        full = smooth(attack(smooth, pixels, labels))
    goal = attack.goal(clean, labels)
    before, rows = goal.reached(clean), attack.outcomes(smooth, pixels, labels)
    assert torch.equal(goal.reached(rows), before | goal.reached(full))
    torch.testing.assert_close(rows[before], clean[before], rtol=0, atol=1e-5)
    same = ~goal.reached(rows)  # an image that holds out has the logits of its worst iterate
    torch.testing.assert_close(rows[same], full[same], **close)
    given = attack.outcomes(smooth, pixels, labels, clean=clean)
    torch.testing.assert_close(given, rows, **close)
    assert torch.equal(clean, kept)
    assert torch.equal(given[before], clean[before])
    if goal.targeted or attack.goal(clean, labels).classes is not labels:
        return
    robust = (clean.argmax(dim=1) == labels) & (full.argmax(dim=1) == labels)
    assert torch.equal(rows.argmax(dim=1) == labels, robust)
    assert before[::4].all()  # their labels are wrong from the start


def test_goals():
    logits, labels = torch.tensor([[1.0, 3.0, 2.0], [5.0, 1.0, 0.0]]), torch.tensor([1, 1])
    goal = Fgsm(threat=BALL).goal(logits, labels)
    assert goal.reached(logits).tolist() == [False, True]
    torch.testing.assert_close(goal.score(logits), log_odds(logits, labels))
    noise, predicted = GaussianNoise(threat=BALL), Pgd(threat=BALL, label="predicted")
    for attack, classes, targeted in (
        *((predicted, [1, 0], False), (noise, [1, 1], False)),
        *((AdamAttack(targeted=False), [1, 1], False), (AdamAttack(), [0, 2], True)),
        (LeastLikely(threat=BALL), [0, 2], True),
    ):
        goal = attack.goal(logits, labels)
        assert (goal.classes.tolist(), goal.targeted) == (classes, targeted)
        assert attack.aims(3) == targeted
        if targeted:
            assert goal.reached(logits).tolist() == [False, False]
            assert goal.reached(-logits).tolist() == [True, True]
    assert noise.goal(logits).classes.tolist() == [1, 0]


@pytest.mark.parametrize("targeted", [False, True])
def test_a_masked_class_is_no_target_and_no_score_can_move_it(targeted):
    logits = torch.tensor([[1.0, -math.inf, 0.0], [0.5, 2.0, -math.inf]]).requires_grad_()
    assert least_likely(logits).tolist() == [2, 0]
    score = Goal(torch.tensor([1, 1]), targeted).score(logits)
    (gradient,) = torch.autograd.grad(score[0], logits, retain_graph=True)
    assert score[0].item() == 0
    assert not gradient.any()
    # beside a masked one, class 1 has the log odds log e^0.5 / e^2
    assert score[1].item() == pytest.approx((1 if targeted else -1) * 1.5, rel=1e-6)
