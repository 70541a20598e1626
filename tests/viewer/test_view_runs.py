"""`advlens view`: runs under way and damaged ones, comparisons, and the command."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

import pytest

from advlens.auditing import comparison
from advlens.cli import main
from advlens.errors import SettingsError
from advlens.files import locked
from advlens.report.sections.neurons import section as neurons
from advlens.viewer import runs
from advlens.viewer.server import serving
from pages import parsed, text_of
from synthetic_run import write_run
from unrendered import unrendered
from viewing import ask, get, number, text


def unfinished(run: Path) -> Path:
    """A run whose second model lacks its units, and has begun with them."""
    write_run(run, shown=0)
    record = json.loads((run / "run.json").read_text())
    record["stages"] = record["stages"][:-1]
    record["unfinished"] = [{"model": "robust", "stage": "neurons"}]
    (run / "run.json").write_text(json.dumps(record))
    header = json.dumps({"__metadata__": {"position": "320"}}).encode()
    (run / "parts").mkdir()
    (run / "parts" / "identity.json").write_text("{}")
    state = run / "parts" / "1-neurons.state.safetensors"
    state.write_bytes(len(header).to_bytes(8, "little") + header)
    (run / "parts" / "shared-features-0.state.safetensors").touch()
    return run


def test_the_progress_of_a_run(tmp_path):
    run = unfinished(tmp_path / "run")
    with serving([run]) as server:
        assert "not finished Missing: neurons of robust." in text(server, "")
        said = text(server, "run/0/")
        assert "No process of this machine is at work on this run." in said
        assert "The command that began it goes on with it: advlens audit --model" in said
        assert "neurons ✓ finished" not in said  # the mark is of the style
        assert "neurons finished, 812.4 s missing" in said
        assert "neurons of robust, after 320 images (20" in said
        assert "features-0 of all models (20" in said
        assert '<meta http-equiv="refresh" content="10">' in get(server, "run/0/")
        with locked(run):
            assert "A process is at work on this run." in text(server, "run/0/")
            assert "goes on with it" not in text(server, "run/0/")
        (run / "parts" / "1-neurons.json").write_text("{}")  # before the record is written again
        assert "neurons finished, 812.4 s finished" in text(server, "run/0/")


def test_a_run_without_a_record_and_a_finished_one(server):
    said = text(server, f"run/{number(server, 'begun')}/")
    assert "there is nothing to show yet" in said
    whole = get(server, f"run/{number(server, 'whole')}/")
    assert "This run is finished." in whole
    assert "refresh" not in whole
    assert "Accuracy: holds It is right on" in text_of(parsed(whole))


def test_a_damaged_run_is_one_sentence_and_others_are_shown(tmp_path):
    for name in ("fine", "json", "table", "models"):
        write_run(tmp_path / name, shown=0)
    (tmp_path / "json" / "run.json").write_text("{")
    (tmp_path / "table" / "results" / "accuracy.csv").write_text("model,top1\nstandard,x\n")
    (tmp_path / "models" / "run.json").write_text('{"models": []}')
    os.rename(tmp_path / "fine", os.fsencode(tmp_path / "fine") + b"\xff")  # not UTF-8
    with serving([tmp_path]) as server:
        said = text(server, "")
        for words in ("run.json: Expecting", "accuracy.csv is damaged", "the record has no"):
            assert words in said
        assert "fine" in said
        assert "Accuracy: holds" in said
        assert "accuracy.csv is damaged" in text(server, f"run/{number(server, 'table')}/")


def test_tables_that_do_not_fit_together_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "verdict", lambda results: {}["a"])
    run = write_run(tmp_path / "run", shown=0)
    with serving([run]) as server:
        assert "its tables do not fit together (KeyError: 'a')" in text(server, "")
        assert "its tables do not fit together" in text(server, "run/0/")


def test_runs_are_compared_once(folder, monkeypatch):
    made: list[Path] = []
    write = comparison.write_report
    monkeypatch.setattr(
        comparison, "write_report", lambda out: made.append(out) or write(out, [neurons])
    )
    with serving([folder / "runs"]) as server, unrendered():
        chosen = urlencode([("run", number(server, name)) for name in ("/one", "/two")])
        for _ in range(2):
            status, headers, _ = ask(server, f"/{server.token}/compare?{chosen}")
            assert (status, headers["Location"]) == (303, "run/4/report.html")
        assert len(made) == 1
        said = text(server, "run/4/report.html")
        assert "one and two on CIFAR-10 test" in said
        assert "runs/deep/one" in said
        assert "--out OUT" in said
        assert re.search("Comparison of .*/one and .*/two", text(server, ""))
        assert len(parsed(get(server, "run/4/units")).findall(".//tbody/tr")) == 50
        chosen = urlencode([("run", number(server, name)) for name in ("/two", "/one")])
        assert ask(server, f"/{server.token}/compare?{chosen}")[1]["Location"].startswith("run/5/")
        assert made[0].exists()
    assert not made[0].exists()


def test_runs_that_do_not_compare_are_told(server, tmp_path, folder):
    assert "at least two run folders" in text(server, "compare", 400)
    one = f"run={number(server, '/one')}"
    assert "at least two run folders" in text(server, f"compare?{one}&run=99&run=x", 400)
    begun = f"run={number(server, 'begun')}"
    assert "is not finished" in text(server, f"compare?{one}&{begun}", 400)
    shutil.copytree(folder / "runs" / "deep", tmp_path / "deep")
    record = tmp_path / "deep" / "two" / "run.json"
    record.write_text(record.read_text().replace("0f" * 32, "1f" * 32))
    with serving([tmp_path]) as other:
        said = text(other, "compare?run=0&run=1", 400)
        assert said.startswith("Not compared")
        assert "which differ in pixels, labels or synsets; audit one of them again" in said


def test_bad_input_is_one_sentence(tmp_path, capsys, server):
    (tmp_path / "a" / "b" / "c" / "d" / "e").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c" / "d" / "e" / "run.json").touch()  # too deep
    (tmp_path / "attacks" / "images").mkdir(parents=True)
    (tmp_path / "attacks" / "run.json").touch()  # of stored attacks
    (tmp_path / "link").symlink_to(tmp_path)
    for words, said in (
        ([], "no run is given"),
        ([str(tmp_path / "none")], "none is no folder"),
        ([str(tmp_path)], "holds no run; name a folder made by `advlens audit`"),
        ([str(tmp_path), "--port", "80"], "port must be 0 or from 1024 to 65535, not 80"),
    ):
        assert main(["view", *words]) in (1, 2)
        assert said in capsys.readouterr().err
    write_run(tmp_path / "run", shown=0)
    with pytest.raises(
        SettingsError, match=rf"cannot listen on port {server.server_port}: .*; choo"
    ):
        serving([tmp_path], server.server_port).__enter__()


def test_a_folder_of_very_many_folders_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "MOST", 10)
    for place in range(30):
        (tmp_path / f"{place:02}").mkdir()
        (tmp_path / f"{place:02}" / "last.pt").touch()
    assert [path.name for path in runs.runs_below(tmp_path)] == [f"{n:02}" for n in range(10)]


def test_the_command_needs_no_torch_and_ends_at_ctrl_c(folder):
    code = (
        "import sys, http.client; from pathlib import Path\n"
        "from advlens.viewer.server import serving\n"
        "with serving([Path(sys.argv[1])]) as server:\n"
        "    for path in ('', 'run/0/', 'run/3/units', 'run/3/report.html'):\n"
        "        connection = http.client.HTTPConnection('127.0.0.1', server.server_port)\n"
        "        connection.request('GET', f'/{server.token}/{path}')\n"
        "        assert connection.getresponse().status == 200, path\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(folder / "runs")], check=True)
    command = [sys.executable, "-m", "advlens", "view", str(folder / "runs")]
    temporary = folder / "temporary"
    temporary.mkdir()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        command, **pipes, env={**os.environ, "TMPDIR": str(temporary)}
    ) as process:
        address = process.stdout.readline()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{43}/\n", address)
        assert len(list(temporary.iterdir())) == 1
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0
    assert list(temporary.iterdir()) == []
