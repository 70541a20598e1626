"""models.resnet: against a naive forward, and the sizes of the published networks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from advlens.models.resnet import BasicBlock, CifarResNet


def count(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("blocks", "millions"), [(3, 0.27), (5, 0.46), (7, 0.66), (9, 0.85)])
def test_sizes_of_he_et_al_table_6(blocks, millions):
    network = CifarResNet((blocks,) * 3, (16, 32, 64), "pad")
    assert count(network) / 1e6 == pytest.approx(millions, abs=0.005)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) + 1 == 6 * blocks + 2


def test_resnet18_has_the_size_of_the_usual_cifar_variant():
    assert count(CifarResNet((2, 2, 2, 2), (64, 128, 256, 512), "projection")) == 11_173_962


def naive_normalization(x, norm):
    mean, variance = (v.view(1, -1, 1, 1) for v in (norm.running_mean, norm.running_var))
    weight, bias = (v.view(1, -1, 1, 1) for v in (norm.weight, norm.bias))
    return (x - mean) / torch.sqrt(variance + norm.eps) * weight + bias


@pytest.mark.parametrize("shortcut", ["pad", "projection"])
@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 7, 2), (4, 6, 1)])
def test_block(shortcut, inputs, outputs, stride):
    torch.manual_seed(0)
    block = BasicBlock(inputs, outputs, stride, shortcut).double()
    x = torch.randn(2, inputs, 6, 6, dtype=torch.float64)
    block(x)  # moves the running statistics
    block.eval()
    with torch.no_grad():
        first = naive_normalization(F.conv2d(x, block.conv1.weight, None, stride, 1), block.bn1)
        second = F.conv2d(first.clamp(min=0), block.conv2.weight, None, 1, 1)
        second = naive_normalization(second, block.bn2)
        if shortcut == "projection" and (inputs, stride) != (outputs, 1):
            projection, norm = block.shortcut
            kept = torch.einsum("oi,nihw->nohw", projection.weight[:, :, 0, 0], x)
            kept = naive_normalization(kept[:, :, ::stride, ::stride], norm)
        else:
            kept, half = torch.zeros_like(second), (outputs - inputs) // 2
            kept[:, half : half + inputs] = x[:, :, ::stride, ::stride]
        torch.testing.assert_close(block(x), (second + kept).clamp(min=0))


def test_network_whose_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    network = CifarResNet((1, 2), (4, 8), "pad", classes=6).double().eval()
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    maps = F.relu(network.bn1(network.conv1(x)))
    maps = network.layer2[1](network.layer2[0](network.layer1[0](maps)))
    assert maps.shape == (3, 8, 8, 8)
    pooled = maps.detach().numpy().mean(axis=(2, 3))
    weight, bias = (p.detach().numpy() for p in network.linear.parameters())
    expected = pooled @ weight.T + bias
    np.testing.assert_allclose(network(x).detach().numpy(), expected, rtol=1e-9, atol=1e-12)
    network = CifarResNet((1, 1), (4, 8), "projection")
    network(torch.rand(4, 3, 8, 8)).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())
