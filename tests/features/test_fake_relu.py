"""features.fake_relu: gradients where a ReLU blocks all of them, and nowhere else."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlens.features import ClassGeneration, FeatureVisualization, noise_images
from advlens.features.fake_relu import pass_blocked_gradients
from advlens.prepared import prepare

ACTIVATIONS = {
    **{"module": nn.ReLU(), "in place": nn.ReLU(inplace=True), "relu6": nn.ReLU6()},
    **{"function": F.relu, "function in place": F.relu_, "torch": torch.relu},
    "method": lambda x: x.relu(),
}


class Network(nn.Module):
    """Two convolutions; behind the second, units 0 and 1 are dead on every image in [0, 1]."""

    def __init__(self, activation, *, traceable: bool = True) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.activation, self.traceable = activation, traceable
        self.linear = nn.Linear(4, 3)
        self.conv2.bias.data.copy_(torch.tensor([-3.0, -3.0, 2.0, 2.0]))

    def before(self, x: Tensor) -> Tensor:
        return self.conv2(torch.tanh(self.conv1(x)))

    def forward(self, x: Tensor) -> Tensor:
        if not self.traceable and x.sum() < -1:
            return self.linear(x.new_zeros(len(x), 4))
        return self.linear(self.activation(self.before(x)).mean(dim=(2, 3)))


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network(nn.ReLU())


@pytest.fixture
def x() -> Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(2)).requires_grad_()


def gradient(values: Tensor, images: Tensor, *, unblock: bool = True) -> Tensor:
    if unblock:
        pass_blocked_gradients(values)
    return torch.autograd.grad(values.sum(), images)[0]


@pytest.mark.parametrize("traceable", [True, False], ids=["traced", "not traceable"])
@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_a_dead_component_gets_the_gradient_before_its_relu(activation, traceable, x):
    torch.manual_seed(0)
    network = Network(activation, traceable=traceable)
    model = prepare(network)
    assert model.folded == traceable
    dead, alive = (model.representation(x)[:, i] for i in (0, 2))
    assert torch.equal(dead, torch.zeros(4))
    assert not gradient(dead, x, unblock=False).any()
    expected = gradient(network.before(x)[:, 0].mean(dim=(1, 2)), x)
    torch.testing.assert_close(gradient(model.representation(x)[:, 0], x), expected)
    plain = gradient(alive, x, unblock=False)
    # the gradient comes in another layout, whose kernel may add in another order
    rounding = 64 * torch.finfo(x.dtype).eps * plain.abs().max().item()
    found = gradient(model.representation(x)[:, 2], x)
    torch.testing.assert_close(found, plain, rtol=0, atol=rounding)


def test_a_dead_component_is_visualized_from_noise(network):
    """Where plain steps would never leave the start."""
    starts, components = noise_images(torch.arange(5), (3, 8, 8)), torch.tensor([0, 1, 0, 1, 2])
    with torch.no_grad():  # just out of reach at the start
        network.conv2.bias[:2] -= network.before(starts)[:, :2].amax(dim=(0, 2, 3)) + 0.01
    model = prepare(network)
    assert not model.representation(starts)[:, :2].any()
    assert model.representation(starts)[:, 2].all()
    found = FeatureVisualization(steps=10, step_size=0.2)(model, starts, components)
    assert (found.objective[:4] > 0.01).all()
    assert found.objective[4] > model.representation(starts)[4, 2] + 0.01


def test_only_images_that_are_blocked_as_a_whole(network, x):
    """Of two components, one dead: the plain gradient. In one batch with blocked images."""
    chosen = torch.tensor([[0, 1], [0, 2], [0, 0], [2, 3]])

    def values(x: Tensor) -> Tensor:
        return prepare(network).representation(x).gather(1, chosen).mean(dim=1)

    plain, found = gradient(values(x), x, unblock=False), gradient(values(x), x)
    maps = network.before(x).mean(dim=(2, 3))
    faked = gradient(maps.gather(1, chosen).mean(dim=1), x, unblock=False)
    for i, blocked in enumerate([True, False, True, False]):
        torch.testing.assert_close(found[i], faked[i] if blocked else plain[i])
        assert bool(plain[i].any()) != blocked


def test_only_the_last_relu(x):
    """One further in front blocks as ever: its gradient is nobody's direction."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
    network = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        first.bias.fill_(-50)
        second.bias.fill_(1)
    assert not gradient(network(x)[:, 0], x).any()
    found = ClassGeneration(steps=2)(network, x.detach(), torch.tensor([0, 1, 0, 1]))
    assert torch.equal(found.images, x.detach())


def test_each_branch_has_a_last_relu(x):
    """Concatenated branches, as in Inception: a component of the first, dead, one of the second."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 5)
            self.linear = nn.Linear(4, 3)
            self.first.bias.data.fill_(-5)

        def forward(self, x: Tensor) -> Tensor:
            both = F.relu(self.first(x)).mean(dim=(2, 3)), F.relu(self.second(x)).mean(dim=(2, 3))
            return self.linear(torch.cat(both, dim=1))

    torch.manual_seed(0)
    network = Branches()
    model, expected = prepare(network), gradient(network.first(x)[:, 1].mean(dim=(1, 2)), x)
    torch.testing.assert_close(gradient(model.representation(x)[:, 1], x), expected)
    plain = gradient(model.representation(x)[:, 3], x, unblock=False)
    torch.testing.assert_close(gradient(model.representation(x)[:, 3], x), plain)


def test_nothing_stays_behind(network, x):
    """The next pass through the same model is blocked again unless it asks."""
    model = prepare(network)
    assert gradient(model.representation(x)[:, 0], x).any()
    assert not gradient(model.representation(x)[:, 0], x, unblock=False).any()
    pass_blocked_gradients(torch.zeros(3))  # without a graph there is nothing to do
