"""models.weights: files that are right, and files that do not fit the network."""

import collections

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from weights_files import Network, assert_refused, classifier, same, state

from advlens.errors import CheckpointError
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
    "unknown": (put("extra.weight", torch.zeros(2)), "extra.weight is not in the network"),
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


def test_missing_file_and_folder(tmp_path):
    for suffix in ("pt", "safetensors"):
        with pytest.raises(CheckpointError, match=r"no weights file at .*; check the path after @"):
            read_weights(tmp_path / f"none.{suffix}")
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        read_weights(tmp_path)
