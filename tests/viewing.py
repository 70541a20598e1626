"""The pages of `advlens view`, as their tests ask for them."""

import http.client

from advlens.viewer.server import Server
from pages import parsed, text_of

SECRET = "the secret of another file"


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
