"""What is shown is the user's choice: units, components, and how many pictures there are."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tiny_broden
from advlens import AuditSettings, Classifier, ModelError, RunError, SettingsError, audit, dissect
from advlens.datasets import ArrayData, BrodenData
from advlens.settings import DissectSettings
from small_runs import CLASSES, SYNSETS, audited, convolution, noise, rows, small, unreported

STAGES = ("neurons", "attribution", "visualization", "inversion", "generation")
SETTINGS = AuditSettings(
    stages=STAGES,
    **{"units": ("3:5", "0:4", "0:2", "3:5"), "components": (7, 1, 7), "shown": 2},
    **{"neuron_steps": 1, "top": 0.2, "explained": 3, "points": 2, "baselines": 1, "samples": 2},
    **{"visualization_steps": 2, "inverted": 3, "inversion_steps": 2, "generated": 3},
    **{"generation_steps": 2, "batch_size": 16, "device": "cpu"},
)
NOTHING = dataclasses.replace(SETTINGS, units=(), components=())
CHOSEN = [("3", 5), ("0", 4), ("0", 2)]
DATA = noise(60, synsets=SYNSETS, telling=True)
NOT_THERE = [
    (
        {"units": ("33:1",)},
        "units names 33:1, but there is no layer '33' in tiny and other; its nearest are 3 "
        "(8 units) and 0 (8 units)",
    ),
    ({"units": ("0:5", "3:8")}, "units names 3:8, but 3 has 8 units, numbered from 0"),
    (
        {"units": ("0:7", "0:8")},
        "units names 0:8, but 0 has 6 units in tiny and 8 units in other, numbered from 0",
    ),
    (
        {"components": (7, 8)},
        "components names 8, but the representation of tiny has 8 components, numbered from 0",
    ),
]


def network() -> nn.Module:
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Dropout(), nn.Conv2d(6, 8, 3, 2), nn.ReLU()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def classifier() -> Classifier:
    return small(network)


def other(units: int = 8) -> Classifier:
    """A network of one layer of units."""
    return small(lambda: convolution(units, 1, 3), "other")


def maps(model: Classifier, layer: str, data: ArrayData = DATA) -> Tensor:
    """The layer's maps after its rectifier, by the network alone."""
    pixels = data.images(range(len(data))).float() / 255
    with torch.no_grad():
        return model.network[: int(layer) + 2]((pixels - model.mean) / model.std)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, no_rendering):
    out = tmp_path_factory.mktemp("run")
    audit([classifier(), other()], DATA, out, settings=SETTINGS)
    return out


def units(run: Path, table: str = "pictures", model: str = "tiny") -> dict[tuple[str, int], str]:
    """The pictured units of a model in the table's order, and why each is shown."""
    return {
        (row["layer"], int(row["unit"])): row["chosen"] for row in rows(run, table, model=model)
    }


def test_named_units_of_any_layer_are_shown_with_their_strongest_images(finished):
    assert units(finished) == dict.fromkeys(CHOSEN, "your choice")
    assert list(units(finished)) == CHOSEN
    for layer, unit in CHOSEN:
        strongest = maps(classifier(), layer)[:, unit].amax(dim=(1, 2)).sort(descending=True)
        mine = rows(finished, "pictures", model="tiny", layer=layer, unit=str(unit))
        real = [row for row in mine if row["images"] == "real"]
        assert [int(row["id"]) for row in real] == strongest.indices[:8].tolist()
        responses = [float(row["response"]) for row in real]
        assert responses == pytest.approx(strongest.values[:8].tolist(), rel=1e-4)
        assert [row["images"] for row in mine] == ["real"] * 8 + ["adversarial"] * 8


def test_each_model_shows_those_of_the_units_that_it_has(finished, tmp_path):
    assert list(units(finished, model="other")) == [("0", 4), ("0", 2)]
    settings = dataclasses.replace(NOTHING, stages=("neurons",), units=("3:0",))
    audited([classifier(), other()], DATA, tmp_path, settings=settings)
    assert units(tmp_path) == {("3", 0): "your choice"}
    assert set(units(tmp_path, model="other").values()) == {"highest LC", "median LC"}


def test_named_components_are_visualized_in_place_of_others(finished, tmp_path):
    shown = rows(finished, "visualization_pictures", model="tiny")
    assert list(dict.fromkeys(row["component"] for row in shown)) == ["7", "1"]
    pooled = maps(classifier(), "3").mean(dim=(2, 3))
    for component in ("7", "1"):
        ordered = pooled[:, int(component)].sort(descending=True).values
        for kind, wanted in (("most", ordered[:4]), ("least", ordered.flip(0)[:4])):
            mine = [row for row in shown if (row["component"], row["kind"]) == (component, kind)]
            found = [float(row["activation"]) for row in mine]
            assert found == pytest.approx(wanted.tolist(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("shown", [2, 50])
def test_so_many_are_shown_as_far_as_there_are_any(finished, tmp_path, shown):
    run, there = finished, 2
    if shown > 3:
        settings = dataclasses.replace(NOTHING, shown=shown, stages=STAGES[1:])
        run, there = audited(classifier(), DATA, tmp_path, settings=settings), 3
    for table in ("attribution_pictures", "inversion_pictures"):
        assert {row["rank"] for row in rows(run, table)} == set("012"[:there])
    mine = rows(run, "generation_pictures", model="tiny")
    kinds = [(row["class"], row["kind"], int(row["rank"])) for row in mine]
    each = {"real": 2, "start": there, "generated": there}
    assert kinds == [
        (name, kind, rank) for name in CLASSES for kind, n in each.items() for rank in range(n)
    ]


def test_so_many_units_of_the_last_layer_are_shown_if_none_is_named(tmp_path):
    settings = dataclasses.replace(NOTHING, stages=("neurons",), shown=3)
    audited(classifier(), DATA, tmp_path, settings=settings)
    assert list(units(tmp_path).values()) == ["highest LC"] * 2 + ["median LC"]
    assert {layer for layer, _ in units(tmp_path)} == {"3"}


def test_every_grid_is_a_figure_that_its_page_links(finished):
    names = {
        *("units-tiny-3-least-likely", "units-tiny-0-least-likely", "units-other-0-least-likely"),
        *("generation", "visualization"),
        *("attributions-integrated-gradients", "attributions-expected-gradients"),
        *("inversions-noise", "inversions-image"),
    }
    page = (finished / "report.html").read_text(encoding="utf-8")
    for name in names:
        for kind in ("png", "svg"):
            assert (finished / "figures" / f"{name}.{kind}").is_file()
            assert f'href="figures/{name}.{kind}"' in page
    assert "Units of your choice" in page
    assert "named by the user (--units)" in page


def test_another_choice_is_another_run(finished):
    settings = dataclasses.replace(SETTINGS, components=(2,))
    with pytest.raises(RunError, match=r"components is \[7, 1, 7\] there and \[2\] here"):
        audit([classifier(), other()], DATA, finished, settings=settings)


@pytest.fixture(scope="module")
def broden(tmp_path_factory):
    return BrodenData(tiny_broden.write_tiny_broden(tmp_path_factory.mktemp("data") / "tiny"))


def larger() -> Classifier:
    return small(network, size=32, synsets=SYNSETS)


def test_named_units_of_several_layers_are_dissected_and_shown(broden, tmp_path):
    wanted = {"layers": ("all",), "units": ("3:2", "0:5"), "steps": 1, "batch_size": 8}
    with unreported():
        dissect(larger(), broden, tmp_path, settings=DissectSettings(**wanted))
    chosen = dict.fromkeys([("3", 2), ("0", 5)], "your choice")
    assert units(tmp_path, "dissection_pictures") == chosen


def test_an_audit_shows_a_named_unit_on_both_kinds_of_images(broden, tmp_path):
    asked = {"stages": ("neurons", "dissection"), "concepts": f"broden:{broden.root}"}
    settings = dataclasses.replace(NOTHING, **asked, units=("0:1", "3:6"))
    audited(larger(), noise(24, size=32), tmp_path, settings=settings)
    assert list(units(tmp_path)) == [("0", 1), ("3", 6)]
    assert list(units(tmp_path, "dissection_pictures")) == [("3", 6)]  # of the last layer
    settings = dataclasses.replace(settings, units=(), shown=3)
    audited(larger(), noise(24, size=32), tmp_path / "more", settings=settings)
    reasons = list(units(tmp_path / "more", "dissection_pictures").values())
    assert reasons == ["highest IoU"] * 2 + ["largest drop of IoU"]


@pytest.mark.parametrize(("choice", "said"), NOT_THERE)
def test_what_no_model_has_is_refused_before_the_computing(tmp_path, choice, said):
    settings = dataclasses.replace(NOTHING, **choice)
    with pytest.raises(SettingsError) as raised:
        audit([classifier(), other()], DATA, tmp_path, settings=settings)
    assert str(raised.value) == said
    assert not (tmp_path / "parts" / "identity.json").exists()


def test_a_component_must_be_one_of_every_model(tmp_path):
    settings = dataclasses.replace(NOTHING, components=(7,))
    with pytest.raises(SettingsError, match="names 7, but the representation of other has 6 comp"):
        audit([classifier(), other(6)], DATA, tmp_path, settings=settings)


def test_a_unit_of_a_layer_that_is_not_dissected_is_refused(broden, tmp_path):
    with pytest.raises(SettingsError, match="units names 0:1, but 0 is not dissected; add it to"):
        dissect(larger(), broden, tmp_path, settings=DissectSettings(units=("0:1",)))
    with pytest.raises(SettingsError, match=r"no layer '4' in tiny; its nearest are 3 \(8 units"):
        dissect(larger(), broden, tmp_path, settings=DissectSettings(units=("4:1",)))


def test_a_model_without_units_says_so_whatever_is_named(tmp_path):
    bare = small(lambda: nn.Sequential(nn.Flatten(), nn.Linear(432, 3)), synsets=SYNSETS)
    settings = dataclasses.replace(NOTHING, stages=("neurons",), units=("0:1",))
    with pytest.raises(ModelError, match="it has no units"):
        audit(bare, DATA, tmp_path, settings=settings)
