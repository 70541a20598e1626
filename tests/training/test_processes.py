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

from advlens.attacks import Pgd
from advlens.attacks.threat import L2, Linf
from advlens.distributed import Processes, joined, synchronized
from advlens.errors import RunError, SettingsError
from advlens.runs.checkpoint import load_checkpoint
from advlens.training import Training
from advlens.training.objectives import Adversarial, FeatureConsistency, Objective, Standard, Trades
from together import end, start

CPU = torch.device("cpu")
# the change of the weights in one such step is the gradient itself
ONE_STEP = Training(
    epochs=1,
    batch_size=47,
    validation=13,
    optimizer="sgd",
    learning_rate=1.0,
    momentum=0.0,
    nesterov=False,
    weight_decay=0.0,
    schedule="constant",
    validation_attack=Pgd(threat=L2(epsilon=0.5), steps=2),
)
OBJECTIVES: dict[str, Objective] = {
    "standard": Standard(),
    "pgd": Adversarial(attack=Pgd(threat=Linf(epsilon=0.1), steps=2, select="last")),
    "consistency": FeatureConsistency(beta=3.0),
    "shared": FeatureConsistency(beta=3.0, clean_pass="shared", gradient="attacked"),
    "trades": Trades(attack=Pgd(threat=L2(epsilon=0.5), steps=2, select="last")),
}


def train_together(out: Path, settings: Training, dtype: torch.dtype = torch.float32) -> None:
    with joined(CPU) as processes:
        weights = train(out, settings, processes, dtype)
        plain = {name: tensor.contiguous() for name, tensor in weights.items()}
        save_file(plain, out / f"weights-{processes.rank}.safetensors")


@pytest.mark.parametrize(
    ("name", "dtype"), [("standard", torch.float32), *((n, torch.float64) for n in OBJECTIVES)]
)
def test_gradients_and_counts_are_those_of_one_process(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """The standard objective in float32 too, where rounding switches no ReLU.

    The value nearest to 0 is 8e-6 of the largest, 70 ε. Those of other objectives lie nearer, and
    an attack's step has the sign of a gradient that may be as small.
    """
    settings = dataclasses.replace(ONE_STEP, objective=OBJECTIVES[name])
    close = {torch.float32: 1e-5, torch.float64: 1e-9}[dtype]
    before = dict(classifier().to(dtype).state_dict())
    alone = train(tmp_path / "one", settings, dtype=dtype)
    assert end(start(2, train_together, tmp_path / "two", settings, dtype)) == [0, 0]
    first, second = (load_file(tmp_path / "two" / f"weights-{rank}.safetensors") for rank in (0, 1))
    assert same(first, second)
    for key, tensor in alone.items():
        if tensor.is_floating_point():
            gradient, shared = (w.double() - before[key].double() for w in (tensor, first[key]))
            assert gradient.norm() > 0
            assert (shared - gradient).norm() <= close * gradient.norm(), key
        else:
            assert torch.equal(tensor, first[key])
    (one,), (two,) = (without_time(metrics(tmp_path / n)) for n in ("one", "two"))
    for key in ("epoch", "n", "natural", "adversarial", "learning_rate"):
        assert one[key] == two[key]
    assert one.keys() == two.keys()
    # losses and distances are added up in float32; by float32 weights they follow from steps of 1
    rel = {torch.float32: 1e-4, torch.float64: 1e-6}[dtype]
    assert list(one.values()) == pytest.approx(list(two.values()), rel=rel)


def test_three_processes_share_uneven_batches(tmp_path: Path) -> None:
    """47 training images in batches of 16, 16 and 15; 13 held out."""
    settings = dataclasses.replace(ONE_STEP, batch_size=16, learning_rate=0.05)
    alone = train(tmp_path / "one", settings, dtype=torch.float64)
    together = start(3, train_together, tmp_path / "three", settings, torch.float64)
    assert end(together) == [0, 0, 0]
    weights = load_file(tmp_path / "three" / "weights-2.safetensors")
    for key, tensor in alone.items():
        torch.testing.assert_close(weights[key], tensor, rtol=1e-9, atol=1e-12)


def test_a_signal_to_one_process_stops_all_and_the_run_continues(tmp_path: Path) -> None:
    assert end(start(2, train_together, tmp_path / "whole", SHORT)) == [0, 0]
    processes = start(2, train_together, tmp_path / "cut", SHORT)
    last = tmp_path / "cut" / "last.pt"
    while not last.exists() and all(process.is_alive() for process in processes):
        time.sleep(0.001)
    os.kill(processes[1].pid or 0, signal.SIGTERM)
    assert end(processes) == [143, 143]
    assert 1 <= load_checkpoint(last)["step"] < 18
    assert end(start(2, train_together, tmp_path / "cut", SHORT)) == [0, 0]
    for rank in (0, 1):
        name = f"weights-{rank}.safetensors"
        assert same(load_file(tmp_path / "whole" / name), load_file(tmp_path / "cut" / name))
    assert without_time(metrics(tmp_path / "cut")) == without_time(metrics(tmp_path / "whole"))


def lose_the_other(out: Path) -> None:
    with joined(CPU) as processes:
        if processes.rank == 1:
            os._exit(3)
        try:
            for _ in range(100):
                processes.total(torch.ones(1))
        except RunError as error:
            os._exit(7 if "process 0 of 2 has lost the others" in str(error) else 8)


def test_a_process_whose_partner_dies_says_so_and_does_not_hang(tmp_path: Path) -> None:
    assert end(start(2, lose_the_other, tmp_path)) == [7, 3]


def spread(out: Path) -> None:
    with joined(CPU) as processes:
        content = bytes(range(256)) * 5 if processes.first else b""
        assert processes.spread(content, CPU) == bytes(range(256)) * 5
        assert processes.total(torch.tensor([processes.rank + 1.0])).item() == 6.0
        (out / f"{processes.rank}").write_text(str(list(processes.share(8))))


def test_processes_share_spread_and_add(tmp_path: Path) -> None:
    assert end(start(3, spread, tmp_path)) == [0, 0, 0]
    parts = [(tmp_path / str(rank)).read_text() for rank in range(3)]
    assert parts == ["[0, 3, 6]", "[1, 4, 7]", "[2, 5]"]


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(CPU) as processes:
        assert processes == Processes(0, 1)
        assert processes.first
        assert list(processes.share(3)) == [0, 1, 2]
        assert processes.spread(b"x", CPU) == b"x"
        assert processes.total(torch.ones(2)).tolist() == [1, 1]


def test_a_batch_must_have_an_image_for_each_process(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="too small for 20 processes"):
        SHORT(classifier(), images(), tmp_path, report=silent, processes=Processes(1, 20))


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(4),
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, momentum=None),
        nn.BatchNorm2d(4, affine=False, track_running_stats=False),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_synchronized_batch_norm_of_one_part_is_torchs(
    layer: nn.Module, dtype: torch.dtype
) -> None:
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
    for tensor, expected in zip(
        ours.state_dict().values(), theirs.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(tensor, expected, rtol=close, atol=close / 10)


def test_synchronized_networks_share_their_tensors_and_leave_the_plain_one() -> None:
    plain = classifier()
    shared = synchronized(plain, Processes(0, 2))
    for (name, tensor), (other_name, other) in zip(
        [*plain.named_parameters(), *plain.named_buffers()],
        [*shared.named_parameters(), *shared.named_buffers()],
        strict=True,
    ):
        assert name == other_name
        assert tensor is other
    assert type(plain.network[1]) is nn.BatchNorm2d  # type: ignore[index]
    assert type(shared.network[1]) is not nn.BatchNorm2d  # type: ignore[index, union-attr]
    assert synchronized(plain, Processes()) is plain
