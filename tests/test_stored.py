"""Stored attacks: what the files hold, what is measured on them, and how an interruption ends."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from advlens import L2, Classifier, DataError, Linf, RunError
from advlens.attacks import AdamAttack, Bim, FeatureAttack, Fgsm, GaussianNoise, LeastLikely, Pgd
from advlens.datasets import ArrayData, Transform, load_data
from advlens.distributed import joined
from advlens.files import locked
from advlens.settings import AttackSettings
from advlens.workflows import attacked as stored_module
from advlens.workflows.attacked import Success, chosen_attack, store_attack
from together import end, start

CLASSES = ("cat", "dog", "ship", "truck", "frog")
PGD = Pgd(threat=Linf(epsilon=9.7 / 255), steps=3)
LINF, L2_BALL, CONV = Linf(epsilon=8 / 255), L2(epsilon=0.5), "network.conv1"
ADAM = {"weight": 2.0, "steps": 9, "step_size": 0.1}
NAMED = [  # settings, and the attack that they name
    ({}, Pgd(threat=LINF)),
    ({"method": "fgsm", "epsilon": 0.1, "seed": 4}, Fgsm(threat=Linf(epsilon=0.1), seed=4)),
    ({"method": "bim", "norm": "l2", "steps": 5}, Bim(threat=L2_BALL, steps=5)),
    ({"norm": "l2", "step_size": 0.1}, Pgd(threat=L2_BALL, step_size=0.1)),
    ({"method": "least-likely"}, LeastLikely(threat=LINF)),
    ({"method": "feature", "layer": CONV}, FeatureAttack(threat=LINF, layer=CONV)),
    ({"method": "noise", "norm": "l2"}, GaussianNoise(threat=L2_BALL)),
    ({"method": "adam", "weight": 2.0}, AdamAttack(weight=2.0)),
    ({"method": "adam", **ADAM}, AdamAttack(**ADAM)),
]


@pytest.fixture
def classifier(smooth):
    return Classifier(smooth, name="smooth", classes=CLASSES, image_size=8, resize=8)


def images(pixels, labels, classes=CLASSES):
    return ArrayData(pixels, name="noise", classes=classes, synsets=None, labels=labels)


@pytest.fixture
def data(pixels, labels):
    return images((pixels * 255).round().byte(), labels)


def read(out: Path, data: ArrayData) -> np.ndarray:
    found = []
    for i, label in enumerate(data.labels.tolist()):
        with Image.open(out / "images" / CLASSES[label] / f"{i:06d}.png") as image:
            assert (image.format, image.mode) == ("PNG", "RGB")
            found.append(np.asarray(image))
    return np.stack(found)


def rows(out: Path) -> list[dict[str, str]]:
    with open(out / "attack.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "attack", [PGD, LeastLikely(threat=L2(epsilon=0.6), steps=3)], ids=["pgd", "least-likely"]
)
def test_files_and_table_hold_what_the_attack_did(attack, classifier, data, tmp_path):
    computed, stored = store_attack(classifier, data, attack, tmp_path, batch_size=10)
    originals = data.pixels.double() / 255
    attacked = attack(classifier, originals.float(), data.labels)
    found = read(tmp_path, data)
    expected = np.rint(attacked.permute(0, 2, 3, 1).numpy() * np.float32(255)).astype(np.uint8)
    # batches of another size may round a pixel that lies on the edge to the other side
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    assert (found != expected).mean() < 1e-3
    change = found.transpose(0, 3, 1, 2) / 255 - originals.numpy()
    with torch.no_grad():
        clean = classifier(originals.float())
        stored_images = torch.from_numpy(found.copy()).permute(0, 3, 1, 2).float() / 255
        again, before = (classifier(x).argmax(dim=1) for x in (stored_images, attacked))
    targeted, targets = isinstance(attack, LeastLikely), clean.argmin(dim=1)
    hits, hits_before = (
        predicted == targets if targeted else predicted != data.labels
        for predicted in (again, before)
    )
    assert (stored.hits, stored.n, computed.hits) == (int(hits.sum()), 24, int(hits_before.sum()))
    for i, row in enumerate(rows(tmp_path)):
        assert int(row["id"]) == int(row["source"]) == i
        assert row["label"] == CLASSES[data.labels[i]]
        assert row["predicted"] == CLASSES[clean[i].argmax()]
        assert row["predicted_attacked"] == CLASSES[again[i]]
        assert row["target"] == (CLASSES[targets[i]] if targeted else "")
        assert row["success"] == ("true" if hits[i] else "false")
        assert float(row["linf"]) == pytest.approx(np.abs(change[i]).max(), rel=1e-5)
        assert float(row["l2"]) == pytest.approx(np.sqrt((change[i] ** 2).sum()), rel=1e-5)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["success"]["stored"]["share"] == hits.double().mean().item()
    assert record["attack"] == repr(attack)


def test_success_that_rounding_undoes_is_not_counted(tmp_path):
    pixels, edge = torch.full((4, 3, 8, 8), 100, dtype=torch.uint8), nn.Linear(3 * 8 * 8, 5)
    with torch.no_grad():
        edge.weight.zero_()[0] = 1
        edge.bias.zero_()[0] = 0.01 - 3 * 8 * 8 * 100 / 255  # a hair's breadth on class 0's side
    classifier = Classifier(nn.Sequential(nn.Flatten(), edge), name="edge", classes=CLASSES)
    data = images(pixels, torch.zeros(4, dtype=torch.int64))
    weak = Pgd(threat=Linf(epsilon=0.49 / 255), steps=3)  # every value goes back where it was
    assert store_attack(classifier, data, weak, tmp_path) == (Success(4, 4), Success(0, 4))
    assert np.array_equal(read(tmp_path, data), pixels.permute(0, 2, 3, 1).numpy())


def test_the_stored_folder_is_data_within_half_a_level_of_the_ball(classifier, data, tmp_path):
    store_attack(classifier, data, PGD, tmp_path)
    assert 9.7 / 255 < max(float(row["linf"]) for row in rows(tmp_path)) <= 10.2 / 255
    folder = load_data(f"folder:{tmp_path}/images", transform=Transform(size=8, resize=8))
    again = folder.aligned(CLASSES, None)
    order = sorted(range(24), key=lambda i: (CLASSES[data.labels[i]], i))
    assert again.labels.tolist() == data.labels[order].tolist()
    found = again.images(range(24)).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(found, read(tmp_path, data)[order])


def test_an_interrupted_run_computes_only_what_is_missing(classifier, data, tmp_path, monkeypatch):
    store_attack(classifier, data, PGD, tmp_path / "whole", batch_size=8)
    real, left = stored_module.atomic, 13

    def interrupted(path, mode="wb"):
        nonlocal left
        left -= path.suffix == ".png"
        if left == 0:
            raise KeyboardInterrupt
        return real(path, mode)

    out = tmp_path / "again"
    with monkeypatch.context() as patched:
        patched.setattr(stored_module, "atomic", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store_attack(classifier, data, PGD, out, batch_size=8)
    assert len(list(out.rglob("*.png"))) == 12
    (out / "images" / CLASSES[data.labels[0]] / "000000.png").unlink()
    calls, attack = [], Pgd.__call__

    def watched(self, *args, ids):
        calls.append(ids.tolist())
        return attack(self, *args, ids=ids)

    monkeypatch.setattr(Pgd, "__call__", watched)
    store_attack(classifier, data, PGD, out, batch_size=8)
    assert calls == [list(range(8)), list(range(8, 16)), list(range(16, 24))]
    for path in (tmp_path / "whole").rglob("*"):
        if path.suffix in (".png", ".csv"):
            assert path.read_bytes() == (out / path.relative_to(tmp_path / "whole")).read_bytes()
    store_attack(classifier, data, PGD, out, batch_size=8)
    assert len(calls) == 3


def _share(classifier: Classifier, data: ArrayData, out: Path) -> None:
    with joined(torch.device("cpu")) as processes:
        found = store_attack(classifier, data, PGD, out, batch_size=3, processes=processes)
    (out / f"{processes.rank}.txt").write_text(str(found))


def test_processes_write_the_images_of_one(classifier, data, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    found = store_attack(classifier, data, PGD, one, batch_size=3)
    assert end(start(2, _share, classifier, data, two)) == [0, 0]
    assert np.array_equal(read(one, data), read(two, data))
    assert rows(one) == rows(two)
    assert [(two / f"{rank}.txt").read_text() for rank in (0, 1)] == [str(found)] * 2


def test_what_cannot_be_stored_is_refused(classifier, data, tmp_path):
    store_attack(classifier, data, PGD, tmp_path)
    with pytest.raises(RunError, match=r"attack is .*steps=3.* there and .*steps=4.* here"):
        store_attack(classifier, data, dataclasses.replace(PGD, steps=4), tmp_path)
    with locked(tmp_path), pytest.raises(RunError, match="another advlens process"):
        store_attack(classifier, data, PGD, tmp_path)
    file = next((tmp_path / "images").rglob("*.png"))
    Image.new("RGB", (4, 4)).save(file)
    with pytest.raises(DataError, match=file.name):
        store_attack(classifier, data, PGD, tmp_path)
    nameless, bad = Classifier(classifier.network, name="nameless"), tmp_path / "bad"
    for name in ("a/b", "..", ".hidden", "", "two\nlines"):
        given = images(data.pixels, data.labels, (name, *CLASSES[1:]))
        with pytest.raises(DataError, match="cannot be a folder"):
            store_attack(nameless, given, PGD, bad)
    few = images(data.pixels, data.labels % 2, CLASSES[:2])
    with pytest.raises(DataError, match=r"\(5,\) for one image, but noise has 2 classes"):
        store_attack(nameless, few, PGD, bad)
    assert not bad.exists()


@pytest.mark.parametrize(("settings", "expected"), NAMED)
def test_settings_name_the_attack(settings, expected, classifier, data):
    assert chosen_attack(AttackSettings(**settings), classifier, data) == expected


def test_the_weight_of_adam_is_calibrated(classifier, data):
    attack = chosen_attack(AttackSettings(method="adam"), classifier, data)
    assert isinstance(attack, AdamAttack)
    pixels = data.pixels.float() / 255
    with torch.no_grad():
        targets = classifier(pixels).argmin(dim=1)
        weaker = dataclasses.replace(attack, weight=attack.weight / 1.2)
        reached, short = (
            (classifier(chosen(classifier, pixels)).argmax(dim=1) == targets).double().mean()
            for chosen in (attack, weaker)
        )
    assert reached >= 0.95 > short


def test_success_is_shown_with_its_interval():
    assert str(Success(5, 10)) == "50.0% (95% interval 23.7% to 76.3%) of 10 images"
    assert Success(0, 0).compute() == {"share": 0.0, "low": 0.0, "high": 1.0, "n": 0}
