"""prepared: the same logits and input gradients as the model; what users hand to methods."""

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from prepared_networks import NETWORKS, SLOW, UNTRACEABLE, build, logits_and_gradient
from torch import nn

from advlens import L2, ClassGeneration, DataError, SettingsError, make_attack
from advlens.attacks import AdamAttack, Bim, Fgsm, GaussianNoise, Pgd
from advlens.attribution import ExpectedGradients, IntegratedGradients, RandomAttribution
from advlens.attribution.measures import Faithfulness
from advlens.prepared import Prepared, check_labels, place_images, prepare

NORMS = nn.modules.batchnorm._NormBase
each_network = pytest.mark.parametrize("name", NETWORKS)
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
    "sparse": (lambda y: y.to_sparse(), "to_dense"),
    "without values": (lambda y: y.to("meta"), "no values"),
    "nested": (lambda y: torch.nested.nested_tensor([y], layout=torch.jagged), "unbind"),
    "text": (lambda y: "cat", "not a str; pass torch.as_tensor"),
}
NO_IDS = [torch.arange(5), torch.arange(24) - 1, torch.rand(24), list(range(24))]
NO_IDS += [torch.arange(24).to("meta"), torch.arange(24).to_sparse()]


def norms(model: nn.Module) -> int:
    return len({module for module in model.modules() if isinstance(module, NORMS)})


@each_network
def test_same_logits_and_input_gradients(name):
    """In float64, where folding is exact to the last digits."""
    model, images = build(name)
    assert norms(model) - norms(prepare(model)) == NETWORKS[name][1]
    model, images = model.double().eval(), images.double()
    copied = prepare(model, images)
    assert (copied.traced, copied.folded) == (name not in UNTRACEABLE,) * 2
    exact, found = (logits_and_gradient(network, images) for network in (model, copied))
    for value, expected in zip(found, exact, strict=True):
        scale = expected.abs().max()
        assert scale > 0
        torch.testing.assert_close(value, expected, rtol=0, atol=float(1e-9 * scale))


@each_network
def test_float32_is_as_good(name, monkeypatch):
    """Deep networks have SiLU for ReLU: of a million ReLUs, rounding switches some in any image."""
    model, images = build(name)
    if name in SLOW:
        monkeypatch.setattr(F, "relu", lambda x, inplace=False: F.silu(x))
        for module in model.modules():
            for place, child in module.named_children():
                if isinstance(child, nn.ReLU):
                    setattr(module, place, nn.SiLU())
    exact = logits_and_gradient(copy.deepcopy(model).double().eval(), images.double())
    plain = logits_and_gradient(copy.deepcopy(model).eval(), images)
    rounded = logits_and_gradient(prepare(model), images)
    assert rounded[0].dtype == torch.float32

    def error(value, reference):
        """Of the middle image: a ReLU next to 0 that rounding switches is one image's matter."""
        away = (value - reference).flatten(1).norm(dim=1)
        return (away / reference.flatten(1).norm(dim=1)).median()

    for value, others, reference in zip(rounded, plain, exact, strict=True):
        assert error(value, reference) < 4 * error(others, reference) + 1e-6


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in SLOW])
def test_model_is_untouched(name):
    model, images = build(name)
    next(iter(model.children())).eval()
    before, copied = copy.deepcopy(model), prepare(model)
    copied(images), copied.record(images), copied.features(images), copied.update(model)
    for old, new in zip(before.modules(), model.modules(), strict=True):
        assert new.training == old.training
        assert len(new._forward_hooks) == len(old._forward_hooks)
    for old, new in zip(before.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(new, old)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert not any(module.training for module in copied.modules())


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in {*SLOW, "spectral norm"}])
def test_update_equals_a_fresh_copy(name):
    model, images = build(name)
    copied = prepare(model)
    copied.record(images), copied.features(images)  # so that all graphs exist
    before, optimizer = copied(images), torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(2):
        copied.update(model)
        # as in training: batch normalization must go on in training mode after an update
        F.cross_entropy(model(images.flip(0)), torch.arange(4)).backward()
        optimizer.step()
        optimizer.zero_grad()
    if hasattr(model, "set_normalization"):
        model.set_normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    for module in model.modules():
        if isinstance(module, NORMS) and module.track_running_stats:
            assert module.training
            assert module.num_batches_tracked >= 3
    copied.update(model)
    fresh = prepare(model)
    assert torch.equal(copied(images), fresh(images))
    assert not torch.equal(copied(images), before)
    logits, responses = copied.record(images)
    assert torch.equal(logits, fresh(images))
    for layer, values in fresh.record(images)[1].items():
        assert torch.equal(responses[layer], values)


def test_models_that_torch_cannot_copy_are_run_themselves_and_layers_of_the_last_step_copied():
    model, images = build("vgg")
    exact, gradient = logits_and_gradient(copy.deepcopy(model).eval(), images)
    model[1].eval()
    modes = [module.training for module in model.modules()]
    model.lock = threading.Lock()
    copied = prepare(model, images)
    (note,) = copied.notes
    assert note == (
        "Sequential runs itself, not a copy of it: cannot copy Sequential: cannot pickle "
        "'_thread.lock' object"
    )
    found, found_gradient = logits_and_gradient(copied, images)
    assert torch.equal(found, exact)
    assert torch.equal(found_gradient, gradient)
    assert set(copied.record(images)[1]) == set(copied.layers) == {"0", "4"}
    copied.maps(images, ["0"])
    assert [module.training for module in model.modules()] == modes
    model[-1].weight.data.mul_(2)
    copied.update(model)
    assert not torch.equal(copied(images), exact)
    # The old spectral norm keeps such a weight, which torch does not copy
    model, images = build("spectral norm")
    model(images).sum().backward()
    torch.testing.assert_close(prepare(model, images)(images), model.eval()(images))


def test_copies_in_bfloat16_and_of_copies():
    model, images = build("resnet, pad")
    copied, exact = prepare(model, dtype=torch.bfloat16), prepare(model)(images)
    found = copied(images)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().max() < 0.05 * exact.abs().max()
    copied.update(model)
    assert torch.equal(copied(images), found)
    assert all(values.dtype == torch.float32 for values in copied.record(images)[1].values())
    copied = prepare(build("resnet, pad")[0])
    assert isinstance(copied, Prepared)
    assert prepare(copied) is copied
    weights = [p for p in copied.parameters() if p.ndim == 4 and p.shape[1] > 1]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


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
    for images, mend in (
        (pixels.to("meta"), "no values"),
        (pixels.to_sparse(), "to_dense"),
        (pixels.to(torch.float8_e5m2), "float"),
        (torch.nested.nested_tensor([*pixels], layout=torch.jagged), "unbind"),
    ):
        with pytest.raises(DataError, match=mend):
            Fgsm(threat=BALL)(smooth, images, labels)
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
