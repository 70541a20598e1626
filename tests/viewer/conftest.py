"""The runs that tests of the viewer look at, and a server of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from advlens.report.page import write_report
from advlens.report.sections.dissection import section as dissection
from advlens.report.sections.neurons import section as neurons
from advlens.viewer.server import Server, serving
from synthetic_dissection import write_dissection
from synthetic_run import change, write_run
from unrendered import unrendered
from viewing import SECRET


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs: two that compare, one with concepts, one that has no record yet; a file beside them."""
    folder = tmp_path_factory.mktemp("viewer")
    (folder / "secret.csv").write_text(SECRET)
    with unrendered():
        for name, weights in {"one": "0a", "two": "0b"}.items():
            run = write_run(folder / "runs" / "deep" / name, models=(name,), shown=1)
            record = (run / "run.json").read_text(encoding="utf-8")
            (run / "run.json").write_text(record.replace("0a", weights))
            write_report(run, [neurons])
        run = write_run(folder / "runs" / "whole", shown=1)
        write_dissection(run, shown=2)
        change(run, "dissection_pictures", lambda row: row.update(map=row["file"]))
        write_report(run, [neurons, dissection])
    (folder / "runs" / "begun" / "parts").mkdir(parents=True)
    (folder / "runs" / "begun" / "parts" / "identity.json").write_text('{"models": ["a"]}')
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving([folder / "runs"]) as server:
        yield server
