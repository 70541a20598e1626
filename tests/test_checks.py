"""Settings beyond their limits, or of another type, are refused in a sentence, by every class."""

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import advlens
from advlens import Consistency, Dissection, Linf, attacks, attribution, dissection, features
from advlens.attacks import Bim, Fgsm, GaussianNoise, Pgd
from advlens.attribution import ExpectedGradients, IntegratedGradients
from advlens.checks import check_number, check_numbers, check_positive, check_seed
from advlens.errors import AdvlensError, SettingsError
from advlens.maps import DiscrepancyMap
from advlens.models.outputs import logits_of
from advlens.settings import AttackSettings, AuditSettings, DissectSettings, TrainSettings
from advlens.training import Augmentation, Training, objectives
from advlens.training.objectives import FeatureConsistency, Unrelaxed

TINY = 5e-324
BALL = Linf(epsilon=0.1)
# settings that no class takes below their limit
POSITIVE = {
    **{Pgd: "steps step_size restarts draws", Bim: "step_size", Fgsm: "draws"},
    **{attacks.LeastLikely: "step_size", attacks.AdamAttack: "weight steps draws"},
    **{attacks.FeatureAttack: "draws", DiscrepancyMap: "patch stride batch_size"},
    **{IntegratedGradients: "steps baselines batch_size max_steps tolerance"},
    **{ExpectedGradients: "samples batch_size", Consistency: "batch_size"},
    **{attribution.Faithfulness: "steps batch_size", attribution.Stability: "radius draws"},
    **{features.FeatureVisualization: "epsilon", features.Inversion: "step_size batch_size"},
    **{features.ClassGeneration: "steps", dissection.Dissection: "top batch_size"},
    **{Training: "epochs batch_size learning_rate clip", Unrelaxed: "beta"},
    objectives.Trades: "weight",
}
# texts that are none of a setting's choices
CHOICES: dict[Any, dict[str, str]] = {
    **{Pgd: {"select": "best"}, Bim: {"label": "least"}, Fgsm: {"label": "True"}},
    **{attacks.Divergence: {"select": "first"}, attribution.Faithfulness: {"fill": "white"}},
    IntegratedGradients: {"baseline": "white", "target": "loss", "formula": "simpson"},
    **{ExpectedGradients: {"target": "loss"}},
    Training: {"precision": "fp16", "optimizer": "lion", "schedule": "steps", "keep": "first"},
    FeatureConsistency: {"distance": "l2", "gradient": "clean", "clean_pass": "x"},
}
SHARED = {"clean_pass": "shared"}
PREDICTED = Fgsm(threat=BALL, label="predicted")
ALPHA = "alpha must be a finite number ≥ 0 and ≤ 1, not"
OTHERS: list[tuple[Any, dict[str, Any], str]] = [
    (IntegratedGradients, {"tolerance": 0.1, "max_steps": 20}, "max_steps 20 is below steps 50"),
    *((kind, {"seed": -1}, "seed must be") for kind in (IntegratedGradients, ExpectedGradients)),
    (attribution.Stability, {"seed": -1}, "seed must be"),
    (ExpectedGradients, {"samples": 7}, "samples must be at least 2, and even"),
    (ExpectedGradients, {"samples": 1, "stratified": False}, "samples must be at least 2"),
    *((Fgsm, {"draws": value}, "draws must be a whole") for value in (math.nan, 1.5)),
    *((Consistency, {"top": value}, "top must") for value in (0.0, 1.5, math.nan)),
    (Consistency, {"sigma": -1.0}, "sigma must"),
    *((dissection.Dissection, {"quantile": value}, "quantile must") for value in (0, 1)),
    *((Training, {"average": value}, "average must") for value in (1.0, -0.1)),
    (Training, {"momentum": -0.1}, "momentum must"),
    *((Augmentation, {"crop": 0, "rotation": value}, "rotation must") for value in (200, math.nan)),
    *((Augmentation, {"resized_crop": v}, "resized_crop must") for v in ((0.5, 0.2), (0.0, 1.0))),
    (Augmentation, {"crop": 4, "resized_crop": (0.1, 1.0)}, "crop and resized_crop exclude each"),
    (Augmentation, {"crop": -1}, "crop must"),
    *((FeatureConsistency, {"alpha": value}, f"{ALPHA} {value}") for value in (1.1, math.nan)),
    (Unrelaxed, {"alpha": -0.1}, f"Unrelaxed: {ALPHA} -0.1"),
    *((FeatureConsistency, {"beta": v}, f"a finite number ≥ 0, not {v}") for v in (-1, math.inf)),
    (FeatureConsistency, SHARED | {"attack": Bim(threat=BALL)}, 'clean_pass="shared" needs a'),
    (FeatureConsistency, SHARED | {"attack": PREDICTED}, "an Fgsm attack on the true label, not"),
    (FeatureConsistency, SHARED | {"alpha": 0}, "not alpha=0 and Fgsm"),
]
REFUSED = [
    *(
        (kind, {n: v}, f"{n} must be")
        for kind, ns in POSITIVE.items()
        for n in ns.split()
        for v in (0, -1, math.nan)
    ),
    *((kind, {n: v}, f"{n} must be one of") for kind, of in CHOICES.items() for n, v in of.items()),
    *OTHERS,
]
LIMITS = [
    ({"above": 0}, [TINY, 5], [0, -1], "a positive number"),
    ({"least": 0}, [0, 5], [-TINY], "a finite number ≥ 0"),
    ({"above": 0, "most": 1}, [TINY, 1], [0, 1.01], "a finite number > 0 and ≤ 1"),
    ({"least": 0, "below": 1}, [0, 0.99], [-TINY, 1], "a finite number ≥ 0 and < 1"),
    ({"least": -2, "most": 180}, [-2, 180], [-2.5, 181], "a finite number ≥ -2 and ≤ 180"),
]
NET = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
IMAGES = torch.rand(1, 3, 2, 2), torch.tensor([0])
GRADIENTS = advlens.IntegratedGradients(steps=2)


CALLS = {
    "a model is loaded by its name": lambda: advlens.load_model(nn.Flatten()),
    "data are loaded by their name": lambda: advlens.load_data(Path("images")),
    "a method is named by a string": lambda: advlens.make_attack(3),
    "net: classes must be a list": lambda: advlens.Classifier(NET, name="net", classes="abc"),
    "net: the network must be a torch.nn.Module, not int": lambda: advlens.Classifier(
        3, name="net"
    ),
    "net: image_size must be a number": lambda: advlens.Classifier(
        NET, name="net", image_size="32"
    ),
    "net: resize must be a number of pixels": lambda: advlens.Classifier(NET, name="net", resize=0),
    "the name of a classifier must be a text, not 3": lambda: advlens.Classifier(NET, name=3),
    "net: interpolation must be bilinear or bicubic, not 'area'": lambda: advlens.Classifier(
        NET, name="net", interpolation="area"
    ),
    "there is no device 'gpu' here": lambda: advlens.load_model("resnet14", device="gpu"),
    "an mps device has no float64": lambda: advlens.load_model("resnet14", device="mps"),
    "there is no device 'cuda:99'": lambda: advlens.load_model("resnet14", device="cuda:99"),
    "returns no head 3.5; there are: 0": lambda: logits_of((torch.rand(1, 2),), 3.5),
    "transform must be advlens.datasets": lambda: advlens.load_data("sample", transform=32),
    "baselines must be a float tensor, no": lambda: GRADIENTS(NET, *IMAGES, baselines="black"),
    "the model must be a torch.nn.Module, not": lambda: Pgd(threat=BALL)("cifar10-l2", *IMAGES),
}
OTHER_TYPES = [
    (AuditSettings, {"layers": "conv1"}, "layers must be a tuple, each part a string, not 'c"),
    (AuditSettings, {"fgsm": 0.1}, "fgsm must be a tuple, each part a number, not 0.1"),
    (AuditSettings, {"steps": "3"}, "steps must be a whole number, not '3'"),
    (AuditSettings, {"steps": 2.5}, "steps must be a whole number, not 2.5"),
    (AuditSettings, {"steps": True}, "steps must be a whole number, not True"),
    (AuditSettings, {"seed": None}, "seed must be a whole number, not None"),
    (AuditSettings, {"epsilon": "auto"}, "epsilon must be a number or a tuple, each part a number"),
    (AuditSettings, {"natural": "yes"}, "natural must be True or False, not 'yes'"),
    (AuditSettings, {"stages": ["accuracy", 3]}, "stages must be a tuple, each part a string"),
    (AuditSettings, {"stages": ["acuracy"]}, "stages names 'acuracy', .* accuracy; there are"),
    (AuditSettings, {"synsets": 3}, "synsets must be a path or None, not 3"),
    (DissectSettings, {"layers": "all"}, "layers must be a tuple, each part a string"),
    (AttackSettings, {"method": "pdg"}, "method must be one of fgsm, bim, pgd, "),
    (TrainSettings, {"epsilon_range": (1, 2, 3)}, "epsilon_range must be a tuple of 2 parts, "),
    (Pgd, {"threat": "linf"}, r"threat must be Threat\(…\), not 'linf'"),
    (advlens.GaussianNoise, {"threat": BALL, "seed": "1"}, "seed must be a whole number, not '1'"),
    (Pgd, {"threat": BALL, "label": "least"}, "label must be one of true, predicted, target, not"),
    (Linf, {"epsilon": "8/255"}, "epsilon must be a number or a tensor or Uniform"),
    (Dissection, {"layers": "conv1"}, "layers must be a tuple, each part a string"),
    (advlens.IntegratedGradients, {"steps": None}, "steps must be a whole number, not None"),
    (Training, {"objective": "standard"}, r"objective must be Standard\(…\) or Adversarial"),
    (advlens.Augmentation, {"crop": "4"}, "crop must be a whole number, not '4'"),
]


@dataclass
class Settings:
    rate: float | None = None
    seed: int = 0


@pytest.mark.parametrize(("limits", "inside", "outside", "words"), LIMITS)
def test_numbers_have_limits(limits: Any, inside: Any, outside: Any, words: str) -> None:
    for value in (None, *inside):
        check_numbers(Settings(value), "rate", **limits)
    for value in (*outside, math.nan, math.inf, -math.inf):
        sentence = f"Settings: rate must be {words}, not {value}"
        with pytest.raises(SettingsError, match=f"^{re.escape(sentence)}$"):
            check_numbers(Settings(value), "rate", **limits)
        with pytest.raises(SettingsError, match=f"^some share must be {re.escape(words)}"):
            check_number("some share", value, **limits)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_are_whole_numbers_of_63_bits(seed: int) -> None:
    for good in (0, 2**63 - 1):
        check_seed(Settings(seed=good))
    with pytest.raises(
        SettingsError, match=f"^Settings: seed must be .* ≥ 0 and < 2⁶³, not {seed}"
    ):
        check_seed(Settings(seed=seed))


@pytest.mark.parametrize(("where", "start"), [("", ""), ("captum:DeepLift", "captum:DeepLift: ")])
def test_a_sentence_begins_with_what_is_asked_for(where: str, start: str) -> None:
    with pytest.raises(SettingsError, match=f"^{start}rate must be a positive number, not 0$"):
        check_positive(Settings(0), "rate", where=where)
    with pytest.raises(SettingsError, match=f"^{start}seed must be"):
        check_seed(Settings(seed=-1), where=where)


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("kind", [Pgd, GaussianNoise])
def test_radii_of_another_number_of_images_are_refused(kind: Any, count: int) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    attack = kind(threat=Linf(epsilon=torch.full((count,), 0.1)))
    images, labels = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 0, 1])
    for run in (attack, attack.outcomes):
        with pytest.raises(SettingsError, match=f"^epsilon has {count} values for 4 images; give"):
            run(model, images, labels)


@pytest.mark.parametrize(("kind", "settings", "sentence"), REFUSED)
def test_every_class_refuses_what_cannot_be_meant(kind: Any, settings: Any, sentence: str) -> None:
    known = {field.name: field.default for field in dataclasses.fields(kind)}
    ball = {"threat": BALL} if known.get("threat") is dataclasses.MISSING else {}
    with pytest.raises(SettingsError, match=re.escape(sentence)):
        kind(**ball, **settings)


@pytest.mark.parametrize(("kind", "settings", "sentence"), OTHER_TYPES)
def test_another_type_is_refused(kind, settings, sentence):
    where = "" if kind.__name__.endswith("Settings") else f"{kind.__name__}: "
    with pytest.raises(SettingsError, match=f"^{where}{sentence}"):
        kind(**settings)


def test_what_means_the_same_is_taken():
    like = {"stages": ["accuracy"], "steps": np.int64(3), "epsilon": 1, "sigma": np.float32(0.5)}
    settings = AuditSettings(inception="folder", **like)
    assert (settings.stages, settings.steps, settings.epsilon) == (("accuracy",), 3, 1)
    assert (type(settings.steps), type(settings.sigma), settings.sigma) == (int, float, 0.5)
    assert settings.inception == Path("folder")
    assert Linf(epsilon=torch.tensor([0.1, 0.2])).epsilon.shape == (2,)


@pytest.mark.parametrize("sentence", CALLS)
def test_what_is_no_name_and_no_model_is_refused(sentence):
    with pytest.raises(AdvlensError, match=sentence):
        CALLS[sentence]()
