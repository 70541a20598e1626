"""Other libraries as guests: whatever they change is put back."""

import random
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from advlens.errors import DataError, ModelError, SettingsError
from advlens.interop.guests import check_arguments, guest, library, library_class
from advlens.settings import MethodSpec
from smooth_network import state_of


def misbehave(model):
    """Everything that a method of another library may leave behind."""
    torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(not parameter.requires_grad)
        parameter.grad = torch.ones_like(parameter)
    model.conv1.register_forward_hook(lambda *_: None)
    model.conv1.register_forward_pre_hook(lambda *_: None)
    model.conv2.register_full_backward_hook(lambda *_: None)
    warnings.warn("noise", stacklevel=1)
    print("noise")


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(fails, smooth, capsys):
    smooth.conv2.weight.requires_grad_(False)
    smooth.linear.train()
    smooth.conv2.register_forward_hook(lambda *_: None)
    before = state_of(smooth)

    def visit():
        with torch.no_grad(), guest("peer", smooth, 7):
            assert torch.is_grad_enabled()
            misbehave(smooth)
            if fails:
                raise ValueError("no luck\nat all")

    words = r"^peer fails on this model \(ValueError: no luck\); "
    with pytest.raises(ModelError, match=words) if fails else nullcontext():
        visit()
    assert state_of(smooth) == before
    assert capsys.readouterr() == ("", "")


def test_our_own_errors_and_the_seed_stay_what_they_are(smooth):
    def draws(seed):
        with guest("peer", smooth, seed):
            return torch.rand(2).tolist(), random.random(), np.random.rand()  # noqa: NPY002

    assert draws(3) == draws(3) != draws(4)
    draws(2**64 - 1)  # the largest that seeds are derived to
    with pytest.raises(DataError, match="ours"), guest("peer", smooth, 0):
        raise DataError("ours")


def test_gradients_are_laid_out_like_images(smooth, pixels):
    model = nn.Sequential(smooth).to(memory_format=torch.channels_last)
    with guest("peer", model, 0) as host:
        images = pixels.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(host(images).sum(), images)
        (wanted,) = torch.autograd.grad(smooth(images).sum(), images)
    gradient.view(len(pixels), -1)
    torch.testing.assert_close(gradient, wanted)


def test_what_a_library_or_a_call_lacks_is_one_sentence():
    with pytest.raises(SettingsError, match=r"nonsuch cannot be imported .* 'advlens\[nonsuch\]'"):
        library("nonsuch")
    torch_nn = library("torch", "torch.nn")
    with pytest.raises(SettingsError, match=r"torch has no module 'Relu'; perhaps .*ReLU"):
        library_class(MethodSpec("torch", "Relu", {}), torch_nn, nn.Module)
    with pytest.raises(SettingsError, match="has no module 'Parameter'"):
        library_class(MethodSpec("torch", "Parameter", {}), torch_nn, nn.Module)
    assert library_class(MethodSpec("torch", "ReLU", {}), torch_nn, nn.Module) is nn.ReLU

    def call(model, steps, size=1): ...

    spec = MethodSpec("peer", "Call", {})
    check_arguments(spec, call, None, steps=1)
    with pytest.raises(SettingsError, match=r"peer:Call: .*'step'; it takes steps, size"):
        check_arguments(spec, call, None, steps=1, step=1)
