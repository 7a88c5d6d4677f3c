"""What of a client's `traceparent` and `tracestate` is believed."""

import pytest
from sanic.compat import Header

from server.observing.caller_trace import CallerTrace, caller_trace

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


def _read(parent, *states):
    return caller_trace(Header([("traceparent", parent), *(("tracestate", s) for s in states)]))


def test_a_valid_header_is_read():
    assert _read(GOOD) == CallerTrace(int(TRACE, 16), int(SPAN, 16), True, "")


@pytest.mark.parametrize(
    ("flags", "is_sampled"), [("00", False), ("01", True), ("02", False), ("03", True)]
)
def test_the_caller_says_whether_it_is_kept(flags, is_sampled):
    assert _read(f"00-{TRACE}-{SPAN}-{flags}").is_sampled is is_sampled


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00",
        GOOD.upper(),
        f" {GOOD}",
        f"{GOOD} ",
        f"{GOOD}\n",
        f"{GOOD}-",
        f"{GOOD}-more",
        f"ff{GOOD[2:]}",
        f"0{GOOD}",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE[1:]}g-{SPAN}-01",
        f"00-{TRACE}-{SPAN}01",
        f"01{GOOD[2:]}x",
        f"01{GOOD[2:]}-{'x' * 1000}",
        "\u0660" + GOOD[1:],
    ],
)
def test_what_is_malformed_counts_as_not_sent(parent):
    assert _read(parent, "a=1") is None


def test_a_version_that_is_yet_to_come_may_say_more():
    assert _read(f"01{GOOD[2:]}") == _read(GOOD)
    assert _read(f"cc{GOOD[2:]}-what-comes-then") == _read(GOOD)


def test_two_parents_are_none():
    assert caller_trace(Header([("traceparent", GOOD), ("traceparent", GOOD)])) is None


@pytest.mark.parametrize(
    ("states", "kept"),
    [
        ((), ""),
        (("a=1", "b=2"), "a=1,b=2"),
        (("a=" + "x" * 510,), "a=" + "x" * 510),
        (("a=" + "x" * 511,), ""),
        (("a=\t",), ""),
        (("a=é",), ""),
    ],
)
def test_a_state_is_short_and_printable_or_dropped(states, kept):
    assert _read(GOOD, *states).state == kept


def test_without_the_header_there_is_no_trace():
    assert caller_trace({"tracestate": "a=1"}) is None
