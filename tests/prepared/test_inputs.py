"""prepared.inputs: what users hand to attacks, attributions and features."""

import pytest
import torch
from torch import nn

from advlens import L2, ClassGeneration, DataError, SettingsError, make_attack
from advlens.attacks import AdamAttack, Bim, Fgsm, GaussianNoise, Pgd
from advlens.attribution import ExpectedGradients, IntegratedGradients, RandomAttribution
from advlens.attribution.measures import Faithfulness
from advlens.prepared import check_labels, place_images, prepare

BALL = L2(epsilon=0.4)
ADAM = AdamAttack(steps=1, targeted=False)
USE_LABELS = {
    "fgsm": Fgsm(threat=BALL),
    "bim": Bim(threat=BALL, steps=2),
    "pgd last": Pgd(threat=BALL, steps=2, select="last"),
    "adam": ADAM,
    "foolbox": make_attack("foolbox:LinfFastGradientAttack(epsilon=0.02)"),
    "torchattacks": make_attack("torchattacks:FGSM(epsilon=0.02)"),
}
EXPLAIN = [IntegratedGradients(steps=1), ExpectedGradients(samples=2), RandomAttribution()]
WRONG = {
    "from 1": (lambda y: y + 1, "classes of the model, 0 to 4, not 1 to 5; count the classes from"),
    "from -1": (lambda y: y - 1, "classes of the model, 0 to 4, not -1 to 3"),
    "too few": (lambda y: y[:5], r"one class number .* each of the 24 images, not torch.int64 \(5"),
    "one for all": (lambda y: y[0], r"one class number .* not torch.int64 \(\)"),
    "one-hot": (lambda y: nn.functional.one_hot(y, 5), r"\(24, 5\); for one-hot rows pass"),
    "float": (lambda y: y.float(), r"not torch.float32 \(24,\)"),
    "bool": (lambda y: y > 2, r"not torch.bool \(24,\)"),
    "list": (lambda y: y.tolist(), r"not a list; pass torch.as_tensor\(labels\)"),
    "numpy": (lambda y: y.numpy(), "not a ndarray; pass torch.as_tensor"),
    "text": (lambda y: "cat", "not a str; pass torch.as_tensor"),
}
NO_IDS = [torch.arange(5), torch.arange(24) - 1, torch.rand(24), list(range(24))]


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG)
def test_labels_must_be_classes(change, words, smooth, pixels, labels):
    wrong, model = change(labels), prepare(smooth)
    calls = [call for attack in USE_LABELS.values() for call in (attack, attack.outcomes)]
    calls += [ADAM.calibrate, lambda *given: EXPLAIN[1](*given, background=pixels)]
    for call in (*calls, EXPLAIN[0], EXPLAIN[2]):
        with pytest.raises(SettingsError, match=words):
            call(model, pixels, wrong)
    with pytest.raises(SettingsError, match=words):
        Faithfulness(steps=2)(model, pixels, torch.zeros(24, 8, 8), wrong)


@pytest.mark.parametrize("attack", USE_LABELS.values(), ids=USE_LABELS)
def test_any_integers_are_labels(attack, smooth, pixels, labels):
    expected = attack(smooth, pixels, labels)
    for dtype in (torch.int32, torch.int16, torch.int8, torch.uint8):
        assert torch.equal(attack(smooth, pixels, labels.to(dtype)), expected)
    rows = attack.outcomes(smooth, pixels, labels.byte())
    assert torch.equal(rows, attack.outcomes(smooth, pixels, labels))


@pytest.mark.parametrize("ids", NO_IDS)
def test_ids_must_be_a_number_for_each_image(ids, smooth, pixels, labels):
    for attack in (Pgd(threat=BALL, steps=1), GaussianNoise(threat=BALL)):
        for call in (attack, attack.outcomes):
            with pytest.raises(SettingsError, match="ids must be one whole number ≥ 0 for each of"):
                call(smooth, pixels, labels, ids=ids)
    with pytest.raises(SettingsError, match="ids must be one whole number"):
        IntegratedGradients(steps=1)(smooth, pixels, labels, ids=ids)


def test_images_and_targets_are_tensors_and_move_to_the_models_device(smooth, pixels, labels):
    for images in (pixels.numpy(), pixels.tolist(), None):
        said = f"images must be a float tensor N×3×H×W, not {type(images).__name__}; "
        with pytest.raises(DataError, match=said):
            Fgsm(threat=BALL)(smooth, images, labels)
    with pytest.raises(SettingsError, match="targets must be a tensor, not a list"):
        ClassGeneration(steps=1)(smooth, pixels, labels.tolist())
    # The meta device stands for an accelerator: nothing is computed on it, but it is another
    for model in (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(3, affine=False)):  # buffers alone
        images = place_images(model.to("meta"), pixels)
        assert images.device.type == "meta"
        assert check_labels(labels.int(), images).device.type == "meta"
    for model in (nn.Conv2d(3, 4, 3), nn.ReLU()):
        assert place_images(model, pixels).device == pixels.device
    assert check_labels(None, pixels) is None
