"""Units are measured and dissected under any attack that has a name."""

import numpy as np
import pytest
import torch
from torch import nn

import tiny_broden
from advlens import Consistency, Dissection, SettingsError, consistency, load_data
from advlens.attacks import AdamAttack, Fgsm, GaussianNoise, LeastLikely
from advlens.attacks.threat import L2, Linf
from advlens.auditing.stages.neurons.attacked import AttackedSets
from advlens.datasets import Batch, Transform
from advlens.interop import make_attack
from advlens.prepared import prepare
from advlens.settings import AuditSettings, DissectSettings
from small_runs import SYNSETS, audited, noise, rows, small

SIZE = 32
SETTINGS = {"top": 0.1, "batch_size": 16, "device": "cpu", "layers": ("all",)}
FGSM = "Fgsm(norm=Linf, epsilon=.004)"
LIKELY = "LeastLikely(norm=Linf, epsilon=.012, steps=3, select=last)"
ADAM = "AdamAttack(weight=12, steps=4)"
FOOLBOX = "foolbox:LinfPGD(epsilon=.1, rel_stepsize=.1)"
ORACLES = {
    FGSM: "attack_oracles:ByFoolbox(epsilon=.004)",
    LIKELY: "attack_oracles:ByFoolbox(epsilon=.012, steps=3)",
    ADAM: "attack_oracles:ByTorch(weight=12, steps=4)",
}
ATTACK = ("images", "attack", "norm", "epsilon", "steps", "settings", "attacked", "weight")


def model():
    """In float64: float32's rounding decides signs of gradients next to 0."""

    def network():
        first = nn.Conv2d(3, 6, 5, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)
        second = nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(), nn.Flatten()
        return nn.Sequential(*first, *second, nn.Linear(245, 3))

    classifier = small(network, size=SIZE, synsets=SYNSETS).double()
    with torch.no_grad():
        pixels = images().images(range(48)).double() / 255
        mean = classifier(pixels).mean(dim=0)
        classifier.network[-1].bias.sub_(mean)  # so that all classes are predicted
    return classifier


def audit_settings(concepts, **more):
    return AuditSettings(stages=("neurons", "dissection"), concepts=concepts, **SETTINGS, **more)


def images():
    return noise(48, size=SIZE, synsets=SYNSETS, telling=True)


@pytest.fixture(scope="module")
def concepts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tiny"
    return f"broden:{tiny_broden.write_tiny_broden(folder, images=24)}"


@pytest.fixture(scope="module")
def made(concepts, tmp_path_factory):
    """Audits under each attack, and under the same attack of another library."""
    runs = {}
    for text in (*ORACLES, *ORACLES.values()):
        settings = audit_settings(concepts, neuron_attack=text)
        runs[text] = audited(model(), images(), tmp_path_factory.mktemp("run"), settings=settings)
    return runs


def values(run, table, **where):
    """The rows of a table without what names the attack."""
    found = rows(run, table, **where)
    return [{name: row[name] for name in row if name not in ATTACK} for row in found]


@pytest.mark.parametrize(("text", "oracle"), ORACLES.items(), ids=["fgsm", "likely", "adam"])
def test_the_papers_attacks_measure_units_as_those_of_other_libraries(made, text, oracle):
    names = [rows(made[each], "consistency")[0]["images"] for each in (text, oracle)]
    mine, theirs = (
        values(made[each], "consistency", images=name)
        for each, name in zip((text, oracle), names, strict=True)
    )
    assert mine == theirs
    assert 0.1 < float(mine[0]["success"]) < 0.9
    assert float(mine[0]["distance"]) > 0
    for table in ("units", "unit_classes", "layers", "dissection", "dissection_images"):
        mine, theirs = values(made[text], table), values(made[oracle], table)
        if table == "units":  # the oracle's runs have another FGSM beside it
            mine, theirs = (
                [row | {"consis_adv_fgsm": ""} for row in each] for each in (mine, theirs)
            )
        assert mine == theirs, table


@pytest.mark.parametrize("text", ORACLES)
def test_the_library_measures_the_same(made, text):
    attack = make_attack(text)
    pixels, labels = images().images(range(48)).double() / 255, images().labels
    for layer, found in Consistency(attack=attack, top=0.1)(model(), pixels, labels).items():
        table = rows(made[text], "units", layer=layer)
        for measure, expected in found.values.items():
            cells = [float(row[measure] or "nan") for row in table]
            np.testing.assert_allclose(cells, expected, rtol=1e-5)
        shares = [
            [float(row[f"share_{i + 1}"] or 0) for i in range(3)]
            for row in rows(made[text], "unit_classes", layer=layer, images="target")
        ]
        live = ~found.dead
        np.testing.assert_allclose(shares, found.classes["target"].shares[live], rtol=1e-5)


def test_an_open_weight_is_calibrated_on_images_of_all_classes(monkeypatch):
    pixels, labels = images().images(range(48)).double() / 255, images().labels
    monkeypatch.setattr(consistency, "CALIBRATION", 24)
    order = labels.argsort()  # as class folders lie
    pixels, labels = pixels[order], labels[order]
    adam = AdamAttack(weight=None, steps=4)
    with torch.no_grad():
        *_, found = Consistency(attack=adam, top=0.1)(model(), pixels, labels).values()
    some = torch.linspace(0, 47, 24).long()
    assert labels[some].unique().tolist() == [0, 1, 2]
    attack = adam.calibrate(model(), pixels[some], labels[some])
    *_, expected = Consistency(attack=attack, top=0.1)(model(), pixels, labels).values()
    for measure, values in expected.values.items():
        np.testing.assert_array_equal(found.values[measure], values)


def test_an_attack_on_images_without_labels_leaves_the_predicted_class(concepts):
    data = load_data(concepts, transform=Transform(size=SIZE, resize=SIZE))
    method, threat = Dissection(quantile=0.03), Linf(epsilon=0.02)
    mine, named = (
        method(model(), data, Fgsm(threat=threat, label=label))["3"]["adversarial"]
        for label in ("true", "predicted")
    )
    assert torch.equal(mine.iou, named.iou)
    assert not torch.equal(mine.iou, method(model(), data)["3"]["real"].iou)


def test_each_table_says_which_attack_it_is_of(made):
    consistency = rows(made[ADAM], "consistency")
    kinds = ["adam-attack", "equal-success", "fgsm", "noise"]
    assert [*dict.fromkeys(row["images"] for row in consistency)] == kinds
    assert {(row["epsilon"], row["settings"]) for row in consistency[:8]} == {("", "weight=12")}
    for table in ("units", "layers", "unit_classes"):
        assert {row["attacked"] for row in rows(made[ADAM], table)} == {"adam-attack"}
    for row in rows(made[ADAM], "pictures"):
        attacked = "equal-success" if row["images"] == "equal-success" else "adam-attack"
        assert row["attacked"] == attacked
        assert (f"-{attacked}-" in row["file"]) == (row["images"] != "real")
    (row,) = rows(made[ADAM], "dissection_images")
    assert (row["attack"], row["weight"], row["targeted"]) == ("AdamAttack", "12", "true")
    kinds = dict.fromkeys(row["images"] for row in rows(made[FGSM], "consistency"))
    assert [*kinds] == ["fgsm", "equal-success", "noise"]


NAMES = {
    LIKELY: ["least-likely", "equal-success", "fgsm", "noise"],
    FGSM: ["fgsm", "equal-success", "noise"],
    FOOLBOX: ["foolbox-linf-pgd", "equal-success", "fgsm", "noise"],
    ORACLES[ADAM]: ["by-torch", "fgsm", "noise"],
}
UNTARGETED = [
    "Pgd(norm=Linf, epsilon=.004, steps=3, step_size=.002)",
    "foolbox:LinfBasicIterativeAttack(epsilon=.004, steps=3)",
    "torchattacks:FGSM(epsilon=.004)",
    "Pgd(norm=Linf, epsilon=.1, steps=3, step_size=.05)",
]


def sets(text, success=0.95):
    return AttackedSets(make_attack(text), Fgsm(threat=Linf(epsilon=0.01)), success)


@pytest.mark.parametrize(("text", "names"), NAMES.items(), ids=range(len(NAMES)))
def test_the_sets_are_named_after_their_attacks(text, names):
    assert sets(text).names == names


def batches():
    return [Batch(batch.ids, batch.images.double(), batch.labels) for batch in images().batches(20)]


def test_the_noise_is_as_long_as_the_changes_of_the_attack():
    prepared = prepare(model())
    for text in (LIKELY, ADAM):
        settled = sets(text).settle(prepared, batches())
        attack, each = make_attack(text), batches()
        changes = [attack(prepared, b.images, b.labels, ids=b.ids) - b.images for b in each]
        length = torch.cat(changes).flatten(1).norm(dim=1).mean().item()
        assert settled.length == pytest.approx(length, rel=1e-12)
        assert sets(text).attacks(settled)["noise"] == GaussianNoise(threat=L2(epsilon=length))
    settled = sets("LeastLikely(norm=L2, epsilon=.7)").settle(prepared, batches())
    assert settled.length == 0.7


@pytest.mark.parametrize("text", UNTARGETED)
def test_equal_success_is_the_smallest_radius_that_reaches_it(text, monkeypatch):
    """An untargeted attack's, and one of another library; above and below the given radius."""
    prepared, wanted = prepare(model()), 0.9
    chosen = sets(text, wanted)
    scaled, tried = type(chosen.main).with_radius, list[float]()
    monkeypatch.setattr(
        type(chosen.main), "with_radius", lambda self, r: tried.append(r) or scaled(self, r)
    )
    settled = chosen.settle(prepared, batches())
    assert len(tried) == len({*tried}) < 10  # a run of the attack on all images for each
    equal = chosen.attacks(settled)["equal-success"]
    assert equal.radius == settled.equal

    def success(attack):
        wrong = [
            prepared(attack(prepared, b.images, b.labels, ids=b.ids)).argmax(dim=1) != b.labels
            for b in batches()
        ]
        return torch.cat(wrong).double().mean().item()

    assert success(equal) >= wanted > success(equal.with_radius(equal.radius / 1.2))
    if "step_size" in text:
        assert equal.step_size == pytest.approx(equal.radius / 2)


def test_an_adam_attack_without_a_weight_is_that_of_equal_success(concepts, tmp_path):
    settings = audit_settings(concepts, neuron_attack="AdamAttack(steps=3)", success=0.8)
    run = audited(model(), images(), tmp_path, settings=settings)
    found = rows(run, "consistency")
    names = ("adam-attack", "equal-success")
    mine, equal = ([r | {"images": ""} for r in found if r["images"] == name] for name in names)
    assert mine == equal
    pixels, prepared = images().images(range(48)).double() / 255, prepare(model())
    weight = AdamAttack(steps=3).calibrate(prepared, pixels, success=0.8).weight
    assert float(mine[0]["settings"].removeprefix("weight=")) == pytest.approx(weight, rel=1e-5)
    assert float(mine[0]["success"]) >= 0.8
    (row,) = rows(run, "dissection_images")
    assert float(row["weight"]) > 0


def test_presets_are_the_attacks_of_the_papers():
    d19, d22 = (AuditSettings(preset=name) for name in ("d19", "d22"))
    assert make_attack(d19.attack_on_units) == Fgsm(threat=Linf(epsilon=1 / 255))
    likely = LeastLikely(threat=Linf(epsilon=4 / 255), steps=10)
    assert make_attack(d19.attack_on_concepts) == likely
    adam = AdamAttack(weight=None, steps=20, step_size=5 / 255)
    assert make_attack(d22.attack_on_units) == make_attack(d22.attack_on_concepts) == adam
    both = AuditSettings(preset="d22", neuron_attack=FGSM)
    assert (both.attack_on_units, both.attack_on_concepts) == (FGSM, d22.attack_on_concepts)
    alone = AuditSettings(neuron_attack=FGSM, concept_attack=ADAM)
    assert (alone.attack_on_units, alone.attack_on_concepts) == (FGSM, ADAM)
    assert AuditSettings(neuron_attack=FGSM).attack_on_concepts == FGSM
    assert AuditSettings().attack_on_units is AuditSettings().attack_on_concepts is None


WRONG = {
    "neuron_epsilon": ({"neuron_attack": FGSM, "neuron_epsilon": 1.0}, "neuron_epsilon means noth"),
    "neuron_steps": ({"preset": "d22", "neuron_steps": 5}, "neuron_steps means nothing"),
    "form": ({"neuron_attack": "Fgsm(1)"}, "names no method"),
}


@pytest.mark.parametrize(("settings", "said"), WRONG.values(), ids=WRONG)
def test_settings_that_mean_nothing_are_refused(settings, said):
    with pytest.raises(SettingsError, match=said):
        AuditSettings(**settings)


def test_a_dissection_takes_attacks_by_name_too():
    for text in (LIKELY, "adam", "none", ADAM):
        assert DissectSettings(attack=text).attack == text
    with pytest.raises(SettingsError, match="epsilon means nothing"):
        DissectSettings(attack=LIKELY, epsilon=1.0)
    with pytest.raises(SettingsError, match="names no method"):
        DissectSettings(attack="most likely")


def test_an_attack_without_a_weight_says_what_it_lacks():
    with pytest.raises(SettingsError, match="λ of the Adam attack is not set"):
        AdamAttack(weight=None)(model(), torch.rand(1, 3, SIZE, SIZE).double())
