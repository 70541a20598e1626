"""Pruning: which channels go, that they stay gone, and the tables of what that changes."""

import csv
import dataclasses
import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advlens import Adversarial, Classifier, ModelError, SettingsError, Standard, Training
from advlens.models.resnet import CifarResNet
from advlens.runs.columns import Some
from advlens.runs.results import Results
from advlens.runs.tables import TABLES
from advlens.workflows.pruning.channels import kept_channels, prune
from advlens.workflows.pruning.tables import kept_units, measured, tables, zeros
from synthetic_run import write_table
from training.tiny import CLASSES, SHORT, classifier, images, same, silent


def largest(weight: Tensor, sparsity: float) -> list[bool]:
    """The rule once more: each channel's norm number by number, the smallest left out."""
    channels = weight.detach().double().flatten(1).tolist()
    norms = [math.sqrt(sum(value**2 for value in channel)) for channel in channels]
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
    wanted = dict.fromkeys(("0.weight", "1.weight", "1.bias"), largest(first, sparsity))
    wanted |= dict.fromkeys(("3.weight", "3.bias"), largest(second, sparsity))
    assert {name[8:]: channels.tolist() for name, channels in kept.items()} == wanted


def test_all_convolutions_of_a_residual_network_are_pruned_alike() -> None:
    model = residual()
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


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_a_pruned_channel_is_zero_and_others_are_untouched(sparsity: float) -> None:
    model, wanted = classifier(), dict(classifier().state_dict())
    for name, channels in prune(model, sparsity).items():
        wanted[name][~channels] = 0
    assert same(wanted, model.state_dict())


def test_without_sparsity_nothing_changes_in_training(tmp_path: Path) -> None:
    model = classifier()
    prune(model, 0.0)
    short = dataclasses.replace(SHORT, epochs=1)
    trained = short(model, images(), tmp_path / "pruned", report=silent)
    plain = short(classifier(), images(), tmp_path / "plain", report=silent)
    assert same(trained.state_dict(), plain.state_dict())


def test_a_convolution_keeps_a_channel_and_what_has_none_is_refused():
    model = classifier()
    with pytest.raises(SettingsError, match=r"leaves none of the 6 channels of layer 0; give"):
        prune(model, 0.95)
    assert same(classifier().state_dict(), model.state_dict())
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), name="flat")
    with pytest.raises(ModelError, match="no convolution to prune; name another model"):
        kept_channels(model, 0.5)


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
    first, second = kept["network.0.weight"], kept["network.3.weight"]
    state = {name.removeprefix("network."): t for name, t in model.state_dict().items()}
    for name in ("0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        state[name] = state[name][first]
    state["3.weight"], state["3.bias"] = (
        state["3.weight"][second][:, first],
        state["3.bias"][second],
    )
    state["7.weight"] = state["7.weight"][:, second]
    m, n = int(first.sum()), int(second.sum())
    start = nn.Conv2d(3, m, 3, bias=False), nn.BatchNorm2d(m), nn.ReLU(), nn.Conv2d(m, n, 3, 2)
    small = nn.Sequential(*start, *list(model.network)[4:7], nn.Linear(n, 3))
    small.load_state_dict(state)
    return small.eval()


def test_the_logits_are_those_of_a_network_without_the_channels(tmp_path: Path) -> None:
    model = classifier()
    small = removed(model, trained("momentum", tmp_path, model)).double()
    pixels = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        assert small(pixels).std() > 1e-3
        assert torch.allclose(model.eval().double()(pixels), small(pixels), atol=1e-9)


def test_a_share_of_zero_parameters_counts_each_number() -> None:
    model = classifier()
    with torch.no_grad():
        model.network[7].weight.zero_()  # type: ignore[index, operator]
        model.network[1].weight.fill_(1)  # type: ignore[index, operator]
        model.network[1].bias.fill_(1)  # type: ignore[index, operator]
    row = zeros(model)
    assert (row["value"], row["n"]) == (24 / 641, 641)


CONSISTENCY = (
    "model,layer,images,epsilon,success,success_low,success_high,measure,mean,low,high,units,n"
)


def results(run: Path, *models: str) -> Results:
    return Results(run, {"models": [{"name": name} for name in models]})


def written(run: Path, name: str, *lines: str) -> None:
    """A table of a header and rows, of which pruning does not read the columns left out."""
    rest = {str: "", bool: "false", Some: "1"}
    kinds = TABLES[name].types
    filled = {name: rest.get(kind, "" if get_args(kind) else "0") for name, kind in kinds.items()}
    rows = [filled | row for row in csv.DictReader(lines)]
    write_table(run, name, rows)


def test_layers_count_by_their_live_units_and_dead_ones_not_at_all(tmp_path: Path) -> None:
    lines = [
        f"m,{layer},{case},1,.5,.4,.6,cs1,{value},{units},40"
        for case in ("least-likely", "equal-success")
        for layer, value, units in (("a", ".2,.1,.3", 3), ("b", ",,", 0), ("c", ".6,.5,.9", 1))
    ]
    written(tmp_path, "consistency", CONSISTENCY, *lines)
    written(tmp_path, "layers", "model,layer,units,dead", "m,a,4,1", "m,b,2,2", "m,c,2,1")
    rows = measured(results(tmp_path, "m"), "m")
    found = {(row["case"], row["measure"], row["layers"]): row for row in rows}
    for case in ("least-likely", "equal-success"):
        mean = found[case, "cs1", "all"]
        assert [mean["value"], mean["low"], mean["high"]] == pytest.approx([0.3, 0.2, 0.45])
        assert found[case, "cs1", "last"]["value"] == 0.6
        assert found[case, "success", ""]["high"] == 0.6
    assert found["", "dead", "all"]["value"] == found["", "dead", "last"]["value"] == 0.5
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
    last, everything = kept_units(results(tmp_path, "m", "other"), "m", model)
    some = [value for value, pruned in zip(values, gone.tolist(), strict=True) if not pruned]
    assert len(some) == 4
    assert (last["layers"], last["n"]) == ("last", 4)
    assert last["value"] == pytest.approx(np.mean(some))
    half = 3.182 * np.std(some, ddof=1) / 2  # Student's t, 3 degrees of freedom
    assert last["high"] - last["value"] == pytest.approx(half, rel=2e-3)
    assert (everything["layers"], everything["n"]) == ("all", 5)
    assert everything["value"] == pytest.approx(np.mean([*some, 1.0]))


def test_a_dead_layer_leaves_its_cells_empty(tmp_path: Path) -> None:
    written(tmp_path, "consistency", CONSISTENCY, "m,a,fgsm,1,.5,.4,.6,consis_adv,,,,0,40")
    rows = measured(results(tmp_path, "m"), "m")
    lines = ["", "| model | pruned | consis_adv, FGSM |", "| --- | --- | --- |"]
    lines += ["| m | as given |  |", "| m | 0.5 |  |", ""]
    assert tables([{"model": "m", "sparsity": s, **row} for row in rows for s in (None, 0.5)]) == [
        *("## Units of the last convolution", *lines),
        *("## Units of all convolutions", *lines),
    ]


def test_the_tables_name_success_beside_what_means_nothing_without_it(tmp_path: Path) -> None:
    line = "m,a,equal-success,.55,.95,.9,.97,cs1,.1234,.1,.2,8,40"
    written(tmp_path, "consistency", CONSISTENCY, line)
    written(
        tmp_path,
        "accuracy",
        "model,attack,norm,epsilon,steps,top1,top1_low,top1_high,n,settings",
        "m,natural,,0,0,.9,.8,.95,40,",
        "m,Pgd,L2,.5,20,.1,.05,.2,40,",
        'm,Pgd,L2,.5,20,.05,.02,.15,40,"step_size=0.2, restarts=3"',
        "m,Pgd,Linf,.03,20,.2,.1,.3,40,",
    )
    rows = measured(results(tmp_path, "m"), "m")
    told = [row["settings"] for row in rows if row["table"] == "accuracy"]
    assert told == [
        *("", "L2, steps=20", "L2, steps=20, step_size=0.2, restarts=3", "Linf, steps=20")
    ]
    lines = tables([{"model": "m", "sparsity": 0.5, **row} for row in rows])
    assert lines[:5] == [
        "## Accuracy",
        "",
        "| model | pruned | natural | PGD, L∞ | PGD, L2 |",
        "| --- | --- | --- | --- | --- |",
        "| m | 0.5 | 90.0% (80.0% to 95.0%) | 20.0% (10.0% to 30.0%) | 10.0% (5.0% to 20.0%) |",
    ]
    assert "| m | 0.5 | 0.123 (0.100 to 0.200); ε 0.55, 95.0% |" in lines
