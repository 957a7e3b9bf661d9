"""OpenAI's models at Azure.

Chat completions at other paths, with the key in another header and with what Azure's filters found.
The name of a model is the name of its deployment. Without `api_version` the path is that of the v1
API, which has none; with a date it is the deployment's own, and what that version does not know yet
is left out or said in older words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

from msgspec import structs

from chattable.adapters.errors import UpstreamHTTPError
from chattable.adapters.openai.wire import OPENAI_ONLY, OpenAIStream, OpenAIWire, Quirks
from chattable.agents.chat import Chunk, Json

DATE = re.compile(r"\d{4}-\d\d-\d\d")
# The versions from which on a deployment's path knows a thing.
STREAM_USAGE, DEVELOPER = "2024-09-01", "2024-12-01"


class AzureWire(OpenAIWire):
    """Speaks chat completions as Azure does."""

    models_path = ""

    def __init__(self, api_version: str = "") -> None:
        dated = DATE.match(api_version) is not None
        old = Quirks(
            developer=api_version >= DEVELOPER,
            stream_usage=api_version >= STREAM_USAGE,
            drops=OPENAI_ONLY,
        )
        super().__init__(old if dated else Quirks(), "azure")
        self._dated = dated
        self._query = f"?api-version={quote(api_version, safe='')}" if api_version else ""

    def with_options(self, options: Mapping[str, str]) -> AzureWire:
        """Of an `api_version`."""
        return AzureWire(options.get("api_version", ""))

    def path(self, model: str, stream: bool) -> str:
        """The deployment's, or that of the v1 API."""
        where = f"deployments/{quote(model, safe='')}" if self._dated else "v1"
        return f"/openai/{where}/chat/completions{self._query}"

    def headers(self, api_key: str) -> list[tuple[str, str]]:
        """The key."""
        return [("api-key", api_key)] if api_key else []

    def parse_answer(self, raw: Json) -> list[Chunk]:
        """An answer, and what the filters found in it."""
        found = _Findings()
        found.note(raw)
        return [found.onto(chunk) for chunk in super().parse_answer(raw)]

    def stream_reader(self, choices: int = 1) -> AzureStream:
        """A reader for one stream."""
        return AzureStream(choices)

    def parse_error(self, status: int, body: bytes) -> UpstreamHTTPError:
        """The upstream's own error, with the parameter that is to blame."""
        error = super().parse_error(status, body)
        if error.code == "content_filter":
            error.param = "messages"
        elif error.code == "DeploymentNotFound":
            error.param, error.code = "model", "model_not_found"
        elif error.code == str(status):  # says nothing
            error.code = None
        return error


class AzureStream(OpenAIStream):
    """Reads one stream; what the filters found goes with the end of each choice and the usage."""

    def __init__(self, choices: int = 1) -> None:
        super().__init__(choices)
        self._found = _Findings()

    def on_event(self, raw: Json) -> list[Chunk]:
        """What one event adds; those about filters alone add nothing yet."""
        self._found.note(raw)
        chunks = super().on_event(raw)
        return [
            self._found.onto(chunk) if chunk.finish_reason or chunk.usage else chunk
            for chunk in chunks
        ]


class _Findings:
    """What Azure's filters found in the prompt and in each choice, in Azure's own form."""

    def __init__(self) -> None:
        self._prompt: list[Json] = []
        self._choices: dict[int, Json] = {}

    def note(self, raw: Json) -> None:
        """Takes what one event says of it."""
        if isinstance(given := raw.get("prompt_filter_results"), list):
            self._prompt = given
        choices = raw.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            found = choice.get("content_filter_results") if isinstance(choice, dict) else None
            if (
                isinstance(found, dict)
                and found
                and isinstance(index := choice.get("index", 0), int)
            ):
                self._choices[index] = self._choices.get(index, {}) | found

    def onto(self, chunk: Chunk) -> Chunk:
        """The chunk, with all that is known so far among its facts."""
        facts: Json = {"prompt_filter_results": self._prompt} if self._prompt else {}
        if self._choices:
            facts["content_filter_results"] = [
                {"index": i, "content_filter_results": found}
                for i, found in sorted(self._choices.items())
            ]
        return structs.replace(chunk, facts=(chunk.facts or {}) | facts) if facts else chunk
