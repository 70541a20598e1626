"""Attributions against captum and shap, and their measures against Quantus."""

import warnings

import numpy as np
import pytest
import torch

from advlens import ExpectedGradients
from advlens.attribution import Faithfulness, IntegratedGradients, Stability, sparseness
from advlens.attribution.baselines import blurred
from advlens.seeding import Stream, derived, uniform

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # theirs
    import captum.attr
    import quantus
    import shap

CLOSE = {"rtol": 0, "atol": 1e-5}
STEPS, REPEATS = 32, 60
PLAIN = {"normalise": False, "disable_warnings": True}
KINDS = [(quantus.AvgSensitivity, torch.mean), (quantus.MaxSensitivity, torch.amax)]


@pytest.mark.parametrize("baseline", ["black", "blurred"])
def test_captums_integrated_gradients(baseline, smooth, pixels, labels):
    """captum's trapezoid has n points and weights of sum (n − 1)/n: B23 eq. 11, with m = n − 1."""
    start = blurred(pixels) if baseline == "blurred" else torch.zeros_like(pixels)
    theirs = captum.attr.IntegratedGradients(smooth).attribute(
        pixels, start, target=labels, n_steps=STEPS + 1, method="riemann_trapezoid"
    )
    settings = {"steps": STEPS, "baseline": baseline, "target": "logit"}
    paper = IntegratedGradients(formula="paper", **settings)(smooth, pixels, labels)
    torch.testing.assert_close(paper.values, theirs, **CLOSE)
    ours = IntegratedGradients(**settings)(smooth, pixels, labels)
    torch.testing.assert_close(ours.values, theirs * (STEPS + 1) / STEPS, **CLOSE)


def test_captums_integrated_gradients_of_the_probability(smooth, pixels, labels):
    """Its default rule, Gauss–Legendre, has the same limit."""
    model = torch.nn.Sequential(smooth, torch.nn.Softmax(dim=1))
    theirs = captum.attr.IntegratedGradients(model).attribute(pixels, target=labels, n_steps=64)
    ours = IntegratedGradients(steps=800, baseline="black")(smooth, pixels, labels)
    torch.testing.assert_close(ours.values, theirs, **CLOSE)


def captums(smooth, image, background, samples):
    """`REPEATS` results of GradientShap; its noise is switched off."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002  # captum draws α from numpy's global state
        return captum.attr.GradientShap(smooth).attribute(
            image.expand(REPEATS, -1, -1, -1), background, n_samples=samples, stdevs=0.0, target=1
        )


def shaps(smooth, image, background, samples):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explainer = shap.GradientExplainer(smooth, background)
        values = explainer.shap_values(image.expand(REPEATS, -1, -1, -1), nsamples=samples, rseed=0)
    return torch.from_numpy(np.asarray(values)[..., 1])


@pytest.mark.parametrize("peer", [captums, shaps])
def test_expected_gradients(peer, smooth, pixels):
    """Each value's mean over repeats is within 3 standard errors of the peer's."""
    image, background, samples = pixels[:1], pixels[8:], 40
    state = np.random.get_state()  # noqa: NPY002
    theirs = peer(smooth, image, background, samples).double()
    np.random.set_state(state)  # noqa: NPY002
    given = image.expand(REPEATS, -1, -1, -1), torch.ones(REPEATS).long()
    for stratified in (True, False):
        method = ExpectedGradients(samples=samples, stratified=stratified)
        ours = method(smooth, *given, background=background).values.double()
        for first, second in ((ours, theirs), (ours.sum((1, 2, 3)), theirs.sum((1, 2, 3)))):
            error = ((first.var(dim=0) + second.var(dim=0)) / REPEATS).sqrt()
            away = (first.mean(dim=0) - second.mean(dim=0)).abs() / error
            assert (away < 3).double().mean() > 0.97  # neighbors go together
            assert away.square().mean() < 3
    spread = [part.sum(dim=(1, 2, 3)).std().item() for part in (ours, theirs)]
    assert spread[0] == pytest.approx(spread[1], rel=0.35)  # the same method: the same spread


@pytest.fixture
def maps():
    return torch.randn(24, 8, 8, generator=torch.Generator().manual_seed(0))


def quiet(metric, model, images, labels, values, **given):
    """What a metric of Quantus finds."""
    arrays = {"x_batch": images.numpy(), "y_batch": labels.numpy(), "a_batch": values.numpy()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array(metric(model=model, **arrays, s_batch=None, device="cpu", **given))


def test_sparseness(smooth, pixels, labels, maps):
    theirs = quiet(quantus.Sparseness(abs=True, **PLAIN), smooth, pixels, labels, maps[:, None])
    np.testing.assert_allclose(sparseness(maps).numpy(), theirs, rtol=1e-5)


@pytest.mark.parametrize("curve", ["deletion", "insertion"])
def test_pixel_flipping(curve, smooth, pixels, labels, maps):
    """Quantus flips 16 of 192 values a step: whole pixels after every third one, 16 of them."""
    start, end = (pixels, blurred(pixels))[:: 1 if curve == "deletion" else -1]

    def flip(arr, indices, **_):
        changed, values = arr.copy(), end.flatten(1).numpy()
        np.put_along_axis(changed, indices, np.take_along_axis(values, indices, 1), axis=1)
        return changed

    metric = quantus.PixelFlipping(features_in_step=16, perturb_func=flip, abs=False, **PLAIN)
    values = maps[:, None].expand(-1, 3, -1, -1)
    theirs = quiet(metric, smooth, start, labels, values, softmax=True, channel_first=True)
    found = Faithfulness(steps=4, fill="blurred")(smooth, pixels, maps, labels)
    np.testing.assert_allclose(getattr(found, curve)[:, 1:].numpy(), theirs[:, 2::3], atol=1e-5)


@pytest.mark.parametrize(("kind", "reduce"), KINDS)
def test_sensitivity(kind, reduce, smooth, pixels, labels):
    method, draws = IntegratedGradients(steps=4, baseline="black"), iter(range(3))

    def perturb(arr, indices, **_):
        noise = uniform(derived(0, next(draws)), torch.arange(24), (3, 8, 8), Stream.NOISE)
        return (arr + 0.05 * (2 * noise.flatten(1).numpy() - 1)).clip(0, 1)

    def explain(model, inputs, targets, **_):
        images, classes = torch.as_tensor(inputs).float(), torch.as_tensor(targets)
        return method(model, images, classes).values.numpy()

    before = method(smooth, pixels, labels)
    metric = kind(nr_samples=3, perturb_func=perturb, abs=False, **PLAIN)
    given = {"explain_func": explain, "channel_first": True}
    theirs = quiet(metric, smooth, pixels, labels, before.values, **given)
    found = Stability(radius=0.05, draws=3)(method, smooth, pixels, before)
    np.testing.assert_allclose(reduce(found, dim=1).numpy(), theirs, rtol=1e-4)
