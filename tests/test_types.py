"""Settings of another type than their field's are refused in a sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import advlens
from advlens import AuditSettings, Classifier, Dissection, DissectSettings, Linf, Pgd, Training
from advlens.errors import AdvlensError, SettingsError
from advlens.models.outputs import logits_of
from advlens.settings import AttackSettings, TrainSettings

BALL = Linf(epsilon=0.1)
NET = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
IMAGES = torch.rand(1, 3, 2, 2), torch.tensor([0])
GRADIENTS = advlens.IntegratedGradients(steps=2)


CALLS = {
    "a model is loaded by its name": lambda: advlens.load_model(nn.Flatten()),
    "data are loaded by their name": lambda: advlens.load_data(Path("images")),
    "a method is named by a string": lambda: advlens.make_attack(3),
    "net: classes must be a list": lambda: Classifier(NET, name="net", classes="abc"),
    "net: the network must be a torch.nn.Module, not int": lambda: Classifier(3, name="net"),
    "net: image_size must be a number": lambda: Classifier(NET, name="net", image_size="32"),
    "net: resize must be a number of pixels": lambda: Classifier(NET, name="net", resize=0),
    "the name of a classifier must be a text, not 3": lambda: Classifier(NET, name=3),
    "net: interpolation must be bilinear or bicubic, not 'area'": lambda: Classifier(
        NET, name="net", interpolation="area"
    ),
    "there is no device 'gpu' here": lambda: advlens.load_model("resnet14", device="gpu"),
    "there is no device 'cuda:99'": lambda: advlens.load_model("resnet14", device="cuda:99"),
    "returns no head 3.5; there are: 0": lambda: logits_of((torch.rand(1, 2),), 3.5),
    "transform must be advlens.datasets": lambda: advlens.load_data("sample", transform=32),
    "baselines must be a float tensor, no": lambda: GRADIENTS(NET, *IMAGES, baselines="black"),
    "the model must be a torch.nn.Module, not": lambda: Pgd(threat=BALL)("cifar10-l2", *IMAGES),
}
REFUSED = [
    (AuditSettings, {"layers": "conv1"}, "layers must be a tuple, each part a string, not 'c"),
    (AuditSettings, {"fgsm": 0.1}, "fgsm must be a tuple, each part a number, not 0.1"),
    (AuditSettings, {"steps": "3"}, "steps must be a whole number, not '3'"),
    (AuditSettings, {"steps": 2.5}, "steps must be a whole number, not 2.5"),
    (AuditSettings, {"steps": True}, "steps must be a whole number, not True"),
    (AuditSettings, {"seed": None}, "seed must be a whole number, not None"),
    (AuditSettings, {"epsilon": "auto"}, "epsilon must be a number or None, not 'auto'"),
    (AuditSettings, {"natural": "yes"}, "natural must be True or False, not 'yes'"),
    (AuditSettings, {"stages": ["accuracy", 3]}, "stages must be a tuple, each part a string"),
    (AuditSettings, {"stages": ["acuracy"]}, "stages names 'acuracy', .* accuracy; there are"),
    (AuditSettings, {"synsets": 3}, "synsets must be a path or None, not 3"),
    (DissectSettings, {"layers": "all"}, "layers must be a tuple, each part a string"),
    (AttackSettings, {"method": "pdg"}, "method must be one of fgsm, bim, pgd, "),
    (TrainSettings, {"epsilon_range": (1, 2, 3)}, "epsilon_range must be a tuple of 2 parts, "),
    (Pgd, {"threat": "linf"}, r"threat must be Threat\(…\), not 'linf'"),
    (advlens.GaussianNoise, {"threat": BALL, "seed": "1"}, "seed must be a whole number, not '1'"),
    (Pgd, {"threat": BALL, "label": "least"}, "label must be one of true, predicted, not"),
    (Linf, {"epsilon": "8/255"}, "epsilon must be a number or a tensor or Uniform"),
    (Dissection, {"layers": "conv1"}, "layers must be a tuple, each part a string"),
    (advlens.IntegratedGradients, {"steps": None}, "steps must be a whole number, not None"),
    (Training, {"objective": "standard"}, r"objective must be Standard\(…\) or Adversarial"),
    (advlens.Augmentation, {"crop": "4"}, "crop must be a whole number, not '4'"),
]


@pytest.mark.parametrize(("kind", "settings", "sentence"), REFUSED)
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
