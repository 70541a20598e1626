"""runs.trackers: a run's settings, accuracies, tables and figures in three tracking tools."""

import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import advlens
from synthetic_attribution import write_attribution
from synthetic_run import write_run

TOOLS = {
    "mlflow": advlens.log_to_mlflow,
    "wandb": advlens.log_to_wandb,
    "tensorboard": lambda run: advlens.log_to_tensorboard(run, run / "events"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_attribution(write_run(tmp_path_factory.mktemp("run"), shown=1))
    (run / "report.html").write_text("<p>report", encoding="utf-8")
    Image.new("L", (5, 4), 200).save(run / "figures" / "accuracy.png")
    return run


class Recorder:
    """Stands in for a tool: remembers each call with its arguments."""

    def __init__(self):
        self.calls: list[tuple] = []

    def __getattr__(self, name):
        return lambda *args, **keywords: self.calls.append((name, *args, *keywords.items()))

    def of(self, name):
        return [call[1:] for call in self.calls if call[0] == name]


def known(run: Path) -> dict[str, object]:
    settings = advlens.read_run(run).record["settings"]
    return {name: value for name, value in settings.items() if value is not None}


def same(metrics: dict[str, float], run: Path) -> bool:
    """Each accuracy once, under a name that tells model, attack, norm, radius and steps."""
    named = {}
    for row in advlens.read_run(run).rows("accuracy"):
        attack = row["attack"]
        if attack != "natural":
            attack += f" {row['norm']} {row['epsilon']} {row['steps']}"
        named[f"top1/{row['model']}/{attack}"] = row["top1"]
    assert {name.split("/")[1] for name in named} == {"standard", "robust"}
    return metrics == named


@pytest.mark.parametrize("active", [False, True])
def test_mlflow(run, monkeypatch, active):
    started = []

    class Tool(Recorder):
        def active_run(self):
            return SimpleNamespace(info=SimpleNamespace(run_id="yours")) if active else None

        @contextmanager
        def start_run(self, run_name):
            started.append(run_name)
            yield SimpleNamespace(info=SimpleNamespace(run_id="new"))

    monkeypatch.setitem(sys.modules, "mlflow", tool := Tool())
    assert advlens.log_to_mlflow(run) == ("yours" if active else "new")
    assert started == ([] if active else [run.name])
    ((settings,),) = tool.of("log_params")
    assert settings == known(run)
    ((metrics,),) = tool.of("log_metrics")
    assert same(metrics, run)
    kept = [str(run / name) for name in ("results", "figures", "report.html")]
    assert tool.of("log_artifact") == [(path,) for path in kept]


@pytest.mark.parametrize("active", [False, True])
def test_wandb(run, monkeypatch, active):
    class Run(Recorder):  # as wandb's, its block ends it
        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.finish()

    into = Run()
    into.config, into.summary = {}, {}
    begun = []
    tool = ModuleType("wandb")
    tool.run = into if active else None
    tool.init = lambda **keywords: begun.append(keywords) or into
    tool.Table = lambda columns, data: (columns, data)
    tool.Image = lambda path: path
    monkeypatch.setitem(sys.modules, "wandb", tool)
    advlens.log_to_wandb(run, project="ours")
    assert begun == ([] if active else [{"project": "ours", "name": run.name}])
    assert len(into.of("finish")) == (not active)
    assert same(into.summary, run)
    assert into.config == known(run)
    logged = {name: value for (one,) in into.of("log") for name, value in one.items()}
    tables = advlens.read_run(run).tables
    assert set(logged) == {f"results/{name}" for name in tables} | {"figures/accuracy"}
    assert logged["figures/accuracy"] == str(run / "figures" / "accuracy.png")
    for name in tables:
        columns, data = logged[f"results/{name}"]
        rows = advlens.read_run(run).rows(name)
        assert [dict(zip(columns, row, strict=True)) for row in data] == rows


def test_tensorboard(run, tmp_path):
    advlens.log_to_tensorboard(run, tmp_path)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    metrics = {name: events.Scalars(name)[0].value for name in events.Tags()["scalars"]}
    assert same({name: pytest.approx(value, rel=1e-6) for name, value in metrics.items()}, run)
    (picture,) = events.Images("figures/accuracy")
    assert (picture.width, picture.height) == (5, 4)
    texts = {name for name in events.Tags()["tensors"] if name.startswith("results/")}
    assert texts == {f"results/{name}/text_summary" for name in advlens.read_run(run).tables}


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_that_is_not_installed_and_a_run_that_is_none(run, tmp_path, monkeypatch, name):
    with pytest.raises(advlens.RunError, match="there is no run folder"):
        TOOLS[name](tmp_path / "none")
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(advlens.SettingsError, match=rf"pip install 'advlens\[{name}\]'"):
        TOOLS[name](run)
