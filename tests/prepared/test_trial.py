"""prepared.trial: a copy is the model, or it is not used."""

import random
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from prepared_networks import logits_and_gradient
from torch import nn
from torch.utils.checkpoint import checkpoint

from advlens import Classifier, Linf, ModelError, NumericError, Pgd
from advlens.prepared import prepare
from advlens.prepared.trial import CHECKED, Look, are_close

IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
WRAPS = {"parallel": nn.DataParallel, "compiled": partial(torch.compile, backend="eager")}


def body() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        maps = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2)
        network = nn.Sequential(*maps, nn.Flatten(), nn.Linear(24, 5))
        network[1].running_mean.uniform_(-0.2, 0.2)
        network[1].running_var.uniform_(0.5, 2)
    return network


class Around(nn.Module):  # a network within a forward that may be given as a function
    def __init__(self, function=None):
        super().__init__()
        self.net, self.function = body(), function

    def forward(self, x):
        return self.function(self.net, x)


class OwnGenerator(Around):
    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(0)

    def forward(self, x):
        return self.net(x * float(self.generator.uniform(0.5, 1.5)))


fixed_shape = partial(Around, lambda net, x: net(x + 0.1 * torch.randn(1, 3, 16, 16)))
like = partial(Around, lambda net, x: net(x + 0.1 * torch.randn_like(x)))
RANDOM = {
    "python": partial(Around, lambda net, x: net(torch.roll(x, random.randint(-5, 5), 3))),
    "numpy": partial(Around, lambda net, x: net(x * float(np.random.uniform(0.5, 1.5)))),  # noqa: NPY002
    "fixed shape": fixed_shape,
    "like": like,
    "dropout": partial(Around, lambda net, x: net(F.dropout(x, 0.3, training=True))),
    "own generator": OwnGenerator,
}


@pytest.mark.parametrize("kind", RANDOM)
def test_what_a_model_draws_stays_random(kind):
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    copied = prepare(RANDOM[kind]().eval(), IMAGES)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    assert copied.randomized
    assert any("is randomized: two passes over the same images differ" in n for n in copied.notes)
    draws = torch.stack([copied(IMAGES) for _ in range(8)])
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) > 3  # of eleven shifts, say


def test_noise_is_drawn_along_graphs_and_numbers_that_hang_on_the_batch_are_said():
    assert prepare(like().eval(), IMAGES).folded
    assert not prepare(fixed_shape().eval(), IMAGES).traced
    network = body()
    network[1].track_running_stats = False
    network[1].running_mean = network[1].running_var = None
    assert any("depends on the other images" in note for note in prepare(network, IMAGES).notes)
    assert prepare(body(), IMAGES).notes == ()


class Autocast(Around):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x).float()


class PartlyDetached(Around):
    def forward(self, x):
        with torch.no_grad():
            constant = self.net(x.flip(3))
        return self.net(x) + constant


class Scaled(Around):
    def forward(self, x, scale=None):
        logits = self.net(x)
        return 100 * logits if scale is None else logits


class Strided(Around):  # reads the memory of its maps
    def forward(self, x):
        maps = self.net[1](self.net[0](x)).relu()
        rows = maps.as_strided((x.shape[0], 6 * 14 * 14), (6 * 14 * 14, 1))
        return rows[:, :5] + rows[:, -5:]


class Viewed(Around):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6 * 14 * 14, 5)

    def forward(self, x):
        return self.linear(self.net[1](self.net[0](x)).relu().view(x.size(0), -1))


class ViewedBranch(Viewed):
    def forward(self, x):
        return super().forward(x + 1 if x.sum() < -1e9 else x)


class Counting(Around):  # takes another branch after fifty calls
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls = self.calls + 1
        return self.net(x) * (2.0 if int(self.calls) > 50 else 1.0)


class BufferCounting(Counting):
    def __init__(self) -> None:
        super().__init__()
        del self.calls
        self.register_buffer("calls", torch.zeros(()))


class Closed(Around):  # its forward hangs on the object that was copied
    def __init__(self) -> None:
        super().__init__()
        self.forward = lambda x: self.net(x)


OTHERS = "otherwise its logits or gradients differ beyond rounding"
STATE = "changes its own state in each pass"
KINDS = {
    **dict.fromkeys((Scaled, Viewed), (True, "")),
    **dict.fromkeys((Autocast, PartlyDetached), (False, OTHERS)),
    **dict.fromkeys((Counting, BufferCounting), (False, STATE)),
    Strided: (True, "without the channels-last layout"),
    ViewedBranch: (False, "cannot trace the forward of ViewedBranch"),
    Closed: (False, "cannot trace"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_copy_is_the_model(kind):
    """Logits and gradients of the copy are those of the live model, whatever had to be left out."""
    model = kind().eval()
    copied = prepare(model, IMAGES)
    traced, words = KINDS[kind]
    assert copied.traced == traced
    assert words in " ".join(copied.notes)
    assert not copied.randomized
    looks = logits_and_gradient(copied, IMAGES), logits_and_gradient(model, IMAGES)
    for found, expected in zip(*looks, strict=True):
        assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("kind", [Counting, BufferCounting])
def test_a_state_goes_on_and_the_model_keeps_its_own(kind):
    model = kind().eval()
    copied = prepare(model, IMAGES)
    assert int(model.calls) == 0
    first, *_, later = (copied(IMAGES) for _ in range(61))
    torch.testing.assert_close(later, 2 * first)
    assert int(model.calls) == 0


class Breaking(Around):  # fails, or returns NaN, from a certain call on
    def __init__(self, calls: int, value: float | None = None):
        super().__init__()
        self.calls, self.value = calls, value

    def forward(self, x):
        self.calls -= 1
        if self.calls >= 0:
            return self.net(x)
        if self.value is None:
            raise ValueError("too many calls")
        return self.net(x) * self.value


@pytest.mark.parametrize("calls", [0, 1, 2, 5])
def test_a_model_that_breaks_is_an_error(calls):
    with pytest.raises(ModelError, match=r"Breaking fails on a batch of images .*too many calls"):  # noqa: PT012
        copied = prepare(Breaking(calls).eval(), IMAGES)
        for _ in range(6):
            copied(IMAGES)
    attack = Pgd(threat=Linf(epsilon=0.1), steps=6)
    with pytest.raises(NumericError, match="NaN"):
        attack(Breaking(calls, torch.nan).eval(), IMAGES, torch.arange(6) % 5)


def test_a_gradient_that_is_nan_each_time_is_not_random():
    """That of a root at 0: here, in the first image alone."""

    def rooted(net, x):
        under = x[:, :, :1, :1].flatten(1).mean(dim=1, keepdim=True)
        return net(x) + (under * (under > 0.5)).sqrt()

    images = IMAGES.clone()
    images[:, :, 0, 0] = 0.8
    images[0, :, 0, 0] = 0.2
    copied = prepare(Around(rooted).eval(), images)
    assert (copied.folded, copied.randomized, copied.notes) == (True, False, ())


@pytest.mark.parametrize(("apart", "is_close"), [(0.009, True), (0.011, False)])
def test_a_hundredth_of_the_logits_is_no_rounding_whatever_noise_does(apart, is_close):
    still = torch.zeros(2, 3)
    look, noise, other = (Look(torch.ones(2, 5) + by, still) for by in (0, 0.5, apart))
    assert are_close(look, other, noise=noise, floor=1e-6) == is_close


WITHOUT_PATH = {
    "detached": partial(Around, lambda net, x: net(x.detach())),
    "numpy": partial(Around, lambda net, x: net(torch.from_numpy(x.numpy() * 1.0))),
    "rounded": partial(Around, lambda net, x: net(x.mul(255).to(torch.uint8).float() / 255)),
    "votes": partial(Around, lambda net, x: F.one_hot(net(x).argmax(1), 5)),
}


@pytest.mark.parametrize("change", [torch.round, torch.sign])
def test_a_gradient_that_is_zero_everywhere_is_told(change):
    told = prepare(Around(lambda net, x: net(change(x * 255) / 255)).eval(), IMAGES).notes
    assert any("is exactly 0 on the first images, as behind rounding or a sign" in t for t in told)
    assert not prepare(Around(lambda net, x: net(x * 255)).eval(), IMAGES).notes


@pytest.mark.parametrize("kind", WITHOUT_PATH)
def test_without_a_path_the_gradient_is_zero(kind):
    model = WITHOUT_PATH[kind]().eval()
    copied = prepare(model, IMAGES)
    assert any("no gradient flows" in note for note in copied.notes)
    inputs = IMAGES.clone().requires_grad_()
    logits = copied(inputs)
    torch.testing.assert_close(logits, model(IMAGES).float())
    (gradient,) = torch.autograd.grad(logits.sum(), inputs)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    assert all(values.requires_grad for values in copied.record(inputs)[1].values())
    attacked = Pgd(threat=Linf(epsilon=0.1), steps=2)(model, IMAGES, torch.arange(6) % 5)
    assert attacked.shape == IMAGES.shape


def reentrant(net, x):
    return net[3:](checkpoint(net[:3], x, use_reentrant=True))


class TwoInputs(Around):
    def forward(self, x, mask):
        return self.net(x * mask)


REFUSED = {
    partial(Around, reentrant): "the gradient of the logits of Around .* use_reentrant",
    lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(5)): "has lazy layers .*; run it once on ima",
    TwoInputs: "TwoInputs fails on a batch of images .* missing 1 required positional argument",
    lambda: nn.Conv2d(1, 5, 3): "Conv2d fails on a batch of images .*channel",
    lambda: nn.Sequential(body(), nn.Flatten(0)): r"returns \(10,\) for 2 images",
}


@pytest.mark.parametrize("make", REFUSED)
def test_what_cannot_be_run_is_refused_in_a_sentence(make):
    with pytest.raises(ModelError, match=REFUSED[make]):
        prepare(make().eval(), IMAGES)


@pytest.mark.parametrize("size", [CHECKED, 6])
def test_a_fixed_batch_size_is_filled_up(size):
    model = Around(lambda net, x: net(x).reshape(size, -1)[: len(x)].reshape(size, 5)).eval()
    copied = prepare(model, IMAGES)
    assert any(f"takes batches of {size} images only" in note for note in copied.notes)
    expected, inputs = model.net(IMAGES), IMAGES.clone().requires_grad_()
    logits = copied(inputs)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(copied(IMAGES[:1]), expected[:1])
    (gradient,) = torch.autograd.grad(logits[0].sum(), inputs)
    assert gradient[0].abs().sum() > 0
    assert gradient[1:].abs().sum() == 0
    _, responses = copied.record(IMAGES[:5])
    torch.testing.assert_close(responses["net.0"], model.net[:3](IMAGES)[:5].amax((2, 3)))


# PyTorch's compiler warns of the minor version of Python and of gradients that it looks at
@pytest.mark.filterwarnings(
    "ignore:Guards may run slower",
    "ignore:The .grad attribute of a Tensor",
    "ignore:`torch.jit.script_method` is deprecated",
)
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize("inside", [False, True])
def test_wrappers_are_looked_through(wrap, inside):
    network = body().eval()
    wrapped = wrap(network)
    model = Classifier(wrapped, name="w", image_size=16) if inside else wrapped
    copied = prepare(model, IMAGES)
    assert copied.folded
    assert list(copied.layers) == ["0"]
    before = copied(IMAGES)
    torch.testing.assert_close(before, network(IMAGES))
    with torch.no_grad():
        network[0].weight.mul_(2)
        network[5].weight.mul_(2)
    copied.update(model)
    assert not torch.equal(copied(IMAGES), before)
    torch.testing.assert_close(copied(IMAGES), network(IMAGES))


def test_averaged_models_scripts_and_masked_classes_run():
    network = body().eval()
    expected = network(IMAGES)
    averaged = prepare(torch.optim.swa_utils.AveragedModel(network).eval(), IMAGES)
    assert averaged.folded
    torch.testing.assert_close(averaged(IMAGES), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but saved scripts are around
        scripted = torch.jit.script(network)
        frozen = torch.jit.freeze(scripted)
        exported = torch.export.export(network, (IMAGES,)).module()
    _, wanted = logits_and_gradient(network, IMAGES)
    for program in (scripted, frozen, exported):
        for given in (program, Classifier(program, name="c", image_size=16)):
            copied = prepare(given, IMAGES)
            found, gradient = logits_and_gradient(copied, IMAGES)
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(gradient, wanted)
            assert copied.layers == ({} if program is not exported else {"0": 6})
    masked = Around(lambda net, x: net(x) + torch.tensor([0, 0, -torch.inf, 0, 0]))
    assert prepare(masked.eval(), IMAGES).folded
    copied = prepare(Fixed(), IMAGES)
    torch.testing.assert_close(copied(IMAGES), Fixed()(IMAGES))
    assert (copied.device, copied.layers) == (torch.device("cpu"), {})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_copy_has_the_precision_of_the_model(dtype):
    model = body().to(dtype).eval()
    for given in (model, Classifier(model, name="c", image_size=16)):
        copied = prepare(given, IMAGES)
        logits = copied(IMAGES)
        assert copied.dtype == dtype
        assert logits.dtype == torch.promote_types(dtype, torch.float32)
        expected = model(IMAGES.to(dtype)).to(logits.dtype)
        allowed = 1e-12 if dtype == torch.float64 else 8 * torch.finfo(dtype).eps
        assert (logits - expected).abs().max() <= allowed * expected.abs().max()


class Fixed(nn.Module):
    def forward(self, x):
        return torch.stack([x.mean((1, 2, 3)), x.amax((1, 2, 3))], 1)
