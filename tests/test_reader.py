"""A run folder as plain data and as pandas frames, or refused with the place of the damage."""

import json
import re
import shutil
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pandas
import pytest

from advlens import RunError, SettingsError, read_run
from advlens.runs.columns import Amount, Share
from advlens.runs.folder import write_csv
from advlens.runs.results import Results, Rows
from advlens.runs.tables import TABLES
from synthetic_run import rows_of, write_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), shown=1)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def test_a_run_as_plain_data_has_one_type_for_each_column(made):
    found = read_run(str(made))
    assert found.folder == made
    assert found.models == ("standard", "robust")
    assert found.record["settings"]
    assert set(found.tables) == {path.stem for path in (made / "results").glob("*.csv")}
    assert {"accuracy", "units", "layers"} <= set(found.tables)
    accuracy = read_run(made).rows("accuracy")[0]
    kinds = [type(accuracy[column]) for column in ("model", "top1", "n", "steps")]
    assert kinds == [str, float, int, int]
    units = read_run(made).rows("units")
    assert {type(row["dead"]) for row in units} == {bool}
    assert {(type(row["lc"]), row["dead"]) for row in units} == {(float, False), (type(None), True)}


ODD = [
    {"model": "standard", "layer": "0", "class": "null", "label": "7", "share": 1.0}
    | {"note": "nan", "ok": True, "count": 3, "nothing": None, "less": -2},
    {"model": "robust", "layer": "3", "class": "NA", "label": "None", "share": None}
    | {"note": "1", "ok": False, "count": 4, "nothing": None, "less": 5},
]
DAMAGES = [
    (lambda r: r.pop("models"), "the record has no models"),
    (lambda r: r.update(models=[]), "at least one model"),
    (lambda r: r.update(models={}), "the record's models is not a list"),
    (lambda r: r["models"][0].pop("parameters"), "the record's models has no parameters"),
    (lambda r: r["models"][1].update(name="standard"), "under its own name"),
    (lambda r: r["models"][0]["layers"][0].update(units="6"), "layers's units is '6'"),
    (lambda r: r["data"].update(classes=[]), "needs classes"),
    (lambda r: r["data"].update(classes=["a", 1]), "classes is '1'"),
    (lambda r: r.update(seed=True), "seed is 'True'"),
    (lambda r: r.update(settings=[]), "settings is '[]'"),
    (lambda r: r["stages"][0].update(seconds=None), "seconds is 'None'"),
    (lambda r: r["stages"][0].update(seconds=float("nan")), "NaN"),
]


def write_without(run: Path, table: str, column: str) -> None:
    rows = [{name: row[name] for name in row if name != column} for row in rows_of(run, table)]
    write_csv(run / "results" / f"{table}.csv", rows)


def test_columns_that_are_absent_and_cells_that_are_empty(run):
    write_without(run, "floors", "kind")
    assert "kind" not in read_run(run).rows("floors")[0]
    found = Results.read(run).table("floors")
    assert found
    assert {row["kind"] for row in found} == {None}
    for table, column in (("floors", "value"), ("units", "lc")):  # lc may be empty, not absent
        write_without(run, table, column)
        with pytest.raises(RunError, match=f"it has no column {column}"):
            Results.read(run).table(table)
    write_csv(run / "results" / "odd.csv", ODD)
    assert read_run(run).rows("odd") == ODD
    # but concepts go by their numbers
    rows = [{"model": "standard", "unit": 0, "label": 14, "iou": 1}]
    write_csv(run / "results" / "dissection.csv", rows)
    (found,) = read_run(run).rows("dissection")
    assert found == rows[0]
    assert (type(found["label"]), type(found["iou"])) == (int, float)


def test_a_large_table_takes_little_memory(run):
    """A model may have hundreds of thousands of units; a dictionary each would take 600 bytes."""
    write_csv(run / "results" / "units.csv", rows_of(run, "units") * 200)
    tracemalloc.start()
    try:
        units = Results.read(run).table("units")
        assert tracemalloc.get_traced_memory()[0] < 250 * len(units)
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Mismatched null-like values:FutureWarning")  # pandas 2
def test_frames_are_what_pandas_reads(run):
    found = read_run(run)
    for table in found.tables:
        plain, types = pandas.read_csv(run / "results" / f"{table}.csv"), TABLES[table].types
        kinds = {name: (get_args(kind) or (kind,))[0] for name, kind in types.items()}
        reals = [name for name, kind in kinds.items() if kind in (float, Amount, Share)]
        # pandas takes a column of 0 and 1 for whole numbers, in one run and not in the next
        plain = plain.astype(dict.fromkeys(reals, float))
        pandas.testing.assert_frame_equal(found.frame(table), plain, check_dtype=True)
    write_csv(run / "results" / "odd.csv", ODD)
    frame = read_run(run).frame("odd")
    assert frame["class"].tolist() == ["null", "NA"]  # pandas by itself takes them for missing
    assert frame["nothing"].dtype == frame["share"].dtype == float
    assert frame["nothing"].isna().all()
    assert (frame["ok"].dtype, frame["count"].dtype) == (bool, "int64")


def test_a_frame_without_pandas_says_how_to_get_it(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    found = read_run(made)
    assert found.rows("accuracy")
    with pytest.raises(SettingsError, match=r"pip install 'advlens\[pandas\]'"):
        found.frame("accuracy")


def test_wrong_folders_and_tables_are_one_sentence(run, tmp_path):
    with pytest.raises(RunError, match=r"there is no run folder .*none; name one made by"):
        read_run(tmp_path / "none")
    for table, words in (("unit", r"'unit'; it has accuracy, .*units"), ("../run", r"'\.\./run'")):
        with pytest.raises(RunError, match=f"has no table {words}"):
            read_run(run).rows(table)
    (run / "results" / "units.csv").write_text("model,unit\nstandard\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"units.csv is damaged: line 2 has 1 cells, not 2"):
        read_run(run).frame("units")
    (run / "results" / "units.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match=r"units.csv is damaged"):
        read_run(run).rows("units")


def change(run: Path, alter: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((run / "run.json").read_text())
    alter(record)
    (run / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize(("alter", "named"), DAMAGES)
def test_a_damaged_record_is_refused(run, alter, named):
    assert Results.read(run).chance == 0.25
    change(run, alter)
    with pytest.raises(RunError, match=re.escape(named)) as caught:
        Results.read(run)
    assert "run.json" in str(caught.value)
    assert "advlens audit" in str(caught.value)


def test_a_record_that_is_none_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"cannot read .*run.json: it is not there; name a folder"):
        read_run(tmp_path)
    for content in (b"", b"{", b"[" * 100_000, b"\xff", b"[]", b"null"):
        (tmp_path / "run.json").write_bytes(content)
        with pytest.raises(RunError, match=r"run\.json"):
            Results.read(tmp_path)


COLUMNS = {"model": str, "unit": int, "lc": float | None, "dead": bool}
LINES: list[tuple[str | bytes, str]] = [
    ("robust,1,0.5", "line 2 has 3 cells, not 4"),
    ("robust,1.5,0.5,true", "unit in line 2 is '1.5', not a whole number"),
    ("robust,,0.5,true", "unit in line 2 is '', not a number"),
    ("robust,1,nan,true", "lc in line 2 is 'nan', not finite"),
    ("robust,1,x,true", "lc in line 2 is 'x', not a number"),
    ("robust,1,0.5,True", "dead in line 2 is 'True', not true or false"),
    ("other,1,0.5,true", "'other', which run.json does not name"),
    *(
        (line, "mine.csv is damaged")
        for line in ('"robust,1,0.5,true', b"\xff,1,0.5", "x" * 200_000)
    ),
]


def table(run: Path, content: bytes) -> Rows:
    (run / "results" / "mine.csv").write_bytes(content)
    return Results.read(run).table("mine", COLUMNS)


def test_table_types_its_values_and_leaves_other_columns(run):
    text = b'model,extra,unit,dead,lc\nrobust,x,1e+06,true,\nstandard,"a,\nb",2,false,0.25\n'
    assert table(run, text) == [
        {"model": "robust", "unit": 1_000_000, "lc": None, "dead": True},
        {"model": "standard", "unit": 2, "lc": 0.25, "dead": False},
    ]
    assert Results.read(run).table("nothing", COLUMNS) == []


@pytest.mark.parametrize(("line", "named"), LINES)
def test_a_damaged_table_is_refused(run, line, named):
    content = line.encode() if isinstance(line, str) else line
    with pytest.raises(RunError, match=re.escape(named)) as caught:
        table(run, b"model,unit,lc,dead\n" + content + b"\n")
    assert "mine.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("accuracy_images", "settings,first,right\nrobust,a,,,1,,990,{}\n".format("1" * 11)),
        (
            "consistency_images",
            "layer,images,measure,corrected,top,first,influences\n"
            "robust,a,,,1,c,real,lc,,3,998,0 0 0\n",
        ),
    ],
)
def test_values_of_more_images_than_there_are_are_refused(run, name, rows):
    path = run / "results" / f"{name}.csv"
    path.write_text(f"model,attack,norm,epsilon,steps,{rows}", encoding="utf-8")
    with pytest.raises(RunError, match="first in line 2 is beyond the data's images"):
        Results.read(run).table(name)
    path.write_text(f"model,attack,norm,epsilon,steps,{rows}".replace("99", "98"), encoding="utf-8")
    assert len(Results.read(run).table(name)) == 1


@pytest.mark.parametrize(("header", "column"), [(b"", "model"), (b"model,unit,dead\n", "lc")])
def test_a_table_without_a_column_is_refused(run, header, column):
    with pytest.raises(RunError, match=rf"mine\.csv.*it has no column {column}"):
        table(run, header)


def test_files_stay_in_the_run_folder_and_invisible_characters_are_marked(run, tmp_path):
    results = Results.read(run)
    assert results.file("figures/images/0.png").is_file()
    (tmp_path / "outside.png").write_bytes(b"")
    (run / "link.png").symlink_to(tmp_path / "outside.png")
    absolute = str(tmp_path / "outside.png")
    for name in ("../outside.png", absolute, "link.png", "a\0b", "x" * 5000, "none.png", "", "."):
        with pytest.raises(RunError, match="not in the folder"):
            results.file(name)
    # Control and direction characters, and half a surrogate pair, which no file could hold
    change(run, lambda record: record["models"][0].update(name="a\x00b\u202ec\ud800d"))
    assert Results.read(run).models == ("a\ufffdb\ufffdc\ufffdd", "robust")
