"""Runs side by side: the same tables as one audit of all their models, without measuring again."""

import csv
import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from advlens import AuditSettings, RunError, SettingsError, compare
from advlens.cli.verbs import main
from advlens.prepared import frozen
from advlens.runs.folder import read_json, write_csv
from advlens.runs.results import Results
from small_runs import SYNSETS, audited, noise, rows, small
from unrendered import unrendered, unwritten

SETTINGS = AuditSettings(
    **{"stages": ("accuracy", "neurons", "attribution"), "steps": 2, "sweep_images": 12},
    **{"neuron_steps": 2, "batch_size": 16, "top": 0.1, "explained": 4, "points": 2},
    **{"baselines": 1, "samples": 2, "device": "cpu"},
)
DATA = noise(40, synsets=SYNSETS, telling=True)


def models(*seeds: int) -> list[Any]:
    def network() -> nn.Module:
        layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.ReLU()
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))

    return [small(network, "tiny" if seed < 2 else "other", seed=seed) for seed in seeds]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Audits of some models, and of all together."""
    folder = tmp_path_factory.mktemp("runs")
    seeds = {"first": (0, 2), "second": (1,), "all": (0, 2, 1)}
    return {
        name: audited(models(*some), DATA, folder / name, settings=SETTINGS)
        for name, some in seeds.items()
    }


@pytest.fixture(scope="module")
def joined(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("joined") / "out"
    with unrendered():
        report = compare([runs["first"], runs["second"]], out)
    assert report == out / "report.html"
    assert report.stat().st_size > 10_000
    return out


def plain(run: Path) -> dict[str, list[dict[str, Any]]]:
    """All tables; in place of its name, the bytes of a picture."""
    return {
        path.stem: [
            {
                key: (run / cell).read_bytes() if cell.startswith("figures/") else cell
                for key, cell in row.items()
            }
            for row in rows(run, path.stem)
        ]
        for path in sorted((run / "results").iterdir())
    }


def test_the_tables_are_those_of_one_audit_of_all_models(runs, joined):
    found, expected = plain(joined), plain(runs["all"])
    assert found.keys() == expected.keys()
    assert {"differences", "changes", "pictures", "attribution_images"} <= found.keys()
    for name, table in expected.items():
        if name not in ("differences", "changes"):
            assert found[name] == table, name
            continue
        # of values with six digits, of which those of a small difference may be few
        for row, wanted in zip(found[name], table, strict=True):
            for key in ("difference", "low", "high", "p", "p_holm"):
                close = 1e-3 if key.startswith("p") else 1e-5
                assert float(row.pop(key)) == pytest.approx(float(wanted.pop(key)), abs=close)
            assert row == wanted
    assert Results.read(joined).models == ("tiny", "other", "tiny (2)")


def test_nothing_is_measured_again(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen.Prepared, "__init__", None)
    with unwritten():
        compare([runs["first"], runs["second"]], tmp_path)


def test_a_model_in_several_runs_counts_once_and_an_earlier_comparison_is_replaced(runs, tmp_path):
    weights = {"tiny": "ab", "other": "cd"}  # as of weights files
    for name in ("first", "second"):
        copied(runs[name], tmp_path / name, lambda model: {"weights": weights[model["name"]]})
    out = tmp_path / "out"
    with unwritten():
        for names in (("first", "second"), ("second", "first")):
            compare([tmp_path / name for name in names], out)
            table = rows(out, "accuracy")
    assert Results.read(out).models == ("tiny", "other")
    assert [row["model"] for row in table if row["attack"] == "natural"] == ["tiny", "other"]
    assert [row for row in table if row["model"] == "tiny"] == rows(runs["second"], "accuracy")
    note = (
        f"tiny was measured in {tmp_path / 'first'} too; its numbers are those of an earlier run."
    )
    assert note in Results.read(out).record["notes"]


def test_no_two_models_get_one_name(runs, tmp_path):
    one = copied(runs["first"], tmp_path / "one", lambda _: {})
    two = copied(runs["second"], tmp_path / "two", lambda _: {"name": "tiny (2)"}, "tiny")
    with unwritten():
        compare([one, two, runs["second"]], tmp_path / "out")
    assert Results.read(tmp_path / "out").models == ("tiny", "other", "tiny (2)", "tiny (3)")


def test_a_run_that_is_compared_is_not_written_over(runs, joined):
    before = plain(joined)
    with pytest.raises(RunError, match="is one of the runs to compare; choose another --out"):
        compare([joined, runs["second"]], joined.parent / "." / joined.name)
    assert plain(joined) == before


HUGE = " ".join(["1e308", "-1e308"] * 20)
DAMAGES = {
    "a picture is missing": (
        lambda run: shutil.rmtree(run / "figures" / "images"),
        "which is not in the folder",
    ),
    "a picture is too large": (
        lambda run: [os.truncate(path, 2**24 + 1) for path in (run / "figures/images").iterdir()],
        "cannot read the picture .*broken.* more than",
    ),
    "a picture is another file": (
        lambda run: [path.write_bytes(b"GIF89a") for path in (run / "figures/images").iterdir()],
        "cannot read the picture .*broken.*: it is not a PNG",
    ),
    "an influence is too large": (
        lambda run: replaced(run / "results" / "consistency_images.csv", "influences", HUGE),
        "do not fit together .OverflowError",
    ),
    "an influence is no number": (
        lambda run: replaced(run / "results" / "consistency_images.csv", "influences", "0.1 two"),
        "influences in line 2 is '0.1 two', not a number",
    ),
    "an image is neither right nor wrong": (
        lambda run: replaced(run / "results" / "accuracy_images.csv", "right", "zz"),
        "right in line 2 is 'zz', not zeros and ones",
    ),
    "an image's number is beyond all images": (
        lambda run: replaced(run / "results" / "accuracy_images.csv", "first", "1e12"),
        "first in line 2 is '1e12', more than 2,147,483,647",
    ),
    "a method lacks its chance": (
        lambda run: replaced(run / "results" / "attribution_images.csv", "method", "mine"),
        "do not fit together .KeyError",
    ),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_run_leaves_an_earlier_comparison_as_it_was(runs, joined, tmp_path, damage, said):
    broken = copied(runs["second"], tmp_path / "broken", lambda _: {})
    damage(broken)
    before = plain(joined)
    with pytest.raises(RunError, match=said):
        compare([runs["first"], broken], joined)
    assert plain(joined) == before


def test_the_command_writes_a_report_that_says_what_made_it(runs, tmp_path, capsys):
    words = ["compare", str(runs["first"]), str(runs["second"]), "--out", str(tmp_path / "out")]
    with unrendered():
        assert main(words) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "report.html")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "advlens compare" in page
    assert all(name in page for name in ("tiny", "other", "tiny (2)"))


def copied(run: Path, folder: Path, change: Callable[[Any], Any], name: str = "") -> Path:
    """A copy of a run with other entries for its models; a new name is in its tables too."""
    shutil.copytree(run, folder)
    record = json.loads((folder / "run.json").read_text())
    new = [change(model) for model in record["models"]]
    record["models"] = [model | more for model, more in zip(record["models"], new, strict=True)]
    if name:
        for stage in record["stages"]:
            stage["model"] = new[0]["name"]
        for path in (folder / "results").iterdir():
            replaced(path, "model", new[0]["name"])
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def replaced(path: Path, column: str, text: str) -> None:
    """Every cell of a column holds this text."""
    table = rows(path.parent.parent, path.stem)
    if table and column in table[0]:
        write_csv(path, [row | {column: text} for row in table])


def altered(run: Path, folder: Path, old: str, new: str) -> Path:
    """A run whose record has another text in it."""
    (folder / "results").mkdir(parents=True)
    text = (run / "run.json").read_text()
    assert old in text
    (folder / "run.json").write_text(text.replace(old, new, 1))
    return folder


WRONG = {
    "data": (
        '"fingerprint": "',
        '"fingerprint": "0',
        "40 images of noise .* differ in pixels, labels or",
    ),
    "settings": ('"sigma": 1.0', '"sigma": 2.0', "sigma is 1.0 there and 2.0 here"),
    "unfinished": (
        '"unfinished": []',
        '"unfinished": [{"model": "tiny", "stage": "neurons"}]',
        "is not finished .neurons of tiny missing",
    ),
}


@pytest.mark.parametrize(("old", "new", "said"), WRONG.values(), ids=WRONG)
def test_runs_that_do_not_compare_are_refused(runs, tmp_path, old, new, said):
    other = altered(runs["second"], tmp_path / "other", old, new)
    with pytest.raises((SettingsError, RunError), match=said):
        compare([runs["first"], other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_was_measured_and_where_may_differ(runs, tmp_path):
    free = {"stages": ("accuracy",), "attack": ("Bim(norm=Linf, epsilon=.1)",), "batch_size": 7}
    free |= {"sigma": 0.5, "neuron_steps": 9}  # of a stage that only one of them ran
    settings = dataclasses.replace(SETTINGS, **free)
    more = audited(models(1), DATA, tmp_path / "more", settings=settings)
    record = (more / "run.json").read_text()
    (more / "run.json").write_text(record.replace('"quick": false', '"quick": true'))
    with unwritten():
        compare([runs["first"], more], tmp_path / "out")
    assert {row["model"] for row in rows(tmp_path / "out", "units")} == {"tiny", "other"}
    assert "tiny (2)" in {row["model"] for row in rows(tmp_path / "out", "accuracy")}
    (note,) = [n for n in read_json(tmp_path / "out" / "run.json")["notes"] if "sigma" in n]
    assert "neuron_steps is" in note


def test_wrong_use_is_one_sentence(runs, tmp_path):
    with pytest.raises(SettingsError, match="at least two run folders"):
        compare([runs["first"]], tmp_path / "out")
    with pytest.raises(RunError, match="cannot read"):
        compare([runs["first"], tmp_path / "none"], tmp_path / "out")
    with pytest.raises(RunError, match="something other than a comparison"):
        compare([runs["first"], runs["second"]], runs["all"])


def test_a_table_of_another_package_is_joined_too(runs, tmp_path):
    folders = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folders.append(folder)
        (folder / "results").mkdir(parents=True)
        (folder / "run.json").write_text((runs[name] / "run.json").read_text())
        with open(folder / "results" / "toys.csv", "w", newline="") as file:
            csv.writer(file).writerows([["model", "toy"], ["tiny", name]])
    with unwritten():
        compare(folders, tmp_path / "out")
    assert [(row["model"], row["toy"]) for row in rows(tmp_path / "out", "toys")] == [
        *(("tiny", "first"), ("tiny (2)", "second"))
    ]
