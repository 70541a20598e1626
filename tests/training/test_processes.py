"""Several processes train as one does."""

import copy
import dataclasses
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import SHORT, classifier, images, metrics, same, silent, train, without_time
from torch import Tensor, nn

from advlens import L2, Linf, Pgd, RunError, SettingsError, Training
from advlens.distributed import Processes, State, joined, local_device, synchronized
from advlens.runs.checkpoint import load_checkpoint
from advlens.training.objectives import Adversarial, FeatureConsistency, Objective, Standard, Trades
from together import end, start

CPU = torch.device("cpu")
ONE_STEP = dataclasses.replace(SHORT, objective=Standard(), epochs=1, batch_size=47, validation=13)
PLAIN = {"learning_rate": 1.0, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
# the change of the weights in one such step is the gradient itself
ONE_STEP = dataclasses.replace(ONE_STEP, schedule="constant", **PLAIN)
OBJECTIVES: dict[str, Objective] = {
    "standard": Standard(),
    "pgd": Adversarial(attack=Pgd(threat=Linf(epsilon=0.1), steps=2, select="last")),
    "consistency": FeatureConsistency(beta=3.0),
    "shared": FeatureConsistency(beta=3.0, clean_pass="shared", gradient="attacked"),
    "trades": Trades(attack=Pgd(threat=L2(epsilon=0.5), steps=2, select="last")),
}


Jobs = dict[str, tuple[Training, torch.dtype]]
"""What processes train one after the other, by the names of their folders."""
ALIKE: Jobs = {
    f"{name}-{dtype}": (dataclasses.replace(ONE_STEP, objective=OBJECTIVES[name]), dtype)
    for name, dtype in [("standard", torch.float32), *((n, torch.float64) for n in OBJECTIVES)]
}
LAYERS = {
    "1d": nn.BatchNorm1d(4),
    "2d": nn.BatchNorm2d(4),
    "whole average": nn.BatchNorm2d(4, momentum=None),
    "bare": nn.BatchNorm2d(4, affine=False, track_running_stats=False),
}


def train_together(out: Path, jobs: Jobs) -> None:
    with joined(CPU) as processes:
        for name, (settings, dtype) in jobs.items():
            weights = train(out / name, settings, processes, dtype)
            plain = {key: tensor.contiguous() for key, tensor in weights.items()}
            save_file(plain, out / name / f"{processes.rank}.safetensors")


def weights_of(out: Path, *ranks: int) -> list[dict[str, Tensor]]:
    return [load_file(out / f"{rank}.safetensors") for rank in ranks]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of trainings by two processes."""
    out = tmp_path_factory.mktemp("two")
    assert end(start(2, train_together, out, (ALIKE | {"whole": (SHORT, torch.float32)}))) == [0, 0]
    return out


@pytest.mark.parametrize("name", ALIKE)
def test_gradients_and_counts_are_those_of_one_process(name, two, tmp_path):
    """The standard objective in float32 too, where rounding switches no ReLU.

    The value nearest to 0 is 8e-6 of the largest, 70 ε. Those of other objectives lie nearer, and
    an attack's step has the sign of a gradient that may be as small.
    """
    settings, dtype = ALIKE[name]
    close = {torch.float32: 1e-5, torch.float64: 1e-9}[dtype]
    before = dict(classifier().to(dtype).state_dict())
    alone = train(tmp_path, settings, dtype=dtype)
    first, second = weights_of(two / name, 0, 1)
    assert same(first, second)
    for key, tensor in alone.items():
        if tensor.is_floating_point():
            gradient, shared = (w.double() - before[key].double() for w in (tensor, first[key]))
            assert gradient.norm() > 0
            assert (shared - gradient).norm() <= close * gradient.norm(), key
        else:
            assert torch.equal(tensor, first[key])
    (one,), (both,) = (without_time(metrics(out)) for out in (tmp_path, two / name))
    assert one.keys() == both.keys()
    assert all(one[k] == both[k] for k in ["epoch", "n", "natural", "adversarial", "learning_rate"])
    # losses and distances are added up in float32; by float32 weights they follow from steps of 1
    rel = {torch.float32: 1e-4, torch.float64: 1e-6}[dtype]
    assert list(one.values()) == pytest.approx(list(both.values()), rel=rel)


def test_three_processes_share_uneven_batches(tmp_path):
    """47 training images in batches of 16, 16 and 15; 13 held out."""
    settings = dataclasses.replace(ONE_STEP, batch_size=16, learning_rate=0.05)
    alone = train(tmp_path / "one", settings, dtype=torch.float64)
    jobs: Jobs = {"three": (settings, torch.float64)}
    assert end(start(3, train_together, tmp_path, jobs)) == [0, 0, 0]
    (weights,) = weights_of(tmp_path / "three", 2)
    torch.testing.assert_close(weights, alone, rtol=1e-9, atol=1e-12)


def test_a_signal_to_one_process_stops_all_and_the_run_continues(two, tmp_path):
    whole, cut, last = two / "whole", tmp_path / "cut", tmp_path / "cut/last.pt"
    jobs: Jobs = {"cut": (SHORT, torch.float32)}
    processes = start(2, train_together, tmp_path, jobs)
    while not last.exists() and all(process.is_alive() for process in processes):
        time.sleep(0.001)
    os.kill(processes[1].pid or 0, signal.SIGTERM)
    assert end(processes) == [143, 143]
    assert 1 <= load_checkpoint(last)["step"] < 18
    assert end(start(2, train_together, tmp_path, jobs)) == [0, 0]
    assert all(map(same, weights_of(whole, 0, 1), weights_of(cut, 0, 1)))
    assert without_time(metrics(cut)) == without_time(metrics(whole))


def lose_the_other(out: Path) -> None:
    with joined(CPU) as processes:
        if processes.rank == 1:
            os._exit(3)
        try:
            for _ in range(100):
                processes.total(torch.ones(1))
        except RunError as error:
            os._exit(7 if "process 0 of 2 has lost the others" in str(error) else 8)


def test_a_process_whose_partner_dies_says_so_and_does_not_hang(tmp_path):
    assert end(start(2, lose_the_other, tmp_path)) == [7, 3]


def joined_ranks(first: State, second: State) -> State:
    return {"ranks": torch.cat([first["ranks"], second["ranks"]])}


def spread(out: Path) -> None:
    with joined(CPU) as processes:
        content = bytes(range(256)) * 5 if processes.first else b""
        assert processes.spread(content, CPU) == bytes(range(256)) * 5
        assert processes.total(torch.tensor([processes.rank + 1.0])).item() == 6.0
        merged = processes.folded({"ranks": torch.tensor([processes.rank])}, joined_ranks, CPU)
        assert merged["ranks"].tolist() == [0, 1, 2]
        (out / f"{processes.rank}").write_text(str(list(processes.share(8))))


def test_processes_share_spread_and_add(tmp_path):
    assert end(start(3, spread, tmp_path)) == [0, 0, 0]
    parts = [(tmp_path / str(rank)).read_text() for rank in range(3)]
    assert parts == ["[0, 3, 6]", "[1, 4, 7]", "[2, 5]"]


def meet(killed: bool) -> None:
    if os.environ["RANK"] == "0" and not killed:
        time.sleep(1)  # the other one waits for it, not for the dead one
    with joined(CPU) as processes:
        assert processes.total(torch.ones(1)).item() == 2
        if killed:
            os._exit(9)


def test_restarted_processes_meet_again():
    """And find nobody of the attempt before, as under torchrun --max-restarts."""
    assert end(start(2, meet, True)) == [9, 9]
    assert end(start(2, meet, False, attempt=1)) == [0, 0]


@pytest.mark.parametrize(("gpus", "own"), [(1, 0), (8, 3)])
def test_a_process_takes_its_own_gpu_or_the_only_one_that_it_sees(gpus, own, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch, "empty", lambda size, device: None)
    for name in ("auto", "cuda"):
        assert local_device(name) == torch.device("cuda", own)


def test_one_process_needs_no_group_and_each_of_many_an_image(monkeypatch, tmp_path):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(CPU) as processes:
        assert processes == Processes(0, 1)
        assert processes.first
        assert list(processes.share(3)) == [0, 1, 2]
        assert processes.spread(b"x", CPU) == b"x"
        assert processes.total(torch.ones(2)).tolist() == [1, 1]
    with pytest.raises(SettingsError, match="too small for 20 processes"):
        SHORT(classifier(), images(), tmp_path, report=silent, processes=Processes(1, 20))


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_synchronized_batch_norm_of_one_part_is_torchs(layer, dtype):
    """Alone, its sums over processes are its own: values, gradients and averages are torch's."""

    class Alone(Processes):
        def total(self, tensor: Tensor) -> Tensor:
            return tensor

    close = 84 * torch.finfo(dtype).eps  # up to 90 values are added up
    theirs = nn.Sequential(copy.deepcopy(layer).to(dtype))
    ours = synchronized(copy.deepcopy(theirs), Alone(0, 2))
    shape = (6, 4) if isinstance(layer, nn.BatchNorm1d) else (6, 4, 5, 3)
    for step in range(2):
        values = torch.randn(shape, generator=torch.Generator().manual_seed(step)) * 3 + 5
        values = values.to(dtype)
        inputs = [values.clone().requires_grad_() for _ in range(2)]
        weights = torch.randn(shape, generator=torch.Generator().manual_seed(9))
        for network, given in ((ours, inputs[0]), (theirs, inputs[1])):
            (network(given) * weights).sum().backward()
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=10 * close, atol=close)
        torch.testing.assert_close(ours(values), theirs(values), rtol=10 * close, atol=close)
    states = (list(network.state_dict().values()) for network in (ours, theirs))
    torch.testing.assert_close(*states, rtol=close, atol=close / 10)


def test_synchronized_networks_share_their_tensors_and_leave_the_plain_one():
    plain = classifier()
    shared = synchronized(plain, Processes(0, 2))
    tensors = [dict([*n.named_parameters(), *n.named_buffers()]) for n in (plain, shared)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(tensor is tensors[1][name] for name, tensor in tensors[0].items())
    assert type(plain.network[1]) is nn.BatchNorm2d  # type: ignore[index]
    assert type(shared.network[1]) is not nn.BatchNorm2d  # type: ignore[index, union-attr]
    assert synchronized(plain, Processes()) is plain
