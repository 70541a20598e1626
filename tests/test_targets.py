"""Attacks that aim at targets: a class, or one for each image, in every verb that takes them."""

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from advlens import AuditSettings, Bim, Linf, SettingsError
from advlens.attacks import AdamAttack, Fgsm, Pgd
from advlens.auditing import rehearsed
from advlens.datasets import Transform, load_data
from advlens.settings import AttackSettings
from advlens.workflows.attacked import chosen_attack, store_attack
from small_runs import CLASSES, SYNSETS, audited, convolution, noise, rows, small

EPSILON, STEPS = 12 / 255, 4
BIM = f"Bim(norm=Linf, epsilon={EPSILON}, steps={STEPS}, label=target)"
BALL = f"epsilon={EPSILON}, steps={STEPS}, random_start=False, label=target"
PEERS = [
    f"foolbox:LinfPGD(abs_stepsize={2.5 * EPSILON / STEPS}, {BALL})",
    f"torchattacks:PGD(alpha={2.5 * EPSILON / STEPS}, {BALL})",
]
TELLING = noise(24, synsets=SYNSETS, telling=True)


@pytest.fixture(scope="module")
def model():
    return small(lambda: convolution(6, 2, 3), synsets=SYNSETS)


@pytest.fixture
def table(tmp_path: Path) -> str:
    """24 images with labels in turn, each with a target one or two classes on."""
    lines = ["path,label,target"]
    for i, pixels in enumerate(TELLING.pixels):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
        aim = CLASSES[(i % 3 + 1 + i // 3 % 2) % 3]
        lines.append(f"{i}.png,{CLASSES[i % 3]},{aim}")
    (tmp_path / "images.csv").write_text("\n".join(lines))
    return f"csv:{tmp_path / 'images.csv'}"


def plainly(model, images, targets):
    """Which images are taken for their targets at each step of a plain loop."""
    current, reached = images, []
    for step in range(STEPS + 1):
        current = current.detach().requires_grad_()
        logits = model(current)
        reached.append(logits.argmax(dim=1) == targets)
        if step < STEPS:
            loss = F.cross_entropy(logits, targets, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, current)
            current = current - 2.5 * EPSILON / STEPS * gradient.sign()
            current = current.clamp(images - EPSILON, images + EPSILON).clamp(0, 1)
    return torch.stack(reached)


def test_success_against_targets_of_a_table_equals_a_plain_loop(model, table, tmp_path) -> None:
    data = load_data(table, transform=Transform(size=12, resize=12))
    (batch,) = data.aligned(model.classes, None).batches(24)
    expected = int(plainly(model, batch.images, batch.targets).any(dim=0).sum())
    assert 3 < expected < 21
    settings = AuditSettings(
        stages=("accuracy", "neurons"),
        attack=(BIM,),
        neuron_attack=BIM,
        fgsm=(),
        steps=1,
        success=0.5,
    )
    run = audited([model], table, tmp_path / "run", settings=settings)
    (row,) = rows(run, "targets")
    assert (row["attack"], row["n"]) == ("Bim", "24")
    assert float(row["success"]) == pytest.approx(expected / 24, abs=1e-5)
    units = {row["success"] for row in rows(run, "consistency") if row["images"] == "bim"}
    assert [float(each) for each in units] == pytest.approx([expected / 24], abs=1e-5)
    attack = Bim(threat=Linf(epsilon=EPSILON), steps=STEPS, label="target")
    before, stored = store_attack(model, data, attack, tmp_path / "stored", batch_size=7)
    assert (before.hits, before.n) == (expected, 24)
    with open(tmp_path / "stored" / "attack.csv") as file:
        written = list(csv.DictReader(file))
    aims = [CLASSES[target] for target in batch.targets]
    assert [row["target"] for row in written] == aims
    hits = [row["predicted_attacked"] == aim for row, aim in zip(written, aims, strict=True)]
    assert stored.hits == sum(hits)


@pytest.mark.parametrize("text", PEERS)
def test_success_of_others_against_targets_equals_a_plain_loop(model, table, text, tmp_path):
    data = load_data(table, transform=Transform(size=12, resize=12))
    (batch,) = data.aligned(model.classes, None).batches(24)
    steps = plainly(model, batch.images, batch.targets)
    expected = int((steps[0] | steps[-1]).sum())  # what is taken for its target is not attacked
    assert 3 < expected < 21
    settings = AuditSettings(stages=("accuracy",), attack=(text,), fgsm=(), norm=("L2",), steps=1)
    run = audited([model], table, tmp_path / "run", settings=settings)
    (row,) = rows(run, "targets")
    told = (row["attack"].partition("(")[0], row["norm"], row["settings"], row["n"])
    assert told == (text.partition("(")[0], "Linf", "label=target", "24")
    assert float(row["success"]) == pytest.approx(expected / 24, abs=1e-5)


def test_targets_from_the_command_line(model, tmp_path) -> None:
    settings = AuditSettings(
        stages=("accuracy", "neurons"), target="dog", fgsm=(), norm=("L2",), images=9, steps=2
    )
    run = audited([model], TELLING, tmp_path / "run", settings=settings)
    (row,) = rows(run, "targets")
    told = (row["attack"], row["norm"], row["steps"], row["settings"], row["n"])
    assert told == ("Pgd", "L2", "2", "label=target", "9")
    named = {(r["attack"], r["settings"]) for r in rows(run, "consistency") if r["images"] == "bim"}
    assert named == {("Bim", "label=target")}
    accuracy = [row["settings"] for row in rows(run, "accuracy") if row["attack"] == "Pgd"]
    assert sorted(accuracy) == ["", "label=target"]
    classes = {row["class"] for row in rows(run, "class_accuracy")}
    assert classes == {"cat", "ship"}


@pytest.mark.parametrize("target", ["dog", SYNSETS[1], "1"])
def test_images_of_the_target_are_left_out(target: str) -> None:
    aimed = TELLING.aimed(target)
    assert (len(aimed), aimed.targets.unique().tolist()) == (16, [1])
    assert aimed.labels.unique().tolist() == [0, 2]
    assert torch.equal(aimed.images([3]), TELLING.images([5]))


@pytest.mark.parametrize("target", ["data", "3", "-1", "dgo", ""])
def test_no_such_target(target: str) -> None:
    with pytest.raises(SettingsError):
        TELLING.aimed(target)


def test_no_image_is_left() -> None:
    with pytest.raises(SettingsError, match="all images"):
        TELLING.part([1, 4]).aimed("dog")


@pytest.mark.parametrize("method", ["fgsm", "bim", "pgd"])
def test_attacks_that_aim(model, method: str) -> None:
    attack = chosen_attack(AttackSettings(method=method, target="dog"), model, TELLING)
    kind = {"fgsm": Fgsm, "bim": Bim, "pgd": Pgd}[method]
    assert attack == kind(threat=Linf(epsilon=8 / 255), label="target")
    assert attack.aims(3)


def test_adam_aims_at_given_targets_as_at_the_least_likely_class(model) -> None:
    (batch,) = TELLING.batches(24)
    with torch.no_grad():
        targets = model(batch.images).argmin(dim=1)
    steps = {"steps": 3, "step_size": 0.1, "weight": 5.0}
    given = AdamAttack(**steps, label="target")(model, batch.images, targets)
    assert torch.equal(given, AdamAttack(**steps)(model, batch.images))
    aimed = TELLING.aimed("dog")
    chosen = chosen_attack(AttackSettings(method="adam", target="dog", steps=9), model, aimed)
    (batch,) = aimed.batches(16)
    attacked = chosen(model, batch.images, batch.targets)
    with torch.no_grad():  # with the weight that is found for it
        assert (model(attacked).argmax(dim=1) == 1).float().mean() >= 0.95
    audit = AuditSettings(stages=("accuracy",), target="dog", attack=("AdamAttack(label=target)",))
    (subject,), _ = rehearsed([model], TELLING, audit)
    assert subject.data.targets.unique().tolist() == [1]


@pytest.mark.parametrize("more", [{"attack": (BIM,)}, {"neuron_attack": BIM}])
def test_an_attack_without_targets_is_refused_before_the_run(model, tmp_path, more) -> None:
    settings = AuditSettings(stages=("accuracy", "neurons"), **more)
    with pytest.raises(SettingsError, match="--target"):
        audited([model], TELLING, tmp_path / "run", settings=settings)
    assert not (tmp_path / "run" / "results").exists()


def test_a_target_needs_a_stage_that_aims() -> None:
    with pytest.raises(SettingsError, match="stage accuracy or neurons"):
        AuditSettings(stages=("attribution",), target="dog")
