"""A real server that is spoken to over raw sockets, and what it says."""

import json
import socket
from contextlib import suppress
from http.client import HTTPResponse, RemoteDisconnected
from typing import Any, NamedTuple

from process import Chattable


class Got(NamedTuple):
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error object, in OpenAI's shape."""
        body = json.loads(self.body)
        assert body.keys() == {"error"} and body["error"].keys() == {
            "message",
            "type",
            "param",
            "code",
        }
        return body["error"]


class Victim:
    """The server under attack, spoken to over raw sockets."""

    def __init__(self, server: Chattable) -> None:
        self.server, self.port = server, int(server.base_url.rpartition(":")[2])
        self.keys = {"user": server.user_key(), "admin": server.admin_key}
        self.auth = f"authorization: Bearer {self.keys['user']}\r\n".encode()

    def line(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10)

    def send(self, data: bytes, *, method: str = "POST") -> Got | None:
        """What the server answers to these bytes; None when it hangs up without a word."""
        with self.line() as line:
            with suppress(ConnectionError):  # it may refuse before it has read everything
                line.sendall(data)
            return self.receive(line, method)

    @staticmethod
    def receive(line: socket.socket, method: str = "POST") -> Got | None:
        response = HTTPResponse(line, method=method)
        try:
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Got(response.status, headers, response.read())
        except (RemoteDisconnected, ConnectionError):
            return None

    def post(
        self,
        body: bytes,
        path: str = "/v1/chat/completions",
        headers: bytes = b"",
        method: bytes = b"POST",
        auth: bytes | None = None,
    ) -> Got:
        """A well-framed request with this body."""
        auth = self.auth if auth is None else auth
        head = b"%b %b HTTP/1.1\r\nhost: x\r\n%b%bcontent-length: %d\r\n\r\n" % (
            method,
            path.encode(),
            auth,
            headers,
            len(body),
        )
        got = self.send(head + body, method=method.decode())
        assert got is not None, "no answer to well-framed bytes"
        return got


def refused(got: Got | None, *statuses: int) -> Got:
    """An answer with one of these statuses, in OpenAI's shape."""
    assert got is not None and got.status in statuses, got
    assert got.headers["content-type"] == "application/json"
    assert got.headers["x-request-id"].startswith("req_")
    assert got.error["message"] and got.error["type"] == "invalid_request_error"
    return got
