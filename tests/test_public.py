"""What the package offers: exactly the names of `__all__`, each documented, none imported early."""

import ast
import dataclasses
import inspect
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import advlens

LISTED = (
    "AdamAttack Adversarial AdvlensError AuditSettings Augmentation AutoAttack Bim "
    "CheckpointError ClassGeneration Classifier Consistency DataError DiscrepancyMap "
    "DissectSettings Dissection Divergence ExpectedGradients FeatureAttack FeatureConsistency "
    "FeatureVisualization Fgsm GaussianNoise IntegratedGradients Inversion L2 LeastLikely "
    "Linf ModelError NumericError Pgd RunError RunResults SettingsError Standard Trades "
    "Training Uniform Unrelaxed __version__ audit compare dissect load_data load_model "
    "log_to_mlflow log_to_tensorboard log_to_wandb make_attack make_attribution read_run"
)
NAMES = {*LISTED.split()}


def test_all_is_exact_and_the_version_the_packages():
    assert (len(advlens.__all__), set(advlens.__all__)) == (len(set(advlens.__all__)), NAMES)
    assert set(dir(advlens)) == NAMES
    assert advlens.__version__ == version("advlens")


def test_the_conda_recipe_needs_what_the_package_needs():
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    recipe = (root / "recipe" / "recipe.yaml").read_text(encoding="utf-8")
    run = recipe.partition("  run:\n")[2].partition("\ntests:")[0]
    needs = {line.strip("- ").replace(" ", "") for line in run.splitlines()}
    wanted = {*project["dependencies"], f"python{project['requires-python']}"}
    for own, condas in (("torch", "pytorch"), ("matplotlib", "matplotlib-base")):
        (need,) = (each for each in wanted if each.startswith(f"{own}>"))
        wanted = wanted - {need} | {need.replace(own, condas)}
    assert needs == wanted
    assert f"version: {project['version']}\n" in recipe


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(advlens.__file__).read_text())
    blocks = [each for each in tree.body if isinstance(each, ast.If)]
    (block,) = [each for each in blocks if "TYPE_CHECKING" in ast.dump(each.test)]
    seen = {
        alias.name: part.module
        for part in block.body
        if isinstance(part, ast.ImportFrom)
        for alias in part.names
    }
    assert seen == {name: f"advlens.{home}" for name, home in advlens._HOME.items()}
    assert {*seen, "__version__"} == NAMES


def test_names_and_libraries_come_when_they_are_used():
    code = (
        "import sys, advlens\n"
        "assert not {'torch', 'numpy', 'tyro'} & sys.modules.keys()\n"
        "advlens.AdvlensError\n"
        "assert 'torch' not in sys.modules\n"
        "for name in advlens.__all__: getattr(advlens, name)\n"
        "import advlens.cli, advlens.auditing\n"
        "assert callable(advlens.audit)\n"
        "heavy = {'matplotlib', 'torchvision', 'jinja2', 'PIL._imaging', 'pandas'}\n"
        "heavy |= {'timm', 'foolbox', 'torchattacks', 'captum', 'pyautoattack'}\n"
        "print(*heavy & sys.modules.keys())\n"
        "try: advlens.nothing\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    heavy, error = done.stdout.splitlines()
    assert set(heavy.split()) <= {"PIL._imaging"}  # the others are imported where they are used
    assert error == "module 'advlens' has no attribute 'nothing'"


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__", "audit", "dissect"}))
def test_every_public_name_is_documented(name):
    thing = getattr(advlens, name)
    assert inspect.getdoc(thing)
    assert thing.__module__.startswith("advlens.")
    if dataclasses.is_dataclass(thing):
        documentation = "".join(inspect.getdoc(base) or "" for base in thing.__mro__[:-1])
        for field in dataclasses.fields(thing):
            assert field.name in documentation, field.name
    for member, value in vars(thing).items() if inspect.isclass(thing) else ():
        if inspect.isfunction(value) and not member.startswith("_"):
            assert inspect.getdoc(getattr(thing, member)), member
