"""Gradient steps in bfloat16: whatever counts is decided in float32."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from advlens import (
    L2,
    AuditSettings,
    Bim,
    ClassGeneration,
    FeatureVisualization,
    Inversion,
    LeastLikely,
    Pgd,
    SettingsError,
    auditing,
)
from advlens.attacks import AdamAttack, FeatureAttack, Fgsm, GradientAttack
from advlens.auditing import forecasting
from advlens.prepared import mixing, prepare
from advlens.runs.folder import read_json
from every_attack import ATTACKS, each
from small_runs import convolution, noise, rows, small
from unrendered import unrendered

CLIMBING = {n: a for n, a in ATTACKS.items() if isinstance(a, GradientAttack)}
WEAK = L2(epsilon=1e-6)  # fools nobody
# passes in bfloat16, and in float32: what finds the goal, and what is kept in the end
PASSES = {
    "fgsm": (Fgsm(threat=WEAK), 1, 1),
    "pgd": (Pgd(threat=WEAK, steps=3), 3, 2),
    "pgd last": (Pgd(threat=WEAK, steps=3, select="last"), 3, 1),
    "pgd draws": (Pgd(threat=WEAK, steps=3, draws=2), 6, 4),
    "adam": (AdamAttack(steps=3), 3, 1),
    "feature": (FeatureAttack(threat=WEAK, steps=3), 3, 3),
}


class Convolutions(TorchDispatchMode):
    """Counts passes of a convolution by the precision of what it takes in."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.overloadpacket is torch.ops.aten.convolution:
            self.taken[args[0].dtype] += 1
        return operator(*args, **(kwargs or {}))


class Lies(nn.Module):
    """In bfloat16 it names another class than in float32, with the same gradients."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.network(images)
        if torch.is_autocast_enabled("cpu"):
            logits = logits - 100 * nn.functional.one_hot(logits.argmax(dim=1), 5)
        return logits if images.amax() >= 0 else -logits  # not to be traced


class Turns(nn.Module):
    """Its gradients in bfloat16 are the opposite ones."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        sign = -1 if torch.is_autocast_enabled("cpu") else 1
        return sign * self.network(images) if images.amax() >= 0 else images  # not to be traced


class Insists(nn.Module):
    """It has a product that autocast does not see, of float32 alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.network(images)
        return torch.zeros(len(logits), 5).index_add(1, torch.arange(5), logits)


@pytest.fixture(autouse=True)
def _can(monkeypatch):
    """A CPU without arithmetic in bfloat16 gives the same numbers, slowly."""
    monkeypatch.setattr(mixing, "has_bfloat16", lambda device: True)


@pytest.fixture
def model(smooth, pixels):
    """A prepared copy that has been tried."""
    prepared = prepare(smooth, pixels)
    mixing.check_steps(prepared, pixels, "bf16")
    return prepared


@pytest.mark.parametrize(("attack", "rough", "exact"), PASSES.values(), ids=PASSES)
def test_steps_are_in_bfloat16_and_decisions_in_float32(attack, rough, exact, model, pixels):
    labels = model(pixels).argmax(dim=1).detach()
    layers = len(model.layers)
    for precision in ("float32", "bf16"):
        with Convolutions() as passes:
            replace(attack, precision=precision)(model, pixels, labels)
        if precision == "bf16":
            expected = {torch.bfloat16: layers * rough, torch.float32: layers * exact}
            assert passes.taken == expected
        else:
            assert passes.taken.keys() == {torch.float32}


@each(CLIMBING)
def test_reaches_as_far(attack, model, pixels, labels):
    """The changes go along those of float32, and keep the promises of an attack."""
    rough = replace(attack, precision="bf16")
    found, exact = rough(model, pixels, labels), attack(model, pixels, labels)
    assert found.dtype == torch.float32
    changes = (found - pixels).flatten(1), (exact - pixels).flatten(1)
    assert nn.functional.cosine_similarity(*changes).median() > 0.8
    assert torch.equal(rough(model, pixels, labels), found)
    if (ball := attack.within()) is not None:
        assert (ball.length(found - pixels) <= ball.epsilon * (1 + 1e-5)).all()


@pytest.mark.parametrize(("kind", "epsilon"), [(Bim, 0.1), (Pgd, 0.1), (LeastLikely, 0.8)])
def test_success_is_that_in_float32(kind, epsilon, smooth, pixels, labels):
    """Even where each image seems fooled at once, and is not."""
    attack = kind(threat=L2(epsilon=epsilon), steps=4, precision="bf16")
    model = prepare(Lies(smooth))
    with torch.no_grad():
        clean = model(pixels)
        goal = attack.goal(clean, labels)
        attacked = model(attack(model, pixels, labels))
        outcomes = attack.outcomes(model, pixels, labels, clean=clean)
    fooled = goal.reached(outcomes)
    assert 0 < fooled.sum() < len(fooled)
    assert (goal.reached(attacked) | ~fooled).all()
    exact = replace(attack, precision="float32").outcomes(model, pixels, labels, clean=clean)
    apart = (outcomes - exact).abs().amax(dim=1)
    assert apart.max() < 50  # none from the lies


@pytest.mark.parametrize("kind", [ClassGeneration, FeatureVisualization, Inversion])
def test_the_last_step_of_a_synthesis_is_in_float32(kind, model, pixels):
    starts, targets = pixels[:3], pixels[3:6] if kind is Inversion else torch.tensor([0, 1, 2])
    method = kind(steps=4, epsilon=1.0, step_size=0.1, precision="bf16")
    work = method.begin(model, starts, targets)
    before = starts
    with Convolutions() as passes:
        for done in work:
            before = work.images.clone() if done == 3 else before
    layers = len(model.layers)
    exact = layers * (2 if kind is Inversion else 1)  # and a pass over the targets
    assert passes.taken == {torch.bfloat16: 3 * layers, torch.float32: exact}
    once = replace(method, steps=1, precision="float32")(model, before, targets)
    assert torch.equal(work.result().objective, once.objective)


REFUSED = {
    "precision bf16 is for models in float32, but this one is in float64": nn.Module.double,
    "gradients in bfloat16 point elsewhere .cosine -1.00.; leave precision out": Turns,
    "precision bf16 is not possible: .* fails on a batch .*; leave precision out": Insists,
}


@pytest.mark.parametrize(("words", "change"), REFUSED.items(), ids=range(len(REFUSED)))
def test_refused(words, change, smooth, pixels, labels):
    for method in (*CLIMBING.values(), ClassGeneration(steps=1)):
        with pytest.raises(SettingsError, match=words):
            replace(method, precision="bf16")(change(smooth), pixels, labels)
    with pytest.raises(SettingsError, match="precision must be one of float32, bf16"):
        Pgd(threat=WEAK, precision="half")


def test_refused_by_a_machine_without_it(smooth, pixels, labels, monkeypatch):
    monkeypatch.undo()
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    with pytest.raises(SettingsError, match="no arithmetic in bfloat16 on this machine's cpu"):
        Pgd(threat=WEAK, precision="bf16")(smooth, pixels, labels)


def test_an_audit_says_so_everywhere(tmp_path):
    """In its record, before and after it runs, in each row under attack, and at the table."""
    network, few = small(lambda: convolution(4, 2, 3)), {"steps": 2, "device": "cpu"}
    settings = AuditSettings(precision="bf16", preset="d22", concepts=None, **few)
    (subject,), (stages,) = auditing.rehearsed(network, noise(12), settings)
    assert {"accuracy", "sweep", "neurons", "inversion", "generation"} < {s.name for s in stages}
    assert "precision='float32'" not in str(stages)
    with Convolutions() as passes:
        own = [stage for stage in stages if not forecasting.looks_of(stage, 12)]
        forecasting.forecast(subject, own, batch_size=12)
    assert passes.taken.keys() == {torch.bfloat16}
    settings = AuditSettings(precision="bf16", stages=("accuracy",), **few)
    with unrendered():
        page = auditing.audit(network, noise(12), tmp_path, settings=settings)
    natural, *attacked = rows(tmp_path, "accuracy")
    assert natural["settings"] == ""
    assert {row["settings"] for row in attacked} == {"precision=bf16"}
    record = read_json(tmp_path / "run.json")
    assert record["settings"]["precision"] == "bf16"
    (warned,) = record["warnings"]
    text = page.read_text()
    assert warned in text
    assert "took their gradient steps in bfloat16" in text
