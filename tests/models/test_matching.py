"""models.matching: a network's tensors in files of every usual form."""

import pytest
import torch
from torch import nn
from weights_files import Network, state

from advlens.models.matching import match

MEAN, STD = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
OWN = Network().state_dict()


def prefixed(prefix: str, tensors: dict | None = None) -> dict[str, torch.Tensor]:
    return {prefix + name: t for name, t in (state() if tensors is None else tensors).items()}


def normalizer(mean: str, std: str, shape: tuple[int, ...] = (3, 1, 1)) -> dict[str, torch.Tensor]:
    return {mean: MEAN.view(shape), std: STD.view(shape)}


FORMS = {  # the file, the prefix found, the copies found, whether a normalizer is found
    "plain": (lambda: state(), "", (), False),
    "DataParallel": (lambda: prefixed("module."), "", (), False),
    "DataParallel around a part": (
        lambda: {n.replace("conv.", "conv.module."): t for n, t in state().items()},
        "",
        (),
        False,
    ),
    "torch.compile": (lambda: prefixed("_orig_mod.module."), "", (), False),
    "any wrapper": (lambda: prefixed("a.b.c."), "a.b.c.", (), False),
    "robustness": (
        lambda: {
            **normalizer("module.normalizer.new_mean", "module.normalizer.new_std"),
            **prefixed("module.model."),
            **normalizer("module.attacker.normalize.new_mean", "module.attacker.normalize.new_std"),
            **prefixed("module.attacker.model."),
        },
        "model.",
        ("attacker.model.",),
        True,
    ),
    "robustness, own network": (
        lambda: {
            **normalizer("normalizer.new_mean", "normalizer.new_std"),
            **prefixed("model.model."),
            **prefixed("attacker.model.model."),
        },
        "model.model.",
        ("attacker.model.model.",),
        True,
    ),
    "RobustBench": (
        lambda: {
            **normalizer("normalize.mean", "normalize.std", (1, 3, 1, 1)),
            **prefixed("model."),
        },
        "model.",
        (),
        True,
    ),
    "a sequence": (
        lambda: {**normalizer("module.0.mean", "module.0.std"), **prefixed("module.1.")},
        "1.",
        (),
        True,
    ),
    "mu and sigma": (lambda: {**normalizer("mu", "sigma", (1, 3, 1, 1)), **state()}, "", (), True),
    "an equal copy": (
        lambda: {**prefixed("net."), **prefixed("best_net.")},
        "net.",
        ("best_net.",),
        False,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_wrappers(form):
    build, prefix, copies, normalized = FORMS[form]
    file = build()
    found = match(file, OWN)
    assert found.prefix == prefix
    assert found.copies == copies
    assert found.unknown == ()
    expected = state()
    assert found.tensors.keys() == OWN.keys()
    assert all(torch.equal(found.tensors[name], expected[name]) for name in OWN)
    assert all(file[source] is found.tensors[name] for name, source in found.names.items())
    if normalized:
        assert found.mean == pytest.approx((0.1, 0.2, 0.3))
        assert found.std == pytest.approx((0.4, 0.5, 0.6))
        assert set(found.normalizers) == {
            n
            for n in file
            if n.split(".")[-1] in ("mean", "std", "new_mean", "new_std", "mu", "sigma")
        }
    else:
        assert (found.mean, found.std, found.normalizers) == (None, None, ())


def test_what_fits_nothing_is_named():
    file = {**prefixed("model."), "model.extra": torch.zeros(1), "ema.decay": torch.zeros(1)}
    found = match(file, OWN)
    assert found.unknown == ("model.extra", "ema.decay")
    assert match({"a": torch.zeros(1)}, OWN).unknown == ("a",)
    assert match({}, OWN).tensors == {}


def test_counters_are_dropped_by_themselves():
    one = torch.ones(1)
    counters = {
        "n_averaged": torch.tensor(3),
        "module.total_ops": one,
        "module.conv.total_params": one,
        "head.num_batches_tracked": torch.tensor(1),
    }
    found = match({**prefixed("module."), **counters}, OWN)
    assert (set(found.counters), found.unknown) == (set(counters), ())
    large = {"total_ops": torch.ones(2), "total_opsets": one, "n_averaged.weight": one}
    found = match({**state(), **large}, OWN)
    assert (found.counters, set(found.unknown)) == ((), set(large))


def test_a_network_keeps_its_own_counters():
    network = nn.Sequential(Network())
    network.register_buffer("n_averaged", torch.tensor(7))
    file = network.state_dict()
    found = match(file, file)
    assert found.tensors["n_averaged"] is file["n_averaged"]
    assert found.counters == ()


def test_an_incomplete_network_is_still_found_by_its_prefix():
    file = prefixed("model.")
    del file["model.conv.bias"]
    found = match(file, OWN)
    assert found.prefix == "model."
    assert OWN.keys() - found.tensors.keys() == {"conv.bias"}


def test_a_part_of_a_copy_is_no_copy():
    file = {**state(), "old.conv.bias": torch.zeros(4)}
    assert match(file, OWN).unknown == ("old.conv.bias",)


def test_tensors_with_three_values_are_no_normalizers_unless_they_are_left_over():
    network = nn.Sequential()
    network.register_buffer("mean", MEAN)
    network.register_buffer("std", STD)
    found = match(network.state_dict(), network.state_dict())
    assert (found.mean, found.normalizers) == (None, ())
    alone = match({**state(), "normalize.mean": MEAN}, OWN)
    assert (alone.mean, alone.unknown) == (None, ("normalize.mean",))
    four = match({**state(), "mean": torch.zeros(4), "std": torch.ones(4)}, OWN)
    assert (four.mean, four.unknown) == (None, ("mean", "std"))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            lambda: {**prefixed("a."), **prefixed("bb."), "bb.linear.bias": torch.ones(5)},
            r"a.linear.bias and bb.linear.bias are not the same",
        ),
        (
            lambda: {**state(), "mean": MEAN, "std": STD, "x.mean": STD},
            "mean and x.mean are not the same",
        ),
        (
            lambda: {**state(), "mean": 255 * MEAN, "std": 255 * STD},
            r"mean, .*, is not on the \[0, 1\] scale of pixels",
        ),
        (
            lambda: {**state(), "module.conv.bias": torch.zeros(4)},
            "conv.bias and module.conv.bias name the same tensor",
        ),
    ],
)
def test_contradictions(file, message):
    with pytest.raises(ValueError, match=message):
        match(file(), OWN)


def test_copies_of_another_shape_than_the_networks_are_not_compared():
    """They may be of any size; the wrong shape is said when they are loaded."""
    huge = torch.zeros(1).expand(1 << 40)
    file = {
        **prefixed("a."),
        **prefixed("bb."),
        "a.conv.bias": huge,
        "bb.conv.bias": torch.ones(1).expand(1 << 40),
    }
    assert match(file, OWN).tensors["conv.bias"].shape == (1 << 40,)
