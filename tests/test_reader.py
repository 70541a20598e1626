"""A run folder as plain data and as pandas frames."""

import shutil
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


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), shown=1)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def test_a_run_as_plain_data(made: Path) -> None:
    found = read_run(str(made))
    assert found.folder == made
    assert found.models == ("standard", "robust")
    assert found.record["settings"]
    assert set(found.tables) == {path.stem for path in (made / "results").glob("*.csv")}
    assert {"accuracy", "units", "layers"} <= set(found.tables)


def test_columns_have_one_type_each(made: Path) -> None:
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


def write_without(run: Path, table: str, column: str) -> None:
    rows = [{name: row[name] for name in row if name != column} for row in read(run, table)]
    write_csv(run / "results" / f"{table}.csv", rows)


def test_a_column_that_an_earlier_version_did_not_write_is_empty(run: Path) -> None:
    write_without(run, "floors", "kind")
    assert "kind" not in read_run(run).rows("floors")[0]
    found = Results.read(run).table("floors")
    assert found
    assert {row["kind"] for row in found} == {None}
    for table, column in (("floors", "value"), ("units", "lc")):  # lc may be empty, not absent
        write_without(run, table, column)
        with pytest.raises(RunError, match=f"it has no column {column}"):
            Results.read(run).table(table)


def test_names_stay_texts_and_empty_cells_are_none(run: Path) -> None:
    write_csv(run / "results" / "odd.csv", ODD)
    assert read_run(run).rows("odd") == ODD
    # but concepts go by their numbers
    rows = [{"model": "standard", "unit": 0, "label": 14, "iou": 1}]
    write_csv(run / "results" / "dissection.csv", rows)
    (found,) = read_run(run).rows("dissection")
    assert found == rows[0]
    assert (type(found["label"]), type(found["iou"])) == (int, float)


@pytest.mark.filterwarnings("ignore:Mismatched null-like values:FutureWarning")  # pandas 2
def test_frames_are_what_pandas_reads(run: Path) -> None:
    found = read_run(run)
    for table in found.tables:
        plain = pandas.read_csv(run / "results" / f"{table}.csv")
        types = TABLES[table].types
        reals = [name for name, kind in types.items() if kind in (float, float | None)]
        # pandas takes a column of 0 and 1 for whole numbers, in one run and not in the next
        plain = plain.astype(dict.fromkeys(reals, float))
        pandas.testing.assert_frame_equal(found.frame(table), plain, check_dtype=True)
    write_csv(run / "results" / "odd.csv", ODD)
    frame = read_run(run).frame("odd")
    assert frame["class"].tolist() == ["null", "NA"]  # pandas by itself takes them for missing
    assert frame["nothing"].dtype == frame["share"].dtype == float
    assert frame["nothing"].isna().all()
    assert (frame["ok"].dtype, frame["count"].dtype) == (bool, "int64")


def test_pandas_is_imported_only_for_frames() -> None:
    code = "import sys, advlens; advlens.read_run; print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "False"


def test_a_frame_without_pandas_says_how_to_get_it(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    found = read_run(made)
    assert found.rows("accuracy")
    with pytest.raises(SettingsError, match=r"pip install 'advlens\[pandas\]', or use rows"):
        found.frame("accuracy")


def test_wrong_folders_and_tables_are_one_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no run folder .*none; name one made by"):
        read_run(tmp_path / "none")
    with pytest.raises(RunError, match=r"cannot read .*run.json: it is not there; name a folder"):
        read_run(tmp_path)
    for table, words in (("unit", r"'unit'; it has accuracy, .*units"), ("../run", r"'\.\./run'")):
        with pytest.raises(RunError, match=f"has no table {words}"):
            read_run(run).rows(table)
    (run / "results" / "units.csv").write_text("model,unit\nstandard\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"units.csv is damaged: line 2 has 1 cells, not 2"):
        read_run(run).frame("units")
    (run / "results" / "units.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match=r"units.csv is damaged"):
        read_run(run).rows("units")
