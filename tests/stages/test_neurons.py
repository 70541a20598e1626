"""Curves of CS against LC, and the choice of units to show."""

import math

import pytest
import torch

from advlens.auditing.stages.neurons.curves import curve
from advlens.auditing.stages.neurons.pictures import choose_units
from advlens.consistency import Interval, LayerConsistency


def layer(lc: list[float], cs1: list[float], dead: list[bool] | None = None) -> LayerConsistency:
    values = {"lc": torch.tensor(lc).double(), "cs1": torch.tensor(cs1).double()}
    values["consis_adv"] = values["lc"]
    values["cs2"] = 1 - values["cs1"]
    gone = torch.tensor(dead or [False] * len(lc))
    values = {name: torch.where(gone, math.nan, v) for name, v in values.items()}
    nothing = Interval(0, 0, 0, 0)
    nothings = dict.fromkeys(values, nothing)
    return LayerConsistency(values, {}, values["lc"], gone, nothings, {}, 10)


def test_bins_hold_every_live_unit_once():
    random = torch.Generator().manual_seed(0)
    lc = torch.rand(200, generator=random) * 0.7 + 0.1
    cs1 = torch.rand(200, generator=random)
    halves = (slice(90), slice(90, 200))
    rows = curve([layer(lc[half].tolist(), cs1[half].tolist()) for half in halves])
    assert sum(row["units"] for row in rows) == 200
    assert len(rows) <= 11
    for row in rows:
        inside = (lc.double() >= row["bin_low"]) & (lc.double() < row["bin_high"])
        assert row["units"] == inside.sum()
        assert row["lc"] == pytest.approx(lc[inside].mean().item(), rel=1e-6)
        assert row["cs1"] == pytest.approx(cs1[inside].mean().item(), rel=1e-6)
        half = 1.96 * cs1[inside].std().item() / math.sqrt(inside.sum())
        assert row["cs1_high"] - row["cs1"] == pytest.approx(half, rel=1e-3)


def test_small_values_get_fine_bins_and_one_unit_no_interval():
    rows = curve([layer([0.002, 0.004, 0.021], [0.1, 0.2, 0.3])])
    assert rows[0]["bin_high"] - rows[0]["bin_low"] == pytest.approx(0.002)
    assert rows[-1]["cs1_low"] is None
    assert curve([layer([0.5], [0.5], [True])]) == []


def test_shown_units_are_the_highest_and_the_median_live_ones():
    lc = [0.9, 0.1, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.9]
    chosen = [
        (unit.unit, unit.chosen) for unit in choose_units(layer(lc, lc, [False] * 8 + [True]))
    ]
    assert chosen[:3] == [(unit, "highest LC") for unit in (0, 2, 3)]
    assert chosen[3:] == [(unit, "median LC") for unit in (4, 5, 6)]
    assert [unit.unit for unit in choose_units(layer([0.2, 0.1], [0, 0]))] == [0, 1]
