"""Curves of CS against LC, the choice of units to show, and the classes of their images."""

import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from advlens.auditing.stages.neurons.curves import curve
from advlens.auditing.stages.neurons.pictures import choose_units, shown_units
from advlens.auditing.stages.neurons.rows import class_rows
from advlens.consistency import Interval, LayerConsistency, layer_consistency
from advlens.statistics import TopK


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
    fewer = [[unit.unit for unit in choose_units(layer(lc, lc), count)] for count in (1, 2, 3, 5)]
    assert fewer == [[0], [0, 4], [0, 8, 4], [0, 8, 2, 3, 4]]


def test_named_units_are_shown_in_their_order_dead_ones_without_lc():
    lc = [0.75, 0.125, 0.5]
    layers = {"a": layer(lc, lc), "b": layer(lc, lc, [False, True, False])}
    found = shown_units(layers, ("b:1", "a:2", "b:0", "c:0", "a:3", "b:1"), 6)
    assert {name: [(u.unit, u.lc, u.chosen) for u in units] for name, units in found.items()} == {
        "b": [(1, None, "your choice"), (0, 0.75, "your choice")],
        "a": [(2, 0.5, "your choice")],
    }
    for nothing_there in ((), ("c:0", "a:3")):
        assert shown_units(layers, nothing_there, 2) == {"b": choose_units(layers["b"], 2)}


def test_the_classes_of_a_unit_are_those_of_its_top_images():
    labels, classes = torch.tensor([2, 0, 2, 1, 1, 2, 3, 0]), ("a", "b", "c", "d")
    tops = [TopK(5, 2), TopK(5, 2)]
    responses = torch.arange(16.0).view(8, 2) % 11 - torch.tensor([0.0, 20])  # the second is dead
    for top, given in zip(tops, (responses, responses.flip(0)), strict=True):
        top.update(given, torch.arange(8))
    layer = layer_consistency(*tops, labels, labels.flip(0), torch.eye(4, dtype=torch.float64))
    context = SimpleNamespace(name="m", data=SimpleNamespace(classes=classes))
    rows = list(class_rows(context, "conv", layer))
    assert [(row["unit"], row["images"]) for row in rows] == [
        (0, "real"),
        (0, "adversarial"),
        (0, "target"),
    ]
    for row, top, own in zip(rows, (*tops, tops[1]), (labels, labels, labels.flip(0)), strict=True):
        seen = Counter(own[top.compute()[1][0]].tolist())
        ordered = sorted(seen, key=lambda label: (-seen[label], label))
        named = [(row[f"class_{i}"], row[f"share_{i}"]) for i in range(1, 6)]
        wanted = [(classes[label], seen[label] / 5) for label in ordered]
        assert named == wanted + [(None, None)] * (5 - len(wanted))
