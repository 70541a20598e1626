"""attacks.projected: each update derived a second time in float64, and against other libraries."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advlens import L2, Bim, Fgsm, GaussianNoise, LeastLikely, Linf, Pgd, Uniform
from advlens.attacks.gradient import _Worst
from advlens.prepared import prepare
from steps_by_hand import moved

EPS = torch.finfo(torch.float32).eps
in_both = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
each_norm = pytest.mark.parametrize("norm", [Linf, L2])
RADIUS, SIZE = {Linf: 0.03, L2: 0.5}, {Linf: 0.008, L2: 0.2}
KINDS = [(Fgsm, False), (Bim, False), (Pgd, True), (LeastLikely, False), (LeastLikely, True)]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # theirs
    import foolbox
    import torchattacks

# in float64: the sign of a gradient next to 0 would be one of rounding; torchattacks adds 1e-10 to
# the length of a gradient
CLOSE = {"rtol": 0, "atol": 1e-9}
EPSILON, STEP, STEPS = {Linf: 0.03, L2: 0.5}, {Linf: 0.008, L2: 0.1}, 7
FOOLBOX = {
    "fgsm linf": (Fgsm, Linf, foolbox.attacks.LinfFastGradientAttack),
    "fgsm l2": (Fgsm, L2, foolbox.attacks.L2FastGradientAttack),
    "bim linf": (Bim, Linf, foolbox.attacks.LinfBasicIterativeAttack),
    "bim l2": (Bim, L2, foolbox.attacks.L2BasicIterativeAttack),
    "pgd linf": (Bim, Linf, foolbox.attacks.LinfPGD),
    "pgd l2": (Bim, L2, foolbox.attacks.L2PGD),
}


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """A length is a sum of 192 squares, and each of up to six steps rounds its pixels."""
    atol = {torch.float32: 1e-5, torch.float64: 1e-13}[found.dtype]
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=atol)


def naive_iterates(network, norm, epsilon, steps, size, images, classes, start, sign=1):
    """x₀ … x_K, along ∇ₓ of plain cross entropy, one image at a time."""
    network, iterates = copy.deepcopy(network).double(), [start.double()]
    for _ in range(steps):
        following = []
        for current, image, label in zip(iterates[-1], images.double(), classes, strict=True):
            x = current[None].requires_grad_()
            loss = sign * F.cross_entropy(network(x), label[None])
            gradient = torch.autograd.grad(loss, x)[0][0]
            if norm is Linf:
                # float32 knows a gradient to 3 ε of its largest value: no sign is one of rounding
                assert gradient.abs().min() > 16 * EPS * gradient.abs().max()
            following.append(moved(norm, current, gradient, size, image, epsilon))
        iterates.append(torch.stack(following))
    return iterates


@in_both
@each_norm
@pytest.mark.parametrize(("kind", "random"), KINDS)
def test_updates(kind, random, norm, dtype, smooth, pixels, labels):
    smooth, pixels, targeted = smooth.to(dtype), pixels.to(dtype), kind is LeastLikely
    threat, ids, seed = norm(epsilon=RADIUS[norm]), torch.arange(24), 0 if targeted else 3
    settings = {"steps": 6, "step_size": SIZE[norm], "select": "last", "seed": seed}
    if targeted:
        settings["random_start"] = random
        with torch.no_grad():
            labels = smooth(pixels).argmin(dim=1)
    attack = Fgsm(threat=threat) if kind is Fgsm else kind(threat=threat, **settings)
    steps, size = (1, RADIUS[norm]) if kind is Fgsm else (6, SIZE[norm])
    start = threat.sample(pixels, seed=seed, ids=ids) if random else pixels
    given = pixels, labels, start, -1 if targeted else 1
    expected = naive_iterates(smooth, norm, RADIUS[norm], steps, size, *given)[-1]
    assert_close(attack(smooth, pixels, None if targeted else labels, ids=ids), expected)


@each_norm
def test_a_step_along_a_given_gradient(norm, pixels):
    """FGSM's own step, radii drawn as in a call."""
    ids = torch.arange(24) + 3
    attack = Fgsm(threat=norm(epsilon=Uniform(low=0.1, high=0.9)), seed=4)
    gradient = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    radii = Uniform(low=0.1, high=0.9).draw(4, ids).tolist()
    rows = zip(pixels.double(), gradient.double(), radii, strict=True)
    expected = [moved(norm, image, along, radius, image, radius) for image, along, radius in rows]
    assert_close(attack.along(gradient, pixels, ids), torch.stack(expected))


def test_default_step_size_and_predicted_label(smooth, pixels, labels):
    settings = {"threat": L2(epsilon=0.6), "steps": 5, "select": "last"}
    given = Pgd(**settings, step_size=2.5 * 0.6 / 5)(smooth, pixels, labels)
    assert_close(Pgd(**settings)(smooth, pixels, labels), given)
    with torch.no_grad():
        predicted = smooth(pixels).argmax(dim=1)
    ball = L2(epsilon=0.5)
    for kind, settings in (
        (Fgsm, {"threat": Linf(epsilon=0.02)}),
        (Bim, {"threat": ball, "steps": 3}),
        (Pgd, {"threat": ball, "steps": 3}),
    ):
        expected = kind(**settings)(smooth, pixels, predicted)
        assert torch.equal(kind(**settings, label="predicted")(smooth, pixels), expected)
        assert not torch.equal(kind(**settings)(smooth, pixels, labels), expected)


def worst_by_hand(network, iterates: list, classes: torch.Tensor, targeted: bool) -> torch.Tensor:
    """For each image the iterate with the most extreme loss, among those that succeed if any."""
    network, chosen = copy.deepcopy(network).double(), []
    for i, label in enumerate(classes.tolist()):
        ranks = []
        for number, x in enumerate(iterates):
            with torch.no_grad():
                logits = network(x[i : i + 1])
            loss = F.cross_entropy(logits, torch.tensor([label])).item()
            hit = (logits.argmax().item() == label) == targeted
            ranks.append((hit, -loss if targeted else loss, -number))
        chosen.append(iterates[-max(ranks)[2]][i])
    return torch.stack(chosen)


def test_worst_iterate(smooth, pixels, labels):
    """With steps so long that the last iterate is often not the worst.

    In float64: the losses of two iterates of an image are as little as 2e-6 apart.
    """
    smooth, pixels = smooth.double(), pixels.double()
    epsilon, size, moved = 0.3, 0.6, 0
    for kind in (Bim, LeastLikely):
        targeted = kind is LeastLikely
        with torch.no_grad():
            classes = smooth(pixels).argmin(dim=1) if targeted else labels
        sign = -1 if targeted else 1
        iterates = naive_iterates(smooth, L2, epsilon, 5, size, pixels, classes, pixels, sign)
        expected = worst_by_hand(smooth, iterates, classes, targeted)
        found = kind(threat=L2(epsilon=epsilon), steps=5, step_size=size)(smooth, pixels, labels)
        assert_close(found, expected)
        moved += (expected != iterates[-1]).flatten(1).any(dim=1).sum().item()
    assert moved > 5


@in_both
def test_restarts_return_the_worst_of_their_runs(dtype, smooth, pixels, labels):
    smooth, pixels = smooth.to(dtype), pixels.to(dtype)
    for select in ("worst", "last"):
        attack = Pgd(threat=L2(epsilon=0.5), steps=2, restarts=3, select=select)
        starts = [attack._start(pixels, torch.arange(24), restart) for restart in range(3)]
        assert not torch.equal(starts[0], starts[1])
        size = 2.5 * 0.5 / 2
        runs = [naive_iterates(smooth, L2, 0.5, 2, size, pixels, labels, start) for start in starts]
        runs = [x for run in runs for x in (run if select == "worst" else run[-1:])]
        assert_close(attack(smooth, pixels, labels), worst_by_hand(smooth, runs, labels, False))


def test_the_worst_look_succeeds_most_and_then_scores_highest():
    """12 images, 9 looks, some of them at a part of the images; against a sort of each one's."""
    random = torch.Generator().manual_seed(0)
    worst, looks = _Worst(), [[] for _ in range(12)]
    for number in range(9):
        left = torch.arange(12) if number < 3 else torch.arange(number, 12, 2)
        kept = torch.full((len(left), 2), float(number))
        reached = torch.randint(3, (len(left),), generator=random) / 2  # shares of two draws
        score = torch.randint(-3, 4, (len(left),), generator=random).float()
        worst.see(kept, reached, score, left)
        for image, *look in zip(left.tolist(), reached.tolist(), score.tolist(), strict=True):
            looks[image].append((*look, -number))  # of equal looks the first stays
    for image, seen in enumerate(looks):
        reached_most, highest, first = max(seen)
        assert worst.kept[image].tolist() == [-first, -first]
        assert (worst.reached[image].item(), worst.score[image].item()) == (reached_most, highest)
    assert any(max(seen)[1] < max(score for _, score, _ in seen) for seen in looks)


def robust(attack, smooth, pixels, labels) -> float:
    return (attack.outcomes(smooth, pixels, labels).argmax(dim=1) == labels).float().mean().item()


@pytest.fixture
def crowd(smooth):
    pixels = torch.rand(400, 3, 8, 8, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        return pixels, smooth(pixels).argmax(dim=1)


@pytest.mark.parametrize(("norm", "scale"), [(Linf, 0.015), (L2, 0.25)])
def test_a_stronger_attacker_never_helps_the_defender(norm, scale, smooth, crowd):
    model, threat = prepare(smooth), norm(epsilon=scale)

    def fall(attacks):
        rates = [robust(attack, model, *crowd) for attack in attacks]
        assert rates == sorted(rates, reverse=True)
        return rates

    radii = [scale * e for e in (0, 0.5, 1, 2)]
    rates = fall(Pgd(threat=norm(epsilon=epsilon), steps=5) for epsilon in radii)
    assert rates[0] == 1 > rates[1] > rates[2] > rates[3]
    # the same step size: more steps only add iterates
    rates = fall(Bim(threat=threat, steps=k, step_size=scale / 5) for k in (1, 3, 5, 10, 20))
    assert robust(Fgsm(threat=threat), model, *crowd) >= rates[-1]
    fall(Pgd(threat=threat, steps=3, restarts=restarts) for restarts in (1, 2, 4))
    assert robust(Pgd(threat=Linf(epsilon=1.0), steps=10), model, *crowd) <= 0.2  # chance


@each_norm
def test_noise_has_exactly_the_length(norm):
    gray, threat = torch.full((50, 3, 8, 8), 0.5), norm(epsilon=0.2)
    noise = GaussianNoise(threat=threat)(nn.Identity(), gray) - gray
    torch.testing.assert_close(threat.length(noise), torch.full((50,), 0.2), rtol=1e-4, atol=0)
    assert noise.mean().abs() < 3.5 * noise.std() / noise.numel() ** 0.5
    unclamped = GaussianNoise(threat=norm(epsilon=9.0))(nn.Identity(), gray)
    assert (unclamped.min(), unclamped.max()) == (0, 1)


def ours(kind, norm, **settings):
    threat = norm(epsilon=EPSILON[norm])
    if kind is Fgsm:
        return Fgsm(threat=threat)
    return kind(threat=threat, steps=STEPS, step_size=STEP[norm], select="last", **settings)


def least_likely(m):
    peer = torchattacks.PGD(m, EPSILON[Linf], STEP[Linf], STEPS, False)
    peer.set_mode_targeted_least_likely()
    return lambda x, _: peer(x, m(x).argmax(dim=1))  # its target is never the label given


TORCHATTACKS = {
    "fgsm": (Fgsm, Linf, lambda m: torchattacks.FGSM(m, eps=EPSILON[Linf])),
    "bim": (Bim, Linf, lambda m: torchattacks.BIM(m, EPSILON[Linf], STEP[Linf], STEPS)),
    "pgd": (Bim, Linf, lambda m: torchattacks.PGD(m, EPSILON[Linf], STEP[Linf], STEPS, False)),
    "pgd l2": (Bim, L2, lambda m: torchattacks.PGDL2(m, EPSILON[L2], STEP[L2], STEPS, False)),
    "least likely": (LeastLikely, Linf, least_likely),
}


@pytest.mark.parametrize(("kind", "norm", "peer"), TORCHATTACKS.values(), ids=TORCHATTACKS)
def test_torchattacks(kind, norm, peer, smooth, pixels, labels):
    smooth, pixels = smooth.double(), pixels.double()
    expected = peer(smooth)(pixels, labels)
    torch.testing.assert_close(ours(kind, norm)(smooth, pixels, labels), expected, **CLOSE)


@pytest.mark.parametrize(("kind", "norm", "peer"), FOOLBOX.values(), ids=FOOLBOX)
def test_foolbox(kind, norm, peer, smooth, pixels, labels):
    smooth, pixels = smooth.double(), pixels.double()
    settings = {} if kind is Fgsm else {"steps": STEPS, "abs_stepsize": STEP[norm]}
    attack = peer(random_start=False, **settings)
    model = foolbox.PyTorchModel(smooth, bounds=(0, 1), device="cpu")
    expected, _, _ = attack(model, pixels, labels, epsilons=EPSILON[norm])
    # foolbox leaves alone what is wrong from the start
    right = model(pixels).argmax(dim=1) == labels
    found = ours(kind, norm)(smooth, pixels, labels)
    torch.testing.assert_close(found[right], expected[right], **CLOSE)


@pytest.mark.parametrize("norm", [Linf, L2])
def test_success_with_random_starts_is_within_a_point_of_foolbox(norm, smooth):
    images = torch.rand(1000, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = prepare(smooth)
    labels, threat = model(images).argmax(dim=1), norm(epsilon={Linf: 0.02, L2: 0.3}[norm])
    rows = Pgd(threat=threat, steps=20).outcomes(model, images, labels)
    success = (rows.argmax(dim=1) != labels).float().mean().item()
    peer = {Linf: foolbox.attacks.LinfPGD, L2: foolbox.attacks.L2PGD}[norm](
        steps=20, abs_stepsize=2.5 * threat.epsilon / 20
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bounded = foolbox.PyTorchModel(smooth, bounds=(0, 1), device="cpu")
        _, _, fooled = peer(bounded, images, labels, epsilons=threat.epsilon)
    assert 0.2 < success < 0.9
    assert success == pytest.approx(fooled.float().mean().item(), abs=0.01)
