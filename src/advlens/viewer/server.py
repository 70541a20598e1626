"""A server of the pages, for the user of this machine alone."""

import secrets
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from advlens.errors import SettingsError
from advlens.signals import remembered_signals
from advlens.viewer.pages import Reply, reply
from advlens.viewer.runs import Runs

HOST = "127.0.0.1"
POLL = 0.2
"""Seconds between two looks whether the user has ended it."""
PLAIN = "text/plain; charset=utf-8"
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


class Server(ThreadingHTTPServer):
    """A server that is bound to 127.0.0.1 and answers nobody who lacks its token.

    Args:
        runs: what it shows.
        port: to listen on; 0 takes a free one.

    Attributes:
        token: the first part of each path.
        address: of the first page.

    Raises:
        SettingsError: the port is taken.
    """

    def __init__(self, runs: Runs, port: int):
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise SettingsError(
                f"cannot listen on port {port}: {error.strerror}; choose another --port"
            ) from error
        self.runs, self.token = runs, secrets.token_urlsafe()
        self.address = f"http://{HOST}:{self.server_port}/{self.token}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that goes away before it has all is nothing to tell."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 60
    server_version, sys_version = "advlens", ""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        root, _, below = path.partition("/")
        token, *parts = below.split("/")
        if root or not self._is_allowed(token):
            self.send_error(403)
        elif parts:
            self._send(reply(self.server.runs, parts, query))
        else:
            self._send(Reply(status=303, to=f"/{token}/"))

    def _is_allowed(self, token: str) -> bool:
        """Whether the address is ours, as no other page can know or imitate it."""
        hosts = [f"{name}:{self.server.server_port}" for name in (HOST, "localhost")]
        named = self.headers.get_all("Host", [])
        known = secrets.compare_digest(token.encode(), self.server.token.encode())
        return len(named) == 1 and named[0] in hosts and known

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request; nothing of it is repeated."""
        said = {403: "Open the whole address that `advlens view` has printed.\n"}
        text = said.get(code, "Only GET requests are answered.\n")
        self._send(Reply(text.encode(), PLAIN, code))

    def _send(self, made: Reply) -> None:
        scripts = f"; script-src {' '.join(made.scripts)}" if made.scripts else ""
        headers = {
            "Content-Type": made.kind,
            "Content-Length": str(len(made.content)),
            "Content-Security-Policy": POLICY + scripts,
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        } | ({"Location": made.to} if made.to else {})
        self.send_response(made.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(made.content)

    def log_message(self, format: str, *args: object) -> None:
        """The terminal shows the address, and no requests."""


@contextmanager
def serving(places: Sequence[Path], port: int = 0) -> Iterator[Server]:
    """Within the block, a server of the runs in some folders answers.

    Raises:
        SettingsError: a place is no folder or holds no run, or the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="advlens-view-", ignore_cleanup_errors=True) as made:
        runs = Runs(places, Path(made))
        with Server(runs, port) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield server
            finally:
                server.shutdown()


def view(
    places: Sequence[Path], *, port: int = 0, say: Callable[[object], None], open: bool = False
) -> None:
    """Serve pages about runs until a signal asks to end.

    Args:
        places: run folders, or folders that hold some.
        port: to listen on; 0 takes a free one.
        say: told the address.
        open: open the address in the user's browser, too.

    Raises:
        SettingsError: as `serving`.
    """
    with remembered_signals() as received, serving(places, port) as server:
        say(server.address)
        if open:
            webbrowser.open(server.address)
        while not received():
            time.sleep(POLL)
