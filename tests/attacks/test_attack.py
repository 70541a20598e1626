"""attacks.base: what every attack promises, whatever its definition."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from advlens.attacks import (
    AdamAttack,
    Bim,
    Divergence,
    FeatureAttack,
    Fgsm,
    GaussianNoise,
    LeastLikely,
    Pgd,
)
from advlens.attacks.threat import L2, Linf, Uniform
from advlens.errors import DataError, NumericError, SettingsError
from advlens.losses import log_odds
from advlens.prepared import Prepared, prepare
from every_attack import ATTACKS, BALL, each, logits_apart, pixels_apart

IN_BALL = {name: attack for name, attack in ATTACKS.items() if not name.startswith("adam")}
NEED_LABELS = {"fgsm", "bim", "pgd", "pgd linf", "pgd restarts", "pgd last", "adam untargeted"}
RANDOM = {name for name in ATTACKS if name.startswith("pgd")}
RANDOM |= {"least likely random", "feature", "divergence", "noise"}
DRAWN = {
    name: replace(attack, threat=type(attack.threat)(epsilon=Uniform(low=0.1, high=0.4)))
    for name, attack in IN_BALL.items()
}
DRAWN_TOO = {f"{name} drawn": DRAWN[name] for name in ("fgsm", "pgd", "pgd restarts", "divergence")}


@each(ATTACKS | DRAWN_TOO)
def test_result_is_other_pixels(attack, smooth, pixels, labels):
    found = attack(smooth, pixels, labels)
    assert found.shape == pixels.shape
    assert found.dtype == pixels.dtype
    assert ((found >= 0) & (found <= 1)).all()
    assert (found != pixels).flatten(1).any(dim=1).all()


@pytest.fixture(scope="module")
def prepared_cases():
    """One prepared network and its images for all of hypothesis' cases."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 5))
    images = (torch.rand(3, 3, 8, 8, generator=generator) * 1.4 - 0.2).clamp(0, 1)
    return prepare(network), images, torch.tensor([0, 1, 2])


@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    norm=st.sampled_from([Linf, L2]),
    kind=st.sampled_from([Fgsm, Bim, Pgd, LeastLikely]),
    epsilon=st.one_of(st.just(0.0), st.floats(1e-4, 2)),
    steps=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_invariants(prepared_cases, norm, kind, epsilon, steps, seed):
    """Check 23: within the ball and [0, 1], identity at ε = 0, no better off than before."""
    model, images, labels = prepared_cases
    attack = kind(
        threat=norm(epsilon=epsilon), seed=seed, **{"steps": steps} if kind != Fgsm else {}
    )
    found = attack(model, images, labels)
    length = attack.threat.length(found.double() - images.double())
    assert (length <= epsilon * (1 + 1e-5) + (1e-6 if norm is Linf else 0)).all()
    assert ((found >= 0) & (found <= 1)).all()
    if epsilon == 0:
        assert torch.equal(found, images)
    if kind in (Bim, LeastLikely):  # the image itself is their first iterate
        clean, attacked = model(images), model(found)
        goal = attack.goal(clean, labels)
        worse = goal.score(attacked) >= goal.score(clean) - 1e-5
        assert (worse | goal.reached(attacked)).all()


@each(ATTACKS | DRAWN_TOO)
def test_same_result_in_any_batch(attack, smooth, pixels, labels):
    close = {"rtol": 0, "atol": pixels_apart(attack)}
    ids = torch.arange(100, 124)
    together = attack(smooth, pixels, labels, ids=ids)
    assert torch.equal(attack(smooth, pixels, labels, ids=ids), together)
    for size in (1, 7):
        parts = [
            attack(smooth, pixels[i : i + size], labels[i : i + size], ids=ids[i : i + size])
            for i in range(0, 24, size)
        ]
        torch.testing.assert_close(torch.cat(parts), together, **close)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    shuffled = attack(smooth, pixels[order], labels[order], ids=ids[order])
    torch.testing.assert_close(shuffled, together[order], **close)


@each({name: ATTACKS[name] for name in RANDOM})
def test_seed_and_ids_decide(attack, smooth, pixels, labels):
    found = attack(smooth, pixels, labels)
    assert torch.equal(attack(smooth, pixels, labels, ids=torch.arange(24)), found)
    assert not torch.equal(attack(smooth, pixels, labels, ids=torch.arange(24) + 1), found)
    assert not torch.equal(replace(attack, seed=99)(smooth, pixels, labels), found)


@each(IN_BALL)
def test_zero_radius_is_the_identity(attack, smooth, pixels, labels):
    attack = replace(attack, threat=type(attack.threat)(epsilon=0.0))
    assert torch.equal(attack(smooth, pixels, labels), pixels)


@each(IN_BALL)
def test_one_epsilon_per_image(attack, smooth, pixels, labels):
    epsilon = torch.linspace(0, attack.threat.epsilon, 24)
    threat = type(attack.threat)
    many = replace(attack, threat=threat(epsilon=epsilon))
    found, rows = many(smooth, pixels, labels), many.outcomes(smooth, pixels, labels)
    for i in (0, 5, 23):
        one, ids = replace(attack, threat=threat(epsilon=epsilon[i].item())), torch.tensor([i])
        part = smooth, pixels[i : i + 1], labels[i : i + 1]
        torch.testing.assert_close(
            found[i : i + 1], one(*part, ids=ids), rtol=0, atol=pixels_apart(attack)
        )
        torch.testing.assert_close(
            rows[i : i + 1], one.outcomes(*part, ids=ids), rtol=1e-4, atol=logits_apart(attack)
        )


@each(ATTACKS)
def test_missing_labels(attack, smooth, pixels, labels):
    if any(attack is ATTACKS[name] for name in NEED_LABELS):
        with pytest.raises(SettingsError, match="needs the true labels; pass them, or attack"):
            attack(smooth, pixels)
        with pytest.raises(SettingsError, match="needs the true labels"):
            attack.outcomes(smooth, pixels)
    else:
        assert torch.equal(attack(smooth, pixels), attack(smooth, pixels, labels))


@each(ATTACKS)
def test_images_must_be_pixels(attack, smooth, pixels, labels):
    for images in ((pixels - 0.45) / 0.25, pixels * 255, pixels.nan_to_num() * torch.nan):
        with pytest.raises(DataError, match=r"images must lie in \[0, 1\]"):
            attack(smooth, images, labels)
        with pytest.raises(DataError, match=r"images must lie in \[0, 1\]"):
            attack.outcomes(smooth, images, labels)
    slightly = torch.where(pixels == 0, -3e-8, pixels)
    assert torch.equal(attack(smooth, slightly, labels), attack(smooth, pixels, labels))


@each(ATTACKS)
def test_empty_batch(attack, smooth, pixels, labels):
    assert attack(smooth, pixels[:0], labels[:0]).shape == (0, 3, 8, 8)
    assert attack.outcomes(smooth, pixels[:0], labels[:0]).shape == (0, 5)


@each(ATTACKS)
def test_grad_mode_and_channels_last_images_do_not_matter(attack, smooth, pixels, labels):
    expected = attack(smooth, pixels, labels)
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
    attack, ids = replace(attack, seed=5), torch.arange(24) * 7
    radii = attack.threat.epsilon.draw(5, ids)
    by_hand = replace(attack, threat=type(attack.threat)(epsilon=radii))
    found = attack(smooth, pixels, labels, ids=ids)
    assert torch.equal(found, by_hand(smooth, pixels, labels, ids=ids))
    length = attack.threat.length(found.double() - pixels.double())
    assert (length <= radii * (1 + 1e-5) + 1e-6).all()
    assert length.max() > 0.25  # beyond the smallest radius
    rows = attack.outcomes(smooth, pixels, labels, ids=ids)
    assert torch.equal(rows, by_hand.outcomes(smooth, pixels, labels, ids=ids))
    some = torch.tensor([20, 3, 5])
    torch.testing.assert_close(
        attack.outcomes(smooth, pixels[some], labels[some], ids=ids[some]),
        rows[some],
        rtol=1e-4,
        atol=logits_apart(attack),
    )
    assert not torch.equal(replace(attack, seed=6)(smooth, pixels, labels, ids=ids), found)


class Breaks(nn.Module):
    """Returns NaN, or a NaN gradient, for what has a value above the limit."""

    def __init__(self, network: nn.Module, limit: float, logits: bool):
        super().__init__()
        self.network, self.limit, self.logits = network, limit, logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        over = torch.relu(x.amax(dim=(1, 2, 3)) - self.limit).unsqueeze(1)
        # the root's gradient at 0 is infinite, once with either sign
        broken = torch.where(over > 0, torch.nan, 0.0) if self.logits else (over - over).pow(0.5)
        found = self.network(x)
        return (found.flatten(1) + broken).view_as(found)


USE_LOGITS = {name: ATTACKS[name] for name in ATTACKS if name not in ("noise", "feature")}


@pytest.mark.parametrize("logits", [True, False], ids=["logits", "gradient"])
@each(USE_LOGITS)
def test_non_finite_values_are_an_error(attack, logits, smooth, pixels, labels):
    broken = Breaks(smooth, -1, logits)
    at_once = "Breaks returns NaN on images in" if logits else "step 1 is not finite"
    for call in (attack, attack.outcomes):
        with pytest.raises(NumericError, match=at_once):
            call(broken, pixels, labels)
    # the copy is compared on two images; the method itself looks at those that come later
    dark, late = pixels.clamp(0.1, 0.3), pixels.clamp(0.1, 0.3)
    late[5, 0, 0, 0] = 0.9
    checked = prepare(Breaks(smooth, 0.7, logits), dark)
    with pytest.raises(NumericError, match="step 1 is not finite; the model returns NaN"):
        attack(checked, late, labels)
    if not isinstance(attack, Fgsm):  # the first iterates lie below the limit
        images = pixels.clamp(0.3, 0.85)
        with pytest.raises(NumericError, match=r"step [1-9] is not finite"):
            attack(prepare(Breaks(smooth, 0.855, logits), images), images, labels)


def test_non_finite_features_are_an_error(smooth, pixels):
    with torch.no_grad():
        smooth.conv1.bias.fill_(torch.nan)
    with pytest.raises(NumericError, match="SmoothNetwork returns NaN on images in"):
        FeatureAttack(threat=BALL)(smooth, pixels)


def test_non_finite_features_of_later_images_are_an_error(smooth, pixels):
    smooth.conv1 = Breaks(smooth.conv1, 0.4, logits=True)  # it reads 2x − 1
    dark, late = pixels.clamp(0.1, 0.3), pixels.clamp(0.1, 0.3)
    late[5, 0, 0, 0] = 0.9
    with pytest.raises(NumericError, match="step 1 is not finite; the model returns NaN"):
        FeatureAttack(threat=BALL)(prepare(smooth, dark), late)


def test_non_finite_scores_of_the_last_iterate_are_an_error(smooth, pixels, labels):
    attack = Bim(threat=Linf(epsilon=0.05), steps=1)
    images = pixels.clamp(0.1, 0.85)
    broken = Breaks(smooth, 0.855, logits=True)
    with pytest.raises(NumericError, match="step 2 is not finite; the model returns NaN"):
        attack(broken, images, labels)


class Mixed(nn.Module):
    """Batch normalization, dropout and a hook, in mixed modes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(4, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
        )
        self.linear = nn.Linear(4 * 4 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.flatten(self.body(x), 1))


def state_of(model: nn.Module) -> list:
    """Everything that a method could leave behind (check 20)."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return [
        [(name, m.training, len(m._forward_hooks)) for name, m in model.named_modules()],
        [(name, t.requires_grad, t.tolist()) for name, t in tensors.items()],
        [None if t.grad is None else t.grad.tolist() for t in tensors.values()],
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        random.getstate(),
        torch.is_grad_enabled(),
    ]


@each(ATTACKS | DRAWN_TOO)
def test_no_residue(attack, pixels, labels):
    torch.manual_seed(0)
    model = Mixed().train()
    model.body[5].eval()
    model.body[0].weight.requires_grad_(False)
    model(pixels).sum().backward()
    calls = []
    handle = model.linear.register_forward_hook(lambda *args: calls.append(1))
    before = state_of(model)
    first = attack(model, pixels, labels)
    attack.outcomes(model, pixels, labels)
    assert state_of(model) == before
    for images in (pixels * 2, pixels):
        with torch.no_grad():
            model.linear.weight.fill_(torch.nan)
        before = state_of(model)
        try:
            attack(model, images, labels)
        except (DataError, NumericError):
            pass
        else:
            assert isinstance(attack, (GaussianNoise, FeatureAttack))  # do not look at the logits
        assert str(state_of(model)) == str(before)  # as text, where NaN equals NaN
    handle.remove()
    assert torch.isfinite(first).all()


@each(ATTACKS)
def test_training_mode_of_the_model_does_not_matter(attack, pixels, labels):
    torch.manual_seed(0)
    model = Mixed()
    model(pixels)  # moves the running statistics
    expected = attack(model.eval(), pixels, labels)
    assert torch.equal(attack(model.train(), pixels, labels), expected)
    assert torch.equal(attack(prepare(model), pixels, labels), expected)


def test_a_thousand_calls_leave_memory_alone(smooth, pixels, labels):
    def resident() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096 / 2**20

    model = prepare(smooth)
    attack = Bim(threat=BALL, steps=1)
    for _ in range(100):
        attack(model, pixels, labels)
    before = resident()
    for _ in range(1000):
        attack(model, pixels, labels)
    for _ in range(50):
        attack(smooth, pixels, labels)
    assert resident() - before < 20


@each(ATTACKS | DRAWN_TOO)
def test_outcomes_count_as_the_full_attack(attack, smooth, pixels, labels):
    with torch.no_grad():
        clean = smooth(pixels)
        full = smooth(attack(smooth, pixels, labels))
    goal = attack.goal(clean, labels)
    before = goal.reached(clean)
    rows = attack.outcomes(smooth, pixels, labels)
    assert torch.equal(goal.reached(rows), before | goal.reached(full))
    torch.testing.assert_close(rows[before], clean[before], rtol=0, atol=1e-5)
    same = ~goal.reached(rows)  # an image that holds out has the logits of its worst iterate
    torch.testing.assert_close(rows[same], full[same], rtol=1e-4, atol=logits_apart(attack))
    given = attack.outcomes(smooth, pixels, labels, clean=clean)
    torch.testing.assert_close(given, rows, rtol=1e-4, atol=logits_apart(attack))
    if goal.targeted or attack.goal(clean, labels).classes is not labels:
        return
    robust = (clean.argmax(dim=1) == labels) & (full.argmax(dim=1) == labels)
    assert torch.equal(rows.argmax(dim=1) == labels, robust)
    assert torch.equal(rows[::4].argmax(dim=1) != labels[::4], torch.ones(6, dtype=torch.bool))


def test_outcomes_leave_the_given_logits_alone(smooth, pixels, labels):
    with torch.no_grad():
        clean = smooth(pixels)
    copy = clean.clone()
    rows = Pgd(threat=L2(epsilon=2.0), steps=2).outcomes(smooth, pixels, labels, clean=clean)
    assert torch.equal(clean, copy)
    assert torch.equal(rows[::4], clean[::4])  # their labels are wrong from the start
    assert not torch.equal(rows, clean)


def test_outcomes_drop_an_image_at_the_first_iterate_that_fools(smooth, pixels, labels):
    seen = []

    class Counting(Prepared):
        def forward(self, images):
            seen.append(len(images))
            return super().forward(images)

    attack = Bim(threat=L2(epsilon=0.3), steps=8)
    rows = attack.outcomes(Counting(smooth, torch.float32), pixels, labels)
    assert seen[:2] == [24, 18]  # clean; then the six wrong ones are gone
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 10
    assert 1 < (rows.argmax(dim=1) == labels).sum() < 10


def test_goals():
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 1.0, 0.0]])
    labels = torch.tensor([1, 1])
    goal = Fgsm(threat=BALL).goal(logits, labels)
    assert goal.reached(logits).tolist() == [False, True]
    torch.testing.assert_close(goal.score(logits), log_odds(logits, labels))
    goal = Pgd(threat=BALL, label="predicted").goal(logits, labels)
    assert goal.classes.tolist() == [1, 0]
    for attack in (LeastLikely(threat=BALL), AdamAttack()):
        goal = attack.goal(logits)
        assert goal.targeted
        assert goal.classes.tolist() == [0, 2]
        assert goal.reached(logits).tolist() == [False, False]
        assert goal.reached(-logits).tolist() == [True, True]
    assert not AdamAttack(targeted=False).goal(logits, labels).targeted
    noise = GaussianNoise(threat=BALL)
    goal = noise.goal(logits, labels)
    assert torch.equal(goal.classes, labels)
    assert not goal.targeted
    assert noise.goal(logits).classes.tolist() == [1, 0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Pgd(threat=BALL, steps=0),
        lambda: Bim(threat=BALL, step_size=-0.1),
        lambda: LeastLikely(threat=BALL, step_size=float("nan")),
        lambda: Pgd(threat=BALL, restarts=0),
        lambda: AdamAttack(weight=0),
        lambda: AdamAttack(steps=-1),
    ],
)
def test_impossible_numbers_are_refused(make):
    with pytest.raises(SettingsError, match="must be a positive number, not"):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Pgd(threat=BALL, select="best"),
        lambda: Bim(threat=BALL, label="least"),
        lambda: Fgsm(threat=BALL, label="True"),
        lambda: Divergence(threat=BALL, select="first"),
    ],
)
def test_unknown_words_are_refused(make):
    with pytest.raises(SettingsError, match="must be one of"):
        make()
