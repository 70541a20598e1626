"""The packaged reproductions: each runs in miniature, and finds all that it names."""

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from advlens.cli import main
from advlens.cli.parsing import COMMANDS, _kinds
from advlens.models import load_model
from advlens.settings import AuditSettings, ReproduceSettings
from advlens.settings.packaged import packaged_names
from advlens.workflows.reproduction import reproduce
from advlens.workflows.reproduction.content import Content
from advlens.workflows.reproduction.plan import Plan
from advlens.workflows.reproduction.work import Work
from advlens.workflows.training import make_training
from pages import parsed, text_of
from synthetic_run import rows_of
from unrendered import unrendered

NAMES = packaged_names("reproductions")
NETWORKS = """
import torch
from torch import nn
from advlens import Classifier
from advlens.models.zoo import CIFAR10_CLASSES
from advlens.wordnet import CIFAR10_SYNSETS

def network(seed):
    torch.manual_seed(seed)
    layers = nn.Sequential(
        nn.Conv2d(3, 5, 3, 2), nn.ReLU(), nn.Conv2d(5, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(6, 10),
    )
    known = {"classes": CIFAR10_CLASSES, "synsets": tuple(CIFAR10_SYNSETS.values())}
    return Classifier(layers, name=f"tiny{seed}", image_size=32, resize=32, **known)

def standard(): return network(0)
def l2(): return network(1)
def consistency(): return network(2)
"""
ONES = "steps baselines visualization_steps inversion_steps generation_steps shown"
FEW = {"images": 40, "top": 0.1, "explained": 2, "points": 2, "samples": 2, "inverted": 2}
FEW |= {"generated": 3, **dict.fromkeys(ONES.split(), 1)}
ONE = {
    "neuron_attack": "AdamAttack(steps=1)",
    "attack": "LeastLikely(norm=Linf, epsilon=4/255, steps=1)",
}
"""Attacks of one step in the place of those that an audit names."""
LACKING = ("texture", "material", "scene", "part")
"""Categories of which the small set of the quick form has no labels."""


def miniature(name: str, read: Any) -> Content:
    """A packaged reproduction whose quick form takes a second."""
    content = read(name)
    audits = {
        title: {
            **(changes := content.quick.audits.get(title, {})),
            **(FEW if audit.on == "images" else {"images": 20, "steps": 1, "units": 1}),
            **{key: ONE[key] for key in ONE.keys() & changes.keys()},
        }
        for title, audit in content.audits.items()
    }
    models = {
        label: f"reproduction_networks:{spec.removeprefix('cifar10-')}"
        for label, spec in content.quick.models.items()
    }
    few = {"audits": audits, "models": models}
    if content.quick.train_images:
        few |= {"train_images": 20, "test_images": 40}
        for changes in audits.values():
            del changes["images"]
        train = {"model": "reproduction_networks:standard", "epochs": 1, "validation": 10}
        few["train"] = {**content.quick.train, **train}
    return dataclasses.replace(content, quick=dataclasses.replace(content.quick, **few))


class Made(NamedTuple):
    content: Content
    out: Path
    page: str


@pytest.fixture(scope="module", params=NAMES)
def made(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Made:
    """Each reproduction in miniature, its page and its audits' reports."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "reproduction_networks.py").write_text(NETWORKS)
    with pytest.MonkeyPatch.context() as patched, unrendered():
        patched.chdir(folder)
        original = Content.read
        patched.setattr(Content, "read", lambda name: miniature(name, original))
        patched.setattr("advlens.workflows.reproduction.concepts.IMAGES", 20)
        settings = ReproduceSettings(quick=True, device="cpu")
        given = {"settings": settings, "command": "advlens reproduce", "report": lambda line: None}
        page = reproduce(request.param, None, folder / "out", **given)
    return Made(Content.read(request.param), folder / "out", page.read_text(encoding="utf-8"))


def test_every_value_and_figure_of_the_paper_has_ours_beside_it(made: Made) -> None:
    rows = rows_of(made.out, "reproduction")
    wanted = [
        (entry.name, value.what, label, float(paper))
        for entry in made.content.entries
        for value in entry.rows
        for label, paper in value.papers.items()
    ]
    found = [(row["entry"], row["what"], row["model"], float(row["paper"])) for row in rows]
    assert found == wanted
    for row in rows:
        lacking = row["what"].startswith(LACKING)
        assert (row["ours"] == "") == lacking, row
        assert row["n"] or lacking or row["what"].startswith("d(")
    sections = {
        section.attrib["id"]: text_of(section) for section in parsed(made.page).iter("section")
    }
    names = [entry.name.lower().replace(" ", "-") for entry in made.content.entries]
    assert [name for name in sections if name in names] == names
    for entry, name in zip(made.content.entries, names, strict=True):
        assert "This run has no figure" not in sections[name]
        assert ("Ours: " in sections[name]) == bool(entry.figures)
        assert entry.rows or entry.figures or entry.drawing
        assert entry.differs in sections[name]
        for value in entry.rows:
            assert value.what in sections[name]
    assert made.content.quick.about in text_of(next(parsed(made.page).iter("main")))


def test_the_page_says_which_networks_and_images_ours_come_from(made: Made) -> None:
    told = text_of(next(parsed(made.page).iter("main")))
    assert "This is the quick form." in told
    for label in made.content.models:
        if made.content.models[label].recipe and not made.content.quick.models:
            assert f"trained by the recipe {made.content.models[label].recipe}" in told
        elif label in made.content.quick.models:
            assert "which stands in for it" in told
    if any(audit.on == "images" for audit in made.content.audits.values()):
        assert "CIFAR-10 sample" in told


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])
def test_a_packaged_reproduction_holds_together(name: str, quick: bool, tmp_path: Path) -> None:
    content = Content.read(name)
    settings = ReproduceSettings(quick=quick, concepts=f"broden:{tmp_path}")
    plan = Plan.of(content, settings)
    data = f"folder:{tmp_path}"
    work = Work(content=content, settings=settings, plan=plan, data=data, out=tmp_path, command="")
    assert plan.left_out == {}
    assert list(plan.without) == ["VGG-16-Place"] * ((name, quick) == ("d22-imagenet", False))
    assert [name for name in plan.audits if plan.audits[name].labels] == list(content.audits)
    for label in plan.trained:
        make_training(work.training(label)[1])
    for title in plan.audits:
        asked = work.audit_settings(title)
        if isinstance(asked, AuditSettings) and "accuracy" in asked.stages:
            assert asked.norm == ("L2",)  # each row of a paper's table is one attack
    for entry in content.entries:
        assert entry.kind in ("Table", "Figure")
        labels = {*entry.models}.union(*(value.papers for value in entry.rows), *entry.compare)
        assert labels - {""} <= content.models.keys()
    for model in content.models.values():
        assert sum(map(bool, (model.recipe, model.model, model.network))) == 1
        assert bool(model.network) == bool(model.weights)
        assert model.start in {"", *content.models}
    assert content.quick.models.keys() <= content.models.keys()
    assert all(load_model(spec).weights for spec in {*content.quick.models.values()})


@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_names_every_table_and_figure_and_writes_nothing(name, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["reproduce", name, "--quick", "--dry-run", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    content = Content.read(name)
    assert lines[0] == "# a dry run: nothing is computed or written"
    assert lines[1].startswith(f"{name}: {content.about}")
    assert lines[-len(content.entries) :] == [f"{e.name}: {e.caption}" for e in content.entries]
    for title in content.audits:
        assert any(line.startswith(f"{title} into {out / title}") for line in lines)
    assert not out.exists()


def test_all_tables_and_figures_of_the_papers_are_there() -> None:
    names = {name: [entry.name for entry in Content.read(name).entries] for name in NAMES}

    def sorted_names(tables: range, *figures: range) -> list[str]:
        numbers = [number for part in figures for number in part]
        return sorted([f"Table {n}" for n in tables] + [f"Figure {n}" for n in numbers])

    assert {name: sorted(found) for name, found in names.items()} == {
        "b23-cifar10": sorted_names(range(1, 4), range(1, 6), range(10, 15)),
        "b23-imagenet150": sorted_names(range(4, 7), range(6, 10), range(15, 20)),
        "d19-imagenet": sorted_names(range(1, 4), range(1, 6)),
        "d22-imagenet": sorted_names(range(1, 3), range(1, 11)),
    }


PAPERS = {
    "D19": (range(1, 4), range(1, 6), range(1, 7), ("d19-imagenet",)),
    "D22": (range(1, 3), range(1, 11), range(1, 14), ("d22-imagenet",)),
    "B23": (range(1, 7), range(1, 20), range(1, 24), ("b23-cifar10", "b23-imagenet150")),
}
"""Numbers of tables, figures and equations, and reproductions."""


@pytest.mark.parametrize("paper", PAPERS)
def test_the_documentation_says_what_gives_each_of_them_and_where_it_lies(paper: str) -> None:
    page = (Path(__file__).parents[1] / "docs" / "reproduction.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^### {paper}\n(.*?)(?=^##)", page, re.S | re.M)
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    assert {len(cells) for cells in lines} == {5}
    told: dict[str, list[int]] = {"Table": [], "Figure": [], "eq.": []}
    for what, *cells in lines[2:]:
        assert all(cells)
        for kind, numbers in told.items():
            for first, last in re.findall(rf"{kind} (\d+)(?: to (\d+))?", what):
                numbers += range(int(first), int(last or first) + 1)
        if "eq. " in what:
            told["eq."] += map(int, re.findall(r", (\d+)", what))
        (command, *_), (file, name) = (re.findall("`([^`]+)`", cells[i]) for i in (1, 3))
        _, verb, *words = command.split()
        known = {f"--{key.replace('_', '-')}" for key in _kinds(COMMANDS[verb])}
        assert {word for word in words if word.startswith("--")} <= known
        module = "advlens." + file.removesuffix(".py").replace("/", ".")
        assert hasattr(importlib.import_module(module), name)
        if verb == "reproduce":
            settings = ReproduceSettings(quick=True, **{words[1].strip("-"): (int(words[2]),)})
            assert len(Plan.of(Content.read(words[0]), settings).entries) == 1
            assert words[0] in PAPERS[paper][-1]
            assert what == f"{words[1].strip('-').capitalize()} {words[2]}"
    assert [sorted(numbers) for numbers in told.values()] == [*map(list, PAPERS[paper][:3])]


def papers(name: str, entry: str) -> dict[tuple[str, str], float]:
    """The paper's values by what they are and the model."""
    (found,) = [one for one in Content.read(name).entries if one.name == entry]
    return {
        (value.what, label): paper for value in found.rows for label, paper in value.papers.items()
    }


# Read off the papers a second time, row by row as they print them.
PRINTED = {
    ("d19-imagenet", "Table 1"): """
AlexNet 0.0162 0.0116
AlexNet-Adv 0.0161 0.0121
VGG-16 0.0296 0.0187
VGG-16-Adv 0.0287 0.0220
ResNet-18 0.0261 0.0133
ResNet-18-Adv 0.0251 0.0206""",
    ("d19-imagenet", "Table 2"): """
AlexNet 0.4 13.3 0.8 0.4 6.6 17.2 0.4 12.1 0.4 0.0 5.5 10.2
AlexNet-Adv 0.4 20.7 0.0 0.4 4.3 16.4 0.4 18.8 0.0 0.4 4.3 11.3
VGG-16 0.2 11.9 0.8 4.7 10.2 34.6 0.2 2.9 0.0 0.2 3.3 6.4
VGG-16-Adv 0.2 18.0 1.2 5.7 8.6 30.9 0.4 14.1 0.6 1.4 6.4 17.4
ResNet-18 0.0 12.7 0.8 5.9 4.3 33.8 0.0 4.3 0.2 0.6 1.0 6.1
ResNet-18-Adv 0.2 21.3 1.6 6.1 6.8 33.8 0.2 15.0 0.4 1.2 3.1 6.8""",
    ("d19-imagenet", "Table 3"): """
AlexNet 54.58 78.17 4.44 22.94
VGG-16 68.15 88.30 8.60 36.94
ResNet-18 66.30 87.09 4.41 31.8
AlexNet-Adv 43.92 68.80 17.45 38.12
VGG-16-Adv 62.55 84.66 25.62 56.17
ResNet-18-Adv 54.01 77.84 27.56 55.61""",
    ("d22-imagenet", "Table 1"): """
AlexNet 0.5 13.4 0.4 0.4 4.1 6.1 0.5 10.3 0.1 0.0 1.6 2.3
AlexNet-Adv 0.5 12.7 0.3 0.6 5.5 7.8 0.5 11.6 0.3 0.2 4.8 6.3
VGG-16 0.6 13.2 0.4 1.3 6.8 14.7 0.5 9.5 0.0 0.0 2.3 5.2
VGG-16-Adv 0.6 13.0 0.4 1.6 8.0 16.2 0.5 11.4 0.3 0.9 6.9 14.8
ResNet-18 0.3 14.2 0.3 1.9 4.1 14.1 0.3 8.2 0.1 0.6 2.1 4.8
ResNet-18-Adv 0.3 14.0 0.3 2.1 5.3 17.2 0.3 10.8 0.3 1.5 4.7 15.3
Inc-v3 0.4 11.2 0.6 4.0 8.1 23.6 0.4 7.6 0.3 0.2 2.9 6.7
Adv-Inc-v3 0.4 10.7 0.5 4.5 8.6 25.3 0.4 8.6 0.4 2.5 5.3 15.4
VGG-16-Place 0.6 12.4 0.5 7.0 5.9 16.7 0.6 9.3 0.0 1.3 2.1 6.8""",
    ("d22-imagenet", "Table 2"): """
AlexNet 54.53 78.17 9.04 32.77
AlexNet-Adv 49.89 74.28 21.16 49.34
VGG-16 68.20 88.33 15.13 39.82
VGG-16-Adv 64.73 86.35 47.67 71.23
ResNet-18 66.38 87.13 4.38 31.66""",
    ("b23-cifar10", "Table 1"): """
standard 93.2 0.36
l2 85 64.6""",
    ("b23-cifar10", "Table 3"): """
standard 30.1 30.07
l2 20.05 21.18""",
    ("b23-imagenet150", "Table 6"): """
standard 23.3 26.75
l2 12.84 14.91""",
}


@pytest.mark.parametrize(("name", "entry"), PRINTED)
def test_the_papers_numbers(name: str, entry: str) -> None:
    columns = list(dict.fromkeys(what for what, _ in papers(name, entry)))
    printed = {
        (what, label): float(number)
        for label, *numbers in map(str.split, PRINTED[name, entry].strip().splitlines())
        for what, number in zip(columns, numbers, strict=True)
    }
    assert papers(name, entry) == printed


def test_the_papers_other_numbers() -> None:
    real, generated = "FID, real data", "FID, generated images"
    for name, entry, values in (
        ("b23-cifar10", "Table 2", (5.39, 152.29, 88.25)),
        ("b23-imagenet150", "Table 5", (7.62, 237.53, 81.2)),
    ):
        keys = (real, ""), (generated, "standard"), (generated, "l2")
        assert papers(name, entry) == dict(zip(keys, values, strict=True))
    table = papers("b23-imagenet150", "Table 4")
    natural, attacked = "top-1 %, natural", "top-1 %, PGD-20 in L2 1.5"
    kinds = natural, attacked, f"{natural}, validation images", f"{attacked}, validation images"
    keys = [(what, label) for what in kinds for label in ("standard", "l2")]
    values = (70.1, 55.8, 0.88, 35.4, 72.12, 58.87, None, 37.54)
    expected = dict(zip(keys, values, strict=True))
    assert table == {key: value for key, value in expected.items() if value is not None}
    assert papers("d19-imagenet", "Figure 2") == papers("d22-imagenet", "Figure 3")


def test_the_quick_form_tests_on_images_that_it_does_not_train_on(tmp_path: Path) -> None:
    content = Content.read("b23-cifar10")
    settings = ReproduceSettings(quick=True)
    given = {"plan": Plan.of(content, settings), "data": "sample", "out": tmp_path, "command": ""}
    train, test = Work(content=content, settings=settings, **given).images(load_model("resnet20"))
    assert (len(train), len(test)) == (1500, 500)
    assert set(torch.bincount(train.labels).tolist()) == {150}
    assert set(torch.bincount(test.labels).tolist()) == {50}
    seen = {image.numpy().tobytes() for image in train.images(range(1500))}
    assert not seen & {image.numpy().tobytes() for image in test.images(range(500))}
