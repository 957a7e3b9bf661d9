"""How one provider speaks: translation only, bytes in and chunks out, never a socket."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from copy import copy
from typing import Protocol, Self

from msgspec import Struct
from msgspec.structs import replace

from chattable.adapters.errors import UpstreamHTTPError
from chattable.adapters.params import Unsupported, unsupported_parameter
from chattable.adapters.sse import SseDecoder
from chattable.adapters.vendors.withheld import BETAS, WITHHELD
from chattable.agents.chat import Chat, Chunk, Json


class FrameDecoder(Protocol):
    """Finds the events of a stream, however its bytes are cut."""

    def feed(self, block: bytes) -> list[bytes]:
        """The events that this block completes.

        Raises `EventTooLarge`, or `InvalidUpstreamResponse` for bytes that are no stream.
        """
        ...

    def end(self) -> list[bytes]:
        """The event that a stream ended in, where what marks its end did not come."""
        ...


class Framing(Struct, frozen=True):
    """How the events of a stream are framed."""

    media: str
    decoder: Callable[[], FrameDecoder]
    whole_answers: bool = False  # an event has the very form of a whole answer
    terminated: bool = True  # its last event says that it is the last


SSE = Framing("text/event-stream", SseDecoder)


class StreamReader(Protocol):
    """Reads one streamed answer, event by event."""

    complete: bool  # the answer has come to its proper end; only its usage may be missing
    ended: bool  # nothing more is to come

    def feed(self, data: bytes) -> list[Chunk]:
        """What one event says.

        Raises `InvalidUpstreamResponse` or `UpstreamHTTPError` when it says that the answer failed.
        """
        ...


class Wire(Protocol):
    """One provider's dialect."""

    framing: Framing = SSE
    # where the provider lists its models, below the base URL; empty: nowhere
    models_path: str = "/models"

    # what becomes of a parameter that the provider does not support
    unsupported: Unsupported = "drop"

    withheld: frozenset[str] = frozenset()  # parameters that it never gets
    any_beta: bool = False  # features that a client asks for are passed on, known here or not

    def with_unsupported(self, unsupported: Unsupported, allow: Collection[str] = ()) -> Self:
        """The wire with a provider's rule for what is unsupported, and with what it allows."""
        wire = copy(self)
        wire.unsupported = unsupported
        wire.withheld = WITHHELD.difference(allow)
        wire.any_beta = BETAS in allow
        return wire

    def allowed_params(self, params: Json) -> Json:
        """The parameters that the provider may get.

        Raises `InvalidRequest` for any other where the rule is to reject.
        """
        if self.withheld.isdisjoint(params):
            return params
        if self.unsupported == "reject" and (kept := sorted(self.withheld & params.keys())):
            raise unsupported_parameter(kept[0], "it is not passed on to this model")
        return {name: value for name, value in params.items() if name not in self.withheld}

    def with_allowed_params(self, chat: Chat) -> Chat:
        """The request with the parameters that the provider may get."""
        params = self.allowed_params(chat.params)
        return chat if params is chat.params else replace(chat, params=params)

    def with_options(self, options: Mapping[str, str]) -> Wire:
        """The wire with the config's options of its vendor, by their names in `Vendor.options`."""
        return self

    def path(self, model: str, stream: bool) -> str:
        """Where a request goes, below the base URL; a model's name in it is quoted."""
        ...

    def headers(self, api_key: str) -> list[tuple[str, str]]:
        """What authenticates every request alike."""
        ...

    def signature(self, api_key: str, host: str, target: str, body: bytes) -> list[tuple[str, str]]:
        """Headers of this request alone: a signature, or what its body makes necessary."""
        return []

    def build_request(self, chat: Chat, model: str, most: int | None = None) -> bytes:
        """The request body.

        `most` tokens the model can write: for APIs that want a cap where the client has none.
        """
        ...

    def parse_response(self, body: bytes) -> list[Chunk]:
        """A whole answer that came at once; raises `InvalidUpstreamResponse`."""
        ...

    def stream_reader(self, choices: int = 1) -> StreamReader:
        """A reader for one streamed answer of that many choices."""
        ...

    def parse_error(self, status: int, body: bytes) -> UpstreamHTTPError:
        """What an answer with an error status means."""
        ...
