"""The papers' attacks by other libraries, named on the command line as attacks of a user's own."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from advlens.attacks import Attack, Goal
from steps_by_hand import adam

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # theirs
    import foolbox


@dataclass(frozen=True, kw_only=True)
class ByTorch(Attack):
    """D22 eq. 4 by torch.optim and torch's cross entropy."""

    weight: float
    steps: int

    def goal(self, clean, labels=None):
        return Goal(clean.argmin(dim=1), targeted=True)

    def _attack(self, model, images, labels, ids):
        return adam(model, images, model(images).argmin(dim=1), self.weight, self.steps)


@dataclass(frozen=True, kw_only=True)
class ByFoolbox(Attack):
    """FGSM, or the least-likely attack in L∞ with steps of 2.5 epsilon / steps."""

    epsilon: float
    steps: int = 0

    def goal(self, clean, labels=None):
        return (
            Goal(clean.argmin(dim=1), targeted=True) if self.steps else super().goal(clean, labels)
        )

    def _attack(self, model, images, labels, ids):
        bounded = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        attack, wanted = foolbox.attacks.LinfFastGradientAttack(), labels
        if self.steps:
            size = 2.5 * self.epsilon / self.steps
            kind = foolbox.attacks.LinfBasicIterativeAttack
            attack = kind(steps=self.steps, abs_stepsize=size, random_start=False)
            wanted = foolbox.criteria.TargetedMisclassification(model(images).argmin(dim=1))
        with torch.enable_grad():
            changed: Tensor = attack(bounded, images, wanted, epsilons=self.epsilon)[0]
        return changed
