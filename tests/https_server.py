"""A server of https addresses, without the encryption: all else is as for real ones."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import HTTPSHandler

import pytest

from advlens import files


class Answers(BaseHTTPRequestHandler):
    """One way to answer for each path, told from which byte on; the server notes what is asked."""

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else None
        self.server.asked.append((self.path, start))
        with contextlib.suppress(OSError):  # the client has gone
            self.server.answers[self.path.strip("/")](self, start)

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """`end` is set when the test is over."""

    def __init__(self, answers: dict[str, Callable[[Answers, int | None], object]]) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.answers, self.end = answers, threading.Event()
        self.asked: list[tuple[str, int | None]] = []
        self.plain = f"http://127.0.0.1:{self.server_port}"
        self.url = self.plain.replace("http", "https")


@contextlib.contextmanager
def serving(answers: dict[str, Callable[[Answers, int | None], object]]) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch, Server(answers) as server:
        encrypted = lambda self, request: self.do_open(HTTPConnection, request)  # noqa: E731
        patch.setattr(HTTPSHandler, "https_open", encrypted)
        patch.setenv("no_proxy", "127.0.0.1")
        patch.setattr(files, "TIMEOUT", 0.3)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.end.set()
        server.shutdown()
        thread.join()
