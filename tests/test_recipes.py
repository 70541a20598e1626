"""Recipes: what settings stand for, and that every packaged file can be used."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from advlens import L2, Augmentation, Classifier, Linf, Training, Uniform, load_model
from advlens.attacks import Divergence, FeatureAttack, Fgsm, Pgd
from advlens.cli.commands import TrainCommand
from advlens.cli.parsing import parse
from advlens.settings import TrainSettings
from advlens.settings.packaged import packaged_names
from advlens.training.objectives import Adversarial, FeatureConsistency, Standard, Trades, Unrelaxed
from advlens.workflows.training import load_classifier, load_images, make_test_attack, make_training


def objective(**settings: Any) -> object:
    return make_training(TrainSettings(**settings)).objective


DEFAULTS = {"standard": Standard, "adversarial": Adversarial}
DEFAULTS |= {"consistency": FeatureConsistency, "unrelaxed": Unrelaxed}


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_settings_default_to_what_the_classes_default_to(name: Any) -> None:
    assert make_training(TrainSettings(objective=name)) == Training(objective=DEFAULTS[name]())


def test_trades_has_the_weight_and_steps_of_its_paper_and_the_ball_of_the_settings() -> None:
    made = objective(objective="trades", norm="linf")
    inner = Divergence(threat=Linf(epsilon=8 / 255), steps=10, step_size=0.96 / 255, select="last")
    assert made == Trades(attack=inner)
    assert Trades().weight == 6.0
    made = objective(objective="trades", beta=2.0, attack_steps=4, epsilon=1.0)
    inner = Divergence(threat=L2(epsilon=1.0), steps=4, step_size=0.3, select="last")
    assert made == Trades(weight=2.0, attack=inner)


def test_every_setting_arrives() -> None:
    same: dict[str, Any] = {"epochs": 3, "batch_size": 7, "validation": 5, "seed": 9}
    same |= {"learning_rate": 0.1, "momentum": 0.8, "nesterov": False, "weight_decay": 1e-4}
    same |= {"schedule": "cosine", "clip": 0.1, "average": 0.99}
    same |= {"precision": "bf16", "channels_last": False, "compile": True, "keep": "last"}
    varied: dict[str, Any] = {"crop": 0, "flip": False, "rotation": 20.0}
    varied |= {"resized_crop": (0.5, 1.0)}
    attack: dict[str, Any] = {"norm": "linf", "epsilon": 4 / 255, "attack_steps": 5}
    settings = TrainSettings(objective="adversarial", **same, **varied, **attack)
    linf = Linf(epsilon=4 / 255)
    inner = Pgd(threat=linf, steps=5, step_size=1.2 * 4 / 255 / 5, select="last")
    assert make_training(settings) == Training(
        objective=Adversarial(attack=inner),
        augmentation=Augmentation(**varied),
        validation_attack=Pgd(threat=linf, steps=10),
        **same,
    )
    assert make_test_attack(settings) == Pgd(threat=linf, steps=20, seed=9)
    assert make_training(TrainSettings(optimizer="adam")) == Training(optimizer="adam")


def test_the_settings_of_each_objective_arrive() -> None:
    inner: dict[str, Any] = {"steps": 2, "select": "last"}
    attack = Pgd(threat=L2(epsilon=1.0), step_size=0.25, **inner)
    made = objective(objective="adversarial", epsilon=1.0, step_size=0.25)
    assert made == Adversarial(attack=attack)
    attack = Pgd(threat=L2(epsilon=Uniform(low=0.25, high=0.5)), step_size=None, **inner)
    made = objective(objective="adversarial", epsilon_range=(0.25, 0.5))
    assert made == Adversarial(attack=attack)
    drawn = {"epsilon_range": (1 / 255, 2 / 255)}
    small = Linf(epsilon=Uniform(low=1 / 255, high=2 / 255))
    given: dict[str, Any] = {"alpha": 0.1, "beta": 9.0, "distance": "cosine"}
    given |= {"layer": "representation", "gradient": "attacked", "clean_pass": "shared"}
    made = objective(objective="consistency", **given, **drawn)
    assert made == FeatureConsistency(attack=Fgsm(threat=small), **given)

    paper = objective(objective="consistency", preset="paper", alpha=0.1, **drawn)
    printed: dict[str, Any] = {"distance": "summed", "beta": 1.0}
    assert paper == FeatureConsistency(attack=Fgsm(threat=small), alpha=0.1, **printed)
    assert objective(objective="consistency", **drawn).beta == 25

    weights = {"alpha": 0.1, "beta": 9.0}
    given = {"layer": "conv1", "attack_steps": 3, "step_size": 0.01}
    inner = {"threat": small, "steps": 3, "step_size": 0.01, "select": "last"}
    attacks: Any = {"attack": Pgd(**inner), "feature_attack": FeatureAttack(**inner, layer="conv1")}
    made = objective(objective="unrelaxed", **weights, **given, **drawn)
    assert made == Unrelaxed(**weights, **attacks)


def parsed(name: str, tmp_path: Path, *more: str) -> TrainCommand:
    words = ["train", "--recipe", name, "--data", f"folder:{tmp_path}", "--out", "run", *more]
    command, _ = parse(words)
    assert isinstance(command, TrainCommand)
    return command


@pytest.mark.parametrize("name", packaged_names("recipes"))
def test_a_packaged_recipe_can_be_trained(name: str, tmp_path: Path) -> None:
    command = parsed(name, tmp_path)
    objective = make_training(command.settings).objective
    assert (type(objective) is Standard) == name.endswith("-standard")
    network = command.model.removesuffix("@DEFAULT")  # torchvision would download these
    device = "meta" if ":" in network else "cpu"  # networks for ImageNet are large
    with torch.device(device):
        load_model(network, device=device)


# what the papers print (and, for B23's optimizers, its code); where, see the files
CIFAR10: dict[str, Any] = {"epochs": 100, "batch_size": 128, "learning_rate": 0.01, "clip": 0.1}
CIFAR10 |= {"momentum": 0.9, "nesterov": False, "weight_decay": 5e-4, "schedule": "cosine"}


def pgd20(epsilon: float, step_size: float) -> Adversarial:
    attack = Pgd(threat=L2(epsilon=epsilon), steps=20, step_size=step_size, select="last")
    return Adversarial(attack=attack)


def imagenet(epsilon: Any, **augmentation: float) -> dict[str, Any]:
    attack = Pgd(threat=epsilon, steps=10)
    crops = Augmentation(crop=0, resized_crop=(0.08, 1.0), **augmentation)
    return {"validation_attack": attack, "augmentation": crops}


B23: dict[str, Any] = {"epochs": 100, "batch_size": 200, "weight_decay": 5e-4}
B23 |= {"optimizer": "adam", "learning_rate": 1e-4, "schedule": "constant"}
D22: dict[str, Any] = {"epochs": round(300_000 * 100 / 1_281_167), "batch_size": 100}
D22 |= {"momentum": 0.9, "nesterov": False, "weight_decay": 5e-5}
D22 |= {"learning_rate": 0.05, "schedule": "plateau", "validation": 10_000}
PRINTED = {
    "b23-cifar10-standard": Training(objective=Standard(), optimizer="sgd", **CIFAR10),
    "b23-cifar10-l2": Training(objective=pgd20(0.5, 0.1), optimizer="sgd", **CIFAR10),
    "b23-imagenet150-l2": Training(
        objective=pgd20(1.5, 2.5 * 1.5 / 20), **B23, **imagenet(L2(epsilon=1.5), rotation=20.0)
    ),
    "d22-resnet18-standard": Training(**D22, **imagenet(Linf(epsilon=4 / 255))),
}


@pytest.mark.parametrize("name", PRINTED)
def test_recipes_of_the_papers_have_their_numbers(name: str, tmp_path: Path) -> None:
    assert make_training(parsed(name, tmp_path).settings) == PRINTED[name]


def test_the_papers_fine_tuning_is_their_loss_and_flags_win_over_a_recipe(tmp_path):
    for network in ("alexnet", "vgg16", "resnet18"):
        command = parsed(f"d22-{network}-adv", tmp_path)
        assert command.model == f"torchvision:{network}@DEFAULT"
        assert make_training(command.settings).objective == FeatureConsistency()
    more = ("--epochs=2", "--no-half", "--model", "resnet20", "--flip")
    command = parsed("cifar10-l2", tmp_path, *more)
    assert (command.settings.epochs, command.settings.half) == (2, False)
    assert (command.model, command.settings.precision) == ("resnet20", "bf16")


def test_packaged_models_under_another_name_and_images_as_they_are_trained_on(tmp_path):
    for model, name in (("cifar10-standard", "cifar10-standard, fine-tuned"), ("resnet14",) * 2):
        assert load_classifier(model, TrainSettings(device="cpu")).name == name
    for folder in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (300, 280)).save(tmp_path / folder / "a.png")
    classifier = Classifier(torch.nn.Flatten(), name="any", image_size=128, resize=160)
    train, test = load_images(f"folder:{tmp_path}", classifier)
    assert train.image_shape == (3, 160, 160)
    assert test.image_shape == (3, 128, 128)
