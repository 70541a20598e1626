"""A run folder as plain data and as pandas frames."""

import csv
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from advlens.errors import RunError, SettingsError
from advlens.runs.folder import write_csv
from advlens.runs.reader import read_run
from advlens.runs.results import Results
from advlens.runs.tables import TABLES
from synthetic_run import read, write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def test_a_run_as_plain_data(run):
    found = read_run(str(run))
    assert found.folder == run
    assert found.models == ("standard", "robust")
    assert found.record["settings"]
    assert set(found.tables) == {path.stem for path in (run / "results").glob("*.csv")}
    assert {"accuracy", "units", "layers"} <= set(found.tables)


def test_every_table_has_the_values_of_its_file(run):
    found = read_run(run)
    for table in found.tables:
        with open(run / "results" / f"{table}.csv", newline="", encoding="utf-8") as file:
            texts = list(csv.DictReader(file))
        rows = found.rows(table)
        assert len(rows) == len(texts) > 0
        for row, cells in zip(rows, texts, strict=True):
            assert list(row) == list(cells)
            for column, text in cells.items():
                value = row[column]
                if isinstance(value, bool):
                    assert text == str(value).lower()
                elif isinstance(value, int | float):
                    assert float(text) == value
                else:
                    assert text == (value or "")


def test_columns_have_one_type_each(run):
    accuracy = read_run(run).rows("accuracy")[0]
    kinds = {column: type(value) for column, value in accuracy.items()}
    assert (kinds["model"], kinds["top1"], kinds["n"], kinds["steps"]) == (str, float, int, int)
    units = read_run(run).rows("units")
    assert {type(row["dead"]) for row in units} == {bool}
    assert {type(row["lc"]) for row in units if not row["dead"]} == {float}
    assert all(row["lc"] is None for row in units if row["dead"])


ODD = [
    {
        "model": "standard",
        "layer": "0",
        "class": "null",
        "label": "7",
        "share": 1.0,
        "note": "nan",
        "ok": True,
        "count": 3,
        "nothing": None,
        "less": -2,
    },
    {
        "model": "robust",
        "layer": "3",
        "class": "NA",
        "label": "None",
        "share": None,
        "note": "1",
        "ok": False,
        "count": 4,
        "nothing": None,
        "less": 5,
    },
]


def test_a_column_that_an_earlier_version_did_not_write_is_empty(run: Path) -> None:
    rows = read(run, "floors")
    for row in rows:
        del row["kind"]
    write_csv(run / "results" / "floors.csv", rows)
    assert "kind" not in read_run(run).rows("floors")[0]
    found = Results.read(run).table("floors")
    assert found
    assert {row["kind"] for row in found} == {None}
    for table, column in (("floors", "value"), ("units", "lc")):  # lc may be empty, not absent
        rows = read(run, table)
        for row in rows:
            del row[column]
        write_csv(run / "results" / f"{table}.csv", rows)
        with pytest.raises(RunError, match=f"it has no column {column}"):
            Results.read(run).table(table)


def test_names_stay_texts_and_empty_cells_are_none(run):
    write_csv(run / "results" / "odd.csv", ODD)
    rows = read_run(run).rows("odd")
    assert rows == ODD
    assert [type(row["share"]) for row in rows] == [float, type(None)] or rows[0]["share"] == 1


def test_concept_numbers_are_numbers(run):
    rows = [{"model": "standard", "unit": 0, "label": 14, "iou": 1}]
    write_csv(run / "results" / "dissection.csv", rows)
    (found,) = read_run(run).rows("dissection")
    assert found == rows[0]
    assert (type(found["label"]), type(found["iou"])) == (int, float)


@pytest.mark.filterwarnings("ignore:Mismatched null-like values:FutureWarning")  # pandas 2
def test_frames_are_what_pandas_reads(run):
    found = read_run(run)
    for table in found.tables:
        frame = found.frame(table)
        plain = pandas.read_csv(run / "results" / f"{table}.csv")
        types = TABLES[table].types
        reals = [name for name, kind in types.items() if kind in (float, float | None)]
        # pandas takes a column of 0 and 1 for whole numbers, in one run and not in the next
        plain = plain.astype(dict.fromkeys(reals, float))
        pandas.testing.assert_frame_equal(frame, plain, check_dtype=True)
    write_csv(run / "results" / "odd.csv", ODD)
    frame = read_run(run).frame("odd")
    assert frame["class"].tolist() == ["null", "NA"]  # pandas by itself takes them for missing
    assert frame["nothing"].dtype == frame["share"].dtype == float
    assert frame["nothing"].isna().all()
    assert (frame["ok"].dtype, frame["count"].dtype) == (bool, "int64")


def test_pandas_is_imported_only_for_frames():
    code = "import sys, advlens; advlens.read_run; print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "False"


def test_a_frame_without_pandas_says_how_to_get_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    found = read_run(run)
    assert found.rows("accuracy")
    with pytest.raises(SettingsError, match=r"pip install 'advlens\[pandas\]', or use rows"):
        found.frame("accuracy")


def test_wrong_folders_and_tables_are_one_sentence(run, tmp_path):
    with pytest.raises(RunError, match=r"there is no run folder .*none; name one made by"):
        read_run(tmp_path / "none")
    with pytest.raises(RunError, match=r"cannot read .*run.json: it is not there; name a folder"):
        read_run(tmp_path)
    with pytest.raises(RunError, match=r"has no table 'unit'; it has accuracy, .*units"):
        read_run(run).rows("unit")
    with pytest.raises(RunError, match=r"has no table '\.\./run'"):
        read_run(run).rows("../run")
    (run / "results" / "units.csv").write_text("model,unit\nstandard\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"units.csv is damaged: line 2 has 1 cells, not 2"):
        read_run(run).frame("units")
    (run / "results" / "units.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match=r"units.csv is damaged"):
        read_run(run).rows("units")
    (run / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match=r"cannot read .*run.json"):
        read_run(run)
    (run / "run.json").unlink()
    (run / "parts").mkdir()
    with pytest.raises(RunError, match=r"is not finished; the command that began it goes on"):
        read_run(run)
