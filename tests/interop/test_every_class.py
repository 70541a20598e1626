"""Every class that foolbox, torchattacks and captum offer runs, or is refused in one sentence."""

import importlib.util
import inspect

import pytest

from advlens import SettingsError, make_attack, make_attribution
from advlens.interop.guests import library

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
