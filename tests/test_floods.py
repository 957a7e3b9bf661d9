"""One line a cause and second, whatever is logged."""

import logging
from typing import Any

import pytest

from chattable.proxy.telemetry.log_floods import Floods

LONG = "x" * 100_000


def record(text: str, *args: Any, error: BaseException | None = None) -> logging.LogRecord:
    found = (type(error), error, None) if error else None
    return logging.LogRecord("chattable", logging.ERROR, "file.py", 1, text, args, found)


def failed(*said: object, by: BaseException | None = None) -> Exception:
    error = ValueError(*said)
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (record("gone"), record("gone"), True),
        (
            record("request %s failed", "req_0123456789ab"),
            record("request %s failed", "req_ba9876543210"),
            True,
        ),
        (record("gone"), record("away"), False),
        (record("x", error=failed("tulip")), record("x", error=failed("daisy")), False),
        (record("x", error=failed("tulip")), record("x", error=KeyError("tulip")), False),
        (
            record("x", error=failed("a", by=failed("tulip"))),
            record("x", error=failed("a", by=failed("daisy"))),
            False,
        ),
        (record(LONG + "a"), record(LONG + "b"), True),
    ],
)
def test_a_cause_is_told_once_a_second(
    one: logging.LogRecord, other: logging.LogRecord, same: bool
) -> None:
    now = [0.0]
    floods = Floods(lambda: now[0])
    assert floods.filter(one)
    assert floods.filter(other) != same
    now[0] += 1
    assert floods.filter(other)
    assert ("1 more like this" in other.getMessage()) == same


def test_what_cannot_be_read_passes() -> None:
    floods = Floods()
    assert floods.filter(record("%d", "no number"))

    class Odd(Exception):
        def __repr__(self) -> str:
            raise RuntimeError

    assert floods.filter(record("odd", error=Odd()))


def test_causes_in_a_circle_are_followed_a_little() -> None:
    one, other = failed("one"), failed("other")
    one.__cause__, other.__cause__ = other, one
    assert Floods().filter(record("circle", error=one))
