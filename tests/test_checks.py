"""Settings beyond their limits are refused in a sentence; those at a limit are taken."""

import math
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from advlens import GaussianNoise, Linf, Pgd
from advlens.checks import check_number, check_numbers, check_positive, check_seed
from advlens.errors import SettingsError

TINY = 5e-324


@dataclass
class Settings:
    rate: float | None = None
    seed: int = 0


@pytest.mark.parametrize(
    ("limits", "inside", "outside", "words"),
    [
        ({"above": 0}, [TINY, 5], [0, -1], "a positive number"),
        ({"least": 0}, [0, 5], [-TINY], "a finite number ≥ 0"),
        ({"above": 0, "most": 1}, [TINY, 1], [0, 1.01], "a finite number > 0 and ≤ 1"),
        ({"least": 0, "below": 1}, [0, 0.99], [-TINY, 1], "a finite number ≥ 0 and < 1"),
        ({"least": -2, "most": 180}, [-2, 180], [-2.5, 181], "a finite number ≥ -2 and ≤ 180"),
    ],
)
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
