"""Attacks against foolbox and torchattacks: same images, same start, same result."""

import warnings

import pytest
import torch

from advlens import L2, Bim, Fgsm, LeastLikely, Linf, Pgd
from advlens.prepared import prepare

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # theirs
    import foolbox
    import torchattacks

# in float64: the sign of a gradient next to 0 would be one of rounding; torchattacks adds 1e-10 to
# the length of a gradient
CLOSE = {"rtol": 0, "atol": 1e-9}
EPSILON, SIZE, STEPS = {Linf: 0.03, L2: 0.5}, {Linf: 0.008, L2: 0.1}, 7
FOOLBOX = {
    "fgsm linf": (Fgsm, Linf, foolbox.attacks.LinfFastGradientAttack),
    "fgsm l2": (Fgsm, L2, foolbox.attacks.L2FastGradientAttack),
    "bim linf": (Bim, Linf, foolbox.attacks.LinfBasicIterativeAttack),
    "bim l2": (Bim, L2, foolbox.attacks.L2BasicIterativeAttack),
    "pgd linf": (Bim, Linf, foolbox.attacks.LinfPGD),
    "pgd l2": (Bim, L2, foolbox.attacks.L2PGD),
}


def ours(kind, norm, **settings):
    threat = norm(epsilon=EPSILON[norm])
    if kind is Fgsm:
        return Fgsm(threat=threat)
    return kind(threat=threat, steps=STEPS, step_size=SIZE[norm], select="last", **settings)


def least_likely(m):
    peer = torchattacks.PGD(m, EPSILON[Linf], SIZE[Linf], STEPS, False)
    peer.set_mode_targeted_least_likely()
    return lambda x, _: peer(x, m(x).argmax(dim=1))  # its target is never the label given


TORCHATTACKS = {
    "fgsm": (Fgsm, Linf, lambda m: torchattacks.FGSM(m, eps=EPSILON[Linf])),
    "bim": (Bim, Linf, lambda m: torchattacks.BIM(m, EPSILON[Linf], SIZE[Linf], STEPS)),
    "pgd": (Bim, Linf, lambda m: torchattacks.PGD(m, EPSILON[Linf], SIZE[Linf], STEPS, False)),
    "pgd l2": (Bim, L2, lambda m: torchattacks.PGDL2(m, EPSILON[L2], SIZE[L2], STEPS, False)),
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
    settings = {} if kind is Fgsm else {"steps": STEPS, "abs_stepsize": SIZE[norm]}
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
