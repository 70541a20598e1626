"""Attributions of captum by name."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advlens import IntegratedGradients, make_attribution
from advlens.attribution.baselines import blurred
from advlens.errors import DataError, ModelError, NumericError, SettingsError
from advlens.interop import attributions
from advlens.interop.guests import library
from advlens.losses import rounding
from advlens.prepared import prepare
from smooth_network import Untraceable, state_of

captum = library("captum", "captum.attr")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
THEIRS = {
    "Saliency": {},
    "Saliency(abs=False)": {"abs": False},
    "InputXGradient": {},
    "IntegratedGradients(n_steps=8)": {"n_steps": 8},
    "Occlusion(sliding_window_shapes=(3, 4, 4), strides=(3, 2, 2))": {
        "sliding_window_shapes": (3, 4, 4),
        "strides": (3, 2, 2),
    },
    "IntegratedGradients(baseline=blurred, n_steps=8)": {"n_steps": 8, "baselines": blurred},
}
COMPLETE = {"IntegratedGradients(n_steps=64)": 64, "DeepLift": 2, "Saliency": 1, "KernelShap": 25}
DRAWN = [
    *("GradientShap(n_samples=4, stdevs=.1)", "IntegratedGradients(n_steps=4, baseline=noise)"),
    *("NoiseTunnel(attribution_method=Saliency, nt_samples=3)", "KernelShap(n_samples=10)"),
]
REFUSED = {
    "shap:Gradient": "no library 'shap' of attributions; use captum:NAME",
    "Saliency": "no library '' of attributions",
    "captum:Salience": "captum has no attribution 'Salience'; perhaps .*Saliency",
    "captum:torch": "captum has no attribution 'torch'",
    "captum:LayerGradCam(layer=conv1)": "explains a layer or a neuron",
    "captum:Saliency(absolute=True)": "'absolute'; it takes .*abs",
    "captum:Occlusion": "missing a required argument: 'sliding_window_shapes'",
    "captum:GuidedGradCam": "missing a required argument: 'layer'",
    "captum:FeaturePermutation": "compares the images of a batch",
    "captum:DeepLift(baseline=grey)": "baseline must be one of noise, black, blurred, not 'grey'",
    "captum:DeepLift(baselines=0)": "baselines is set by advlens",
    "captum:Saliency(target=3)": "target must be one of probability, logit, not 3",
    "captum:NoiseTunnel": "missing a required argument: 'attribution_method'",
    "captum:NoiseTunnel(attribution_method=Noise)": "captum has no attribution 'Noise'",
}


class Twice(nn.Module):
    """A ReLU layer that is used twice, and a ReLU that is no layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, bias=False)
        self.relu, self.linear = nn.ReLU(inplace=True), nn.Linear(96, 5)

    def forward(self, x):
        return F.relu(self.linear(self.relu(self.second(self.relu(self.first(x)))).flatten(1)) + 1)


@pytest.fixture
def rectified():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Twice().eval()


@pytest.mark.parametrize(("text", "settings"), THEIRS.items(), ids=THEIRS)
def test_captums_own_call_gives_the_same(text, settings, smooth, pixels, labels):
    found = make_attribution(f"captum:{text}")(smooth, pixels, labels)
    given = {key: blurred(pixels) if value is blurred else value for key, value in settings.items()}
    with torch.enable_grad():
        theirs = getattr(captum, text.partition("(")[0])(smooth)
        wanted = theirs.attribute(pixels.clone().requires_grad_(), target=labels, **given).detach()
    torch.testing.assert_close(found.values, wanted, **CLOSE)
    assert torch.equal(found.targets, labels)
    assert found.error.isnan().all()


def test_baselines_in_words():
    words = {"Saliency": "", "DeepLift": "black", "DeepLift(baseline=noise)": "noise"}
    words["GradientShap"] = "background"
    assert {t: make_attribution(f"captum:{t}").starts_from for t in words} == words


def test_the_probability_is_ours(smooth, pixels):
    """Also where it is next to 1, and the softmax's own gradient is lost."""
    sure = nn.Sequential(smooth, nn.Linear(5, 5, bias=False))
    sure[1].weight.data.copy_(torch.eye(5) * 16)
    found = make_attribution("captum:Saliency(target=probability, abs=False)")(sure, pixels)
    double, images = sure.double(), pixels.double().requires_grad_()
    odds = double(images).log_softmax(dim=1).gather(1, found.targets[:, None])
    (wanted,) = torch.autograd.grad(odds.exp().sum(), images)
    size = wanted.flatten(1).norm(dim=1)
    away = (found.values.double() - wanted).flatten(1).norm(dim=1)
    lost = (size > 1e-12) & (size < 1e-8)  # float32 softmax rounds to 1; float64 does not
    assert lost.any()
    assert (away <= 1e-2 * size)[size > 1e-12].all()


def test_deep_lift_is_complete_on_layers_used_twice_and_on_functions(rectified, pixels):
    """Rescale is exact where every ReLU is seen; captum by itself refuses the model."""
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RuntimeError):
            captum.DeepLift(rectified).attribute(pixels, target=0)
    for baseline in ("black", "blurred", "noise"):
        found = make_attribution(f"captum:DeepLift(baseline={baseline})")(rectified, pixels)
        assert found.gap.max() < 1e-3
        assert (found.points == 2).all()


def test_guided_backprop_sees_functions(rectified, pixels):
    """Against the rule by hand: only positive gradients pass a ReLU."""

    class Guided(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            context.save_for_backward(x)
            return x.clamp(min=0)

        @staticmethod
        def backward(context, gradient):
            (x,) = context.saved_tensors
            return gradient.clamp(min=0) * (x > 0)

    double, guided = rectified.double(), Guided.apply  # float32 may round across a ReLU's 0
    found = make_attribution("captum:GuidedBackprop")(double, pixels.double())
    images = pixels.double().requires_grad_()
    hidden = guided(double.second(guided(double.first(images))))
    logits = guided(double.linear(hidden.flatten(1)) + 1)
    (wanted,) = torch.autograd.grad(logits.gather(1, found.targets[:, None]).sum(), images)
    torch.testing.assert_close(found.values, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("text", "points"), COMPLETE.items(), ids=COMPLETE)
def test_gap_and_points(text, points, smooth, pixels):
    found = make_attribution(f"captum:{text}")(smooth, pixels[:3])
    assert found.points.tolist() == [points] * 3
    assert torch.equal(found.targets, smooth(pixels[:3]).argmax(dim=1))
    if text in ("Saliency", "KernelShap"):
        assert found.gap.isnan().all()
        return
    black, rows = torch.zeros_like(pixels[:3]), torch.arange(3)
    assert not make_attribution(f"captum:{text}")(smooth, black).gap.any()
    logits = smooth(pixels[:3]).double()
    change = (logits - smooth(black).double())[rows, found.targets]
    total = found.values.double().sum(dim=(1, 2, 3))
    away, known = (total - change).abs(), rounding(logits.float())
    assert ((found.gap * change.abs() - away).abs() <= known).all()


@pytest.mark.parametrize("text", DRAWN)
def test_randomness_is_each_images_own(text, smooth, pixels):
    method, state = make_attribution(f"captum:{text}", seed=2), torch.get_rng_state()
    found = method(smooth, pixels[:4], background=pixels[8:])
    assert torch.equal(torch.get_rng_state(), state)
    alone = method(smooth, pixels[2:3], ids=torch.tensor([2]), background=pixels[8:])
    assert torch.equal(alone.values[0], found.values[2])
    for other, ids in ((make_attribution(f"captum:{text}", seed=3), [2]), (method, [7])):
        drawn = other(smooth, pixels[2:3], ids=torch.tensor(ids), background=pixels[8:])
        assert not torch.equal(drawn.values[0], found.values[2])


def test_memory_is_that_of_a_chunk(smooth, pixels, monkeypatch):
    sizes, forward = [], attributions._Score.forward

    def noted(self, x, y):
        sizes.append(len(x))
        return forward(self, x, y)

    monkeypatch.setattr(attributions._Score, "forward", noted)
    method = make_attribution("captum:IntegratedGradients(n_steps=20)", batch_size=6)
    found = method(smooth, pixels[:2])
    assert max(sizes) <= 6
    wanted = IntegratedGradients(steps=400, baseline="black", target="logit")(smooth, pixels[:2])
    torch.testing.assert_close(found.values, wanted.values, rtol=1e-2, atol=1e-3)


def test_models_that_cannot_be_traced_and_nothing_is_left_on_one(smooth, pixels):
    method = make_attribution("captum:Saliency")
    expected = method(smooth, pixels).values
    torch.testing.assert_close(method(Untraceable(smooth), pixels).values, expected)
    model = prepare(smooth)
    before = state_of(model)
    for text in ("DeepLift", "GuidedBackprop"):
        make_attribution(f"captum:{text}")(model, pixels[:1])
    with pytest.raises(ModelError, match=r"captum:Occlusion.* fails on this model"):
        make_attribution("captum:Occlusion(sliding_window_shapes=99)")(model, pixels[:1])
    assert state_of(model) == before


@pytest.mark.parametrize(("text", "reason"), REFUSED.items(), ids=REFUSED)
def test_wrong_use_is_one_sentence(text, reason):
    with pytest.raises(SettingsError, match=reason) as caught:
        make_attribution(text)
    assert "\n" not in str(caught.value)


def test_wrong_input(smooth, pixels):
    for text, images, error, words in (
        ("Saliency", pixels * 255, DataError, r"must lie in \[0, 1\]"),
        ("GradientShap", pixels, SettingsError, "GradientShap averages .* pass background=images"),
        (
            "Occlusion(sliding_window_shapes=(3, 99, 99))",
            *(pixels, ModelError, r"captum:Occlusion.* fails on this model \(Assert"),
        ),
    ):
        with pytest.raises(error, match=words):
            make_attribution(f"captum:{text}")(smooth, images)
    smooth.linear.weight.data[0] = torch.nan
    with pytest.raises(NumericError):
        make_attribution("captum:Saliency")(smooth, pixels, torch.zeros(24, dtype=torch.int64))
