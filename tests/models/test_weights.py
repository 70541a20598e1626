"""models.weights: files that are right, and files that do not fit the network."""

import collections

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from weights_files import Network, assert_refused, classifier, same, state

from advlens.errors import CheckpointError, ModelError, SettingsError
from advlens.models import Classifier, load_weights, read_weights, save_weights


def test_round_trip(tmp_path):
    saved, loaded = classifier(0), classifier(1)
    loaded.set_normalization((0, 0, 0), (1, 1, 1))
    path = tmp_path / "weights.safetensors"
    save_weights(saved, path)
    load_weights(loaded, path)
    assert same(saved, loaded)
    torch.testing.assert_close(loaded.mean, saved.mean)
    torch.testing.assert_close(loaded.std, saved.std)
    assert not any("num_batches" in name for name in load_file(path))
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


def test_networks_with_tied_or_channels_last_weights_are_saved(tmp_path):
    saved, loaded = (classifier(seed).to(memory_format=torch.channels_last) for seed in (0, 1))
    for built in (saved, loaded):
        built.network.again = built.network.conv
    save_weights(saved, tmp_path / "w.safetensors")
    load_weights(loaded, tmp_path / "w.safetensors")
    assert same(saved, loaded)


RIGHT = {
    "state dict": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model_state_dict": lambda s: {"model_state_dict": s},
    "model": lambda s: {"model": s, "lr": 0.1},
    "ordered": lambda s: collections.OrderedDict(s),
    "parameters": lambda s: {
        name: nn.Parameter(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in s.items()
    },
    "module.": lambda s: {f"module.{name}": tensor for name, tensor in s.items()},
    "model.": lambda s: {f"model.{name}": tensor for name, tensor in s.items()},
    "module.network.": lambda s: {f"module.network.{name}": t for name, t in s.items()},
    "without counters": lambda s: {n: t for n, t in s.items() if "num_batches" not in n},
    "AveragedModel": lambda s: {
        "n_averaged": torch.tensor(3),
        **{f"module.{n}": t for n, t in s.items()},
    },
    "thop": lambda s: s | {"total_ops": torch.ones(1).double(), "conv.total_params": torch.ones(1)},
    "Lightning": lambda s: {
        "state_dict": {f"model.{n}": t for n, t in s.items()},
        "hyper_parameters": {"model": "a"},
        "callbacks": {"best": {"state_dict": "x"}},
        "pytorch-lightning_version": "2.4",
    },
    "settings beside": lambda s: {"net": s, "model": {"name": "resnet"}, "ema": {"decay": 0.9}},
    "average alone": lambda s: {"state_dict_ema": s, "epoch": 3},
    "average in a part": lambda s: {"model_ema": {"decay": 0.9, "module": s}},
    "double": lambda s: {n: t.double() if t.is_floating_point() else t for n, t in s.items()},
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_of_other_precision(dtype, suffix, tmp_path):
    tensors, path = {n: t.to(dtype) for n, t in state().items()}, tmp_path / f"w.{suffix}"
    del tensors["bn.num_batches_tracked"]
    save_file(tensors, path) if suffix == "safetensors" else torch.save(tensors, path)
    loaded = classifier(1)
    load_weights(loaded, path)
    own = loaded.network.state_dict()
    assert all(torch.equal(own[name], tensors[name].float()) for name in tensors)


def test_networks_of_doubles_are_saved_as_doubles(tmp_path):
    saved, loaded = (Classifier(classifier(seed).network.double(), name="c") for seed in (0, 1))
    save_weights(saved, tmp_path / "w.safetensors")
    load_weights(loaded, tmp_path / "w.safetensors")
    assert loaded.network.conv.weight.dtype == torch.float64
    assert same(saved, loaded)


def test_weights_that_the_network_rounds_are_said(tmp_path):
    finer = {n: t.double() if t.is_floating_point() else t for n, t in state().items()}
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
LEFTOVERS = {  # what lies in the file, the pattern that leaves it out
    "loss": (lambda s: s | {"criterion.weight": torch.ones(5)}, "criterion.*"),
    "metrics": (lambda s: s | {"val_acc.tp": torch.tensor(3), "val_acc.fp": torch.ones(5)}, "val*"),
    "epoch": (lambda s: s | {"epoch": 3}, "epoch"),
    "extra state": (lambda s: s | {"conv._extra_state": {"amax": 1.0}}, "*_extra_state"),
    "extra tensor": (lambda s: s | {"bn._extra_state": torch.ones(3)}, "*_extra_state"),
    "average": (
        lambda s: {"state_dict": s, "state_dict_ema": {n: t + 1 for n, t in s.items()}},
        "state_dict_ema",
    ),
    "other copy": (
        lambda s: {f"{p}.{n}": t + (p == "b") for p in "ab" for n, t in s.items()},
        "b.*",
    ),
    "quantized": (
        lambda s: s | {"head.weight": torch.quantize_per_tensor(torch.ones(3), 1, 0, torch.qint8)},
        "head.weight",
    ),
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
    save_file(state() | {"extra": torch.ones(1)}, tmp_path / "w.safetensors")
    load_weights(classifier(), tmp_path / "w.safetensors", ignore_keys=["ext*"])
    with pytest.raises(CheckpointError, match=r"conv\.bias is missing"):
        load_weights(classifier(), tmp_path / "w.safetensors", ignore_keys=["ext*", "conv.b*"])
    with pytest.raises(CheckpointError, match="empty dictionary"):
        read_weights(tmp_path / "w.safetensors", ignore_keys=["*"])
    with pytest.raises(SettingsError, match=r"list of patterns, as in \['ext\*'\]"):
        read_weights(tmp_path / "w.safetensors", ignore_keys="ext*")


class Counting(nn.Linear):
    """A layer with a state that is no tensor."""

    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state):
        raise AssertionError("what a file holds reaches a module's own code")


def test_networks_with_an_extra_state(tmp_path):
    saved, loaded = (Classifier(nn.Sequential(Counting(3, 2)), name="c") for _ in range(2))
    save_weights(saved, tmp_path / "w.safetensors")
    load_weights(loaded, tmp_path / "w.safetensors")
    assert torch.equal(loaded.network[0].weight, saved.network[0].weight)
    torch.save(saved.network.state_dict(), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"0\._extra_state comes from .* get_extra_state"):
        load_weights(loaded, tmp_path / "w.pt")
    load_weights(loaded, tmp_path / "w.pt", ignore_keys=["*_extra_state"])


@no_warning
def test_networks_that_files_cannot_fill_or_hold(tmp_path):
    lazy = Classifier(nn.Sequential(nn.LazyLinear(2)), name="lazy")
    save_file(state(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"no shape for 0\.weight yet"):
        load_weights(lazy, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"0\.weight is lazy"):
        save_weights(lazy, tmp_path / "lazy.safetensors")
    network = nn.Sequential()
    whole = torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8)
    network.register_buffer("w", whole)
    with pytest.raises(ModelError, match=r"w is torch\.qint8"):
        save_weights(Classifier(network, name="q"), tmp_path / "q.safetensors")
    for given in (torch.ones(3), torch.ones(3, dtype=torch.int8)):
        save_file({"w": given}, tmp_path / "w.safetensors")
        with pytest.raises(CheckpointError, match=r"the network's is torch\.qint8"):
            load_weights(Classifier(network, name="q"), tmp_path / "w.safetensors")


def test_ordered_dictionaries_of_python_2(tmp_path):
    """They are pickled as a call with a list of pairs."""
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": Pairs(state())}, path)
    loaded = classifier(1)
    load_weights(loaded, path)
    assert same(classifier(0), loaded)


class Pairs(dict):
    def __reduce__(self):
        return collections.OrderedDict, ([[name, tensor] for name, tensor in self.items()],)


def test_prefixes_that_the_network_has_itself_are_kept(tmp_path):
    wrapped = Classifier(nn.Sequential(collections.OrderedDict(model=Network())), name="c")
    torch.save(wrapped.network.state_dict(), tmp_path / "weights.pt")
    again = Classifier(nn.Sequential(collections.OrderedDict(model=Network())), name="c")
    load_weights(again, tmp_path / "weights.pt")
    assert same(wrapped, again)


def without(name):
    return lambda s: s.pop(name)


def put(name, tensor):
    return lambda s: s.update({name: tensor})


UNFIT = {
    "missing": (without("bn.running_mean"), "bn.running_mean is missing"),
    "unknown": (
        put("extra.weight", torch.zeros(2)),
        "extra.weight is not in the network; leave out what .* as in --ignore-keys extra.weight$",
    ),
    "shape": (
        put("linear.weight", torch.zeros(7, 4)),
        r"linear.weight is \(7, 4\), the network's is \(5, 4\)",
    ),
    "scalar": (put("linear.bias", torch.tensor(1.0)), r"linear.bias is \(\), .* \(5,\)"),
    "nan": (put("linear.bias", torch.full((5,), torch.nan)), "linear.bias holds NaN or infinity"),
    "infinity": (put("conv.bias", torch.full((4,), -torch.inf)), "conv.bias holds NaN"),
    "overflow": (put("conv.bias", torch.ones(4).double() * 1e300), "conv.bias holds NaN"),
    "integers": (put("bn.weight", torch.ones(4, dtype=torch.int64)), "bn.weight is torch.int64"),
    "complex": (put("bn.bias", torch.ones(4, dtype=torch.complex64)), "bn.bias is torch.complex64"),
    "float8": (put("bn.bias", torch.ones(4).to(torch.float8_e4m3fn)), "bn.bias is torch.float8"),
}


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("case", UNFIT)
def test_every_tensor_must_fit(case, suffix, tmp_path):
    change, message = UNFIT[case]
    tensors, path = state(), tmp_path / f"weights.{suffix}"
    change(tensors)
    save_file(tensors, path) if suffix == "safetensors" else torch.save(tensors, path)
    assert_refused(path, f"does not fit Network: .*{message}")


def test_many_faults_are_counted(tmp_path):
    path = tmp_path / "other.pt"
    torch.save({f"layer{i}": torch.zeros(1) for i in range(9)}, path)
    assert_refused(path, "bn.bias is missing; .*; and 12 more$")


@pytest.mark.parametrize(
    "metadata",
    [
        {"mean, std": "a b c 1 1 1"},
        {"mean, std": "0 0 0 1 0 1"},
        {"mean, std": "0 0 1 1 1"},
        {"mean, std": "nan 0 0 1 1 1"},
    ],
)
def test_metadata_that_are_no_mean_and_std(metadata, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(state(), path, metadata=metadata)
    assert_refused(path, "metadata")


def test_names_that_no_file_can_have(tmp_path):
    for name in ("a" * 5000, "a\0b", "a/" * 3000):
        with pytest.raises(CheckpointError, match="no weights file at"):
            read_weights(tmp_path / name)


def test_missing_file_and_folder(tmp_path):
    for suffix in ("pt", "safetensors"):
        with pytest.raises(CheckpointError, match=r"no weights file at .*; check the path after @"):
            read_weights(tmp_path / f"none.{suffix}")
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        read_weights(tmp_path)
