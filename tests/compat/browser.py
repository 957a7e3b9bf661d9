"""HTTP without a helping hand: the standard library's client on one kept connection, every header and byte as it came."""

import http.client
import json
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

CHAT = "/v1/chat/completions"


@dataclass
class Page:
    """One response; header names lower-case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str, str | None, str | None]:
        """Status, type, param and code of an error, its envelope checked."""
        envelope = self.json
        assert list(envelope) == ["error"] and set(envelope["error"]) == {
            "message",
            "type",
            "param",
            "code",
        }, envelope
        fields = envelope["error"]
        assert isinstance(fields["message"], str) and fields["message"], fields
        assert (
            self.headers["content-type"].startswith("application/json")
            and "x-request-id" in self.headers
        )
        return self.status, fields["type"], fields["param"], fields["code"]

    @property
    def message(self) -> str:
        """An error's text."""
        text: str = self.json["error"]["message"]
        return text


class Browser:
    """Sends requests to one server over one connection; a dict as body becomes JSON."""

    def __init__(self, base_url: str, key: str = "") -> None:
        self.host = urlsplit(base_url).netloc
        self.key = key
        self.connection = http.client.HTTPConnection(self.host, timeout=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def open(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> http.client.HTTPResponse:
        """The response, its body not read yet; `x_y=` is the header x-y."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.key and "authorization" not in sent:
            sent["authorization"] = f"Bearer {self.key}"
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            sent.setdefault("content-type", "application/json")
        self.connection.request(method, path, body, sent)
        return self.connection.getresponse()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Page:
        """The whole response."""
        with self.open(method, path, body, **headers) as answer:
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Page(answer.status, fields, answer.read())

    def get(self, path: str, **headers: str) -> Page:
        return self.ask("GET", path, **headers)

    def chat(self, body: Any, **headers: str) -> Page:
        """The answer to a chat request."""
        return self.ask("POST", CHAT, body, **headers)
