"""Every line of SECURITY.md has a test."""

import re
import sys
from pathlib import Path

import pytest

from advlens import DataError, SettingsError, load_model
from advlens.auditing.subjects import _synsets
from advlens.cli import main
from advlens.cli.parsing import parse

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
PROOFS = """
factory test_security.py test_a_factory_of_the_working_directory_is_code_that_runs
directory test_security.py test_a_factory_of_the_working_directory_is_code_that_runs
config test_security.py test_a_configuration_file_holds_values_only
plugin test_public.py test_names_and_libraries_come_when_they_are_used
entry-points test_plugins.py test_an_analysis_of_another_package_is_in_stages_run_and_report
weights models/test_pickles.py test_hostile_files
training-state test_tampered.py test_a_tampered_checkpoint_is_one_sentence
run-names test_tampered.py test_an_audit_that_goes_on_with_a_tampered_folder_ends_in_one_sentence
run-links test_tampered.py test_links_are_refused_only_where_a_run_writes
run-content test_tampered.py test_a_report_of_a_tampered_folder_is_one_sentence
run-states test_tampered.py test_an_audit_that_goes_on_with_a_tampered_folder_ends_in_one_sentence
report test_report_hostile.py test_nothing_runs_and_nothing_is_loaded
viewer viewer/test_view_access.py test_nobody_is_answered_without_the_token
viewer-paths viewer/test_view_access.py test_no_path_leads_anywhere_else
images datasets/test_decoding.py test_bombs_are_not_decoded
broden datasets/broden/test_layout.py test_damage_that_opening_finds
archives datasets/test_cifar10.py test_other_members_are_not_written
tables test_security.py test_tables_of_classes_are_texts_of_known_names
"""


def test_every_line_has_a_test_that_exists():
    trusted, not_trusted = PAGE.partition("## Not promised")[0].split("## ")[1:]
    lines = [line for part in (trusted, not_trusted) for line in re.findall(r"^- .*", part, re.M)]
    keys = [re.match(r"- \*\*([a-z-]+)\*\*: ", line) for line in lines]
    assert all(keys), lines
    proofs = [line.split() for line in PROOFS.strip().splitlines()]
    assert [key[1] for key in keys] == [key for key, _, _ in proofs]
    for _, file, name in proofs:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), name


def test_a_factory_of_the_working_directory_is_code_that_runs(tmp_path, monkeypatch):
    (tmp_path / "of_someone.py").write_text(
        "import pathlib, torch\n"
        "pathlib.Path('ran').touch()\n"
        "def factory():\n    return torch.nn.Linear(1, 1)\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    load_model("of_someone:factory")
    assert (tmp_path / "ran").exists()
    assert sys.path == before
    sys.modules.pop("of_someone")


TEXTS = [
    *("steps = \"__import__('os').system('touch ran')\"", "steps = __import__('os')"),
    *('steps = {"$(touch ran)" = 1}', '"; touch ran" = 1', '[tool]\nsteps = "`touch ran`"'),
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_configuration_file_holds_values_only(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text(text, encoding="utf-8")
    words = ["audit", "--model=cifar10-standard", "--data=sample", "--out=run", "--config=a.toml"]
    with pytest.raises(SettingsError):
        parse(words)
    assert main(words) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.toml"]


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\x00", b"cat,n99999999\n", b"dog,n02084071\n", b"cat,../../etc/passwd\n", b"cat\n"],
)
def test_tables_of_classes_are_texts_of_known_names(content, tmp_path):
    table = tmp_path / "table.csv"
    table.write_bytes(content)
    with pytest.raises(DataError):
        _synsets(("cat",), table)
