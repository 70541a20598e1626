"""What is reported is computed in float32, whatever the program around it allows."""

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from advlens import AuditSettings, Classifier, SettingsError
from advlens.prepared.precision import rounded
from advlens.runs import record
from advlens.runs.folder import read_json
from advlens.settings import TrainSettings
from advlens.workflows.training import train
from small_runs import CLASSES, audited, convolution, noise, small
from training import tiny
from unrendered import unrendered

backends = torch.backends


def _newer() -> None:
    backends.cudnn.conv.fp32_precision = "ieee"
    backends.cuda.matmul.fp32_precision = "tf32"


def _older() -> None:
    backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32 = False, True


PROGRAMS: dict[str, Callable[[], object]] = {
    "PyTorch's own": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "older switches": _older,
    "newer switches": _newer,
    "deterministic": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
}


def switches() -> list[object]:
    kept = [place.fp32_precision for place in (backends.cudnn.conv, backends.cudnn.rnn)]
    kept += [backends.cuda.matmul.fp32_precision, backends.mkldnn.matmul.fp32_precision]
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    return [*kept, backends.cudnn.deterministic, strict, warns]


@pytest.fixture(autouse=True)
def _as_they_were():
    with rounded():
        yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("choose", PROGRAMS.values(), ids=PROGRAMS)
def test_float32_is_float32_and_the_programs_own_switches_come_back(choose):
    choose()
    before = switches()
    with rounded(), rounded(tf32=True), rounded(deterministic=True):
        assert switches()[:4] == ["ieee"] * 4
        assert switches()[4:] == [True, True, False]
    with contextlib.suppress(ZeroDivisionError), rounded(tf32=True):
        assert switches()[:4] == ["tf32"] * 3 + ["ieee"]
        raise ZeroDivisionError
    assert switches() == before
    older = [backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32]  # can be read, and agree
    assert older == [value == "tf32" for value in before[0:3:2]]
    assert torch.get_float32_matmul_precision() in ("highest", "high", "medium")


def test_what_has_no_deterministic_algorithm_is_named():
    with (
        pytest.raises(SettingsError, match=r"leave it out \(put_ does not have a deterministic"),
        rounded(deterministic=True),
    ):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
    with pytest.raises(RuntimeError, match="not deterministic"), rounded():
        raise RuntimeError("not deterministic")


class Watching(nn.Module):
    """Notes of each pass whether it trains, the number of images, and the precision."""

    seen: set[tuple[bool, int, str]] = set()  # noqa: RUF012  # shared with copies

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        if images.amax() >= 0:  # not to be traced
            self.seen.add((self.training, len(images), backends.cudnn.conv.fp32_precision))
        return self.network(images)


@pytest.mark.parametrize("tf32", [False, True])
def test_an_audit_computes_as_its_record_says(tf32, tmp_path):
    backends.cudnn.allow_tf32 = not tf32
    Watching.seen.clear()
    model = small(lambda: Watching(convolution(4, 2, 3)))
    few = {"stages": ("accuracy",), "sweep_images": 6, "device": "cpu", "tf32": tf32}
    settings = AuditSettings(steps=1, sweep_steps=1, deterministic=True, **few)
    run = audited(model, noise(12), tmp_path, settings=settings)
    machine = read_json(run / "run.json")["machine"]
    assert (machine["tf32"], machine["deterministic"]) == (tf32, True)
    assert {precision for *_, precision in Watching.seen} == {"ieee"} | (
        {"tf32"} if tf32 else set()
    )


def test_only_the_steps_of_a_training_are_rounded(tmp_path, monkeypatch):
    Watching.seen.clear()
    whole = tiny.classifier()
    sizes = {"image_size": 8, "resize": 8}
    model = Classifier(Watching(whole.network), name="tiny", classes=CLASSES, **sizes)
    settings = TrainSettings(epochs=1, validation=12, tf32=True, device="cpu", threads=1)
    with unrendered():
        train(model, tiny.images(), noise(6, size=8), tmp_path, settings, command="")
    steps = {precision for training, _, precision in Watching.seen if training}
    judged = {
        precision for training, n, precision in Watching.seen if not training and n in (6, 12)
    }
    assert (steps, judged) == ({"tf32"}, {"ieee"})
    assert read_json(tmp_path / "run.json")["machine"]["tf32"] is False


def test_the_record_names_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(record, "DRIVER", tmp_path / "version")
    assert record.machine(torch.device("cuda"))["driver"] is None
    for module in ("x86_64 Kernel Module", "Open Kernel Module for x86_64"):
        told = f"NVRM version: NVIDIA UNIX {module}  570.86.15  Release Build\nGCC version: 12.3\n"
        (tmp_path / "version").write_text(told)
        machine = record.machine(torch.device("cuda"))
        assert (machine["gpu"], machine["driver"]) == ("NVIDIA H200", "570.86.15")
        assert {"cuda", "cudnn"} <= machine.keys()
