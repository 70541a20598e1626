"""models.weights and models.matching: files of every usual form, and those that do not fit."""

from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from weights_files import Network, assert_refused, classifier, same, state

from advlens.errors import CheckpointError, ModelError, SettingsError
from advlens.models import Classifier, load_weights, read_weights, save_weights
from advlens.models.matching import match

MEAN, STD = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
OWN = Network().state_dict()


def tied(built):
    built.to(memory_format=torch.channels_last).network.again = built.network.conv
    return built


def doubled(built):
    return Classifier(built.network.double(), name="c", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


SAVED = {"plain": lambda built: built, "tied, channels last": tied, "doubles": doubled}


@pytest.mark.parametrize("kind", SAVED)
def test_round_trip(kind, tmp_path):
    saved, loaded = (SAVED[kind](classifier(seed)) for seed in (0, 1))
    loaded.set_normalization((0, 0, 0), (1, 1, 1))
    path = tmp_path / "weights.safetensors"
    save_weights(saved, path)
    assert not any("num_batches" in name for name in load_file(path))
    load_weights(loaded, path)
    assert same(saved, loaded)
    assert loaded.network.conv.weight.dtype == saved.network.conv.weight.dtype
    torch.testing.assert_close(loaded.mean, saved.mean)
    torch.testing.assert_close(loaded.std, saved.std)
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(loaded(images), saved(images))


def test_half_precision_round_trip(tmp_path):
    saved, loaded = classifier(0), classifier(1)
    path = tmp_path / "weights.safetensors"
    save_weights(saved, path, dtype=torch.float16)
    assert load_file(path)["conv.weight"].dtype == torch.float16
    load_weights(loaded, path)
    found, expected = loaded.network.conv.weight, saved.network.conv.weight
    assert found.dtype == torch.float32
    assert torch.equal(found, expected.half().float())


class Pairs(dict):
    """As Python 2 pickles ordered dictionaries: a call with a list of pairs."""

    def __reduce__(self):
        return OrderedDict, ([[name, tensor] for name, tensor in self.items()],)


def prefixed(prefix: str, tensors: dict) -> dict:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def floats(change, tensors: dict) -> dict:
    return {n: change(t) if t.is_floating_point() else t for n, t in tensors.items()}


LIGHTNING = {"hyper_parameters": {"model": "a"}, "callbacks": {"best": {"state_dict": "x"}}}
RIGHT = {
    "state dict": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model_state_dict": lambda s: {"model_state_dict": s},
    "model": lambda s: {"model": s, "lr": 0.1},
    "ordered": OrderedDict,
    "Python 2": lambda s: {"state_dict": Pairs(s)},
    "parameters": lambda s: floats(nn.Parameter, s),
    "module.": lambda s: prefixed("module.", s),
    "model.": lambda s: prefixed("model.", s),
    "module.network.": lambda s: prefixed("module.network.", s),
    "without counters": lambda s: {n: t for n, t in s.items() if "num_batches" not in n},
    "AveragedModel": lambda s: {"n_averaged": torch.tensor(3), **prefixed("module.", s)},
    "thop": lambda s: s | {"total_ops": torch.ones(1).double(), "conv.total_params": torch.ones(1)},
    "Lightning": lambda s: {"state_dict": prefixed("model.", s)} | LIGHTNING,
    "settings beside": lambda s: {"net": s, "model": {"name": "resnet"}, "ema": {"decay": 0.9}},
    "a name of one's own": lambda s: {"best": s, "epoch": 3, "history": {"loss": [0.1]}},
    "average alone": lambda s: {"state_dict_ema": s, "epoch": 3},
    "AveragedModel alone": lambda s: {"swa_state_dict": prefixed("module.", s), "epoch": 3},
    "average in a part": lambda s: {"model_ema": {"decay": 0.9, "module": s}},
    "double": lambda s: floats(torch.Tensor.double, s),
}


@pytest.mark.parametrize("form", RIGHT)
@pytest.mark.parametrize("legacy", [False, True])
def test_pt_files_in_every_usual_form(form, legacy, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(RIGHT[form](state()), path, _use_new_zipfile_serialization=not legacy)
    loaded = classifier(1)
    load_weights(loaded, path)
    assert same(classifier(0), loaded)
    assert loaded.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def write(tensors, path):
    (save_file if path.suffix == ".safetensors" else torch.save)(tensors, path)


each_suffix = pytest.mark.parametrize("suffix", ["safetensors", "pt"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@each_suffix
def test_weights_of_other_precision(dtype, suffix, tmp_path):
    tensors, path = {n: t.to(dtype) for n, t in state().items()}, tmp_path / f"w.{suffix}"
    del tensors["bn.num_batches_tracked"]
    write(tensors, path)
    loaded = classifier(1)
    load_weights(loaded, path)
    own = loaded.network.state_dict()
    assert all(torch.equal(own[name], tensors[name].float()) for name in tensors)


def test_weights_that_the_network_rounds_are_said(tmp_path):
    finer = floats(torch.Tensor.double, state())
    finer["conv.weight"] += 1e-12
    for name, tensors, expected in (("same", state(), 0), ("finer", finer, 1)):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        loaded = classifier(1)
        load_weights(loaded, tmp_path / f"{name}.safetensors")
        assert len(loaded.notes) == expected
    assert loaded.notes[0].startswith("finer.safetensors is more precise than the netw")
    double = Classifier(classifier(1).network.double(), name="double")
    load_weights(double, tmp_path / "finer.safetensors")
    assert double.notes == ()


no_warning = pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")
QUANTIZED = torch.ones(3), 1.0, 0, torch.qint8
OTHER = {name: tensor + 1 for name, tensor in state().items()}
LEFTOVERS = {  # what lies in the file, the pattern that leaves it out
    "loss": (lambda s: s | {"criterion.weight": torch.ones(5)}, "criterion.*"),
    "metrics": (lambda s: s | {"val_acc.tp": torch.tensor(3), "val_acc.fp": torch.ones(5)}, "val*"),
    "epoch": (lambda s: s | {"epoch": 3}, "epoch"),
    "extra state": (lambda s: s | {"conv._extra_state": {"amax": 1.0}}, "*_extra_state"),
    "extra tensor": (lambda s: s | {"bn._extra_state": torch.ones(3)}, "*_extra_state"),
    "average": (lambda s: {"state_dict": s, "state_dict_ema": OTHER}, "state_dict_ema"),
    "names of one's own": (lambda s: {"best": s, "last": OTHER, "epoch": 3}, "last"),
    "AveragedModel": (lambda s: {"model": s, "swa_model": prefixed("module.", OTHER)}, "swa_model"),
    "other copy": (lambda s: prefixed("a.", s) | prefixed("b.", OTHER), "b.*"),
    "quantized": (lambda s: s | {"head.weight": torch.quantize_per_tensor(*QUANTIZED)}, "head.*"),
}


@no_warning
@pytest.mark.parametrize("case", LEFTOVERS)
def test_what_the_network_does_not_need_is_left_out_on_request(case, tmp_path):
    change, pattern = LEFTOVERS[case]
    path = tmp_path / "weights.pt"
    torch.save(change(state()), path)
    assert_refused(path, "leave .*out.* --ignore-keys ")
    loaded = classifier(1)
    load_weights(loaded, path, ignore_keys=["nothing", pattern])
    assert same(classifier(0), loaded)


def test_patterns_leave_out_nothing_that_the_network_needs(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(state() | {"extra": torch.ones(1)}, path)
    load_weights(classifier(), path, ignore_keys=["ext*"])
    with pytest.raises(CheckpointError, match=r"conv\.bias is missing"):
        load_weights(classifier(), path, ignore_keys=["ext*", "conv.b*"])
    with pytest.raises(CheckpointError, match="empty dictionary"):
        read_weights(path, ignore_keys=["*"])
    with pytest.raises(SettingsError, match=r"list of patterns, as in \['ext\*'\]"):
        read_weights(path, ignore_keys="ext*")


class Counting(nn.Linear):
    """A layer with a state that is no tensor."""

    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state):
        raise AssertionError("what a file holds reaches a module's own code")


def test_prefixes_and_extra_states_of_the_network_itself(tmp_path):
    saved, loaded = (Classifier(nn.Sequential(Counting(3, 2)), name="c") for _ in range(2))
    save_weights(saved, tmp_path / "w.safetensors")
    load_weights(loaded, tmp_path / "w.safetensors")
    assert torch.equal(loaded.network[0].weight, saved.network[0].weight)
    torch.save(saved.network.state_dict(), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"0\._extra_state comes from .* get_extra_state"):
        load_weights(loaded, tmp_path / "w.pt")
    load_weights(loaded, tmp_path / "w.pt", ignore_keys=["*_extra_state"])
    wrapped, again = (
        Classifier(nn.Sequential(OrderedDict(model=Network())), name="c") for _ in range(2)
    )
    torch.save(wrapped.network.state_dict(), tmp_path / "weights.pt")
    load_weights(again, tmp_path / "weights.pt")
    assert same(wrapped, again)


@no_warning
def test_networks_that_files_cannot_fill_or_hold(tmp_path):
    path = tmp_path / "w.safetensors"
    lazy = Classifier(nn.Sequential(nn.LazyLinear(2)), name="lazy")
    save_file(state(), path)
    with pytest.raises(ModelError, match=r"no shape for 0\.weight yet"):
        load_weights(lazy, path)
    with pytest.raises(ModelError, match=r"0\.weight is lazy"):
        save_weights(lazy, path)
    network = nn.Sequential()
    network.register_buffer("w", torch.quantize_per_tensor(*QUANTIZED))
    quantized = Classifier(network, name="q")
    with pytest.raises(ModelError, match=r"w is torch\.qint8"):
        save_weights(quantized, path)
    for given in (torch.ones(3), torch.ones(3, dtype=torch.int8)):
        save_file({"w": given}, path)
        with pytest.raises(CheckpointError, match=r"the network's is torch\.qint8"):
            load_weights(quantized, path)


ONES = torch.ones(4)
UNKNOWN = "extra.weight is not in the network; leave out what .* as in --ignore-keys extra.weight$"
UNFIT = {  # the tensor, what it is in the file, what is said of it
    "unknown": ("extra.weight", torch.zeros(2), UNKNOWN),
    "missing": ("bn.running_mean", None, "bn.running_mean is missing"),
    "shape": ("linear.weight", torch.zeros(7, 4), r"\(7, 4\), the network's is \(5, 4\)"),
    "scalar": ("linear.bias", torch.tensor(1.0), r"linear.bias is \(\), .* \(5,\)"),
    "nan": ("linear.bias", torch.full((5,), torch.nan), "linear.bias holds NaN or infinity"),
    "infinity": ("conv.bias", -torch.inf * ONES, "conv.bias holds NaN"),
    "overflow": ("conv.bias", ONES.double() * 1e300, "conv.bias holds NaN"),
    "integers": ("bn.weight", ONES.long(), "bn.weight is torch.int64"),
    "complex": ("bn.bias", ONES.to(torch.complex64), "bn.bias is torch.complex64"),
    "float8": ("bn.bias", ONES.to(torch.float8_e4m3fn), "bn.bias is torch.float8"),
}


@each_suffix
@pytest.mark.parametrize("case", UNFIT)
def test_every_tensor_must_fit(case, suffix, tmp_path):
    name, tensor, message = UNFIT[case]
    changed, path = state() | {name: tensor}, tmp_path / f"weights.{suffix}"
    write({name: tensor for name, tensor in changed.items() if tensor is not None}, path)
    assert_refused(path, f"does not fit Network: .*{message}")


def test_many_faults_are_counted(tmp_path):
    path = tmp_path / "other.pt"
    torch.save({f"layer{i}": torch.zeros(1) for i in range(9)}, path)
    assert_refused(path, "bn.bias is missing; .*; and 12 more$")


@pytest.mark.parametrize("numbers", ["a b c 1 1 1", "0 0 0 1 0 1", "0 0 1 1 1", "nan 0 0 1 1 1"])
def test_metadata_that_are_no_mean_and_std(numbers, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(state(), path, metadata={"mean, std": numbers})
    assert_refused(path, "metadata")


def under(*prefixes: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for prefix in prefixes for name, tensor in state().items()}


def normalizer(*names: str, shape: tuple[int, ...] = (3, 1, 1)) -> dict[str, Tensor]:
    """A mean and a standard deviation under each of these names."""
    kinds = {"mean": MEAN, "std": STD}
    return {f"{name}{kind}": kinds[kind].view(shape) for name in names for kind in kinds}


WRAPPED = {name.replace("conv.", "conv.module."): tensor for name, tensor in state().items()}
ROBUST = "module.normalizer.new_", "module.attacker.normalize.new_"
FORMS = {  # the normalizers in the file, its other tensors, the prefix found, the copies found
    "plain": ({}, state(), "", ()),
    "DataParallel": ({}, under("module."), "", ()),
    "DataParallel around a part": ({}, WRAPPED, "", ()),
    "torch.compile": ({}, under("_orig_mod.module."), "", ()),
    "any wrapper": ({}, under("a.b.c."), "a.b.c.", ()),
    "robustness": (
        *(normalizer(*ROBUST), under("module.model.", "module.attacker.model.")),
        *("model.", ("attacker.model.",)),
    ),
    "robustness, own network": (
        *(normalizer("normalizer.new_"), under("model.model.", "attacker.model.model.")),
        *("model.model.", ("attacker.model.model.",)),
    ),
    "RobustBench": (
        *(normalizer("normalize.", shape=(1, 3, 1, 1)), under("model."), "model.", ()),
    ),
    "a sequence": (normalizer("module.0."), under("module.1."), "1.", ()),
    "mu and sigma": ({"mu": MEAN.view(1, 3, 1, 1), "sigma": STD.view(1, 3, 1, 1)}, state(), "", ()),
    "an equal copy": ({}, under("net.", "best_net."), "net.", ("best_net.",)),
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
    file = under("model.") | {"model.extra": one, "ema.decay": one}
    assert match(file, OWN).unknown == ("model.extra", "ema.decay")
    assert match({"a": one}, OWN).unknown == ("a",)
    assert match({}, OWN).tensors == {}
    # a part of a copy is no copy
    assert match(state() | {"old.conv.bias": torch.zeros(4)}, OWN).unknown == ("old.conv.bias",)
    names = ["n_averaged", "module.total_ops", "module.conv.total_params"]
    counters = dict.fromkeys([*names, "head.num_batches_tracked"], torch.ones(()))
    found = match(under("module.") | counters, OWN)
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
    file = under("model.")
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


TWO = under("a.", "bb.")
CONTRADICTIONS = {
    r"a.linear.bias and bb.linear.bias are not the same .--ignore-keys bb.\* leaves": TWO
    | {"bb.linear.bias": torch.ones(5)},
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
