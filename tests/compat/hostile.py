"""Streams as real upstreams send them, each with what a client must make of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from answers import CHUNKED_SSE, Event, Raw, bytewise, framed, head, sse_event

Body = dict[str, Any]


@dataclass
class Case:
    """A stream and its meaning: the text, calls (name, arguments) and end of every choice."""

    name: str
    events: Sequence[Event]
    text: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    finish: str | None = "stop"  # None: it never said why it ended
    more: list[str] = field(default_factory=list)  # the texts of choices 1, 2 …
    reasoning: str = ""
    usage: int = 0  # total tokens; 0: none told
    done: bool = True
    pieces: int = 0  # bytes in one write; 0: an event

    @property
    def answer(self) -> Raw:
        """The stream as a scripted answer."""
        stream = b"".join(
            sse_event(event) for event in [*self.events, *(["[DONE]"] if self.done else [])]
        )
        pieces: Iterable[bytes] = bytewise(stream) if self.pieces == 1 else [stream]
        return Raw(
            [head(200, CHUNKED_SSE), *(framed(piece) for piece in pieces), framed(b"")], close=False
        )


def delta(fields: Any = None, finish: str | None = None, index: Any = 0, **top: Any) -> Body:
    """A chunk with one choice."""
    choice = {"index": index, "delta": fields or {}, "finish_reason": finish}
    return {
        "id": "up-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
        **top,
    }


def said(*words: str, index: int = 0, **first: Any) -> list[Body]:
    """Chunks with one word each, the role with the first."""
    return [
        delta({"content": word} | (first if n == 0 else {}), index=index)
        for n, word in enumerate(words)
    ]


def call(
    index: Any = None, id: str | None = None, name: str | None = None, text: Any = "", **fields: Any
) -> Body:
    """A chunk with a piece of a tool call; what is None is left out."""
    piece = {"index": index, "id": id, **fields} | {"function": {"name": name, "arguments": text}}
    piece["function"] = {
        key: value for key, value in piece["function"].items() if value is not None
    }
    return delta(
        {"tool_calls": [{key: value for key, value in piece.items() if value is not None}]}
    )


def calling(
    name: str, events: list[Event], text: str = "", *, calls: list[tuple[str, str]]
) -> Case:
    """A stream that ends with tool calls."""
    return Case(name, [*events, delta({}, "tool_calls")], text, calls, "tool_calls")


def usage(total: int) -> Body:
    return {"prompt_tokens": total - 1, "completion_tokens": 1, "total_tokens": total}


ROLE = delta({"role": "assistant", "content": ""})
STOP = delta({}, "stop")
HI = [ROLE, *said("hel", "lo")]
OSLO = ("weather", '{"city":"Oslo"}')
TWO = [OSLO, ("alarm", '{"at":7}')]
LINES = b'event: message\nid: 7\nretry: 10\ndata: {"choices":[{"index":0,"delta":{"content":"hello"}}]}\n\n'
EMOJI = "a 👩‍🚀 é 日本 b"

CASES = [
    Case(
        "role_in_every_delta",
        [*(delta({"role": "assistant", "content": w}) for w in ("hel", "lo")), STOP],
        "hello",
    ),
    Case("role_of_another_name", [delta({"role": "model", "content": "hello"}), STOP], "hello"),
    Case("no_role_at_all", [*said("hel", "lo"), STOP], "hello"),
    Case("role_last", [delta({"content": "hello"}), ROLE, STOP], "hello"),
    Case(
        "role_with_null_content",
        [delta({"role": "assistant", "content": None}), *said("hello"), STOP],
        "hello",
    ),
    Case("nothing_but_a_role", [ROLE, STOP]),
    Case("nothing_but_an_end", [STOP]),
    Case(
        "empty_deltas",
        [ROLE, delta(), *said("hel"), delta({"content": ""}), delta(), *said("lo"), STOP],
        "hello",
    ),
    Case(
        "null_fields",
        [
            delta({"role": "assistant", "content": "hello", "tool_calls": None, "refusal": None}),
            STOP,
        ],
        "hello",
    ),
    Case("no_delta", [*HI, {"choices": [{"index": 0, "finish_reason": "stop"}]}], "hello"),
    Case(
        "delta_null",
        [*HI, {"choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]}],
        "hello",
    ),
    Case(
        "a_message_instead_of_a_delta",
        [{"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]}],
        "hello",
    ),
    Case(
        "content_in_parts",
        [
            delta({"content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}),
            STOP,
        ],
        "hello",
    ),
    Case(
        "all_in_one",
        [delta({"role": "assistant", "content": "hello"}, "stop", usage=usage(9))],
        "hello",
        usage=9,
    ),
    Case(
        "finish_with_content", [*HI, delta({"content": "!"}, "length")], "hello!", finish="length"
    ),
    Case("finish_twice", [*HI, STOP, STOP], "hello"),
    Case("finish_in_every_chunk_as_empty_text", [delta({"content": "hello"}, ""), STOP], "hello"),
    Case("content_after_finish", [*HI, STOP, *said("more")], "hellomore"),
    Case("finish_after_finish", [*HI, STOP, delta({}, "length")], "hello", finish="length"),
    Case("an_event_that_is_no_object", [*said("hel"), "[1]", "pong", *said("lo"), STOP], "hello"),
    Case("finish_in_other_words", [*HI, delta({}, "MAX_TOKENS")], "hello", finish="length"),
    Case("finish_unheard_of", [*HI, delta({}, "eos")], "hello"),
    Case("no_done", [*HI, STOP], "hello", done=False),
    Case("done_without_finish", HI, "hello", finish=None),
    Case(
        "usage_in_every_chunk",
        [c | {"usage": usage(n + 1)} for n, c in enumerate([*HI, STOP])],
        "hello",
        usage=4,
    ),
    Case("usage_null_everywhere", [c | {"usage": None} for c in [*HI, STOP]], "hello"),
    Case("usage_before_finish", [*HI, delta(usage=usage(5)), STOP], "hello", usage=5),
    Case(
        "usage_that_does_not_add_up",
        [*HI, STOP, {"choices": [], "usage": usage(5) | {"total_tokens": 99}}],
        "hello",
        usage=99,
    ),
    Case("no_choices_first", [{"choices": [], "prompt_filter_results": [{}]}, *HI, STOP], "hello"),
    Case("choices_null", [*HI, {"choices": None}, STOP], "hello"),
    Case("error_null", [c | {"error": None} for c in [*HI, STOP]], "hello"),
    Case("error_empty", [c | {"error": ""} for c in [*HI, STOP]], "hello"),
    Case(
        "no_index",
        [{"choices": [{"delta": {"content": "hello"}}]}, {"choices": [{"finish_reason": "stop"}]}],
        "hello",
    ),
    Case(
        "index_null",
        [delta({"content": "hello"}, index=None), delta({}, "stop", index=None)],
        "hello",
    ),
    Case(
        "head_changes",
        [c | {"id": f"up-{n}", "created": n, "model": f"m-{n}"} for n, c in enumerate([*HI, STOP])],
        "hello",
    ),
    Case(
        "unknown_fields",
        [c | {"x_groq": {"id": 1}, "provider": "X", "event": "e"} for c in [*HI, STOP]],
        "hello",
    ),
    Case(
        "reasoning",
        [delta({"reasoning_content": "hm"}), *said("hello"), STOP],
        "hello",
        reasoning="hm",
    ),
    Case(
        "reasoning_by_its_other_name",
        [delta({"reasoning": "hm"}), *said("hello"), STOP],
        "hello",
        reasoning="hm",
    ),
    Case(
        "log_probabilities_without_text",
        [
            *HI,
            {
                "choices": [
                    {
                        "index": 0,
                        "delta": {"content": ""},
                        "logprobs": {"content": [{"token": "", "logprob": 0, "top_logprobs": []}]},
                    }
                ]
            },
            STOP,
        ],
        "hello",
    ),
    # --- more than one choice
    Case(
        "two_interleaved",
        [d for w in ("a", "b") for i in (0, 1) for d in said(w, index=i)]
        + [delta({}, "stop", 0), delta({}, "stop", 1)],
        "ab",
        more=["ab"],
    ),
    Case(
        "index_one_first",
        [*said("b", index=1), *said("a"), delta({}, "stop", 1), STOP],
        "a",
        more=["b"],
    ),
    Case(
        "one_after_the_other",
        [*said("a"), STOP, *said("b", index=1), delta({}, "stop", 1)],
        "a",
        more=["b"],
    ),
    Case(
        "a_choice_that_never_speaks",
        [*said("b", index=1), delta({}, "stop", 1)],
        "",
        finish=None,
        more=["b"],
    ),
    # --- tool calls
    calling("call", [call(0, "c", "weather", '{"city":'), call(0, text='"Oslo"}')], calls=[OSLO]),
    calling(
        "call_repeats_its_head",
        [
            call(0, "c", "weather", '{"city":', type="function"),
            call(0, "c", "weather", '"Oslo"}', type="function"),
        ],
        calls=[OSLO],
    ),
    calling(
        "call_without_index",
        [call(None, "c", "weather", '{"city":'), call(None, text='"Oslo"}')],
        calls=[OSLO],
    ),
    calling(
        "calls_without_index",
        [call(None, "c", *OSLO), call(None, "d", "alarm", '{"at":'), call(None, text="7}")],
        calls=TWO,
    ),
    calling(
        "calls_without_index_interleaved",
        [
            call(None, "c", "weather", '{"city":'),
            call(None, "d", "alarm", '{"at":'),
            call(None, "c", text='"Oslo"}'),
            call(None, "d", text="7}"),
        ],
        calls=TWO,
    ),
    calling("calls_all_with_index_zero", [call(0, "c", *OSLO), call(0, "d", *TWO[1])], calls=TWO),
    calling(
        "calls_counted_from_one",
        [call(1, "c", "weather", '{"city":'), call(1, text='"Oslo"}'), call(2, "d", *TWO[1])],
        calls=TWO,
    ),
    calling(
        "calls_interleaved",
        [
            call(0, "c", "weather", '{"city":'),
            call(1, "d", "alarm", '{"at":'),
            call(0, text='"Oslo"}'),
            call(1, text="7}"),
        ],
        calls=TWO,
    ),
    calling(
        "call_without_id",
        [call(0, None, "weather", '{"city":'), call(0, text='"Oslo"}')],
        calls=[OSLO],
    ),
    calling(
        "call_with_empty_id_later",
        [call(0, "c", "weather", '{"city":'), call(0, "", "", '"Oslo"}')],
        calls=[OSLO],
    ),
    calling(
        "call_with_a_new_id_in_every_delta",
        [call(0, "c1", "weather", '{"city":'), call(0, "c2", None, '"Oslo"}')],
        calls=[OSLO],
    ),
    calling("calls_with_one_id", [call(0, "c", *OSLO), call(1, "c", *TWO[1])], calls=TWO),
    calling(
        "call_with_its_name_late",
        [call(0, "c"), call(0, None, "weather", '{"city":'), call(0, text='"Oslo"}')],
        calls=[OSLO],
    ),
    calling(
        "call_with_arguments_as_an_object",
        [call(0, "c", "weather", {"city": "Oslo"})],
        calls=[OSLO],
    ),
    calling("call_without_arguments", [call(0, "c", "weather", None)], calls=[("weather", "")]),
    Case("call_without_end", [call(0, "c", *OSLO)], calls=[OSLO], finish=None),
    Case("call_with_a_plain_end", [call(0, "c", *OSLO), STOP], calls=[OSLO], finish="tool_calls"),
    calling(
        "call_in_two_deltas_of_content",
        [call(0, "c"), *said("well"), call(0, None, *OSLO)],
        "well",
        calls=[OSLO],
    ),
    calling(
        "calls_in_one_delta",
        [
            delta(
                {
                    "tool_calls": [
                        {"id": i, "function": {"name": n, "arguments": a}}
                        for i, (n, a) in zip("cd", TWO, strict=True)
                    ]
                }
            )
        ],
        calls=TWO,
    ),
    calling("text_then_call", [*said("well"), call(0, "c", *OSLO)], "well", calls=[OSLO]),
    # --- bytes
    Case("crlf", [sse_event(e).replace(b"\n", b"\r\n") for e in [*HI, STOP]], "hello"),
    Case("bytewise", [ROLE, *said(*EMOJI), STOP], EMOJI, pieces=1),
    Case(
        "bytewise_crlf",
        [sse_event(e).replace(b"\n", b"\r\n") for e in [*said(EMOJI), STOP]],
        EMOJI,
        pieces=1,
    ),
    Case(
        "no_space_after_the_colon",
        [sse_event(e).replace(b"data: ", b"data:") for e in [*HI, STOP]],
        "hello",
    ),
    Case(
        "two_lines_of_data",
        [sse_event(e).replace(b', "', b',\ndata: "') for e in [*HI, STOP]],
        "hello",
    ),
    Case(
        "comments_and_other_fields",
        [b": hi\n\n", LINES, b"event: ping\n\n", b": bye\n\n", STOP],
        "hello",
    ),
    Case("byte_order_mark", [b"\xef\xbb\xbf" + sse_event(ROLE), *said("hello"), STOP], "hello"),
    Case(
        "text_with_line_ends",
        [*said("a\n\nb\r\n", "data: x\u2028\u0085"), STOP],
        "a\n\nb\r\ndata: x\u2028\u0085",
    ),
]
