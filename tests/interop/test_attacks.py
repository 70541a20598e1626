"""Attacks of foolbox and torchattacks by name, and AutoAttack by its reference."""

import sys

import pytest
import torch
from torch import nn

from advlens import L2, Fgsm, Linf, ModelError, Pgd, SettingsError, Uniform
from advlens.interop.attacks import Ball, ForeignAttack, TorchattacksAttack, make_attack
from advlens.interop.autoattack import PARTS, AutoAttack
from advlens.interop.guests import guest, library
from advlens.prepared import prepare
from advlens.seeding import derived
from advlens.settings import parse_method

foolbox, torchattacks = library("foolbox"), library("torchattacks")

PEERS = {
    "foolbox:LinfPGD(epsilon=8/255, steps=5)": ("Linf", 5),
    "foolbox:L1PGD(epsilon=4, steps=5)": ("L1", 5),
    "foolbox:L2DeepFoolAttack(epsilon=.3)": ("L2", 50),
    "foolbox:L0FMNAttack(epsilon=20, steps=20)": ("L0", 20),
    "foolbox:GaussianBlurAttack(epsilon=3, norm=L2, steps=4)": ("L2", 4),
    "foolbox:L2AdditiveGaussianNoiseAttack(epsilon=1)": ("L2", 1),
    "torchattacks:FGSM(epsilon=4/255)": ("Linf", 1),
    "torchattacks:APGD(epsilon=.5, norm=L2, steps=5)": ("L2", 5),
    "torchattacks:CW(epsilon=.5, steps=5)": ("L2", 5),
    "torchattacks:OnePixel(epsilon=3, steps=2)": ("L0", 2),
}
FOOLBOX = {
    "L2PGD": (0.5, {"steps": 4, "rel_stepsize": 0.3}),
    "BoundaryAttack": (50, {"steps": 2}),  # all images have a start
    "HopSkipJumpAttack": (50, {"steps": 2}),
}
WRONG = {
    "further than told": (lambda x: (x + 0.2).clamp(0, 1), "leaves its ball .* of 24 images"),
    "outside [0, 1]": (lambda x: x + 0.05, r"leaves its ball .*or \[0, 1\]"),
    "not finite": (lambda x: x / 0, "returns no images"),
    "another shape": (lambda x: x[1:], "returns no images"),
    "no tensor": (None, "fails on this model .*AttributeError"),
    "an exception": (lambda x: 1 // 0, "fails on this model .*ZeroDivisionError"),
}
REFUSED = {
    "cleverhans:FGM(epsilon=1)": "no library 'cleverhans' of attacks; use foolbox:NAME",
    "captum:Saliency(epsilon=1)": "no library 'captum' of attacks",
    "foolbox:LinfPGD": "has no radius; .*foolbox:LinfPGD.epsilon=8/255",
    "torchattacks:PGD(eps=8/255)": "has no radius",
    "foolbox:LinfPDG(epsilon=.1)": "foolbox has no attack 'LinfPDG'; perhaps .*LinfPGD",
    "foolbox:base(epsilon=.1)": "foolbox has no attack 'base'",
    "foolbox:LinfPGD(epsilon=.1, step=3)": "foolbox:LinfPGD: .*'step'; it takes .*steps",
    "foolbox:LinfPGD(epsilon=.1, norm=L2)": "works in Linf, not in L2",
    "foolbox:LinfPGD(epsilon=-1)": "foolbox:LinfPGD: epsilon must be a finite number > 0, not -1",
    "foolbox:LinfPGD(epsilon=1e999)": "epsilon must be a finite number > 0",
    "foolbox:LinfPGD(epsilon=big)": "epsilon must be a number such as 8/255, not 'big'",
    "foolbox:GaussianBlurAttack(epsilon=1)": "cannot be made: .*needs norm=L2",
    "foolbox:GaussianBlurAttack(epsilon=1, norm=L7)": "needs norm=L2",
    "torchattacks:PGDD(epsilon=.1)": "torchattacks has no attack 'PGDD'; perhaps .*PGD",
    "torchattacks:PGD(epsilon=.1, iters=3)": "torchattacks:PGD: .*'iters'; it takes .*steps",
    "torchattacks:PGD(epsilon=.1, eps=.2)": "give epsilon, not eps",
    "torchattacks:PGD(epsilon=.1, norm=L2)": "works in Linf, not in L2",
    "torchattacks:VANILA(epsilon=.1, norm=max)": "works in L0 or L1 or L2 or Linf, not in max",
    "torchattacks:MultiAttack(epsilon=.1)": "it wraps other attacks",
    "foolbox:GenAttack(epsilon=.1)": "works towards a target class; add label=target",
    "foolbox:PGD(epsilon=.1, label=predicted)": "label must be true or target, not 'predicted'",
    "foolbox:FGSM(epsilon=.1, label=target)": "does not work towards targets",
    "foolbox:LinfDeepFoolAttack(epsilon=.1, label=target)": "does not work towards targets",
    "foolbox:BoundaryAttack(epsilon=1, label=target)": "does not work towards targets",
    "torchattacks:FAB(epsilon=.1, label=target)": "does not work towards targets",
    "torchattacks:APGD(epsilon=.1, label=target)": "does not work towards targets",
    "Pgd(epsilon=.1)": "Pgd: norm must be Linf or L2, not None",
    "Pgd(norm=L1, epsilon=.1)": "Pgd: norm must be Linf or L2, not 'L1'",
    "Pgd(norm=L2, epsilon=.1, step=3)": "Pgd: .*'step'; it takes .*steps",
    "Pgd(norm=L2, epsilon=.1, steps=2.5)": "Pgd: steps must be a whole number, not 2.5",
    "Pgd(norm=L2, epsilon=.1, step_size=long)": "Pgd: step_size must be a number or None",
    "Pgd(norm=L2, epsilon=.1, label=wrong)": "label must be one of true, predicted",
    "Adam(epsilon=1)": "advlens has no attack 'Adam'; use one of AdamAttack, Bim, FeatureAttack",
    "AdamAttack(epsilon=1)": "argument 'epsilon'; it takes seed, draws, precision, weight",
}
reference = library("autoattack", "pyautoattack")
IDS = torch.arange(2)


@pytest.mark.parametrize(("text", "named"), PEERS.items(), ids=PEERS)
def test_an_attack_stays_in_its_ball_and_is_the_same_again(text, named, smooth, pixels, labels):
    attack = make_attack(text, seed=3)
    assert (attack.threat.norm, attack.steps) == named
    model, state = prepare(smooth), torch.get_rng_state()
    changed = attack(model, pixels, labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.requires_grad for p in model.parameters())
    assert changed.shape == pixels.shape
    assert 0 <= changed.min() <= changed.max() <= 1
    lengths = (changed - pixels).flatten(1).double().norm(float(named[0][1:]), dim=1)
    assert 0 < lengths.max() <= attack.threat.epsilon * (1 + 1e-5) + 1e-6
    torch.testing.assert_close(attack(model, pixels, labels), changed, rtol=0, atol=0)
    rows = attack.outcomes(model, pixels, labels)
    right = model(pixels).argmax(dim=1) == labels
    assert (rows[~right] == model(pixels)[~right]).all()  # wrong as they are: not attacked


@pytest.mark.parametrize("text", ["foolbox:LinfPGD(epsilon=.03)", "torchattacks:PGD(epsilon=.03)"])
def test_random_numbers_come_from_the_batchs_ids(text, smooth, pixels, labels):
    attack, ids = make_attack(text), torch.arange(24)
    first, second = (
        [attack(smooth, pixels[p], labels[p], ids=ids[p]) for p in places]
        for places in ((slice(12), slice(12, 24)), (slice(12, 24), slice(12)))
    )
    assert torch.equal(torch.cat(first), torch.cat(second[::-1]))
    assert not torch.equal(attack(smooth, pixels[:12], labels[:12], ids=ids[12:]), first[0])
    assert not torch.equal(make_attack(text, seed=1)(smooth, pixels[:12], labels[:12]), first[0])


@pytest.mark.parametrize("name", FOOLBOX)
def test_foolboxs_own_call_gives_the_same(name, smooth, pixels, labels):
    epsilon, settings = FOOLBOX[name]
    words = "".join(f", {key}={value}" for key, value in settings.items())
    found = make_attack(f"foolbox:{name}(epsilon={epsilon}{words})", seed=2)(smooth, pixels, labels)
    with torch.random.fork_rng():
        torch.manual_seed(derived(2, *range(24)))
        bounded = foolbox.PyTorchModel(prepare(smooth), bounds=(0, 1), device="cpu")
        theirs = getattr(foolbox.attacks, name)(**settings)
        _, wanted, _ = theirs(bounded, pixels, labels, epsilons=epsilon)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_torchattacks_own_call_gives_the_same(smooth, pixels, labels):
    smooth, pixels = smooth.double(), pixels.double()  # so that no sign is one of rounding
    attack = make_attack("torchattacks:PGD(epsilon=.03, alpha=.01, steps=4, random_start=False)")
    found = attack(smooth, pixels, labels)
    wanted = torchattacks.PGD(smooth, 0.03, 0.01, 4, False)(pixels, labels)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_an_attack_without_a_radius_counts_only_inside_the_ball(smooth, pixels, labels):
    """DeepFool goes as far as it takes; beyond epsilon the image stays as it was."""
    free = torchattacks.DeepFool(prepare(smooth), steps=5)
    with guest("", smooth, 0):
        gone = free(pixels, labels)
    lengths = (gone - pixels).flatten(1).norm(dim=1)
    epsilon = lengths[lengths > 0].median().item()
    attack = make_attack(f"torchattacks:DeepFool(epsilon={epsilon}, steps=5)")
    found, inside = attack(smooth, pixels, labels), lengths <= epsilon + 1e-6
    assert 0 < inside.sum() < 24
    torch.testing.assert_close(found[inside], gone[inside], rtol=0, atol=1e-5)
    assert torch.equal(found[~inside], pixels[~inside])


class Wrong:
    """An attack of torchattacks' form whose result is whatever the test wants."""

    def __init__(self, model, eps, result=None):
        self.result = result

    def __call__(self, images, labels):
        return self.result(images) if callable(self.result) else self.result


def adapted(result):
    given = {"threat": Ball(norm="Linf", epsilon=0.1), "settings": {"eps": 0.1, "result": result}}
    return TorchattacksAttack(name="torchattacks:Wrong", steps=1, kind=Wrong, **given)


@pytest.mark.parametrize(("result", "reason"), WRONG.values(), ids=WRONG)
def test_what_means_nothing_is_an_error(result, reason, smooth, pixels, labels):
    with pytest.raises(ModelError, match=rf"torchattacks:Wrong {reason}") as caught:
        adapted(result)(smooth, pixels, labels)
    assert "\n" not in str(caught.value)


def test_names_labels_and_rounding(smooth, pixels, labels):
    assert make_attack("foolbox:LinfPGD(epsilon=.1, steps=3)").name == "foolbox:LinfPGD"
    named = make_attack("torchattacks:APGD(epsilon=.1, norm=L2, loss=dlr, n_restarts=2)")
    assert isinstance(named, ForeignAttack)
    assert named.name == "torchattacks:APGD(loss=dlr, n_restarts=2)"
    ours = Pgd(threat=Linf(epsilon=8 / 255), steps=3, seed=4)
    assert make_attack("Pgd(norm=Linf, epsilon=8/255, steps=3)", seed=4) == ours
    ours = Fgsm(threat=L2(epsilon=1), label="predicted")
    assert make_attack("Fgsm(norm=L2, epsilon=1, label=predicted)") == ours
    with pytest.raises(SettingsError, match="needs the true labels"):
        make_attack("foolbox:LinfPGD(epsilon=.1)")(smooth, pixels)
    assert adapted(lambda x: x + 5e-7)(smooth, pixels, labels).max() == 1


@pytest.mark.parametrize(("text", "reason"), REFUSED.items(), ids=REFUSED)
def test_wrong_use_is_one_sentence(text, reason):
    parse_method(text)
    with pytest.raises(SettingsError, match=reason) as caught:
        make_attack(text)
    assert "\n" not in str(caught.value)


def test_every_attack_of_torchattacks_says_its_norm():
    """The adapter reads it from their descriptions: a new version may not have it there."""
    kinds = {name: getattr(torchattacks, name) for name in torchattacks.__all__}
    silent = {n for n, kind in kinds.items() if "Distance Measure" not in (kind.__doc__ or "")}
    assert silent == {"VANILA", "GN", "MultiAttack", "LGV"}


class Dark(torch.nn.Module):
    """Class 1 of images without a bright pixel, class 0 of all others."""

    def forward(self, x):
        dark = (x.flatten(1).amax(dim=1) < 0.9).float()
        return torch.stack([0.5 - dark, dark - 0.5], dim=1)


@pytest.mark.parametrize("name", ["BoundaryAttack", "HopSkipJumpAttack"])
def test_images_without_a_start_are_not_attacked_and_counted(name, pixels):
    """No random image is dark, so a bright one has no start; a dark one has."""
    images = pixels[:6].clone()
    images[::2] *= 0.5  # dark
    labels = torch.tensor([1, 0, 1, 0, 1, 0])
    attack, ids = make_attack(f"foolbox:{name}(epsilon=5, steps=2)"), torch.arange(10, 16)
    changed = attack(Dark(), images, labels, ids=ids)
    assert attack.unattacked == [11, 13, 15]
    assert torch.equal(changed[1::2], images[1::2])
    assert (changed[::2] != images[::2]).any()
    assert (attack.outcomes(Dark(), images, labels, ids=ids).argmax(dim=1) == labels)[1::2].all()
    nobody = make_attack(f"foolbox:{name}(epsilon=5, steps=2)")
    assert torch.equal(nobody(Dark(), images[1::2], labels[1::2]), images[1::2])
    assert len(nobody.unattacked) == 3


@pytest.mark.parametrize("threat", [L2(epsilon=0.3), Linf(epsilon=0.02)], ids=["L2", "Linf"])
@pytest.mark.parametrize("part", ["apgd-ce", "apgd-t", "fab-t"])
def test_a_part_is_what_the_reference_does(part, threat, smooth, pixels, labels):
    model = prepare(smooth)
    right = (model(pixels).argmax(dim=1) == labels).nonzero()[:2, 0]
    images, classes = pixels[right], labels[right]
    found = AutoAttack(threat=threat, seed=5).part(part, model, images, classes, IDS)
    settings = {"norm": threat.norm, "eps": threat.epsilon, "seed": derived(5, 0, 1) % 2**32}
    with guest("", model, 0) as host:
        theirs = reference.AutoAttack(host, **settings, device="cpu")
        theirs.attacks_to_run = [part]
        theirs.apgd_targeted.n_target_classes = theirs.fab.n_target_classes = 4  # of five classes
        wanted, _ = theirs.run_standard_evaluation(images, classes)
    assert torch.equal(found, wanted)


def test_square_is_part_of_it(pixels):
    """On a model that nothing changes: all of its queries, and the images as they were."""

    class Sure(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([[3.0, 0.0, 0.0, 0.0]]))

        def forward(self, x):
            return self.logits + 0 * x.flatten(1)[:, :4]

    images, classes, calls = pixels[:1], torch.zeros(1, dtype=torch.int64), []
    model = prepare(Sure())
    model.register_forward_hook(lambda *_: calls.append(1))
    attack = AutoAttack(threat=Linf(epsilon=0.1))
    assert torch.equal(attack.part("square", model, images, classes, IDS[:1]), images)
    assert len(calls) > 4000


def test_it_leaves_at_most_what_pgd_leaves(smooth, pixels, labels, monkeypatch):
    pixels, labels = pixels[:12], labels[:12]
    monkeypatch.setattr("advlens.interop.autoattack.PARTS", PARTS[:2])  # the others take long
    threat, state = L2(epsilon=0.35), torch.get_rng_state()
    model = prepare(smooth)
    rows = AutoAttack(threat=threat).outcomes(model, pixels, labels)
    assert torch.equal(torch.get_rng_state(), state)
    robust = rows.argmax(dim=1) == labels
    under_pgd = Pgd(threat=threat).outcomes(model, pixels, labels).argmax(dim=1) == labels
    assert 0 < robust.sum() <= under_pgd.sum() < len(labels)
    changed = AutoAttack(threat=threat)(model, pixels, labels)
    assert (changed - pixels).flatten(1).norm(dim=1).max() <= 0.35 * (1 + 1e-5) + 1e-6
    assert 0 <= changed.min() <= changed.max() <= 1


class Part:
    n_target_classes = 9


class Fake:
    """A module in the reference's place, which notes what it is given."""

    calls: list = []  # noqa: RUF012
    result = None

    def __init__(self, model, *, norm, eps, seed, device):
        self.settings = {"norm": norm, "eps": eps, "device": device}
        self.apgd_targeted, self.fab = Part(), Part()

    def run_standard_evaluation(self, images, labels):
        targets = self.apgd_targeted.n_target_classes, self.fab.n_target_classes
        Fake.calls.append((*self.attacks_to_run, len(images), *targets, self.settings))
        return Fake.result(images), labels


@pytest.fixture
def fake(monkeypatch):
    module = type(sys)("pyautoattack")
    module.AutoAttack = Fake
    monkeypatch.setitem(sys.modules, "pyautoattack", module)
    monkeypatch.setattr(Fake, "calls", [])
    monkeypatch.setattr(Fake, "result", staticmethod(lambda images: images))
    return Fake


class Tens(nn.Module):
    def __init__(self, smooth, classes):
        super().__init__()
        self.network, self.more = smooth, nn.Linear(5, classes)

    def forward(self, x):
        return self.more(self.network(x))


def test_images_that_hold_out_go_on_within_the_ball(fake, smooth, pixels, labels, monkeypatch):
    """And ten classes have nine targets."""
    model = Tens(smooth, 10).eval()
    classes = model(pixels).argmax(dim=1)
    classes[::3] = (classes[::3] + 1) % 10
    AutoAttack(threat=L2(epsilon=0.25)).outcomes(model, pixels, classes)
    settings = {"norm": "L2", "eps": 0.25, "device": pixels.device}
    assert fake.calls == [(part, 16, 9, 9, settings) for part in PARTS]
    monkeypatch.setattr(fake, "result", staticmethod(lambda images: (images + 0.2).clamp(0, 1)))
    with pytest.raises(ModelError, match=r"AutoAttack \(apgd-ce\) leaves its ball"):
        AutoAttack(threat=Linf(epsilon=0.1))(smooth, pixels, labels)


def test_wrong_use_of_autoattack_is_one_sentence(smooth, pixels, labels, monkeypatch):
    attack = AutoAttack(threat=L2(epsilon=0.1))
    for epsilon, words in (
        (Uniform(low=0.1, high=0.2), "epsilon must be one number for all images"),
        (0.0, "epsilon must be a finite number > 0"),
    ):
        with pytest.raises(SettingsError, match=words):
            AutoAttack(threat=L2(epsilon=epsilon))
    with pytest.raises(SettingsError, match="needs the true labels"):
        attack(smooth, pixels)
    with pytest.raises(ModelError, match="needs at least four classes"):
        attack(Tens(smooth, 3).eval(), pixels, labels % 3)
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(SettingsError, match=r"pip install 'advlens\[autoattack\]'"):
        AutoAttack(threat=L2(epsilon=0.1))
