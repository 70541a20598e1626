"""The whole path of pruning: fine-tuned, audited, interrupted and refused."""

import contextlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from advlens.cli import main
from advlens.cli.commands import PruneCommand
from advlens.cli.parsing import parse
from advlens.errors import RunError
from advlens.models import load_model, save_weights
from advlens.settings import PruneSettings
from advlens.workflows import pruning
from advlens.workflows.pruning import prune_and_audit
from advlens.workflows.pruning.channels import kept_channels
from small_runs import write_pictures
from synthetic_run import rows_of
from together import end, start
from training.tiny import counted_steps

pytestmark = pytest.mark.usefixtures("no_rendering")

WNIDS = ("n02121620", "n02084071", "n04194289")
NETWORK = f"""
from training.tiny import classifier

def network():
    model = classifier()
    model.synsets = {WNIDS}
    return model
"""
WORDS = (
    "prune --model pruning_network:network@first.safetensors --model "
    "pruning_network:network@second.safetensors --data folder:images --out out --sparsity 0 .5 "
    "--recipes cifar10-standard cifar10-l2 --epochs 2 --threads 1 --stages accuracy neurons "
    "--steps 2 --neuron-steps 1 --top .2 --batch-size 8 --device cpu"
)
SHORT = (
    "prune --model pruning_network:network@first.safetensors --data folder:images --out out "
    "--sparsity .5 --recipes cifar10-standard --epochs 1 --threads 1 --stages accuracy --steps 1 "
    "--batch-size 8 --device cpu"
)
WRONG = [
    ("--model resnet14 --model cifar10-l2", "resnet14 has random weights.*resnet14@weights-file"),
    ("--model cifar10-l2 --model cifar10-l2", "two models have the name cifar10-l2; give them"),
    ("--model cifar10-reference", "no recipe .* cifar10-reference; choose one with --recipes"),
    ("--recipes cifar10-l3", "'cifar10-l3' among the recipes.*cifar10-l2"),
    ("--recipes a b", "recipes has 2 names for 1 models; give one for each"),
    ("--sparsity 1", "sparsity must be a finite number ≥ 0 and < 1, not 1"),
    ("--sparsity -.1", "sparsity must be a finite number ≥ 0 and < 1, not -0.1"),
    ("--sparsity .5 0.50", "sparsity has 0.5 twice; give each share once"),
    ("--sparsity", "sparsity names no share of channels; give some"),
    ("--sparsity half", "--sparsity.*half"),
    ("--sparsity .99", "leaves none of the 32 channels of layer conv1; give a smaller one"),
    ("--epochs 0", "epochs must be a positive number, not 0"),
    ("", "Missing .*--model|no model is given"),
]


def built(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Makes a folder the current one, with two trained networks and a folder of images."""
    patch.chdir(folder)
    (folder / "pruning_network.py").write_text(NETWORK)
    write_pictures(folder / "images", 8, WNIDS)
    for seed, name in enumerate(("first", "second")):
        model = load_model("pruning_network:network")
        random_weights = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=random_weights)
        save_weights(model, folder / f"{name}.safetensors")
    for module in ("workflows.trained", "auditing"):  # reports have tests of their own
        patch.setattr(f"advlens.{module}.write_report", lambda out: out)
    return folder


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return built(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        folder = built(tmp_path_factory.mktemp("pruning"), patch)
        run()
    return folder / "out"


def run(*more: str) -> None:
    """Keeps beside the results what is said to the user."""
    command, _ = parse([*WORDS.split(), *more])
    assert isinstance(command, PruneCommand)
    said: list[str] = []
    given = {"settings": command.settings, "command": "advlens prune", "report": said.append}
    path = prune_and_audit(command.model, command.data, command.out, **given)
    assert path == Path("out/pruning.md")
    assert path.read_text() in "\n".join(said)
    Path("out/said.txt").write_text("\n".join(said))


def the(rows: list[dict[str, str]], **wanted: str) -> dict[str, str]:
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def test_every_model_is_pruned_fine_tuned_and_audited(whole, monkeypatch):
    monkeypatch.chdir(whole.parent)
    text, rows = (whole / "said.txt").read_text(), rows_of(whole, "pruning")
    names = ("first-0", "first-0.5", "second-0", "second-0.5")
    assert re.findall("^model .*", text, re.MULTILINE) == [
        f"model {number} of 4: {name}" for number, name in enumerate(names, 1)
    ]
    order = [(model, sparsity) for model in ("first", "second") for sparsity in ("", "0", "0.5")]
    assert list(dict.fromkeys((row["model"], row["sparsity"]) for row in rows)) == order
    assert "## Units of the last convolution" in text
    assert "Inversion" not in text
    pruned = load_model("pruning_network:network@out/second-0.5/model.safetensors")
    kept = kept_channels(load_model("pruning_network:network@second.safetensors"), 0.5)
    for name, channels in kept.items():
        found = pruned.get_parameter(name).detach().view(len(channels), -1)
        assert torch.equal(found.any(dim=1), channels), name
    total = sum(p.numel() for p in pruned.parameters())
    gone = 3 * 27 + 3 + 3 + 4 * 54 + 4  # half of 6 channels with their norm, half of 8
    row = the(rows, model="second", sparsity="0.5", measure="zeros")
    assert (float(row["value"]), row["n"]) == (pytest.approx(gone / total, rel=1e-5), str(total))
    assert float(the(rows, model="second", sparsity="0", measure="zeros")["value"]) == 0
    assert "Adversarial(" in (whole / "second-0.5/model.md").read_text()
    card = (whole / "first-0.5/model.md").read_text()
    for part in ("Standard(", "learning_rate=0.02, ", "epochs=2, ", "validation=2, "):
        assert part in card
    assert "cifar10-standard, shortened" in card
    test = float(the(rows, model="first", sparsity="0.5", case="natural")["value"])
    assert f"| natural | {test:.2%} " in card
    units = rows_of(whole / "audit", "units", model="second-0.5")
    for scope, some in (("all", units), ("last", [u for u in units if u["layer"] == "3"])):
        where = {"model": "second", "sparsity": "0.5", "layers": scope}
        alive = [float(u["cs1"]) for u in some if u["dead"] == "false"]
        found = the(rows, **where, case="least-likely", measure="cs1")
        low, value, high = (float(found[name]) for name in ("low", "value", "high"))
        assert low <= value <= high
        assert value == pytest.approx(float(np.mean(alive)), rel=1e-4)
        dead = float(the(rows, **where, measure="dead")["value"])
        assert dead == pytest.approx(1 - len(alive) / len(some), rel=1e-5)
        assert dead >= 0.5  # pruned units are dead ones here
        assert the(rows, **where, table="units")["n"] == str(len(alive))


def test_the_same_command_continues_to_the_same_bytes(world, whole, monkeypatch):
    for step in (1, 3):  # a step an epoch: in the first model, then in its second one
        with monkeypatch.context() as patched:
            counted_steps(patched, interrupt=step)
            with pytest.raises(SystemExit, match="143"):
                run()
        with pytest.raises(RunError, match="epochs is 2 there and 3 here; choose another --out"):
            run("--epochs", "3")
        assert len(list(Path("out").glob("*-*"))) == step // 2 + 1  # nothing new is trained

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pruning, "audit", stop)
        with pytest.raises(KeyboardInterrupt):
            run()
    weights = sorted(Path("out").glob("*/model.safetensors"))
    before = [path.stat().st_mtime_ns for path in weights]
    run()
    assert (before, len(weights)) == ([path.stat().st_mtime_ns for path in weights], 4)
    for path in [*weights, Path("out/results/pruning.csv"), Path("out/pruning.md")]:
        assert path.read_bytes() == (whole.parent / path).read_bytes(), path


def test_the_sample_is_cut_and_packaged_models_have_their_own_recipes():
    model = load_model("cifar10-standard")
    tuned, audited = pruning.images("sample", model, PruneSettings(train_images=100))
    assert (len(tuned), len(audited)) == (100, 500)
    assert set(torch.bincount(tuned.labels).tolist()) == {10}
    tuned, _ = pruning.images("sample", model, PruneSettings())
    seen = {image.numpy().tobytes() for image in tuned.images(range(1500))}
    assert not seen & {image.numpy().tobytes() for image in audited.images(range(500))}
    names = ["cifar10-standard", "cifar10-l2", "cifar10-consistency"]
    wholes = [load_model(name) for name in names]
    plan = pruning.variants(names, wholes, PruneSettings(sparsity=(0.25, 0.5)))
    assert [(one.label, one.recipe) for one in plan] == [
        (f"{name}-{sparsity}", name) for name in names for sparsity in ("0.25", "0.5")
    ]
    training = plan[-1].training(PruneSettings())
    assert training.objective == "consistency"
    assert (training.learning_rate, training.epochs) == (pytest.approx(0.005), 5)
    training = plan[-1].training(PruneSettings(learning_rate=0.3, seed=4, threads=2))
    assert (training.learning_rate, training.seed) == (0.3, 4)
    one = PruneSettings(sparsity=(0.5,), recipes=("cifar10-l2",))
    assert {each.recipe for each in pruning.variants(names, wholes, one)} == {"cifar10-l2"}


@pytest.fixture
def sentence(tmp_path, monkeypatch, capsys):
    """What wrong use says, with its exit code; nothing is printed or written."""
    monkeypatch.chdir(tmp_path)

    def said(words: str, code: int) -> str:
        assert main(f"prune {words} --out out".split()) == code
        output = capsys.readouterr()
        assert output.out == ""
        assert {path.name for path in Path("out").rglob("*")} <= {".lock"}
        (line,) = output.err.splitlines()
        return line

    return said


@pytest.mark.parametrize(("words", "said"), WRONG)
def test_wrong_use_is_one_sentence(words, said, sentence):
    model = "--model cifar10-l2" if words and "--model" not in words else ""
    assert re.search(said, sentence(f"{model} {words} --data sample", 2))


def test_data_that_cannot_serve_is_refused_before_anything_is_written(world, sentence):
    """Models are not fine-tuned on what they are audited on."""
    model = "--model pruning_network:network@first.safetensors --recipes cifar10-standard"
    for words, said, code in [
        ("folder:images --train-images 99", "cannot choose 99 images of .*train; ask for 1 to", 2),
        ("folder:images --images 99", "cannot choose 99 images of .*val; ask for 1 to 24", 2),
        ("folder:nowhere", "names the folder nowhere, which does not exist", 2),
        ("cifar11:images", "cifar11:images", 2),
        ("folder:images/val", "images/val has no parts to train and to test on", 1),
    ]:
        assert re.search(said, sentence(f"{model} --data {words}", code))


def test_a_dry_run_says_what_fine_tunes_what(tmp_path, capsys):
    out = tmp_path / "out"
    words = f"prune --model cifar10-l2 --data sample --out {out} --sparsity .25 --dry-run"
    assert main(words.split()) == 0
    said = capsys.readouterr().out
    assert "# cifar10-l2-0.25 is fine-tuned by the recipe cifar10-l2" in said
    assert "sparsity = [0.25]" in said
    assert not out.exists()


def one_of_two(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setattr("advlens.workflows.trained.write_report", lambda out: out)
        patch.setattr("advlens.auditing.write_report", lambda out: out)
        said = Path(f"said{os.environ['RANK']}")
        with said.open("w") as file, contextlib.redirect_stdout(file):
            raise SystemExit(main(SHORT.split()))


def test_two_processes_prune_together(world):
    assert end(start(2, one_of_two, world)) == [0, 0]
    rows = rows_of(world / "out", "pruning")
    assert {row["sparsity"] for row in rows} == {"", "0.5"}
    assert (world / "said0").read_text().splitlines()[-1] == "out/pruning.md"
    assert (world / "said1").read_text() == ""
