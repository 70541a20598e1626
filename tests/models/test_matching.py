"""models.matching: a network's tensors in files of every usual form."""

import pytest
import torch
from torch import Tensor, nn
from weights_files import Network, state

from advlens.models.matching import match

MEAN, STD = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
OWN = Network().state_dict()


def prefixed(*prefixes: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for prefix in prefixes for name, tensor in state().items()}


def normalizer(*names: str, shape: tuple[int, ...] = (3, 1, 1)) -> dict[str, Tensor]:
    """A mean and a standard deviation under each of these names."""
    kinds = {"mean": MEAN, "std": STD}
    return {f"{name}{kind}": kinds[kind].view(shape) for name in names for kind in kinds}


WRAPPED = {name.replace("conv.", "conv.module."): tensor for name, tensor in state().items()}
ROBUST = "module.normalizer.new_", "module.attacker.normalize.new_"
ONE_BY_THREE = (1, 3, 1, 1)
FORMS = {  # the normalizers in the file, its other tensors, the prefix found, the copies found
    "plain": ({}, state(), "", ()),
    "DataParallel": ({}, prefixed("module."), "", ()),
    "DataParallel around a part": ({}, WRAPPED, "", ()),
    "torch.compile": ({}, prefixed("_orig_mod.module."), "", ()),
    "any wrapper": ({}, prefixed("a.b.c."), "a.b.c.", ()),
    "robustness": (
        *(normalizer(*ROBUST), prefixed("module.model.", "module.attacker.model.")),
        *("model.", ("attacker.model.",)),
    ),
    "robustness, own network": (
        *(normalizer("normalizer.new_"), prefixed("model.model.", "attacker.model.model.")),
        *("model.model.", ("attacker.model.model.",)),
    ),
    "RobustBench": (
        *(normalizer("normalize.", shape=ONE_BY_THREE), prefixed("model."), "model.", ()),
    ),
    "a sequence": (normalizer("module.0."), prefixed("module.1."), "1.", ()),
    "mu and sigma": ({"mu": MEAN.view(1, 3, 1, 1), "sigma": STD.view(1, 3, 1, 1)}, state(), "", ()),
    "an equal copy": ({}, prefixed("net.", "best_net."), "net.", ("best_net.",)),
}


@pytest.mark.parametrize("form", FORMS)
def test_wrappers(form):
    normalizers, tensors, prefix, copies = FORMS[form]
    file = normalizers | tensors
    found = match(file, OWN)
    assert (found.prefix, found.copies, found.unknown) == (prefix, copies, ())
    expected = state()
    assert found.tensors.keys() == OWN.keys()
    assert all(torch.equal(found.tensors[name], expected[name]) for name in OWN)
    assert all(file[source] is found.tensors[name] for name, source in found.names.items())
    assert set(found.normalizers) == normalizers.keys()
    if normalizers:
        assert found.mean == pytest.approx((0.1, 0.2, 0.3))
        assert found.std == pytest.approx((0.4, 0.5, 0.6))
    else:
        assert (found.mean, found.std) == (None, None)


def test_what_fits_nothing_is_named_but_counters():
    one = torch.zeros(1)
    file = prefixed("model.") | {"model.extra": one, "ema.decay": one}
    assert match(file, OWN).unknown == ("model.extra", "ema.decay")
    assert match({"a": one}, OWN).unknown == ("a",)
    assert match({}, OWN).tensors == {}
    # a part of a copy is no copy
    part = {"old.conv.bias": torch.zeros(4)}
    assert match(state() | part, OWN).unknown == ("old.conv.bias",)
    names = ["n_averaged", "module.total_ops", "module.conv.total_params"]
    counters = dict.fromkeys([*names, "head.num_batches_tracked"], torch.ones(()))
    found = match(prefixed("module.") | counters, OWN)
    assert (set(found.counters), found.unknown) == (set(counters), ())
    one = torch.ones(1)
    large = {"total_ops": torch.ones(2), "total_opsets": one, "n_averaged.weight": one}
    found = match(state() | large, OWN)
    assert (found.counters, set(found.unknown)) == ((), set(large))
    network = nn.Sequential(Network())
    network.register_buffer("n_averaged", torch.tensor(7))
    file = network.state_dict()
    found = match(file, file)
    assert found.tensors["n_averaged"] is file["n_averaged"]
    assert found.counters == ()


def test_parts_and_copies_of_another_shape():
    file = prefixed("model.")
    del file["model.conv.bias"]
    found = match(file, OWN)
    assert (found.prefix, OWN.keys() - found.tensors.keys()) == ("model.", {"conv.bias"})
    # They may be of any size; the wrong shape is said when they are loaded
    zeros, ones = (value.expand(1 << 40) for value in (torch.zeros(1), torch.ones(1)))
    found = match(TWO | {"a.conv.bias": zeros, "bb.conv.bias": ones}, OWN)
    assert found.tensors["conv.bias"].shape == (1 << 40,)


def test_tensors_with_three_values_are_no_normalizers_unless_they_are_left_over():
    network = nn.Sequential()
    network.register_buffer("mean", MEAN)
    network.register_buffer("std", STD)
    found = match(network.state_dict(), network.state_dict())
    assert (found.mean, found.normalizers) == (None, ())
    alone = match(state() | {"normalize.mean": MEAN}, OWN)
    assert (alone.mean, alone.unknown) == (None, ("normalize.mean",))
    four = match(state() | {"mean": torch.zeros(4), "std": torch.ones(4)}, OWN)
    assert (four.mean, four.unknown) == (None, ("mean", "std"))


TWO = prefixed("a.", "bb.")
CONTRADICTIONS = {
    "a.linear.bias and bb.linear.bias are not the same": TWO | {"bb.linear.bias": torch.ones(5)},
    "mean and x.mean are not the same": state() | {"mean": MEAN, "std": STD, "x.mean": STD},
    r"mean, .*, is not on the \[0, 1\] scale of pixels": (
        state() | {"mean": 255 * MEAN, "std": 255 * STD}
    ),
    "conv.bias and module.conv.bias name the same tensor": (
        state() | {"module.conv.bias": torch.zeros(4)}
    ),
}


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_contradictions(message):
    with pytest.raises(ValueError, match=message):
        match(CONTRADICTIONS[message], OWN)
