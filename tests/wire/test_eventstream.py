"""AWS's binary frames: any cut, any damage. AWS's own parser reads what is written here."""

import json
import struct
from pathlib import Path
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer
from frames import event, frame, framed, header
from hypothesis import given
from hypothesis import strategies as st

from chattable.adapters.bedrock.eventstream import EventStreamDecoder
from chattable.adapters.errors import InvalidUpstreamResponse
from chattable.adapters.sse import EventTooLarge

DATA = Path(__file__).parent / "data"
STREAM = framed((DATA / "bedrock_tools_stream.jsonl").read_bytes())
# One header of every type there is.
TYPES = b"".join(
    b"\x01%c" % (97 + kind) + bytes([kind]) + value
    for kind, value in enumerate(
        [
            b"",
            b"",
            b"\x01",
            b"\x00\x02",
            bytes(4),
            bytes(8),
            b"\x00\x03abc",
            b"\x00\x02hi",
            bytes(8),
            bytes(16),
        ]
    )
)


def decode(*blocks, **options):
    decoder = EventStreamDecoder(**options)
    return [json.loads(data) for block in blocks for data in decoder.feed(block)]


def test_awss_own_parser_reads_the_same():
    buffer = EventStreamBuffer()
    buffer.add_data(STREAM)
    theirs = [{message.headers[":event-type"]: json.loads(message.payload)} for message in buffer]
    assert (
        theirs
        == decode(STREAM)
        == [json.loads(line) for line in (DATA / "bedrock_tools_stream.jsonl").open()]
    )


def test_headers_of_every_type_are_read_over():
    data = frame(TYPES + header(":event-type", "messageStop"), b'{"a":1}')
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    assert len(next(iter(buffer)).headers) == 11
    assert decode(data) == [{"messageStop": {"a": 1}}]


def test_exceptions_and_errors_are_events_too():
    assert decode(event("throttlingException", {"message": "m"})) == [
        {"throttlingException": {"message": "m"}}
    ]
    headers = (
        header(":message-type", "error")
        + header(":error-code", "InternalFailure")
        + header(":error-message", "ü")
    )
    assert decode(frame(headers, b"")) == [{"error": {"code": "InternalFailure", "message": "ü"}}]
    assert decode(frame(header(":event-type", "x"), b"")) == [{"x": {}}]


@pytest.mark.parametrize("at", range(len(event("messageStart", {"role": "assistant"}))))
def test_no_damaged_byte_is_believed(at):
    data = bytearray(event("messageStart", {"role": "assistant"}))
    for bit in range(8):
        data[at] ^= 1 << bit
        with pytest.raises((InvalidUpstreamResponse, EventTooLarge)):
            decode(bytes(data), bytes(2**16))
        data[at] ^= 1 << bit
    assert decode(bytes(data))


def test_half_a_frame_is_no_event():
    assert decode(STREAM[:-1]) == decode(STREAM)[:-1]


def test_what_is_too_large_is_known_before_it_is_there():
    prelude = struct.pack(">II", 10_000, 0)
    with pytest.raises(EventTooLarge):
        decode(prelude + struct.pack(">I", crc32(prelude)), limit=9_999)


@pytest.mark.parametrize("size, headers", [(0, 0), (15, 0), (16, 1), (2**31, 2**32 - 1)])
def test_lengths_that_cannot_be(size, headers):
    prelude = struct.pack(">II", size, headers)
    with pytest.raises(InvalidUpstreamResponse):
        decode(prelude + struct.pack(">I", crc32(prelude)))


DAMAGED = [b"\x05ab", b"\x01a", b"\x01a\x07", b"\x01a\x07\x00\x05abc", b"\x01a\x0a", b"\x01\xff\x00", b"\x01a\x07\x00\x01\xff",
           b"\x01a\x05abc"]  # fmt: skip


@pytest.mark.parametrize("headers", DAMAGED)
def test_headers_that_are_none(headers):
    with pytest.raises(InvalidUpstreamResponse):
        decode(frame(headers, b"{}"))


@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(0, len(STREAM)))
def test_noise_breaks_it_in_the_known_ways_only(noise, at):
    try:
        decode(STREAM[:at], *noise, STREAM[at:])
    except (InvalidUpstreamResponse, EventTooLarge) as error:
        assert noise and isinstance(error, Exception)
