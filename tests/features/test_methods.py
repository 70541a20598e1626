"""features: naive float64 loops, robustness' algorithm, closed forms; batches and kept work."""

import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from advlens import L2, ClassGeneration, FeatureVisualization, Inversion
from advlens.errors import DataError, ModelError, NumericError, RunError, SettingsError
from advlens.models.resnet import CifarResNet
from flops import counted_resnet, flops
from smooth_network import state_of
from steps_by_hand import moved

SHORT = {"epsilon": 0.8, "step_size": 0.3, "steps": 6}
CLOSE = {"rtol": 0, "atol": 1e-5}
CASES = {
    "one component": (FeatureVisualization(**SHORT), torch.arange(8) * 11),
    "components": (FeatureVisualization(**SHORT), torch.arange(24).view(8, 3)),
    "inversion": (Inversion(**SHORT), None),
    "class": (ClassGeneration(**SHORT), torch.arange(8) % 5),
    "free": (ClassGeneration(epsilon=1000, step_size=0.3, steps=6), torch.arange(8) % 5),
}
STARTS, TARGETS = torch.rand(2, 7, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NUMBERS = torch.tensor([0, 7, 1, 1, 4, 2, 6])
METHODS = {
    "visualization": (FeatureVisualization(steps=5, batch_size=3), NUMBERS),
    "inversion": (Inversion(steps=5, batch_size=3, step_size=0.1), TARGETS),
    "generation": (ClassGeneration(steps=5, batch_size=3), NUMBERS),
}


def representation(network: nn.Module, images: Tensor) -> Tensor:
    return torch.tanh(network.conv2(torch.tanh(network.conv1(2 * images - 1)))).flatten(1)


def by_hand(network, method, start, target) -> tuple[Tensor, float]:
    """One image in float64, formula by formula."""
    network = copy.deepcopy(network).double()
    start, current = start.double(), start.double()
    objective = 0.0
    for _ in range(method.steps):
        pixels = current.clone().requires_grad_()
        values = representation(network, pixels[None])[0]
        if isinstance(method, FeatureVisualization):
            loss = -sum(values[i] for i in target) / len(target)
            objective = -loss.item()
        elif isinstance(method, Inversion):
            wanted = representation(network, target.double()[None])[0].detach()
            loss = ((values - wanted) ** 2).sum() ** 0.5 / (wanted**2).sum() ** 0.5
            objective = loss.item()
        else:
            loss = -network(pixels[None])[0, target]
            objective = -loss.item()
        (gradient,) = torch.autograd.grad(loss, pixels)
        current = moved(L2, current, -gradient, method.step_size, start, method.epsilon)
    return current, objective


@pytest.mark.parametrize(("method", "targets"), CASES.values(), ids=CASES)
def test_steps_are_those_of_the_formula(method, targets, smooth, pixels):
    starts, targets = pixels[:8], pixels[8:16] if targets is None else targets
    found = method(smooth, starts, targets)
    for i in range(8):
        target = targets[i].reshape(-1) if isinstance(method, FeatureVisualization) else targets[i]
        image, objective = by_hand(smooth, method, starts[i], target)
        torch.testing.assert_close(found.images[i].double(), image, **CLOSE)
        assert found.objective[i].item() == pytest.approx(objective, abs=1e-5)
    assert found.steps == 6
    lengths = (found.images - starts).flatten(1).norm(dim=1)
    assert (lengths <= method.epsilon * (1 + 1e-5)).all()
    if method.epsilon < 1:  # the ball is felt
        assert (lengths > 0.8 * method.epsilon).all()


def test_robustness_library():
    """MadryLab's robustness 1.2.1, attacker.py and attack_steps.py, with its published losses."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.Tanh(), nn.Flatten()),
        *(nn.Linear(128, 12), nn.Tanh(), nn.Linear(12, 4)),
    )
    starts, targets = torch.rand(2, 5, 3, 8, 8)
    wanted = network[:-1](targets).detach()

    def inversion(x: Tensor) -> Tensor:
        return torch.norm(network[:-1](x) - wanted, dim=1) / torch.norm(wanted, dim=1)

    def theirs(loss, sign: int, eps: float, step_size: float, iterations: int) -> Tensor:
        x = starts
        for _ in range(iterations):
            x = x.clone().detach().requires_grad_(True)
            (grad,) = torch.autograd.grad(sign * torch.mean(loss(x)), [x])
            with torch.no_grad():
                norm = torch.norm(grad.view(grad.shape[0], -1), dim=1).view(-1, 1, 1, 1)
                x = x + grad / (norm + 1e-10) * step_size
                x = torch.clamp(starts + (x - starts).renorm(p=2, dim=0, maxnorm=eps), 0, 1)
        return x

    threes, twos = torch.full((5,), 3), torch.full((5,), 2)
    for eps in (0.5, 1000.0):
        settings = {"epsilon": eps, "step_size": 0.2, "steps": 7}
        for kind, target, loss, sign in (
            (Inversion, targets, inversion, -1),
            (FeatureVisualization, threes, lambda x: network[:-1](x)[:, 3], 1),
            (ClassGeneration, twos, lambda x: network(x)[:, 2], 1),
        ):
            found = kind(**settings)(network, starts, target).images
            torch.testing.assert_close(found, theirs(loss, sign, eps, 0.2, 7), **CLOSE)


def rotation() -> tuple[nn.Module, Tensor]:
    """A network whose representation is an orthogonal map of the pixels, and the map."""
    torch.manual_seed(1)
    turn = torch.linalg.qr(torch.randn(48, 48)).Q
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 48), nn.Linear(48, 3))
    with torch.no_grad():
        network[1].weight.copy_(turn)
        network[1].bias.zero_()
    return network, turn


def test_inversion_of_a_linear_network_goes_straight_to_the_image():
    """There ‖R(x) − R(x_t)‖ = ‖x − x_t‖, so K steps end Kσ nearer, on the line between both.

    And at R(x) = R(x_t) the distance has no gradient, which must not become NaN.
    """
    network, _ = rotation()
    starts, targets = 0.3 + 0.4 * torch.rand(2, 6, 3, 4, 4)
    apart = (targets - starts).flatten(1).norm(dim=1)
    size = apart.min().item() / 10
    found = Inversion(epsilon=1000, step_size=size, steps=9)(network, starts, targets)
    way = (9 * size / apart).view(-1, 1, 1, 1)
    torch.testing.assert_close(found.images, starts + way * (targets - starts), **CLOSE)
    expected = (apart - 8 * size) / targets.flatten(1).norm(dim=1)
    torch.testing.assert_close(found.objective, expected, **CLOSE)
    near = Inversion(epsilon=3.5 * size, step_size=size, steps=9)(network, starts, targets).images
    way = (3.5 * size / apart).view(-1, 1, 1, 1)
    torch.testing.assert_close(near, starts + way * (targets - starts), **CLOSE)
    still = Inversion(steps=3)(network, starts, starts)
    assert torch.equal(still.images, starts)
    assert not still.objective.any()


def test_visualization_of_a_linear_network_follows_the_weights_and_no_images_are_no_work(smooth):
    network, turn = rotation()
    starts = torch.full((2, 3, 4, 4), 0.5)
    method = FeatureVisualization(step_size=0.1, steps=2)
    found = method(network, starts, torch.tensor([[3, 7]] * 2)).images
    expected = starts + 0.2 * (turn[3] + turn[7]).view(3, 4, 4) / 2**0.5
    torch.testing.assert_close(found, expected, **CLOSE)
    none = torch.empty(0, 3, 8, 8)
    assert len(Inversion()(smooth, none, none).images) == 0
    assert len(ClassGeneration()(smooth, none, torch.empty(0, dtype=torch.int64)).objective) == 0


@pytest.mark.parametrize("scale", [1e-25, 0.0])
def test_a_tiny_gradient_makes_whole_steps_and_none_makes_none(scale, smooth, pixels):
    method, targets = ClassGeneration(**SHORT), torch.arange(8) % 5
    expected = method(smooth, pixels[:8], targets).images if scale else pixels[:8]
    smooth.linear.weight.data.mul_(scale)
    torch.testing.assert_close(method(smooth, pixels[:8], targets).images, expected, **CLOSE)


def test_k_steps_are_2k_units():
    model, images, whole = counted_resnet(6)
    with torch.no_grad():
        part = flops(lambda: model.representation(images))
    assert 6 * whole == part + 2 * 8 * 10 * 6  # without the linear layer
    for size in (6, 4):

        def cost(kind, targets, size=size) -> int:
            return flops(lambda: kind(steps=3, batch_size=size)(model, images, targets))

        assert cost(FeatureVisualization, torch.arange(6)) == 6 * part
        assert cost(ClassGeneration, torch.arange(6)) == 6 * 6 * whole
        assert cost(Inversion, images.flip(0)) == 7 * part  # one for the targets' own


def test_wrong_settings_and_targets(smooth, pixels):
    assert FeatureVisualization() == FeatureVisualization(epsilon=1000, step_size=1, steps=400)
    assert Inversion() == Inversion(epsilon=1000, step_size=1, steps=10_000)
    assert ClassGeneration() == ClassGeneration(epsilon=30, step_size=0.5, steps=60)
    starts = pixels[:2]
    for targets, message in (
        (torch.tensor([1]), "2 starts but 1 targets"),
        (torch.tensor([1.0, 2.0]), "components must be whole numbers"),
        (torch.tensor([True, False]), "components must be whole numbers"),
        (torch.tensor([1, -1]), r"whole numbers ≥ 0.*\[1, -1\]"),
        (torch.empty(2, 0, dtype=torch.int64), "at least one for each image"),
        (torch.tensor([95, 96]), "components 0 to 95, but no 96"),
    ):
        with pytest.raises(SettingsError, match=message):
            FeatureVisualization(steps=1)(smooth, starts, targets)
    with pytest.raises(SettingsError, match="classes 0 to 4, but no 5"):
        ClassGeneration(steps=1)(smooth, starts, torch.tensor([0, 5]))
    for given in ((starts, 2 + starts), (2 + starts, starts)):
        with pytest.raises(DataError, match=r"images must lie in \[0, 1\]"):
            Inversion(steps=1)(smooth, *given)
    convolution = nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten())
    with pytest.raises(ModelError, match="no linear layer"):
        FeatureVisualization(steps=1)(convolution, pixels, torch.zeros(24, dtype=torch.int64))
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(NumericError, match="representation of an image is 0"):
        Inversion(steps=1)(network, pixels[:1], torch.zeros(1, 3, 8, 8))


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CifarResNet((1, 1), (4, 8), "projection", classes=8).eval()


@pytest.mark.parametrize(("method", "targets"), METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("stops", [[0], [3], [5], [7, 8, 14], [15]])
def test_taken_up_from_what_was_kept_it_ends_in_the_same_bits(stops, method, targets, resnet):
    expected = method(resnet, STARTS, targets)
    kept, counted = None, []
    for stop in [*stops, None]:
        work = method.begin(resnet, STARTS.contiguous(memory_format=torch.channels_last), targets)
        assert len(work) == 15  # 3 batches of 5 steps
        if kept is not None:
            work.restore(load(kept))
        if stop != work.done:
            for done in work:
                counted.append(done)
                if done == stop:
                    break
        kept = save(work.state())
    assert counted == list(range(1, 16))
    found = work.result()
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.objective, expected.objective)


def test_a_state_stays_and_serves_its_own_work_alone(resnet):
    work = Inversion(steps=2).begin(resnet, STARTS, TARGETS)
    steps = iter(work)
    next(steps)
    state = work.state()
    before = save(state)
    with pytest.raises(SettingsError, match="1 steps are left"):
        work.result()
    assert work.objective.isfinite().all()
    next(steps)
    assert save(state) == before != save(work.state())
    state = Inversion(steps=2).begin(resnet, STARTS, TARGETS).state()
    with pytest.raises(RunError, match=r"remove it to start again"):
        Inversion(steps=2).begin(resnet, STARTS[:3], TARGETS[:3]).restore(state)
    state["done"] = torch.tensor(3)
    with pytest.raises(RunError, match=r"step 3 .* is not one of 2 steps"):
        Inversion(steps=2).begin(resnet, STARTS, TARGETS).restore(state)


def test_images_do_not_feel_their_batch_nor_inputs_and_model_the_work(resnet):
    for method, targets in METHODS.values():
        first, *others = (
            replace(method, batch_size=size)(resnet, STARTS, targets) for size in (1, 4, 64)
        )
        for other in others:
            torch.testing.assert_close(other.images, first.images, rtol=0, atol=1e-4)
            torch.testing.assert_close(other.objective, first.objective, rtol=1e-4, atol=1e-4)
    starts, before = STARTS.clone().requires_grad_(), state_of(resnet.train())
    found = ClassGeneration(steps=3)(resnet, starts, NUMBERS)
    assert torch.equal(starts, STARTS)
    assert starts.grad is None
    assert not found.images.requires_grad
    assert state_of(resnet) == before
    resnet.eval()


class Breaking(nn.Module):
    """Logits that become NaN once an image is brighter than .55 on average."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -(0.55 - x.mean(dim=(1, 2, 3))).sqrt().unsqueeze(1)


def test_nan_stops_with_its_step_and_is_never_kept():
    """Each step adds .02 to every pixel: .5, .52, .54, and NaN at the fourth."""
    starts, targets = torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 0])
    method = ClassGeneration(steps=6, step_size=0.02 * 48**0.5)
    with pytest.raises(NumericError, match="ClassGeneration: the gradient at step 4 is not finite"):
        method(Breaking(), starts, targets)
    work = method.begin(Breaking(), starts, targets)
    for done in work:
        if done == 3:
            assert work.state()["images"].isfinite().all()
        if done == 4:
            break
    with pytest.raises(NumericError, match="at step 4"):
        work.state()
