"""A server of https addresses, without the encryption: all else is as for real ones."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import HTTPSHandler

import pytest

from advlens import files


class Server(ThreadingHTTPServer):
    """`asked` is for its handler to note requests in; `end` is set when the test is over."""

    def __init__(self, answers: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), answers)
        self.asked: list[object] = []
        self.end = threading.Event()
        self.plain = f"http://127.0.0.1:{self.server_port}"
        self.url = self.plain.replace("http", "https")


@contextmanager
def serving(answers: type[BaseHTTPRequestHandler]) -> Iterator[Server]:
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
