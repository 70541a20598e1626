"""AutoAttack by the reference implementation."""

import sys

import pytest
import torch
from torch import nn

from advlens import L2, Linf, ModelError, Pgd, SettingsError, Uniform
from advlens.interop.autoattack import PARTS, AutoAttack
from advlens.interop.guests import guest, library
from advlens.prepared import prepare
from advlens.seeding import derived

reference = library("autoattack", "pyautoattack")
IDS = torch.arange(2)


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


def test_wrong_use_is_one_sentence(smooth, pixels, labels, monkeypatch):
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
