"""Measures of attributions against loops, closed forms, scipy and Quantus; maps against others."""

import copy
import importlib
import itertools
import warnings

import numpy as np
import pytest
import scipy
import torch

from advlens import ExpectedGradients, IntegratedGradients
from advlens.attribution import Attribution, Faithfulness, RandomAttribution, Stability
from advlens.attribution.baselines import blurred
from advlens.attribution.measures import overlap, rank_correlation, sparseness, total_variation
from advlens.errors import DataError, NumericError, SettingsError
from advlens.seeding import Stream, derived, uniform

CLOSE = {"rtol": 0, "atol": 1e-5}
STEPS, REPEATS = 32, 60
PLAIN = {"normalise": False, "disable_warnings": True}
KINDS = [("AvgSensitivity", torch.mean), ("MaxSensitivity", torch.amax)]


def library(name):
    """Another library: it takes a second, so not in each process that collects this file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        return importlib.import_module(name)


@pytest.fixture
def maps():
    return torch.randn(6, 7, 9, generator=torch.Generator().manual_seed(1))


def test_sparseness_is_the_gini_index_and_total_variation_a_sum_over_neighbors(maps):
    """The mean difference between two values, over twice their mean."""
    for one, found in zip(maps, sparseness(maps), strict=True):
        sizes = one.abs().flatten().tolist()
        differences = [abs(a - b) for a, b in itertools.product(sizes, sizes)]
        by_hand = sum(differences) / len(differences) / (2 * sum(sizes) / len(sizes))
        assert found.item() == pytest.approx(by_hand, rel=1e-6)
    even, point = torch.full((1, 4, 5), -2.0), torch.zeros(1, 4, 5)
    point[0, 1, 1] = -1e-30
    assert sparseness(torch.cat([even, point])).tolist() == pytest.approx([0, 1 - 1 / 20])
    assert torch.equal(sparseness(-maps * 2), sparseness(maps))
    for one, found in zip(maps, total_variation(maps), strict=True):
        total = 0.0
        for y, x in itertools.product(range(7), range(9)):
            total += abs(one[y, x] - one[y - 1, x]).item() if y else 0
            total += abs(one[y, x] - one[y, x - 1]).item() if x else 0
        assert found.item() == pytest.approx(total / one.abs().sum().item(), rel=1e-5)
    point = torch.zeros(1, 5, 5)
    point[0, 2, 2] = -3
    assert total_variation(torch.cat([point, torch.ones(1, 5, 5)])).tolist() == [4, 0]


def test_rank_correlation_overlap_and_what_cannot_be_measured(maps):
    others = maps.flip(0) + maps
    coarse = (others * 2).round()  # many equal values
    for first, second in ((maps, others), (maps, coarse), (coarse, coarse.flip(0))):
        found = rank_correlation(first, second)
        for one, two, ours in zip(first, second, found, strict=True):
            expected = scipy.stats.spearmanr(one.flatten(), two.flatten()).statistic
            assert ours.item() == pytest.approx(expected, abs=1e-9)
    assert rank_correlation(maps, 3 * maps**3).tolist() == pytest.approx([1] * 6)
    assert rank_correlation(maps, -maps).tolist() == pytest.approx([-1] * 6)
    others = maps + maps.flip(0)
    for share, top in ((0.1, 6), (0.5, 32), (1.0, 63), (0.001, 1)):
        for one, two, found in zip(maps, others, overlap(maps, others, share=share), strict=True):
            sets = [
                set(sorted(range(63), key=lambda i: -part.flatten()[i].item())[:top])
                for part in (one, two)
            ]
            assert found.item() == pytest.approx(len(sets[0] & sets[1]) / top)
    for share in (0, -0.1, 1.5):
        with pytest.raises(SettingsError, match="share must be above 0 and at most 1"):
            overlap(maps, maps, share=share)
    nothing = torch.zeros_like(maps)
    for measure in (sparseness, total_variation):
        assert measure(nothing).isnan().all()
        assert measure(maps[:0]).shape == (0,)
    for measure in (rank_correlation, overlap):
        for first, second in ((nothing, maps), (maps, nothing), (nothing, nothing + 1)):
            assert measure(first, second).isnan().all()
        assert measure(maps[:0], maps[:0]).shape == (0,)


def test_random_attribution_has_the_values_told(smooth):
    """Those in the docstrings."""
    images = torch.rand(20, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 48 * 48, 2))
    found = RandomAttribution()(model, images)
    other = RandomAttribution(seed=1)(model, images)
    assert sparseness(found.maps).mean().item() == pytest.approx(0.41, abs=0.01)
    assert total_variation(found.maps).mean().item() == pytest.approx(2.8, abs=0.05)
    assert rank_correlation(found.maps, other.maps).mean().item() == pytest.approx(0, abs=0.02)
    assert overlap(found.maps, other.maps).mean().item() == pytest.approx(0.1, abs=0.02)
    changes = Stability(draws=2)(RandomAttribution(), model, images, found)
    assert changes.mean().item() == pytest.approx(2**0.5, abs=0.01)


@pytest.mark.parametrize("fill", ["mean", "blurred"])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_faithfulness_equals_loops(fill, steps, smooth, pixels, labels):
    model = copy.deepcopy(smooth).double()
    images, labels = pixels[:4], labels[:4]
    maps = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    maps[:, :3] = maps[:, :3].round()  # some equal values
    for size in (3, 64):
        found = Faithfulness(steps=steps, fill=fill, batch_size=size)(smooth, images, maps, labels)
        assert found.insertion.shape == found.deletion.shape == (4, steps + 1)
        for row in range(4):
            image, empty = images[row].double(), blurred(images[row : row + 1].double())[0]
            if fill == "mean":
                empty = image.mean(dim=(1, 2))[:, None, None].expand_as(image)
            places = list(itertools.product(range(8), range(8)))
            places.sort(key=lambda place: -maps[row][place].item())  # of equal ones the first
            for start, end, curve, area in (
                (image, empty, found.deletion, found.deletion_area),
                (empty, image, found.insertion, found.insertion_area),
            ):
                expected = []
                for k in range(steps + 1):
                    shown = start.clone()
                    for y, x in places[: round(k * 64 / steps)]:
                        shown[:, y, x] = end[:, y, x]
                    expected.append(model(shown[None]).softmax(dim=1)[0, labels[row]].item())
                assert curve[row].tolist() == pytest.approx(expected, abs=1e-5)
                under = sum((a + b) / 2 for a, b in itertools.pairwise(expected)) / steps
                assert area[row].item() == pytest.approx(under, abs=1e-5)


def test_wrong_maps_and_settings(smooth, pixels, labels):
    measure = Faithfulness(steps=2)
    with pytest.raises(DataError, match=r"maps must be one \(8, 8\) for each of 24 images"):
        measure(smooth, pixels, torch.zeros(24, 3, 8, 8), labels)
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        measure(smooth, pixels * 3, torch.zeros(24, 8, 8), labels)
    broken = copy.deepcopy(smooth)
    broken.linear.weight.data.fill_(torch.nan)
    with pytest.raises(NumericError, match="SmoothNetwork returns NaN"):
        measure(broken, pixels, torch.zeros(24, 8, 8), labels)
    assert measure(smooth, pixels[:0], torch.zeros(0, 8, 8), labels[:0]).insertion.shape == (0, 3)


class Spy:
    """A method of which the answer is the image itself; notes how it is called."""

    def __init__(self):
        self.calls = []

    def __call__(self, model, images, labels, *, ids, **given):
        self.calls.append((images, labels, ids, given))
        nothing = torch.zeros(len(images))
        return Attribution(images, labels, nothing, nothing, labels)


def test_stability_is_the_relative_change(smooth, pixels, labels):
    spy, ids = Spy(), torch.arange(24) + 3
    before = spy(None, pixels, labels, ids=ids)
    measure = Stability(radius=0.1, draws=3, seed=2)
    found = measure(spy, smooth, pixels, before, ids=ids, background=pixels[:2])
    assert found.shape == (24, 3)
    for draw, (images, classes, numbers, given) in enumerate(spy.calls[1:]):
        noise = uniform(derived(2, draw), ids, (3, 8, 8), Stream.NOISE)
        expected = (pixels + 0.1 * (2 * noise - 1)).clamp(0, 1)
        torch.testing.assert_close(images, expected)
        assert torch.equal(classes, labels)
        assert torch.equal(numbers, ids)
        assert torch.equal(given["background"], pixels[:2])
        for row in range(24):
            change = (expected[row] - pixels[row]).double().square().sum().sqrt()
            change /= pixels[row].double().square().sum().sqrt()
            assert found[row, draw].item() == pytest.approx(change.item(), rel=1e-4)
    assert (spy.calls[1][0] != spy.calls[2][0]).any()


@pytest.mark.parametrize("baseline", ["black", "blurred"])
def test_captums_integrated_gradients(baseline, smooth, pixels, labels):
    """captum's trapezoid has n points and weights of sum (n − 1)/n: B23 eq. 11, with m = n − 1."""
    start = blurred(pixels) if baseline == "blurred" else torch.zeros_like(pixels)
    theirs = (
        library("captum.attr")
        .IntegratedGradients(smooth)
        .attribute(pixels, start, target=labels, n_steps=STEPS + 1, method="riemann_trapezoid")
    )
    settings = {"steps": STEPS, "baseline": baseline, "target": "logit"}
    paper = IntegratedGradients(formula="paper", **settings)(smooth, pixels, labels)
    torch.testing.assert_close(paper.values, theirs, **CLOSE)
    ours = IntegratedGradients(**settings)(smooth, pixels, labels)
    torch.testing.assert_close(ours.values, theirs * (STEPS + 1) / STEPS, **CLOSE)


def test_captums_integrated_gradients_of_the_probability(smooth, pixels, labels):
    """Its default rule, Gauss–Legendre, has the same limit."""
    model = torch.nn.Sequential(smooth, torch.nn.Softmax(dim=1))
    theirs = (
        library("captum.attr")
        .IntegratedGradients(model)
        .attribute(pixels, target=labels, n_steps=64)
    )
    ours = IntegratedGradients(steps=800, baseline="black")(smooth, pixels, labels)
    torch.testing.assert_close(ours.values, theirs, **CLOSE)


def captums(smooth, image, background, samples):
    """`REPEATS` results of GradientShap; its noise is switched off."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002  # captum draws α from numpy's global state
        return (
            library("captum.attr")
            .GradientShap(smooth)
            .attribute(
                image.expand(REPEATS, -1, -1, -1),
                background,
                n_samples=samples,
                stdevs=0.0,
                target=1,
            )
        )


def shaps(smooth, image, background, samples):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explainer = library("shap").GradientExplainer(smooth, background)
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
def many():
    return torch.randn(24, 8, 8, generator=torch.Generator().manual_seed(0))


def quiet(metric, model, images, labels, values, **given):
    """What a metric of Quantus finds."""
    arrays = {"x_batch": images.numpy(), "y_batch": labels.numpy(), "a_batch": values.numpy()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array(metric(model=model, **arrays, s_batch=None, device="cpu", **given))


def test_sparseness(smooth, pixels, labels, many):
    theirs = quiet(
        library("quantus").Sparseness(abs=True, **PLAIN), smooth, pixels, labels, many[:, None]
    )
    np.testing.assert_allclose(sparseness(many).numpy(), theirs, rtol=1e-5)


@pytest.mark.parametrize("curve", ["deletion", "insertion"])
def test_pixel_flipping(curve, smooth, pixels, labels, many):
    """Quantus flips 16 of 192 values a step: whole pixels after every third one, 16 of them."""
    start, end = (pixels, blurred(pixels))[:: 1 if curve == "deletion" else -1]

    def flip(arr, indices, **_):
        changed, values = arr.copy(), end.flatten(1).numpy()
        np.put_along_axis(changed, indices, np.take_along_axis(values, indices, 1), axis=1)
        return changed

    metric = library("quantus").PixelFlipping(
        features_in_step=16, perturb_func=flip, abs=False, **PLAIN
    )
    values = many[:, None].expand(-1, 3, -1, -1)
    theirs = quiet(metric, smooth, start, labels, values, softmax=True, channel_first=True)
    found = Faithfulness(steps=4, fill="blurred")(smooth, pixels, many, labels)
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
    metric = getattr(library("quantus"), kind)(
        nr_samples=3, perturb_func=perturb, abs=False, **PLAIN
    )
    given = {"explain_func": explain, "channel_first": True}
    theirs = quiet(metric, smooth, pixels, labels, before.values, **given)
    found = Stability(radius=0.05, draws=3)(method, smooth, pixels, before)
    np.testing.assert_allclose(reduce(found, dim=1).numpy(), theirs, rtol=1e-4)
