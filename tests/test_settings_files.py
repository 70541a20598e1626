"""Settings of recipes and files: those of the same flags; which one wins; what is refused."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from advlens import L2, Augmentation, Classifier, Linf, Training, Uniform, load_model
from advlens.attacks import Divergence, FeatureAttack, Fgsm, Pgd
from advlens.cli.commands import TrainCommand
from advlens.cli.parsing import flags_of, parse, with_settings
from advlens.errors import DataError, SettingsError
from advlens.settings import AuditSettings, TrainSettings
from advlens.settings.files import settings_from
from advlens.settings.packaged import DESCRIPTIVE, listed, packaged, packaged_names, recipe_settings
from advlens.training.objectives import Adversarial, FeatureConsistency, Standard, Trades, Unrelaxed
from advlens.workflows.training import load_classifier, load_images, make_test_attack, make_training

START = ["train", "--data", "folder:.", "--out", "run"]
AUDIT: dict[str, Any] = {"images": 5, "epsilon": "auto", "neuron-epsilon": "1/2"}
AUDIT |= {"norm": ["Linf"], "epsilon-linf": ["8/255", 0.5]}
AUDIT |= {"fgsm": ["2/255", 0.5, 1], "expect_accuracy": [1], "stages": ["sweep"], "success": 1}
AUDIT |= {"discrepancy": True, "inception": "folder", "attribution": ["a", "b"]}
VERBS = "audit evaluate neurons dissect attribute visualize invert generate attack train prune"
WRONG = [
    ({"epoch": 3}, "there is no setting named epoch; perhaps you meant epochs"),
    ({"epsilon": "4/0"}, "epsilon: '4/0' is not a number such as 0.0157 or 4/255"),
    ({"epsilon_range": [0.1, "x"]}, "epsilon_range: 'x' is not a number such as"),
    ({"epochs": 1.5}, "epochs must be a whole number, not 1.5"),
    ({"epochs": "auto"}, "epochs must be a whole number, not 'auto'"),
    ({"flip": "yes"}, "flip must be True or False, not 'yes'"),
    ({"learning_rate": True}, "learning_rate must be a number, not True"),
    ({"learning_rate": -1}, "learning_rate must be a positive number, not -1.0"),
    ({"optimizer": "lion"}, "optimizer must be one of sgd, adam, not 'lion'"),
    ({"beta": {"a": 1}}, "beta must be a number or None, not"),
]
R = "--recipe cifar10-l2"
# the words, epochs, batch_size, half, flip, clip, precision
PRECEDENCE = {
    R: (10, 128, True, True, None, "bf16"),
    f"{R} --config FILE": (7, 32, False, False, 0.5, "bf16"),
    "--config FILE --recipe=cifar10-l2": (7, 32, False, False, 0.5, "bf16"),
    "--config=FILE --model resnet20": (7, 32, False, False, 0.5, "float32"),
    f"{R} --config FILE --epochs 3 --half --flip": (3, 32, True, True, 0.5, "bf16"),
    f"--no-half --epochs=3 {R} --precision float32": (3, 128, False, True, None, "float32"),
}


def same(found: Any, wanted: Any) -> None:
    """Equal, and each value of the same type: 1 and 1.0 are written otherwise in a record."""
    assert found == wanted
    for field in dataclasses.fields(wanted):
        assert repr(getattr(found, field.name)) == repr(getattr(wanted, field.name)), field.name


@pytest.mark.parametrize("recipe", packaged_names("recipes"))
def test_a_recipe_stands_for_the_same_settings_as_its_flags(recipe):
    values = recipe_settings(recipe)
    command, _ = parse(START + flags_of("train", values, recipe)[0])
    values.pop("model")
    same(settings_from(TrainSettings, values, recipe), command.settings)


def test_settings_of_an_audit_are_those_of_its_flags():
    words = ["audit", "--model", "resnet14", "--data", "sample", "--out", "run"]
    command, _ = parse(words + flags_of("audit", AUDIT, "here")[0])
    found = settings_from(AuditSettings, AUDIT, "here")
    same(found, command.settings)
    assert (found.epsilon, found.fgsm, found.success) == (None, (2 / 255, 0.5, 1.0), 1.0)


@pytest.mark.parametrize(("values", "message"), WRONG)
def test_what_is_wrong_is_said_with_its_key(values, message):
    with pytest.raises(SettingsError, match=f"^here: {re.escape(message)}"):
        settings_from(TrainSettings, values, "here")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("epochs = 7\nhalf = false\nbatch-size = 32\nflip = false\nclip = 0.5\n")
    return str(path)


@pytest.mark.parametrize("words", PRECEDENCE)
def test_flags_win_over_the_file_and_the_file_over_the_recipe(words, file):
    settings = parse([*START, *words.replace("FILE", file).split()])[0].settings
    names = ("epochs", "batch_size", "half", "flip", "clip", "precision")
    assert tuple(getattr(settings, name) for name in names) == PRECEDENCE[words]


def test_a_file_can_name_the_recipe_and_a_flag_replaces_its_models(tmp_path):
    (tmp_path / "mine.toml").write_text('recipe = "cifar10-l2"\nepochs = 2\n')
    command, _ = parse([*START, "--config", str(tmp_path / "mine.toml")])
    assert (command.recipe, command.model) == ("cifar10-l2", "resnet14")
    assert (command.settings.epochs, command.settings.attack_steps) == (2, 2)
    path = tmp_path / "mine.toml"
    path.write_text('model = "resnet20"\nsteps = 7\nfgsm = ["2/255", 0.5]\nepsilon = "1/4"\n')
    words = ["audit", *START[1:], "--config", str(path), "--model", "resnet14", "--steps=9"]
    command, _ = parse(words)
    settings = command.settings
    assert (command.model, settings.steps) == (("resnet14",), 9)
    assert (settings.fgsm, settings.epsilon) == ((2 / 255, 0.5), 0.25)


CHOICES = {
    "--units 3:5,a.b:12 7:0 --components 130,492": (("3:5", "a.b:12", "7:0"), (130, 492), None),
    "--units=3:5 --components 130 492 --shown 24": (("3:5",), (130, 492), 24),
    'units = ["3:5", "a.b:12"]\ncomponents = [1, 0]': (("3:5", "a.b:12"), (1, 0), None),
    'units = "3:5,a.b:12"\ncomponents = "1,0"\nshown = 3': (("3:5", "a.b:12"), (1, 0), 3),
    "units = []\ncomponents = []": ((), (), None),
}
DISSECTED = [("6", 6), ("3:5,3:7", ("3:5", "3:7")), ("3:5 3:7", ("3:5", "3:7"))]


@pytest.mark.parametrize("given", CHOICES)
def test_units_and_components_are_named_with_commas_or_spaces(given, tmp_path):
    words = given.split()
    if not given.startswith("--"):
        (tmp_path / "mine.toml").write_text(given)
        words = ["--config", str(tmp_path / "mine.toml")]
    settings = parse(["audit", *START[1:], "--model", "resnet14", *words])[0].settings
    assert (settings.units, settings.components, settings.shown) == CHOICES[given]


@pytest.mark.parametrize(("given", "units"), DISSECTED)
def test_a_dissection_is_told_how_many_units_or_which(given, units):
    words = ["dissect", *START[1:], "--model", "resnet14", "--units", *given.split()]
    assert parse(words)[0].settings.units == units


def test_a_component_is_a_whole_number():
    words = ["visualize", *START[1:], "--model", "resnet14", "--components", "3,x"]
    with pytest.raises(SettingsError, match=r"--components: 'x' is not a whole number$"):
        parse(words)


def test_the_record_writes_the_file_out_and_switches_that_differ(file):
    last = ["--epochs", "3"]
    words, recorded, origins = with_settings([*START, *R.split(), "--config", file, *last])
    written = "--batch-size 32 --no-flip --clip 0.5"
    assert recorded == ["train", *written.split(), *START[1:], *R.split(), *last]
    assert words[:3] == ["train", "--model", "resnet14"]
    assert "--half" not in words
    assert (origins["model"], origins["clip"]) == ("recipe cifar10-l2", file)
    assert "epochs" not in origins
    settings = {"flip": True, "nesterov": False, "half": True, "compile": False, "dry-run": False}
    words, origins = flags_of("train", settings, "here")
    assert words == ["--no-nesterov", "--half"]
    assert set(origins) == {"flip", "nesterov", "half", "compile", "dry_run"}


@pytest.mark.parametrize("verb", VERBS.split())
def test_every_verb_that_reads_a_model_can_leave_out_what_its_file_holds(verb, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('ignore_keys = ["loss.*", "epoch"]')
    words = [verb, "--model", "resnet14", "--data", "sample", "--out", str(tmp_path)]
    both = {"loss.*": ["--config", str(file)], "a": ["--ignore-keys", "a", "epoch"]}
    assert parse(words)[0].settings.ignore_keys == ()
    for first, more in both.items():
        assert parse([*words, *more])[0].settings.ignore_keys == (first, "epoch")


def test_every_packaged_file_says_what_it_is():
    for kind in ("recipes", "reproductions"):
        names = packaged_names(kind)
        assert names == sorted(names)
        text = listed(kind)
        for name in names:
            content = packaged(kind, name)
            assert text.count(f"{name}: {content['about']}\n") == 1
            for key in DESCRIPTIVE[1:3]:
                assert f"    {key}: {content[key]}" in text.splitlines()
    names = ["b23-cifar10", "b23-imagenet150", "d19-imagenet", "d22-imagenet"]
    assert packaged_names("reproductions") == names


@pytest.mark.parametrize("name", ["cifar10-l3", "../pyproject", ""])
def test_another_name_is_refused(name):
    with pytest.raises(SettingsError, match="advlens train --list"):
        packaged("recipes", name)
    with pytest.raises(SettingsError, match="perhaps you meant b23-cifar10; advlens reproduce"):
        packaged("reproductions", "b23-cifar-10")


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
    one_part = f"folder:{tmp_path}/train"
    same, _ = load_images(one_part, classifier, test=f"folder:{tmp_path}/val")
    assert same.fingerprint() == train.fingerprint()
    for other in (None, one_part):
        with pytest.raises((DataError, SettingsError), match="--test"):
            load_images(one_part, classifier, test=other)
