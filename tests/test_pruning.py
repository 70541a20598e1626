"""Pruning: which channels go, that they stay gone, and the whole path, interrupted and refused."""

import csv
import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from advlens.cli import main
from advlens.cli.commands import PruneCommand
from advlens.cli.parsing import parse
from advlens.errors import ModelError, RunError, SettingsError
from advlens.files import sha256
from advlens.models import Classifier, load_model, save_weights
from advlens.models.resnet import CifarResNet
from advlens.runs.results import Results
from advlens.runs.tables import TABLES
from advlens.settings import PruneSettings
from advlens.training import Training
from advlens.training.objectives import Adversarial, Standard
from advlens.workflows import pruning
from advlens.workflows.pruning import prune_and_audit
from advlens.workflows.pruning.channels import kept_channels, prune
from advlens.workflows.pruning.tables import kept_units, measured, tables, zeros
from synthetic_run import write_table
from training.tiny import CLASSES, SHORT, classifier, counted_steps, images, same, silent

pytestmark = pytest.mark.usefixtures("no_rendering")

NETWORK = """
import torch
from torch import nn
from advlens import Classifier

def network():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )
    return Classifier(
        layers, name="tiny", classes=("cat", "dog", "ship"),
        synsets=("n02121620", "n02084071", "n04194289"), image_size=8, resize=8,
    )
"""


# Which channels


def largest(weight: Tensor, sparsity: float) -> list[bool]:
    """The rule once more: each channel's norm number by number, the smallest left out."""
    norms = [
        math.sqrt(sum(value**2 for value in channel.double().flatten().tolist()))
        for channel in weight.detach()
    ]
    gone = sorted(range(len(norms)), key=norms.__getitem__)[: round(sparsity * len(norms))]
    return [channel not in gone for channel in range(len(norms))]


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 0.75, 0.8])
def test_each_convolution_loses_its_smallest_channels(sparsity: float) -> None:
    model = classifier()
    first, second = model.network[0].weight, model.network[3].weight  # type: ignore[index]
    with torch.no_grad():
        first.zero_()
        first[:, 0, 0, 0] = torch.tensor([1.0, 2, 3, 4, 5, 6])
        first[1] = 0.5  # has the largest sum of absolute values, not the largest norm
    kept = kept_channels(model, sparsity)
    assert {name: channels.tolist() for name, channels in kept.items()} == {
        "network.0.weight": largest(first, sparsity),
        "network.1.weight": largest(first, sparsity),
        "network.1.bias": largest(first, sparsity),
        "network.3.weight": largest(second, sparsity),
        "network.3.bias": largest(second, sparsity),
    }


def test_all_convolutions_of_a_residual_network_are_pruned_alike() -> None:
    model = load_model("resnet18")
    kept = kept_channels(model, 0.25)
    convolutions = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    norms = {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    wanted = {f"{name}.weight" for name in convolutions | norms} | {f"{n}.bias" for n in norms}
    assert kept.keys() == wanted
    assert {channels.double().mean().item() for channels in kept.values()} == {0.75}
    assert torch.equal(kept["network.layer2.0.conv1.weight"], kept["network.layer2.0.bn1.bias"])
    shortcut = kept["network.layer2.0.shortcut.0.weight"]
    assert torch.equal(shortcut, kept["network.layer2.0.shortcut.1.weight"])
    assert not torch.equal(shortcut, kept["network.layer2.0.conv2.weight"])


def test_a_pruned_channel_is_zero_and_others_are_untouched() -> None:
    model = classifier()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = prune(model, 0.5)
    for name, tensor in model.state_dict().items():
        channels = kept.get(name, torch.ones(len(tensor) if tensor.ndim else 1, dtype=torch.bool))
        assert torch.equal(tensor[channels], before[name][channels]) if tensor.ndim else True
        assert not tensor.ndim or not tensor[~channels].any()


def test_without_sparsity_nothing_changes_in_weights_or_training(tmp_path: Path) -> None:
    model = classifier()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prune(model, 0.0)
    assert same(before, model.state_dict())
    short = dataclasses.replace(SHORT, epochs=2)
    trained = short(model, images(), tmp_path / "pruned", report=silent)
    plain = short(classifier(), images(), tmp_path / "plain", report=silent)
    assert same(trained.state_dict(), plain.state_dict())


@pytest.mark.parametrize("sparsity", [0.95, 0.99])
def test_a_convolution_keeps_a_channel(sparsity: float) -> None:
    model = classifier()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(SettingsError, match=r"leaves none of the 6 channels of layer 0; give"):
        prune(model, sparsity)
    assert same(before, model.state_dict())


def test_what_has_no_convolution_is_refused() -> None:
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), name="flat")
    with pytest.raises(ModelError, match="no convolution to prune; name another model"):
        kept_channels(model, 0.5)


# They stay gone

TRAININGS = {
    "momentum": Training(objective=Adversarial(), momentum=0.9, weight_decay=0.01),
    "adam": Training(optimizer="adam", learning_rate=0.01, nesterov=False, weight_decay=0.01),
    "average": Training(average=0.9, clip=0.1),
    "bf16": Training(objective=Standard(), precision="bf16", schedule="constant"),
}


def residual() -> Classifier:
    """A network in which pruned channels get gradients: through the sums, no ReLU stops them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CifarResNet((1, 1), (4, 8), "projection", classes=3)
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.rand_like(parameter)  # so that no bias begins at 0
    return Classifier(network, name="residual", classes=CLASSES, image_size=8, resize=8)


def trained(name: str, out: Path, model: Classifier) -> dict[str, Tensor]:
    """Prunes and trains in place."""
    settings = dataclasses.replace(TRAININGS[name], epochs=2, batch_size=16, validation=12)
    kept = prune(model, 0.5)
    settings(model, images(), out, report=silent)
    return kept


@pytest.mark.parametrize("name", TRAININGS)
def test_training_leaves_pruned_channels_at_zero(name: str, tmp_path: Path) -> None:
    model, start = residual(), residual()
    kept = trained(name, tmp_path, model)
    for parameter, channels in kept.items():
        now, before = model.get_parameter(parameter), start.get_parameter(parameter)
        assert not now[~channels].any(), parameter
        assert not torch.equal(now[channels], before[channels]), parameter
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    for parameter, channels in kept.items():
        assert not state["classifier"][parameter][~channels].any()
        assert name != "average" or not state["average"][parameter][~channels].any()


def removed(model: Classifier, kept: dict[str, Tensor]) -> nn.Sequential:
    """The tiny network with its pruned channels really taken out."""
    conv1, norm, relu, conv2, *rest, linear = model.network  # type: ignore[misc]
    first, second = kept["network.0.weight"], kept["network.3.weight"]
    small1 = nn.Conv2d(3, int(first.sum()), 3, bias=False)
    small2 = nn.Conv2d(int(first.sum()), int(second.sum()), 3, 2)
    small_norm = nn.BatchNorm2d(int(first.sum()))
    small_linear = nn.Linear(int(second.sum()), 3)
    with torch.no_grad():
        small1.weight.copy_(conv1.weight[first])
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(small_norm, name).copy_(getattr(norm, name)[first])
        small2.weight.copy_(conv2.weight[second][:, first])
        small2.bias.copy_(conv2.bias[second])  # type: ignore[union-attr]
        small_linear.weight.copy_(linear.weight[:, second])
        small_linear.bias.copy_(linear.bias)
    return nn.Sequential(small1, small_norm, relu, small2, *rest, small_linear).eval()


def test_the_logits_are_those_of_a_network_without_the_channels(tmp_path: Path) -> None:
    model = classifier()
    kept = trained("momentum", tmp_path, model)
    small = removed(model, kept).double()
    pixels = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        assert small(pixels).std() > 1e-3
        assert torch.allclose(model.eval().double()(pixels), small(pixels), atol=1e-9)


# The whole path


def built(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Makes a folder the current one, with two trained networks and a folder of images."""
    patch.chdir(folder)
    (folder / "pruning_network.py").write_text(NETWORK)
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for wnid, channel in (("n02121620", 0), ("n02084071", 1), ("n04194289", 2)):
            images = folder / "images" / split / wnid
            images.mkdir(parents=True)
            for number in range(8):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                pixels[..., channel] //= 3
                Image.fromarray(pixels).save(images / f"{number}.png")
    for name, seed in (("first", 0), ("second", 1)):
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
    """The folder of a run that was not interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        folder = built(tmp_path_factory.mktemp("pruning"), patch)
        run("out")
    return folder / "out"


WORDS = (
    "prune --model pruning_network:network@first.safetensors --model "
    "pruning_network:network@second.safetensors --data folder:images --out {out} --sparsity 0 .5 "
    "--recipes cifar10-standard cifar10-l2 --epochs 2 --threads 1 --stages accuracy neurons "
    "--steps 2 --neuron-steps 1 --top .2 --batch-size 8 --device cpu"
)


def run(out: str) -> str:
    """What is said to the user."""
    command, _ = parse(WORDS.format(out=out).split())
    assert isinstance(command, PruneCommand)
    said: list[str] = []
    path = prune_and_audit(
        command.model,
        command.data,
        command.out,
        settings=command.settings,
        command="advlens prune",
        report=said.append,
    )
    assert path == Path(out) / "pruning.md"
    assert path.read_text() in "\n".join(said)
    (Path(out) / "said.txt").write_text("\n".join(said))
    return "\n".join(said)


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def the(rows: list[dict[str, str]], **wanted: str) -> dict[str, str]:
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def test_every_model_is_pruned_fine_tuned_and_audited(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(whole.parent)
    text, rows = (whole / "said.txt").read_text(), read(whole / "results/pruning.csv")
    assert [line for line in text.splitlines() if line.startswith("model ")] == [
        "model 1 of 4: first-0",
        "model 2 of 4: first-0.5",
        "model 3 of 4: second-0",
        "model 4 of 4: second-0.5",
    ]
    order = [(model, sparsity) for model in ("first", "second") for sparsity in ("", "0", "0.5")]
    assert list(dict.fromkeys((row["model"], row["sparsity"]) for row in rows)) == order
    pruned = load_model("pruning_network:network@out/second-0.5/model.safetensors")
    kept = kept_channels(load_model("pruning_network:network@second.safetensors"), 0.5)
    for name, channels in kept.items():
        found = pruned.get_parameter(name).detach().view(len(channels), -1)
        assert torch.equal(found.any(dim=1), channels), name
    total = sum(p.numel() for p in pruned.parameters())
    gone = 3 * 27 + 3 + 3 + 4 * 54 + 4  # half of 6 channels with their norm, half of 8
    row = the(rows, model="second", sparsity="0.5", measure="zeros")
    assert float(row["value"]) == pytest.approx(gone / total, rel=1e-5)
    assert row["n"] == str(total)
    assert float(the(rows, model="second", sparsity="0", measure="zeros")["value"]) == 0
    assert "Adversarial(" in (whole / "second-0.5/model.md").read_text()
    assert "Standard(" in (whole / "first-0.5/model.md").read_text()
    card = (whole / "first-0.5/model.md").read_text()
    assert "learning_rate=0.02, " in card
    assert "epochs=2, " in card
    assert "validation=2, " in card
    assert "cifar10-standard, shortened" in card
    test = float(the(rows, model="first", sparsity="0.5", case="natural")["value"])
    assert f"| natural | {test:.2%} " in card
    units = [u for u in read(whole / "audit/results/units.csv") if u["model"] == "second-0.5"]
    for scope, some in (("all", units), ("last", [u for u in units if u["layer"] == "3"])):
        where = {"model": "second", "sparsity": "0.5", "layers": scope}
        alive = [float(u["cs1"]) for u in some if u["dead"] == "false"]
        found = the(rows, **where, case="least-likely", measure="cs1")
        assert float(found["value"]) == pytest.approx(float(np.mean(alive)), rel=1e-4)
        assert float(found["low"]) <= float(found["value"]) <= float(found["high"])
        dead = float(the(rows, **where, measure="dead")["value"])
        assert dead == pytest.approx(1 - len(alive) / len(some), rel=1e-5)
        assert dead >= 0.5  # pruned units are dead ones here
        assert the(rows, **where, table="units")["n"] == str(len(alive))
    assert "## Units of the last convolution" in text
    assert "Inversion" not in text


def test_the_same_command_continues_to_the_same_bytes(
    world: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 3):  # a step an epoch: in the first model, then in its second one
        with monkeypatch.context() as patched:
            counted_steps(patched, interrupt=step)
            with pytest.raises(SystemExit, match="143"):
                run("out")
    with monkeypatch.context() as patched:

        def stop(*args: object, **kwargs: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(pruning, "audit", stop)
        with pytest.raises(KeyboardInterrupt):
            run("out")
    weights = sorted(Path("out").glob("*/model.safetensors"))
    before = [(sha256(path), path.stat().st_mtime_ns) for path in weights]
    run("out")
    assert before == [(sha256(path), path.stat().st_mtime_ns) for path in weights]
    assert len(weights) == 4
    for path in [*weights, Path("out/results/pruning.csv"), Path("out/pruning.md")]:
        assert path.read_bytes() == (whole.parent / path).read_bytes(), path


def test_the_folder_of_another_one_is_refused_before_anything_is_trained(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        counted_steps(patched, interrupt=1)
        with pytest.raises(SystemExit):
            run("out")
    command, _ = parse([*WORDS.format(out="out").split(), "--epochs", "3"])
    with pytest.raises(RunError, match=r"epochs is 2 there and 3 here; choose another --out"):
        prune_and_audit(
            command.model, command.data, command.out, settings=command.settings, command=""
        )
    assert not Path("out/first-0.5").exists()


def test_the_sample_is_cut_into_images_to_tune_and_to_audit(tmp_path: Path) -> None:
    settings = PruneSettings(train_images=100)
    model = load_model("cifar10-standard")
    tuned, audited = pruning.images("sample", model, settings)
    assert (len(tuned), len(audited)) == (100, 500)
    assert set(torch.bincount(tuned.labels).tolist()) == {10}
    tuned, _ = pruning.images("sample", model, PruneSettings())
    seen = {image.numpy().tobytes() for image in tuned.images(range(1500))}
    assert not seen & {image.numpy().tobytes() for image in audited.images(range(500))}


def test_a_packaged_model_has_its_own_recipe() -> None:
    names = ["cifar10-standard", "cifar10-l2", "cifar10-consistency"]
    settings = PruneSettings(sparsity=(0.25, 0.5))
    plan = pruning.variants(names, [load_model(name) for name in names], settings)
    assert [(one.label, one.recipe) for one in plan] == [
        (f"{name}-{sparsity}", name) for name in names for sparsity in ("0.25", "0.5")
    ]
    training = plan[-1].training(settings)
    assert training.objective == "consistency"
    assert (training.learning_rate, training.epochs) == (pytest.approx(0.005), 5)
    training = plan[-1].training(PruneSettings(learning_rate=0.3, seed=4, threads=2))
    assert (training.learning_rate, training.seed) == (0.3, 4)
    one = PruneSettings(sparsity=(0.5,), recipes=("cifar10-l2",))
    plan = pruning.variants(names, [load_model(name) for name in names], one)
    assert {each.recipe for each in plan} == {"cifar10-l2"}


WRONG = [
    ("--model resnet14 --model cifar10-l2", "resnet14 has random weights.*resnet14@weights-file"),
    ("--model cifar10-l2 --model cifar10-l2", "two models have the name cifar10-l2; give them"),
    ("--model cifar10-reference", "no recipe .* cifar10-reference; choose one with --recipes"),
    ("--model cifar10-l2 --recipes cifar10-l3", "'cifar10-l3' among the recipes.*cifar10-l2"),
    ("--model cifar10-l2 --recipes a b", "recipes has 2 names for 1 models; give one for each"),
    ("--model cifar10-l2 --sparsity 1", "sparsity must be a share ≥ 0 and < 1, not 1"),
    ("--model cifar10-l2 --sparsity -.1", "sparsity must be a share ≥ 0 and < 1, not -0.1"),
    ("--model cifar10-l2 --sparsity nan", "sparsity must be a share ≥ 0 and < 1, not nan"),
    ("--model cifar10-l2 --sparsity .5 0.50", "sparsity has 0.5 twice; give each share once"),
    ("--model cifar10-l2 --sparsity", "sparsity names no share of channels; give some"),
    ("--model cifar10-l2 --sparsity half", "--sparsity.*half"),
    (
        "--model cifar10-l2 --sparsity .99",
        "leaves none of the 32 channels of layer conv1; give a smaller one",
    ),
    ("--model cifar10-l2 --epochs 0", "epochs must be a positive number, not 0"),
    ("--model cifar10-l2 --images 0", "images must be a positive number, not 0"),
    ("", "Missing .*--model|no model is given"),
]


@pytest.mark.parametrize(("words", "said"), WRONG)
def test_wrong_use_is_one_sentence(
    words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"prune {words} --data sample --out {tmp_path / 'out'}"
    assert main(line.split()) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (sentence,) = output.err.splitlines()
    assert re.search(said, sentence), sentence
    assert [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"] == []


FIRST = (
    "prune --model pruning_network:network@first.safetensors --recipes cifar10-standard --out out"
)
WRONG_DATA = [
    ("--data folder:images --train-images 99", "cannot choose 99 images of .*train; ask for 1 to"),
    ("--data folder:images --images 99", "cannot choose 99 images of .*val; ask for 1 to 24"),
    ("--data folder:nowhere", "names the folder nowhere, which does not exist"),
    ("--data cifar11:images", "cifar11:images"),
]


def test_models_are_not_fine_tuned_on_what_they_are_audited_on(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(f"{FIRST} --data folder:images/val".split()) == 1
    assert "images/val has no parts to train and to test on" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "said"), WRONG_DATA)
def test_data_that_cannot_serve_is_refused_before_anything_is_written(
    words: str, said: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(f"{FIRST} {words}".split()) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (sentence,) = output.err.splitlines()
    assert re.search(said, sentence), sentence
    assert {path.name for path in Path("out").rglob("*")} <= {".lock"}


def test_a_dry_run_says_what_fine_tunes_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = f"prune --model cifar10-l2 --data sample --out {out} --sparsity .25 --dry-run"
    assert main(words.split()) == 0
    said = capsys.readouterr().out
    assert "# cifar10-l2-0.25 is fine-tuned by the recipe cifar10-l2" in said
    assert "sparsity = [0.25]" in said
    assert not out.exists()


# The tables


def test_a_share_of_zero_parameters_counts_each_number() -> None:
    model = classifier()
    with torch.no_grad():
        model.network[7].weight.zero_()  # type: ignore[index, operator]
        model.network[1].weight.fill_(1)  # type: ignore[index, operator]
        model.network[1].bias.fill_(1)  # type: ignore[index, operator]
    row = zeros(model)
    assert (row["value"], row["n"]) == (24 / 641, 641)


def written(run: Path, name: str, *lines: str) -> None:
    """A table of a header and rows, of which pruning does not read the columns left out."""
    rest = {str: "", bool: "false", int: "0", float: "0"}
    rows = [
        {column: rest.get(kind, "") for column, kind in TABLES[name].types.items()} | row
        for row in csv.DictReader(lines)
    ]
    write_table(run, name, rows)


def test_layers_count_by_their_live_units_and_dead_ones_not_at_all(tmp_path: Path) -> None:
    head = "model,layer,images,epsilon,success,success_low,success_high,measure,mean,low,high"
    lines = [
        f"m,{layer},{case},1,.5,.4,.6,cs1,{value},{units},40"
        for case in ("least-likely", "equal-success")
        for layer, value, units in (("a", ".2,.1,.3", 3), ("b", ",,", 0), ("c", ".6,.5,.9", 1))
    ]
    written(tmp_path, "consistency", f"{head},units,n", *lines)
    written(tmp_path, "layers", "model,layer,units,dead", "m,a,4,1", "m,b,2,2", "m,c,2,1")
    rows = measured(Results(tmp_path, {"models": [{"name": "m"}]}), "m")
    found = {(row["case"], row["measure"], row["layers"]): row for row in rows}
    for case in ("least-likely", "equal-success"):
        mean = found[case, "cs1", "all"]
        assert [mean["value"], mean["low"], mean["high"]] == pytest.approx([0.3, 0.2, 0.45])
        assert found[case, "cs1", "last"]["value"] == 0.6
        assert found[case, "success", ""]["high"] == 0.6
    assert found["", "dead", "all"]["value"] == 0.5
    assert found["", "dead", "last"]["value"] == 0.5
    assert {row["n"] for row in rows if row["table"] == "consistency"} == {40}


def test_units_that_live_on_a_shortcut_alone_do_not_count_as_kept(tmp_path: Path) -> None:
    model = residual()
    prune(model, 0.5)
    gone = model.network.layer2[0].conv2.weight.flatten(1).any(dim=1).logical_not()  # type: ignore
    values = [(unit + 1) / 10 for unit in range(8)]
    lines = [f"m,layer2.0.conv2,{unit},{value}" for unit, value in enumerate(values)]
    lines = ["other,conv1,0,0.9", "m,conv1,0,", "m,conv1,1,1", *lines]
    written(tmp_path, "units", "model,layer,unit,lc", *lines)
    model.network.conv1.weight.data[:2] = 1.0  # type: ignore[union-attr, operator, index]
    results = Results(tmp_path, {"models": [{"name": "m"}, {"name": "other"}]})
    last, everything = kept_units(results, "m", model)
    some = [value for value, pruned in zip(values, gone.tolist(), strict=True) if not pruned]
    assert len(some) == 4
    assert (last["layers"], last["n"]) == ("last", 4)
    assert last["value"] == pytest.approx(np.mean(some))
    half = 3.182 * np.std(some, ddof=1) / 2  # Student's t, 3 degrees of freedom
    assert last["high"] - last["value"] == pytest.approx(half, rel=2e-3)
    assert (everything["layers"], everything["n"]) == ("all", 5)
    assert everything["value"] == pytest.approx(np.mean([*some, 1.0]))


def test_a_dead_layer_leaves_its_cells_empty(tmp_path: Path) -> None:
    head = "model,layer,images,epsilon,success,success_low,success_high,measure,mean,low,high"
    written(tmp_path, "consistency", f"{head},units,n", "m,a,fgsm,1,.5,.4,.6,consis_adv,,,,0,40")
    rows = [
        {"model": "m", "sparsity": sparsity, **row}
        for row in measured(Results(tmp_path, {"models": [{"name": "m"}]}), "m")
        for sparsity in (None, 0.5)
    ]
    assert tables(rows) == [
        "## Units of the last convolution",
        "",
        "| model | pruned | consis_adv, FGSM |",
        "| --- | --- | --- |",
        "| m | as given |  |",
        "| m | 0.5 |  |",
        "",
        "## Units of all convolutions",
        "",
        "| model | pruned | consis_adv, FGSM |",
        "| --- | --- | --- |",
        "| m | as given |  |",
        "| m | 0.5 |  |",
        "",
    ]


def test_the_tables_name_success_beside_what_means_nothing_without_it(tmp_path: Path) -> None:
    head = "model,layer,images,epsilon,success,success_low,success_high,measure,mean,low,high"
    line = "m,a,equal-success,.55,.95,.9,.97,cs1,.1234,.1,.2,8,40"
    written(tmp_path, "consistency", f"{head},units,n", line)
    written(
        tmp_path,
        "accuracy",
        "model,attack,norm,epsilon,steps,top1,top1_low,top1_high,n,settings",
        "m,natural,,0,0,.9,.8,.95,40,",
        "m,Pgd,L2,.5,20,.1,.05,.2,40,",
        'm,Pgd,L2,.5,20,.05,.02,.15,40,"step_size=0.2, restarts=3"',
    )
    rows = measured(Results(tmp_path, {"models": [{"name": "m"}]}), "m")
    told = [row["settings"] for row in rows if row["table"] == "accuracy"]
    assert told == ["", "L2, steps=20", "L2, steps=20, step_size=0.2, restarts=3"]
    lines = tables([{"model": "m", "sparsity": 0.5, **row} for row in rows])
    assert lines[:5] == [
        "## Accuracy",
        "",
        "| model | pruned | natural | PGD |",
        "| --- | --- | --- | --- |",
        "| m | 0.5 | 90.0% (80.0% to 95.0%) | 10.0% (5.0% to 20.0%) |",
    ]
    assert "| m | 0.5 | 0.123 (0.100 to 0.200); ε 0.55, 95.0% |" in lines
