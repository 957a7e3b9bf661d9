"""The kinds of requests that are passed on: the fields we read, and what each may use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from chattable.adapters.vendors.media import image_cost
from chattable.adapters.vendors.models import known
from chattable.agents.chat import Json
from chattable.agents.parsing import explain
from chattable.budget.ledger import Price
from chattable.budget.tokens import bound

LEGACY_CAP = 16  # tokens that a completion has where nobody says
SPOKEN_TOKENS = 2  # of sound for a character that is read out, at most

_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Choices = Annotated[int, Meta(ge=1, le=128)]


class Estimate(Struct, frozen=True):
    """What one request may use at most, beside the words that are asked."""

    prompt: int = 0  # tokens
    output: int = 0  # tokens of each answer
    answers: int = 1
    prompts: int = 1
    # the output comes whole or not at all, and counts so where nobody reports it
    whole: bool = False
    fixed: int = 0  # micro-USD, whatever the tokens


NOTHING_BESIDES = Estimate()


class Embeddings(Struct):
    """Body of POST /v1/embeddings."""

    input: str | list[Any]
    dimensions: _Count | None = None
    encoding_format: str | None = None

    @property
    def words(self) -> str:
        """What is asked, to be counted where nobody reports the usage."""
        return _words(self.input)

    def estimate(self, kind: str, model: str, price: Price | None) -> Estimate:
        """Nothing besides: an embedding has no output."""
        return Estimate()


class Completions(Struct):
    """Body of POST /v1/completions."""

    prompt: str | list[Any] | None = None
    suffix: str | None = None
    max_tokens: _Count | None = None
    n: _Choices | None = None
    best_of: _Choices | None = None

    @property
    def words(self) -> str:
        """What is asked, to be counted where nobody reports the usage."""
        return f"{_words(self.prompt)}{self.suffix or ''}"

    def estimate(self, kind: str, model: str, price: Price | None) -> Estimate:
        """Every prompt of a list is answered, as often as `best_of` says."""
        several = isinstance(self.prompt, list) and not all(type(p) is int for p in self.prompt)
        prompts = len(self.prompt) if several and isinstance(self.prompt, list) else 1
        return Estimate(
            output=LEGACY_CAP if self.max_tokens is None else self.max_tokens,
            answers=max(1, prompts) * max(self.n or 1, self.best_of or 1),
            prompts=prompts,
        )


class Moderations(Struct):
    """Body of POST /v1/moderations."""

    input: str | list[Any]

    @property
    def words(self) -> str:
        """What is asked, to be counted where nobody reports the usage."""
        return _words(self.input)

    def estimate(self, kind: str, model: str, price: Price | None) -> Estimate:
        """Nothing besides."""
        return Estimate()


class Images(Struct):
    """Body of POST /v1/images/generations."""

    prompt: str
    n: Annotated[int, Meta(ge=1, le=10)] | None = None
    size: str | None = None
    quality: str | None = None

    @property
    def words(self) -> str:
        """What is asked, to be counted where nobody reports the usage."""
        return self.prompt

    def estimate(self, kind: str, model: str, price: Price | None) -> Estimate:
        """The pictures, by the vendor's table: their tokens, or their price a piece."""
        made, n = image_cost(kind, model, self.size, self.quality, 1), self.n or 1
        fixed = made.micro_usd
        if price is not None:
            facts = known(kind, model)
            listed = facts is not None and price.image == round(facts.image * 1e6)
            by_size = listed and price.image  # what is known is the dearest, this is the size's
            fixed = made.micro_usd if by_size else price.image
        return Estimate(output=made.tokens, answers=n, whole=True, fixed=fixed * n)


class Speech(Struct):
    """Body of POST /v1/audio/speech."""

    input: str
    instructions: str | None = None

    @property
    def words(self) -> str:
        """What is asked, to be counted where nobody reports the usage."""
        return f"{self.input}\n{self.instructions or ''}"

    def estimate(self, kind: str, model: str, price: Price | None) -> Estimate:
        """The sound that the words become."""
        return Estimate(output=SPOKEN_TOKENS * len(self.input), whole=True)


class Rerank(Struct):
    """Body of POST /v1/rerank."""

    query: str
    documents: list[str | Json]
    top_n: _Count | None = None

    @property
    def words(self) -> str:
        """What is asked, to be counted where nobody reports the usage."""
        return "\n".join([self.query, *map(_words, self.documents)])

    def estimate(self, kind: str, model: str, price: Price | None) -> Estimate:
        """The query is read with every document."""
        return Estimate(prompt=bound(self.query) * max(0, len(self.documents) - 1))


Body = Embeddings | Completions | Moderations | Images | Speech | Rerank


class Kind(Struct, frozen=True):
    """One of the things that are passed on."""

    path: str  # below the base URL, ours and the provider's
    what: str  # as an error says it
    body: Callable[..., Body]
    free: bool = False  # costs nothing where the provider reports no usage

    def parse(self, fields: Json) -> Body:
        """The fields that matter here, or `InvalidRequest` naming the first that is wrong."""
        try:
            return msgspec.convert(fields, self.body)  # type: ignore[no-any-return]
        except msgspec.ValidationError as error:
            raise explain(error) from None


KINDS = (
    Kind("/embeddings", "embeddings", Embeddings),
    Kind("/completions", "completions", Completions),
    Kind("/moderations", "moderations", Moderations, free=True),
    Kind("/images/generations", "images", Images),
    Kind("/audio/speech", "speech", Speech),
    Kind("/rerank", "reranking", Rerank),
)


def _words(asked: Any) -> str:
    """What is asked as text.

    What is no text as JSON: ids of tokens weigh more so than as tokens.
    """
    if isinstance(asked, str):
        return asked
    if isinstance(asked, list) and all(isinstance(part, str) for part in asked):
        return "\n".join(asked)
    return "" if asked is None else msgspec.json.encode(asked).decode()
