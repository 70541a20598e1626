"""Other libraries as guests: what they change is put back; each class runs, or is refused."""

import importlib.util
import inspect
import random
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from advlens import make_attack, make_attribution
from advlens.errors import DataError, ModelError, SettingsError
from advlens.interop.guests import check_arguments, guest, library, library_class
from advlens.settings import MethodSpec
from smooth_network import state_of

foolbox, torchattacks = library("foolbox"), library("torchattacks")
captum = library("captum", "captum.attr")

SMALL = """steps=2 iters=2 n_restarts=1 max_evals=20 popsize=4 n_queries=4 max_iterations=10
    binary_search_steps=2 num_classes=5 n_classes=5 initial_num_evals=5 max_num_evals=10 max_iter=2
    times=2"""
COMPILED = {"L0": "L0", "L1": "L1", "L2": "L2", "Linfinity": "Linf"}
COMPILED = {f"{kind}BrendelBethgeAttack": norm for kind, norm in COMPILED.items()}
"""Attacks that take a minute to compile → their norms: they are made here, and not run."""
NO_ATTACK = {
    "Attack": "what attacks of foolbox are made from",
    "GenAttack": "works towards a target class",
    "DatasetAttack": "needs images of its own",
    "BinarizationRefinementAttack": "refines images that another attack has made",
    "PointwiseAttack": "cannot be made",
    "SpatialAttack": "no distance, so no ball bounds them",
    "LGV": "trains models of its own",
    "MultiAttack": "wraps other attacks",
}
BASES = ("Attribution", "GradientAttribution", "PerturbationAttribution")
OF_LANGUAGE = ("LLMAttribution", "LLMGradientAttribution", "RemoteLLMAttribution")
NO_ATTRIBUTION = {
    **dict.fromkeys(BASES, "what attributions are made from"),
    **dict.fromkeys(OF_LANGUAGE, "explains language models"),
    "FeaturePermutation": "compares the images of a batch",
    "ShapleyValues": "never ends; use captum:ShapleyValueSampling",
    "DataLoaderAttribution": "wraps another attribution",
    "LimeBase": "missing a required argument",
}
NEEDED = {"GuidedGradCam": "layer=conv2", "Occlusion": "sliding_window_shapes=(3,4,4)"}
NEEDED |= {"NoiseTunnel": "attribution_method=Saliency, nt_samples=2", "Lime": "n_samples=4"}
NEEDED |= {"KernelShap": "n_samples=4", "ShapleyValueSampling": "n_samples=1"}
NEEDED |= {"IntegratedGradients": "n_steps=2"}


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


def classes(module):
    return sorted(name for name, thing in vars(module).items() if inspect.isclass(thing))


def small(kind):
    known = inspect.signature(kind).parameters
    return "".join(f", {each}" for each in SMALL.split() if each.partition("=")[0] in known)


NAMES = [("foolbox", foolbox.attacks, name) for name in classes(foolbox.attacks)]
NAMES += [("torchattacks", torchattacks, name) for name in classes(torchattacks)]


@pytest.mark.parametrize(("peer", "module", "name"), NAMES, ids=[f"{n[0]}:{n[2]}" for n in NAMES])
def test_every_attack(peer, module, name, smooth, pixels, labels, monkeypatch):
    kind = getattr(module, name)
    norm = ", norm=L2" if "distance" in inspect.signature(kind).parameters else ""
    text = f"{peer}:{name}(epsilon=.5{norm}{small(kind)})"
    if name in NO_ATTACK:
        with pytest.raises(SettingsError, match=NO_ATTACK[name]) as caught:
            make_attack(text)
        assert "\n" not in str(caught.value)
        return
    if name in COMPILED:
        if importlib.util.find_spec("numba") is None:  # which compiles them
            with pytest.raises(SettingsError, match=r"library that is not installed: .*numba"):
                make_attack(text)
            return
        monkeypatch.setattr(kind, "instantiate_optimizer", lambda self: None)
        assert make_attack(text).threat.norm == COMPILED[name]
        return
    attack = make_attack(text)
    images = pixels[1:3]  # both right
    changed = attack(smooth, images, labels[1:3])
    assert changed.shape == images.shape
    assert attack.threat.holds(changed - images).all()
    assert 0 <= changed.min() <= changed.max() <= 1


@pytest.mark.parametrize("name", classes(captum))
def test_every_attribution_of_captum(name, smooth, pixels):
    kind = getattr(captum, name)
    if not issubclass(kind, captum.Attribution):
        reason = "captum has no attribution"
    elif issubclass(kind, captum.LayerAttribution | captum.NeuronAttribution):
        reason = "explains a layer or a neuron"
    else:
        reason = NO_ATTRIBUTION.get(name)
    text = f"captum:{name}({NEEDED.get(name, '')})"
    if reason:
        with pytest.raises(SettingsError, match=reason) as caught:
            make_attribution(text)
        assert "\n" not in str(caught.value)
        return
    found = make_attribution(text)(smooth, pixels[:2], background=pixels[2:4])
    assert found.values.shape == (2, 3, 8, 8)
    assert found.values.isfinite().all()
    assert found.values.abs().max() > 0
