"""What results show in a notebook: figures, frames, HTML with small pictures."""

import base64
import io
import re
import sys

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import advlens
from advlens import progress
from advlens.auditing.calls import call_of
from advlens.dissection import Concepts
from advlens.drawing import MOST, enlarged, table_html
from advlens.statistics import TopK
from small_runs import SYNSETS, audited, convolution, noise, small, unreported

IMAGES, LABELS = torch.rand(10, 3, 12, 12), torch.arange(10) % 3


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return small(lambda: convolution(6, 1, 3), synsets=SYNSETS)


def embedded(html: str) -> list[np.ndarray]:
    """The pictures in a piece of HTML."""
    texts = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    files = [io.BytesIO(base64.b64decode(text)) for text in texts]
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


def test_an_attribution_shows_heat_maps_and_its_numbers(network):
    found = advlens.IntegratedGradients(steps=4)(network, IMAGES, LABELS)
    pictures = embedded(found._repr_html_())
    assert len(pictures) == MOST < len(IMAGES)
    for picture, values in zip(pictures, found.maps, strict=False):
        height, width = values.shape
        factor = len(picture) // height
        red, _, blue = np.moveaxis(picture[::factor, ::factor].astype(int), 2, 0)
        strong = values.abs() > values.abs().mean()
        assert ((torch.from_numpy(red - blue) > 0) == (values > 0))[strong].all()
        assert picture.shape == (factor * height, factor * width, 3)
    alone, beside = found.plot(), found.plot(IMAGES)
    for others in (IMAGES[1:], IMAGES[..., 1:]):
        with pytest.raises(advlens.DataError, match="that were attributed"):
            found.plot(others)
    assert [len(figure.axes) for figure in (alone, beside)] == [MOST, 2 * MOST]
    drawn = beside.axes[1].images[0].get_array()
    np.testing.assert_allclose(drawn, enlarged(IMAGES[1]).permute(1, 2, 0), atol=1e-6)
    frame = found.to_frame()
    assert frame["target"].tolist() == LABELS.tolist()
    assert frame["gap"].tolist() == pytest.approx(found.gap.tolist())


def test_images_that_are_made_are_shown(network):
    found = advlens.Inversion(steps=2)(network, IMAGES[:3], IMAGES[3:6])
    pictures = embedded(found._repr_html_())
    assert len(pictures) == 3
    expected = (enlarged(found.images[2]) * 255).round().byte().permute(1, 2, 0)
    np.testing.assert_array_equal(pictures[2], expected)
    assert found.to_frame()["objective"].tolist() == pytest.approx(found.objective.tolist())
    assert len(found.plot().axes) == 3


def test_units_are_shown_with_their_means(network):
    (found,) = advlens.Consistency(top=0.3)(network, IMAGES, LABELS).values()
    frame = found.to_frame()
    assert list(frame) == ["dead", "lc", "consis_adv", "cs1", "cs2"]
    assert frame["lc"].mean() == pytest.approx(found.intervals["lc"].mean)
    html = found._repr_html_()
    assert f"{found.intervals['cs1'].mean:.4g}" in html
    assert len(embedded(html)) == 1
    (axes,) = found.plot().axes
    points = axes.collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 1], frame["cs1"])
    ious = torch.rand(12, 4, dtype=torch.float64)
    units = {"thresholds": torch.rand(12), "permuted_labels": torch.ones(12).long()}
    concepts = Concepts(
        **units, labels=torch.arange(12) % 4, iou=ious.amax(dim=1), permuted_iou=ious[:, 0],
        dead=torch.zeros(12).bool(), ious=ious, top=TopK(2, 12),
    )  # fmt: skip
    assert concepts.to_frame()["iou"].tolist() == ious.amax(dim=1).tolist()
    html = concepts._repr_html_()
    assert "12 rows" in html
    assert len(embedded(html)) == 1
    points = concepts.plot().axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points, torch.stack([ious[:, 0], ious.amax(dim=1)], dim=1))


def test_a_run_from_python_shows_itself(network, tmp_path):
    settings = advlens.AuditSettings(stages=("accuracy",), natural=True, batch_size=4)
    audited(network, noise(9), tmp_path / "run", settings=settings)
    run = advlens.read_run(tmp_path / "run")
    (tmp_path / "run" / "figures").mkdir(exist_ok=True)
    Image.new("RGB", (900, 300), "red").save(tmp_path / "run" / "figures" / "a.png")
    html = run._repr_html_()
    assert "<td>tiny</td>" in html
    (picture,) = embedded(html)
    assert picture.shape == (112, 336, 3)
    axes, rows = run.plot().axes[0], run.rows("accuracy")
    assert axes.lines[0].get_xdata() == [row["top1"] for row in rows]
    (low, high), *_ = [segment[:, 0] for segment in axes.collections[0].get_segments()]
    assert [low, high] == [rows[0]["top1_low"], rows[0]["top1_high"]]


def test_a_run_from_python_has_the_code_that_makes_it_again(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    weights = tmp_path / "net.safetensors"
    advlens.models.save_weights(advlens.load_model("resnet14", seed=1), weights)
    data = advlens.load_data("sample").subset(9, seed=1)
    table = tmp_path / "synsets.csv"
    table.write_text(
        "".join(f"{each},{wnid}\n" for each, wnid in zip(data.classes, data.synsets, strict=True))
    )
    settings = advlens.AuditSettings(
        stages=("accuracy",), natural=True, batch_size=4, synsets=table
    )
    models = [advlens.load_model(f"resnet14@{weights}", ignore_keys=["a"]), "cifar10-l2"]
    audited(models, data, tmp_path / "run", settings=settings)
    written = advlens.read_run(tmp_path / "run").record
    assert str(tmp_path) not in written["command"]
    code = written["command"].replace("~/run", "~/again")
    with unreported():
        exec(code)
    again = advlens.read_run(tmp_path / "again").record
    assert again["command"] == code
    for key in ("models", "data", "settings"):
        assert again[key] == written[key]


@pytest.mark.parametrize(
    ("data", "comment"),
    [
        ("sample", None),
        (noise(9), "noise: 9 images, 3 classes"),
        (DataLoader(TensorDataset(IMAGES, LABELS)), "DataLoader of TensorDataset, 10 images"),
        ((IMAGES, LABELS), "images 10×3×12×12 and 10 labels"),
    ],
)
def test_code_of_a_run_says_what_the_reader_must_supply(data, comment, network):
    lines = call_of(
        "audit", [nn.Sequential(nn.Flatten()), network], data, "run", advlens.AuditSettings()
    )
    expected = f"data = ...  # {comment}"
    assert lines.splitlines() == [
        "import advlens",
        "",
        "model_1 = ...  # Sequential",
        "model_2 = ...  # Classifier 'tiny', 3 classes",
        *([] if comment is None else [expected]),
        f"advlens.audit([model_1, model_2], {'data' if comment else repr(data)}, 'run')",
    ]


def test_texts_are_escaped_and_long_tables_cut():
    html = table_html([{"name": "<b>", "value": 0.123456, "norm": None}] * 11)
    assert "&lt;b&gt;" in html
    assert html.count("<tr>") == 11
    assert "0.1235" in html
    assert html.count("<td></td>") == 10
    assert "11 rows" in html


def test_a_frame_needs_pandas(network, monkeypatch):
    found = advlens.Inversion(steps=1)(network, IMAGES[:1], IMAGES[1:2])
    assert isinstance(found.to_frame(), pandas.DataFrame)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(advlens.SettingsError, match=r"advlens\[pandas\]"):
        found.to_frame()


def test_a_notebook_has_a_bar_without_a_terminal(monkeypatch, capsys):
    assert progress.Progress("pass", 3).bar is None
    monkeypatch.setattr(progress, "NOTEBOOK", True)
    with progress.Progress("pass", 3) as shown:
        shown.update(3)
    assert "3/3" in capsys.readouterr().err
