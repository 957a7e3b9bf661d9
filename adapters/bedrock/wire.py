"""AWS Bedrock's Converse, one API for the models of many vendors.

Requests are signed, streams come in binary frames.

Its key is a Bedrock API key, sent as it is, or `<access key id>:<secret access key>[:<session
token>]`, which signs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from urllib.parse import quote

from chattable.adapters.bedrock.errors import error_from
from chattable.adapters.bedrock.eventstream import EventStreamDecoder
from chattable.adapters.bedrock.reader import BedrockStream, events_of
from chattable.adapters.bedrock.request import BedrockBody
from chattable.adapters.bedrock.sigv4 import SigningKey, SigningScope, sign
from chattable.adapters.decoding import read_error, read_object
from chattable.adapters.errors import UpstreamHTTPError
from chattable.adapters.openai.wire import encode_body
from chattable.adapters.params import Unsupported
from chattable.adapters.wire import Framing, Wire
from chattable.agents.chat import Chat, Chunk

REGION = re.compile(r"\.([a-z]{2}(?:-[a-z]+)+-\d)\.")
DEFAULT_REGION = "us-east-1"


class BedrockWire(Wire):
    """Speaks Converse.

    Law: what it does not support goes by the rule `unsupported`, never in silence.
    """

    framing = Framing("application/vnd.amazon.eventstream", EventStreamDecoder)

    models_path = ""

    def __init__(
        self,
        region: str = "",
        *,
        unsupported: Unsupported = "drop",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._region = region  # that requests are signed for; empty: the one in the address
        self.unsupported = unsupported
        self._now = now

    def with_options(self, options: Mapping[str, str]) -> BedrockWire:
        """Of a `region`."""
        return BedrockWire(options.get("region", ""), unsupported=self.unsupported, now=self._now)

    def path(self, model: str, stream: bool) -> str:
        """The model, by id or ARN, and the verb."""
        return f"/model/{quote(model, safe='')}/converse{'-stream' if stream else ''}"

    def headers(self, api_key: str) -> list[tuple[str, str]]:
        """A Bedrock API key; any other signs, and is not sent."""
        return [("authorization", f"Bearer {api_key}")] if api_key and ":" not in api_key else []

    def signature(self, api_key: str, host: str, target: str, body: bytes) -> list[tuple[str, str]]:
        """Of the request, with the key of an account."""
        if ":" not in api_key:
            return []
        found = REGION.search(host)
        scope = SigningScope(self._region or (found[1] if found else DEFAULT_REGION), "bedrock")
        headers = [("host", host), ("content-type", "application/json")]
        return sign(
            SigningKey(*api_key.split(":", 2)), scope, self._now(), "POST", target, headers, body
        )

    def build_request(self, chat: Chat, model: str, most: int | None = None) -> bytes:
        """The body; raises `InvalidRequest` for what the API cannot do."""
        return encode_body(
            lambda: BedrockBody(self.with_allowed_params(chat), model, most, wire=self).json
        )

    def parse_response(self, body: bytes) -> list[Chunk]:
        """A whole answer, read as the stream that it might have been."""
        reader = BedrockStream()
        return [
            chunk
            for kind, event in events_of(read_object(body))
            for chunk in reader.on_event(kind, event)
        ]

    def stream_reader(self, choices: int = 1) -> BedrockStream:
        """A reader for one stream."""
        return BedrockStream()

    def parse_error(self, status: int, body: bytes) -> UpstreamHTTPError:
        """The upstream's own error, its status kept."""
        return error_from(read_error(body), status)
