"""Who gets the viewer's pages, and that nothing of a run leads elsewhere or runs."""

import re
import shutil
import socket

import pytest

from advlens.viewer.server import POLICY, serving
from pages import parsed
from synthetic_dissection import write_dissection
from synthetic_run import write_run
from test_report_hostile import PAYLOADS
from viewing import SECRET, ask, get


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
