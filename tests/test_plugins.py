"""What others add: an analysis of an installed package, attacks and attributions of one's own."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from advlens import AuditSettings, ModelError, SettingsError, plugins, read_run
from advlens.attacks import Attack
from advlens.attribution import Attribution
from advlens.auditing.choices import audit_stages
from advlens.auditing.subjects import Subject
from advlens.cli import main
from advlens.interop import OwnAttribution, make_attack, make_attribution
from advlens.plugins import SECTIONS, STAGES
from advlens.prepared import prepare
from advlens.report.page import write_report
from own_network import NETWORK
from small_runs import noise, small, write_pictures
from synthetic_run import write_run

PAGE = Path(__file__).parents[1] / "docs" / "howto" / "stage.md"
(MARGINS,) = re.findall(
    r"file: margins.py -->\n```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.S | re.M
)
"""The code of the page: a stage, and a section that shows its table."""
RUN = """
import io, contextlib, sys
from advlens import cli

with contextlib.redirect_stdout(io.StringIO()) as help:
    with contextlib.suppress(SystemExit):
        cli.main(["audit", "--help"])
assert "torch" not in sys.modules
words = "audit --model net:network --data folder:images --out run --device cpu".split()
assert cli.main([*words, "--stages", "accuracy", "margins", "--steps", "1"]) == 0
print(help.getvalue())
"""


PIXELS = torch.full((2, 3, 8, 8), 0.5)
ATTACK, ATTRIBUTION = make_attack, make_attribution
OWN = """
from dataclasses import dataclass
import torch
from advlens.attacks import Attack
from advlens.attacks.threat import Threat
from advlens.attribution import Attribution

@dataclass(frozen=True, kw_only=True)
class Darker(Attack):
    by: float = 0.5

    def _attack(self, model, images, labels, ids):
        return images * (1 - self.by)

@dataclass(frozen=True, kw_only=True)
class Shift(Attack):
    threat: Threat

    def _attack(self, model, images, labels, ids):
        return self.threat.project(images + 1, images)

@dataclass(frozen=True)
class Constant:
    value: float = 1.0
    seed: int = 0
    flat: bool = False

    def __call__(self, model, images, labels=None, *, ids=None):
        targets = model(images).argmax(dim=1)
        unknown = torch.full((len(images),), torch.nan)
        values = torch.full_like(images, self.value)
        values = values[0] if self.flat else values
        return Attribution(values, targets, unknown, unknown, torch.zeros_like(targets))

def function():
    pass

not_callable = type("NotCallable", (), {})
"""
FAILING = [
    ("import nothing_like_this", "No module named 'nothing_like_this'"),
    ("x = 1 / 0", "ZeroDivisionError: division by zero"),
    ("def other(): pass", "no attribute 'section'"),
]
UNBEARABLE = [
    (["../out"], "use lower-case letters"),
    (["Bright"], "use lower-case letters"),
    (["bright", "bright"], "two stages are named 'bright'"),
    (["accuracy"], "two stages are named 'accuracy'"),
]
NO_METHODS = [
    (ATTACK, "Lighter", "no such class can be imported from here: AttributeError"),
    (ATTACK, "function", "must be a class made from advlens's Attack, not <function"),
    (ATTACK, "Constant", "must be a class made from advlens's Attack, not <class"),
    (ATTACK, "Darker(to=1)", "unexpected keyword argument 'to'; it takes seed, by"),
    (ATTACK, "Shift(epsilon=1)", "norm must be Linf or L2, not None"),
    (ATTACK, "Shift(norm=L2)", "epsilon must be a finite number > 0"),
    (ATTRIBUTION, "Missing", "no such class can be imported from here"),
    (ATTRIBUTION, "function", "must be a class, not <function"),
    (ATTRIBUTION, "not_callable", "has no __call__(model, images, labels, *, ids)"),
    (ATTRIBUTION, "Constant(size=1)", "unexpected keyword argument 'size'; it takes value"),
]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval()


def install(folder: Path, name: str = "toy", **groups: str) -> None:
    """What pip leaves of a package: its entry points, each `name = module:function`."""
    made = folder / f"{name}-1.0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    points = "".join(f"[advlens.{group}]\n{line}\n" for group, line in groups.items())
    (made / "entry_points.txt").write_text(points)


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder on the import path, whose packages are known anew."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_others", set())
    plugins._sources.cache_clear()
    before = set(sys.modules)
    yield tmp_path
    plugins._sources.cache_clear()
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_an_analysis_of_another_package_is_in_stages_run_and_report(tmp_path):
    install(tmp_path, stages="margins = margins:stages", sections="margins = margins:section")
    for name, code in (("margins", MARGINS), ("net", NETWORK)):
        (tmp_path / f"{name}.py").write_text(code)
    write_pictures(tmp_path / "images", 2)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    told = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", RUN], check=False, **told)
    assert done.returncode == 0, done.stderr
    assert re.search(r"generation,margins\}", done.stdout.replace("\n", "")), done.stdout
    run = read_run(tmp_path / "run")
    rows = run.rows("margins")
    assert ({row["model"] for row in rows}, sum(row["images"] for row in rows)) == ({"tiny"}, 6)
    assert [stage["stage"] for stage in run.record["stages"]] == ["accuracy", "margins"]
    wrong = sum(row["images"] for row in rows if row["above"] is None or row["above"] < 0)
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert f"{wrong} images are wrong." in page


def test_every_file_of_ours_is_listed_first_and_has_what_it_promises(outside):
    install(outside, stages="brightness = toy:stages\naaa = toy:stages")
    assert STAGES.names == (*STAGES.first, "aaa", "brightness")
    assert SECTIONS.names == SECTIONS.first
    for family in (STAGES, SECTIONS):
        folder = Path(plugins.__file__).parent / family.folder
        files = {path.stem for path in folder.iterdir() if not path.stem.startswith("__")}
        assert files == set(family.first)
        assert all(callable(family.load(name)) for name in family.first)


@pytest.mark.parametrize(("code", "reason"), FAILING)
def test_a_package_that_fails_is_named(outside, code, reason):
    install(outside, sections="bright = toy_broken:section")
    (outside / "toy_broken.py").write_text(code)
    run = write_run(outside / "run")
    with pytest.raises(SettingsError, match=f"^toy brings 'bright' .*{reason}.*; fix that package"):
        write_report(run)


def test_a_section_that_fails_is_not_our_bug(outside, capsys):
    install(outside, sections="bright = toy_fails:section")
    (outside / "toy_fails.py").write_text("def section(results):\n    return 1 / 0\n")
    assert main(["report", str(write_run(outside / "run"))]) == 1
    where = f"{outside / 'toy_fails.py'}, line 2"
    told = f"the code in {where} fails: ZeroDivisionError: division by zero; fix it"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("name", ["accuracy", "brightness"])
def test_two_of_one_name_are_refused(outside, name):
    install(outside, stages=f"{name} = toy:stages")
    install(outside, "twin", stages=f"{name} = twin:stages")
    with pytest.raises(SettingsError, match=f"both bring '{name}'.*uninstall one"):
        _ = STAGES.names


@pytest.mark.parametrize(("names", "reason"), UNBEARABLE)
def test_names_that_files_cannot_bear(outside, names, reason):
    own = MARGINS.replace("[MarginStage()]", f"[MarginStage(name=name) for name in {names}]")
    (outside / "toy_names.py").write_text(own)
    install(outside, stages="bright = toy_names:stages")
    classifier = small(model, size=8, classes=None)
    subject = Subject("tiny", classifier, prepare(classifier))
    subject.data = noise(4, ("a", "b"), size=8)
    settings = AuditSettings(stages=("accuracy",))
    object.__setattr__(settings, "stages", ("accuracy", "bright"))  # chosen before it was there
    subject.choose_radii(settings)
    with pytest.raises(SettingsError, match=reason):
        audit_stages(subject, settings)


@pytest.fixture
def own(outside):
    (outside / "mine").mkdir()
    (outside / "mine/__init__.py").touch()
    (outside / "mine/methods.py").write_text(OWN)
    importlib.invalidate_caches()
    return outside


@pytest.mark.usefixtures("own")
def test_attacks_of_ones_own():
    darker = make_attack("mine.methods:Darker(by=.2)", seed=3)
    assert isinstance(darker, Attack)
    assert darker.seed == 3
    assert torch.equal(darker(model(), PIXELS), PIXELS * 0.8)
    shift = make_attack("mine.methods:Shift(norm=Linf, epsilon=8/255)")
    torch.testing.assert_close(shift(model(), PIXELS), PIXELS + 8 / 255)


@pytest.mark.usefixtures("own")
def test_attributions_of_ones_own():
    method = make_attribution("mine.methods:Constant(value=2)", seed=5)
    assert isinstance(method, OwnAttribution)
    assert (method.name, method.method.seed) == ("mine.methods:Constant(value=2)", 5)
    made = method(prepare(model()), PIXELS, background=PIXELS)
    assert isinstance(made, Attribution)
    assert torch.equal(made.values, torch.full_like(PIXELS, 2))
    for wrong in ("flat=True", "value=1e999"):
        method = make_attribution(f"mine.methods:Constant({wrong})")
        with pytest.raises(ModelError, match=r"must return .*finite .* shape \(2, 3, 8, 8\)"):
            method(prepare(model()), PIXELS)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(("make", "text", "reason"), NO_METHODS)
def test_classes_that_are_no_methods(make, text, reason):
    with pytest.raises(SettingsError, match=re.escape(reason)):
        make(f"mine.methods:{text}")
    with pytest.raises(SettingsError, match=r"No module named 'mine\.nothing'"):
        make(f"mine.nothing:{text}")
