"""Server-sent events as they arrive: however the bytes are cut, the events are the same, and memory has a bound."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chattable.adapters.sse import EventTooLarge, SseDecoder

line = st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b""))
ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
events = st.lists(
    st.tuples(st.lists(line, min_size=1, max_size=3), ends, st.booleans(), st.booleans()),
    max_size=6,
)


def framed(parts) -> tuple[bytes, list[bytes]]:
    """The bytes of a stream and the data of its events."""
    data, meant = b"", []
    for lines, end, spaced, decorated in parts:
        if decorated:
            data += (
                b": data: comment"
                + end
                + b"event: x"
                + end
                + b"id"
                + end
                + b"retry: 5"
                + end
                + b"database: no"
                + end
            )
        for text in lines:
            data += b"data:" + (b" " if spaced or text.startswith(b" ") else b"") + text + end
        data += end
        meant.append(b"\n".join(lines))
    return data, [event for event in meant if event.strip()]


def read(blocks) -> list[bytes]:
    decoder = SseDecoder()
    return [event for block in blocks for event in decoder.feed(block)]


@given(events, st.lists(st.integers(0, 400), max_size=8), st.booleans())
def test_events_do_not_depend_on_the_cuts(parts, cuts, bom):
    data, meant = framed(parts)
    data = b"\xef\xbb\xbf" * bom + data
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert read(data[a:b] for a, b in pairwise(edges)) == meant
    assert read(data[i : i + 1] for i in range(len(data))) == meant


@given(events, line, st.sampled_from([b"", b"\n", b"\r", b"\r\n"]))
def test_d_an_event_without_its_blank_line_is_given_out_at_the_end_only(parts, text, end):
    data, meant = framed(parts)
    decoder = SseDecoder()
    assert decoder.feed(data) + decoder.feed(b"data: " + text + end) == meant
    assert decoder.end() == ([text] if text.strip() else [])
    assert decoder.end() == []


@pytest.mark.parametrize(
    "data, meant",
    [
        (
            b'{"type": "error", "error": {"message": "m"}}',
            b'{"type": "error", "error": {"message": "m"}}',
        ),
        (b'{"message": "m"}', b'{"error":{"message":"m"}}'),
        (b"overloaded", b'{"error":"overloaded"}'),
        (b"\xff", '{"error":"\N{REPLACEMENT CHARACTER}"}'.encode()),
        (b"null", b'{"error":"error"}'),
        (b"", b'{"error":"error"}'),
    ],
)
def test_a1_the_data_of_an_event_named_error_says_so(data, meant):
    assert read([b"event: error\ndata: " + data + b"\n\n"]) == [meant]
    assert read([b"event:error\r\n\r\ndata: 1\n\n"]) == [b'{"error":"error"}', b"1"]
    assert read([b"event: message\ndata: 1\n\nevent: errors\ndata: 2\n\n"]) == [b"1", b"2"]


def test_the_events_of_a_block_come_with_the_block():
    decoder = SseDecoder()
    assert decoder.feed(b"data: 1\n\ndata: 2\n\ndata: 3") == [b"1", b"2"]
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"\n") == [b"3"]


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"\xef", b"\xef\xbb", b""])
def test_only_a_whole_mark_at_the_start_is_passed_over(start):
    whole = start == b"\xef\xbb\xbf"
    assert read([start, b"data: 1\n\ndata: \xef\xbb\xbf2\n\n"]) == (
        [b"1"] if whole or not start else []
    ) + [b"\xef\xbb\xbf2"]


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize(
    "what", [b"x", b"data: x", b"data: x\n", b"data: x\r\n"], ids=["noise", "line", "lines", "crlf"]
)
def test_an_event_without_an_end_has_a_limit(what, size):
    decoder, fed = SseDecoder(limit=1000), 0
    stream = what * 3000
    with pytest.raises(EventTooLarge):
        for at in range(0, len(stream), size):
            decoder.feed(stream[at : at + size])
            fed += size
    assert fed <= 3000


def test_events_within_the_limit_pass_however_many():
    decoder = SseDecoder(limit=1000)
    event = b"data: " + b"x" * 400 + b"\n\n"
    for _ in range(100):
        assert len(decoder.feed(event[:200]) + decoder.feed(event[200:])) == 1
    assert decoder.feed(b": comment\n\n" * 1000) == []
    assert len(decoder.feed(event * 100)) == 100
