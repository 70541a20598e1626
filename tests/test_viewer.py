"""`advlens view`: what its pages show, who gets them, and that nothing else leaves the machine."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import pytest
from playwright.sync_api import Page, sync_playwright

from advlens.auditing import comparison
from advlens.cli import main
from advlens.errors import SettingsError
from advlens.files import locked
from advlens.report.page import write_report
from advlens.report.sections.dissection import section as dissection
from advlens.report.sections.neurons import section as neurons
from advlens.viewer import pages, runs
from advlens.viewer.server import POLICY, Server, serving
from pages import parsed, text_of
from synthetic_dissection import write_dissection
from synthetic_run import BOTH, MAIN, change, read, write_run
from test_report_hostile import PAYLOADS
from unrendered import unrendered

SECRET = "the secret of another file"


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


Answer = tuple[int, dict[str, str], str]


def ask(server: Server, path: str, *, method: str = "GET", **headers: str) -> Answer:
    """Status, headers and body of the reply to exactly this path, which nothing makes tidy."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    found = response.status, dict(response.getheaders()), response.read().decode(errors="replace")
    connection.close()
    return found


def get(server: Server, path: str, status: int = 200) -> str:
    """The body of a page below the token."""
    found, _, body = ask(server, f"/{server.token}/{path}")
    assert found == status, body
    return body


def text(server: Server, path: str, status: int = 200) -> str:
    return text_of(parsed(get(server, path, status)))


def number(server: Server, name: str) -> int:
    """The number of a run, from the list."""
    for link in parsed(get(server, "")).iter("a"):
        if (link.text or "").endswith(name):
            return int(link.attrib["href"].split("/")[1])
    raise AssertionError(f"{name} is not listed")


# who is answered


def test_nothing_but_this_machine_is_listened_to(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", server.server_port))  # loopback, too, but another address


def test_each_server_has_a_token_of_its_own(server, folder):
    with serving([folder]) as other:
        assert other.token != server.token
        assert len(other.token) >= 43  # 32 bytes
        assert ask(other, f"/{server.token}/")[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/",
            "*",
            "",
            "//",
            "/?",
            "/run/0/",
            "/{short}/",
            "/{token}x/",
            "/x{token}/",
            "/{upper}/",
        ),
        *("x/{token}/", "http://127.0.0.1/{token}/", "/./{token}/", "/%2e/{token}/", "/?{token}/"),
        "/\x80{token}/",
    ],
)
def test_nobody_is_answered_without_the_token(server, path):
    token = server.token
    path = path.format(token=token, short=token[:-1], upper=token.swapcase())
    with socket.create_connection(("127.0.0.1", server.server_port)) as client:
        line = f"GET {path or '%'} HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n"
        client.sendall(line.encode("latin-1"))
        said = client.makefile("rb").read().decode()
    assert said.startswith("HTTP/1.0 403 ")
    assert token not in said


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost.:{port}", "[::1]:{port}"],
)
def test_no_other_host_is_answered(server, host):
    host = host.format(port=server.server_port)
    assert ask(server, f"/{server.token}/", Host=host)[0] == 403
    assert ask(server, f"/{server.token}/", Host=f"localhost:{server.server_port}")[0] == 200


def test_a_request_without_a_host_or_with_two_is_refused(server):
    host = f"Host: 127.0.0.1:{server.server_port}\r\n"
    for hosts, status in (("", b"403"), (host * 2, b"403"), (host, b"200")):
        with socket.create_connection(("127.0.0.1", server.server_port)) as client:
            client.sendall(f"GET /{server.token}/ HTTP/1.1\r\n{hosts}\r\n".encode())
            assert client.makefile("rb").readline().split()[1] == status


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "<b>"])
def test_only_get_is_answered(server, method):
    status, headers, body = ask(server, f"/{server.token}/", method=method)
    assert status == 501
    assert headers["Content-Security-Policy"] == POLICY
    assert "<" not in body


TRICKS = """
run/0/../../secret.csv run/0/results/../../../secret.csv run/0/results/..%2f..%2f..%2fsecret.csv
run/0/%2e%2e/%2e%2e/secret.csv run/0//etc/passwd run/0/%2fetc%2fpasswd run/0/file:///etc/passwd
run/0/results/accuracy.csv%00.png run/0/results/ run/0/results run/0/results/. run/0/figures/images
run/0/parts/identity.json run/0/results\\accuracy.csv run/0/./run.json run/0/run.json/
run/00/run.json run/-1/run.json run/1e0/run.json run/0x0/run.json run/99999999999999999999/run.json
run//run.json run/0/.. .. ../ secret.csv %2e%2e/ run run/0/compare
"""


@pytest.mark.parametrize("path", TRICKS.split())
def test_no_path_leads_anywhere_else(server, path):
    body = get(server, path, 404)
    assert SECRET not in body
    assert "root:" not in body


def test_links_in_a_run_are_not_followed(tmp_path, folder):
    shutil.copytree(folder / "runs" / "whole", tmp_path / "run")
    (tmp_path / "run" / "results" / "mine.csv").symlink_to(folder / "secret.csv")
    (tmp_path / "run" / "results" / "other.csv").symlink_to("accuracy.csv")
    shutil.rmtree(tmp_path / "run" / "figures")
    (tmp_path / "run" / "figures").symlink_to(folder)
    shutil.copyfile(folder / "secret.csv", folder / "secret.png")
    with serving([tmp_path]) as server:
        for path in ("results/mine.csv", "figures/secret.png"):
            body = get(server, f"run/0/{path}", 400)
            assert "which is not in the folder" in body
            assert SECRET not in body
        assert get(server, "run/0/results/other.csv").startswith("model,")  # within the folder


# what the pages show


def test_the_list_names_each_run_and_its_verdict(server):
    said = text(server, "")
    for name in ("deep/one", "deep/two", "whole", "begun"):
        assert f"runs/{name}" in said
    assert "CIFAR-10 test · 1,000 images · 2026-03-01 · finished" in said
    assert "standard ✓ Accuracy: holds ✗ Attacks in L∞: does not hold" in said
    assert "is not finished; the command that began it goes on with it" in said
    assert (
        get(server, "").count('type="checkbox"') == 3
    )  # a run without a record cannot be compared


def test_a_run_that_comes_later_is_listed_and_numbers_stay(folder, tmp_path):
    shutil.copytree(folder / "runs" / "whole", tmp_path / "b")
    with serving([tmp_path]) as server:
        assert number(server, "/b") == 0
        shutil.copytree(folder / "runs" / "whole", tmp_path / "a")
        assert (number(server, "/b"), number(server, "/a")) == (0, 1)
        shutil.rmtree(tmp_path / "b")
        assert "runs/b" not in text(server, "")
        assert "it is not there" in text(server, "run/0/units", 400)


def test_every_link_leads_to_a_page_that_loads_nothing(server):
    """Of pages that differ in their query only one is asked for."""
    waiting, seen = [""], {"", "compare"}
    while waiting:
        path = waiting.pop()
        status, headers, body = ask(server, f"/{server.token}/{path}")
        assert status == 200, path
        policy, _, script = headers["Content-Security-Policy"].partition("; script-src ")
        assert policy == POLICY
        assert bool(script) == path.endswith("report.html")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer"
        if not headers["Content-Type"].startswith("text/html"):
            continue
        for element in parsed(body).iter():
            for name in ("href", "src", "srcset", "action"):
                link = element.attrib.get(name, "")
                if name in ("src", "srcset") or link.startswith("#"):
                    assert not link or link.startswith(("data:", "#"))
                    continue
                assert "//" not in link
                to = urlsplit(urljoin(f"http://host/{path}", link))
                key = re.sub(r"^run/\d+", "run", to.path[1:])
                if link and key not in seen and "figures" not in key:
                    seen.add(key)
                    waiting.append(f"{to.path[1:]}?{to.query}" if to.query else to.path[1:])
    assert {"run/", "run/units", "run/unit", "run/report.html", "run/run.json"} <= seen
    assert "run/results/units.csv" in seen


def test_files_of_a_report_are_there(server, folder):
    for name in ("report.html", "run.json", "results/units.csv"):
        found = get(server, f"run/{number(server, 'whole')}/{name}")
        assert found == (folder / "runs" / "whole" / name).read_text(encoding="utf-8")
    figures = [path.name for path in (folder / "runs" / "whole" / "figures").glob("*.*")]
    assert len(figures) > 10
    for name in figures:
        _, headers, _ = ask(server, f"/{server.token}/run/{number(server, 'whole')}/figures/{name}")
        assert headers["Content-Type"] == ("image/png" if name.endswith("png") else "image/svg+xml")


def units(server: Server, **query: str) -> list[dict[str, str]]:
    """The rows of the table of units that a query gives, page by page."""
    run, found = number(server, "whole"), list[dict[str, str]]()
    for page in range(1, 100):
        asked = urlencode({**query, "page": str(page)})
        body = parsed(get(server, f"run/{run}/units?{asked}"))
        rows = [row for row in body.iter("tr") if row.find("td") is not None]
        found += [{c.attrib["data-label"]: text_of(c) for c in row.iter("td")} for row in rows]
        if not any(link.attrib.get("rel") == "next" for link in body.iter("a")):
            break
    return found


def test_all_units_are_in_the_table(server, folder):
    run, found = folder / "runs" / "whole", units(server)
    known = {
        (row["model"], row["layer"], row["unit"])
        for table in ("units", "dissection")
        for row in read(run, table)
    }
    names = [(row["Model"], row["Layer"], row["Unit"].split(",")[0]) for row in found]
    assert len(names) == len(known) == 188
    assert set(names) == known
    (unit,) = (
        r for r in found if r["Unit"] == "2" and r["Layer"] == "conv1" and r["Model"] == BOTH[0]
    )
    (row,) = (r for r in read(run, "units")[:6] if r["unit"] == "2")
    assert [float(unit[name]) for name in ("LC", "CS1", "CS2")] == pytest.approx(
        [float(row[name]) for name in ("lc", "cs1", "cs2")], abs=1e-4
    )


def test_units_are_sorted_by_every_column_with_absent_values_last(server):
    headers = {header: key for key, header in pages.COLUMNS.items()}
    few = {"model": BOTH[0], "layer": "layer2.0.conv2"}
    for header in units(server, **few)[0]:
        for down in ({}, {"down": "1"}):
            rows = units(server, **few, sort=headers[header], **down)
            values = [row[header] for row in rows]
            known = [value.split(",")[0] for value in values if value != "–"]
            assert values[len(known) :] == ["–"] * (len(values) - len(known))
            keys = [re.sub(r"\d+", lambda found: found[0].zfill(9), value) for value in known]
            assert keys == sorted(keys, reverse=bool(down)), (header, down)


def test_filters_work_together(server):
    rows = units(server)
    for query, keep in {
        "model=robust": lambda row: row["Model"] == "robust",
        "layer=layer2.0.conv2": lambda row: row["Layer"] == "layer2.0.conv2",
        "concept=CEPT 1": lambda r: "concept 1" in r["Concept"] + r["Under attack"],
        "cs1=0.5": lambda row: row["CS1"] != "–" and float(row["CS1"]) >= 0.5,
        "iou=0.03": lambda row: row["IoU"] != "–" and float(row["IoU"]) >= 0.03,
        "pictured=1": lambda row: "pictures" in row["Unit"],
    }.items():
        kept = [row for row in rows if keep(row)]
        asked = {key: values[-1] for key, values in parse_qs(query).items()}
        assert kept
        assert units(server, **asked) == kept
    together = units(server, model="robust", layer="layer2.0.conv2", lc="0.6", pictured="1")
    assert together
    assert {row["Model"] for row in together} == {"robust"}
    assert units(server, concept="nowhere") == []


@pytest.mark.parametrize("value", ["x", "nan", "inf", "1e999", "<b>", "0x1", "1" * 5000])
def test_a_bound_that_is_no_number_is_one_sentence(server, value):
    asked = urlencode({"lc": value})
    body = get(server, f"run/{number(server, 'whole')}/units?{asked}", 400)
    said = text_of(parsed(body))
    assert f"LC must be at least a number, not {value[:40]!r}" in said
    assert "<b>" not in body


@pytest.mark.parametrize("query", ["page=0", "page=-1", "page=x", "page=" + "9" * 5000, "&" * 5000])
def test_an_odd_query_is_the_first_page(server, query):
    assert ", 1 to 50 shown" in text(server, f"run/{number(server, 'whole')}/units?{query}")


def test_a_unit_has_its_numbers_classes_and_pictures(server):
    run, (unit, *_) = number(server, "whole"), units(server, pictured="1", concept="concept")
    asked = {"model": unit["Model"], "layer": unit["Layer"], "unit": unit["Unit"].split(",")[0]}
    body = parsed(get(server, f"run/{run}/unit?{urlencode(asked)}"))
    said, images = text_of(body), list(body.iter("img"))
    for words in (f"Unit {asked['unit']} of {asked['layer']}", unit["LC"], unit["CS1"], MAIN):
        assert words in said
    for words in (unit["Concept"], unit["IoU"], unit["Under attack"], "adversarial-reestimated"):
        assert words in said
    alts = [image.attrib["alt"] for image in images]
    assert all(alts)
    assert alts.count("Discrepancy map of the picture above") == 8
    assert sum("the unit's mask drawn" in alt for alt in alts) == 8
    assert {alt.split()[0] for alt in alts} == {"Real", "Adversarial", "Discrepancy"}
    assert all(image.attrib["src"].startswith("data:image/png;base64,") for image in images)


def test_the_classes_of_a_unit(tmp_path):
    run = write_run(tmp_path / "run", shown=0)
    names = (
        "model,layer,unit,images,class_1,share_1,class_2,share_2,class_3,share_3,class_4,share_4"
    )
    rows = [f"standard,conv1,3,{images},cat,0.75,dog,0.25,,,,,," for images in ("real", "target")]
    table = [f"{names},class_5,share_5", *rows]
    (run / "results" / "unit_classes.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    with serving([run]) as server:
        said = text(server, "run/0/unit?model=standard&layer=conv1&unit=3")
        assert "real cat 75.0% dog 25.0% – – –" in said
        assert "targets of the attack cat 75.0%" in said
        assert "No pictures of this unit were made" in said
        assert "cat 75%, dog 25%" in text(server, "run/0/units")


@pytest.mark.parametrize("unit", ["model=standard&layer=conv1&unit=99", "unit=3", "", "unit=%00"])
def test_a_unit_that_is_not_there(server, unit):
    get(server, f"run/{number(server, 'whole')}/unit?{unit}", 404)


def test_hostile_names_are_texts(tmp_path):
    left = iter(PAYLOADS * 3)
    run = write_run(
        tmp_path / "run",
        **{"models": PAYLOADS[1::15], "layers": PAYLOADS, "units": [4] * len(PAYLOADS)},
        **{"classes": PAYLOADS, "texts": lambda text: next(left, "") + text, "shown": 1},
    )
    many = {"models": PAYLOADS[1::15], "layers": PAYLOADS[:2], "concepts": PAYLOADS}
    write_dissection(run, **many, units=(60, 60), shown=1)
    with serving([run]) as server:
        seen = [get(server, path) for path in ("", "run/0/", "run/0/units?sort=concept")]
        links = [a.attrib["href"] for a in parsed(get(server, "run/0/units?pictured=1")).iter("a")]
        shown = [link for link in links if link.startswith("unit?")]
        seen += [get(server, f"run/0/{link}") for link in shown]
    assert len(shown) > 4
    for body in seen:
        page = parsed(body)
        for element in page.iter():
            if isinstance(element.tag, str):
                assert element.tag not in {"script", "iframe", "object", "base", "svg", "math"}
                assert not [name for name in element.attrib if name.startswith("on")]
        refreshed = [e for e in page.iter("meta") if e.attrib.get("http-equiv")]
        assert refreshed == []
        assert not re.search("[\u202e\u2066\x00\x1b\x07]", body)
        styles = re.sub(r"<style>.*?</style>", "", body, flags=re.DOTALL)
        for tag in re.findall(r"<[a-z][^<>]*>", styles):
            assert re.fullmatch(r'<[a-z][a-z0-9]*(\s+[a-z:-]+="[^"]*")*\s*>', tag), tag


def test_a_report_of_someone_else_runs_no_script(tmp_path, folder):
    shutil.copytree(folder / "runs" / "whole", tmp_path / "run")
    (tmp_path / "run" / "report.html").write_text("<script>alert(1)</script>")
    (tmp_path / "run" / "figures" / "x.svg").write_text("<svg><script>alert(1)</script></svg>")
    with serving([tmp_path]) as server:
        for name in ("report.html", "figures/x.svg"):
            policy = ask(server, f"/{server.token}/run/0/{name}")[1]["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; ")
            assert "unsafe-inline" not in policy.partition("script-src")[2]


# runs under way, and damaged ones


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


# comparisons


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
        assert "which are not the same; audit one of them again on the other's images" in said


# the command


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


# in a browser


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["wide", "phone"])
def page(request: pytest.FixtureRequest, server: Server) -> Iterator[Page]:
    """The list of runs; at the end nobody complained, and nothing but the server was asked."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no browser to open the pages in: none of {', '.join(names)} is installed")
    width, scheme = request.param
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.set_default_timeout(10_000)
        complaints: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(server.address)
        yield page
        browser.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith((server.address, "data:"))] == []


def fits(page: Page) -> bool:
    page.wait_for_load_state()
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_from_the_list_to_a_report_and_a_unit(page: Page) -> None:
    assert fits(page)
    whole = page.locator("section.run").filter(has_text="/whole")
    whole.get_by_role("link", name="Report").click()
    page.wait_for_url("**/report.html")
    assert "standard and robust on CIFAR-10 test" in page.title()
    page.wait_for_selector(".units tbody tr")  # the report's own script runs
    page.get_by_role("link", name="units.csv").first.click()
    page.wait_for_url("**/units.csv")
    assert page.locator("body").inner_text().startswith("model,layer,unit")
    for _ in range(2):
        page.go_back()
    whole.get_by_role("link", name="Units").click()
    page.wait_for_url("**/units")
    assert fits(page)
    page.get_by_label("Model").select_option("robust")
    page.get_by_label("with pictures").check()
    page.get_by_label("IoU at least").fill("0.01")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**/units?*iou=0.01*")
    assert page.get_by_label("Model").input_value() == "robust"
    page.get_by_role("link", name="CS1").click()
    page.wait_for_url("**&down=1")
    header = page.get_by_role("columnheader", name="CS1")
    assert header.get_attribute("aria-sort") == "descending"
    header.get_by_role("link").click()
    page.wait_for_url("**&sort=cs1")
    assert header.get_attribute("aria-sort") == "ascending"
    rows = page.locator(".units tbody tr")
    assert 0 < rows.count() < 10
    rows.first.get_by_role("link").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/unit?*")
    assert fits(page)
    assert page.get_by_role("heading", level=1).inner_text().startswith("Unit ")
    seen = "images => images.every(each => each.complete && each.naturalWidth > 0)"
    assert page.locator("img").evaluate_all(seen)
    assert page.locator("img").count() >= 16
    page.get_by_role("link", name="All runs").click()
    page.wait_for_url(re.compile(".*[^?]/$"))
    assert page.get_by_role("heading", level=1).inner_text() == "Runs"
    whole.get_by_role("link", name="Stages").click()
    page.wait_for_url("**/run/*/")
    assert fits(page)
    assert "This run is finished." in page.locator("main").inner_text()


def test_the_keyboard_reaches_everything(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    wanted = page.locator("a, button, input").count()
    reached = set()
    for _ in range(wanted):
        reached.add(
            page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)")
        )
        page.keyboard.press("Tab")
    assert len(reached) == wanted
