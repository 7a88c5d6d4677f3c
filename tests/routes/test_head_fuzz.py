"""Request heads and chunks, held to a reader that takes RFC 9112 by the letter and nothing more."""

import asyncio
import json
import random
import re
import time

from hypothesis import example, given
from hypothesis import strategies as st
from support.fuzz import examples, searching
from support.gateways import config_for, started
from support.wires import ASK, MESSAGE, http_answer, recording, run, wire

from server.routes import head
from server.routes.services import Deadlines

TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
SEPARATORS = [b": ", b":", b":\t", b" : ", b"\t:", b":  ", b"", b"=", b":\x0b", b": \r\n "]
NAMES = [b"host", b"Host", b"content-length", b"Content-Length", b"transfer-encoding", b"x-a"]
ODD_NAMES = [b"", b"x a", b"\xc3\xa9", b"Content_Length", b"hos\xc5\xbf", b"x(", b"\0", b" x"]
VALUES = [b"gateway", b"0", b"3", b"chunked", b"", b"a b\tc", b"\xc3\xa9", b"close"]
ODD_VALUES = [
    *(b"+3", b"-1", b"3,3", b"0x3", b"1_0", b"\xd9\xa3", b"\xb3", b" 3 ", b"3 3", b"gzip, chunked"),
    *(b"CHUNKED", b"chunked ", b"chunked,", b"a\nb", b"a\rb", b"a\0b", b"\x7f", b"a\r\nhost: b"),
]
STARTS = [
    *(b"GET /healthz HTTP/1.1", b"POST /v1/messages HTTP/1.0", b"BREW //x?a=b;c HTTP/1.1"),
    *(
        b"GET http://a/ HTTP/1.1",
        b"CONNECT a:1 HTTP/1.1",
        b"CONNECT /a HTTP/1.1",
        b"GET * HTTP/1.1",
    ),
    *(b"get / HTTP/1.1", b"GET  / HTTP/1.1", b"GET / HTTP/1.2", b"GET / HTTP/2.0", b"GET /"),
    *(b"GET /\xc3\xa9 HTTP/1.1", b"GET /\t HTTP/1.1", b"GET /# HTTP/1.1", b"G / HTTP/1.1", b""),
    *(b" GET / HTTP/1.1", b"GET / HTTP/1.1 ", b"GET /\r HTTP/1.1", b"GET / http/1.1", b"\r\n"),
]
LINES = st.builds(
    lambda name, separator, value: name + separator + value,
    st.sampled_from(NAMES * 3 + ODD_NAMES),
    st.sampled_from(SEPARATORS[:2] * 8 + SEPARATORS),
    st.one_of(st.sampled_from(VALUES * 3 + ODD_VALUES), st.binary(max_size=4)),
)
HEADS = st.one_of(
    st.builds(
        lambda start, lines: b"\r\n".join([start, *lines]),
        st.sampled_from(STARTS[:3] * 8 + STARTS),
        st.lists(LINES, max_size=5).map(lambda lines: [b"host: gateway", *lines]),
    ),
    st.builds(
        lambda start, lines: b"\r\n".join([start, *lines]),
        st.sampled_from(STARTS),
        st.lists(LINES, max_size=5),
    ),
    st.binary(max_size=60),
)


def _strictly(raw: bytes):
    """Read a head by the letter; None where it is none, or has framing that may be doubted.

    That a length or a coding comes twice, or both come, is for Sanic to refuse: see test_head.py.
    """
    start, *lines = raw.split(b"\r\n")
    words = start.split(b" ")
    if len(words) != 3 or words[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        return None
    method, target, version = words
    if not method or not set(method) <= TOKEN or method == b"CONNECT" or target[:1] != b"/":
        return None
    if any(not 0x21 <= byte <= 0x7E for byte in target) or b"#" in target:
        return None
    fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or not set(name) <= TOKEN:
            return None
        if any((byte < 0x20 and byte != 9) or byte == 0x7F for byte in value):
            return None
        fields.append((name.lower(), value.strip(b" \t")))
    named = [name for name, _ in fields]
    if named.count(b"host") != 1:
        return None
    for name, value in dict(reversed(fields)).items():  # the first of each
        if name == b"content-length" and not (value and set(value) <= set(b"0123456789")):
            return None
        if name == b"transfer-encoding" and (value != b"chunked" or version == b"HTTP/1.0"):
            return None
    return method, target, fields


@examples(1500)
def test_a_head_that_passes_is_one_by_the_letter(examples):
    @searching(examples)
    @given(HEADS)
    @example(b"GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \x0bchunked")
    @example(b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: \xb2")
    @example(b"GET / HTTP/1.1\r\nhost: a\r\nx: y\n")
    @example(b"GET / HTTP/1.1\n\r\nhost: a")
    @example(b"GET / HTTP/1.1\r\n host: a\r\nhost: b")
    def check(raw):
        if head._problem(raw) is None:
            found = _strictly(raw)
            assert found is not None
            # Whoever reads fewer line ends, or more, reads the same lines.
            assert re.split(rb"\r\n|\r|\n", raw) == raw.split(b"\r\n")

    check()


@examples(300)
def test_a_plain_head_always_passes(examples):
    text = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=8)
    name = st.text(st.sampled_from("abcXYZ0-_."), min_size=1, max_size=8)

    @searching(examples)
    @given(
        st.lists(st.tuples(name, text)), st.sampled_from(["/", "/v1/messages?beta=true", "//%2e"])
    )
    def check(fields, target):
        lines = [f"{name}: {value}" for name, value in fields]
        raw = "\r\n".join([f"POST {target} HTTP/1.1", "Host: a", *lines]).encode("latin-1")
        assert head._problem(raw) is None

    check()


def test_heads_made_to_be_slow_cost_time_in_proportion():
    def seconds(raw):
        begun = time.process_time()
        head._problem(raw)
        return time.process_time() - begun

    for unit in (
        b"\r\nx: y",
        b"\r\nhost",
        b"\r\ncontent-length:",
        b"\t",
        b" ",
        b"a:",
        b"\r",
        b"\n",
    ):
        start = b"GET / HTTP/1.1\r\nhost: "
        small, large = start + unit * 5_000, start + unit * 40_000
        assert seconds(large) < 8 * 8 * max(seconds(small), 0.002), unit


def _chunked(raw: bytes):
    """Read chunks by the letter, without extensions and trailers; the body and what follows."""
    found = b""
    while match := re.compile(rb"([0-9A-Fa-f]{1,12})\r\n").match(raw):
        size, raw = int(match[1], 16), raw[match.end() :]
        if raw[size : size + 2] != b"\r\n":
            return None
        found, raw = found + raw[:size], raw[size + 2 :]
        if not size:
            return found, raw
    return None


NEXT = b"GET /healthz HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n"
QUICK = Deadlines(head_s=0.1, body_s=0.1, discard_s=0.1)
TORN = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"0",
    b"0x",
    b";a=b",
    b"-",
    b"+",
    b"_",
    b"f",
    b"A",
    b"\0",
    b"x: y\r\n",
]


def _message(chance):
    """Write a request that may be torn; give it, and the body that the letter finds in it."""
    body = json.dumps({**ASK, "x": chance.randrange(10**9)}).encode()
    start = b"POST /v1/messages HTTP/1.1\r\nhost: gateway\r\nx-api-key: KEY\r\n"
    if chance.random() < 0.4:
        spare = chance.choice([0, 0, -1, 1, 5])
        length = len(body) + spare
        torn = (
            chance.choice([b"%d", b"%d", b"00%d", b"+%d", b"%d ", b"%d,", b"0x%x", b"%d.0"])
            % length
        )
        raw = start + b"content-length: " + torn + b"\r\n\r\n" + body
        sound = torn.strip().isdigit()
        return raw, (body[:length] if sound and spare <= 0 else None)
    at = sorted(chance.sample(range(1, len(body)), chance.randrange(4)))
    pieces = [body[begin:end] for begin, end in zip([0, *at], [*at, len(body)], strict=True)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces) + b"0\r\n\r\n"
    for _ in range(chance.choice([0, 1, 1, 2])):
        place, put = chance.randrange(len(chunks)), chance.choice(TORN)
        near = [m.start() for m in re.finditer(rb"\r\n", chunks)]
        place = chance.choice([place, *near, *(each + 2 for each in near)])
        chunks = chunks[:place] + put + chunks[place + chance.randrange(3) :]
    read = _chunked(chunks + NEXT)
    raw = start + b"transfer-encoding: chunked\r\n\r\n" + chunks
    return raw, None if read is None else read[0]


async def _served(url, data):
    """Send what may be two requests; give the statuses of all that was answered."""
    statuses = []
    async with wire(url) as connection:
        await connection.send(data)
        try:
            while True:
                statuses.append((await connection.reply()).status)
        except (asyncio.IncompleteReadError, ConnectionError):
            return statuses


@examples(250)
def test_on_the_wire_a_body_is_what_the_letter_says_or_nothing(tmp_path, examples):
    """What reached the upstream is compared, and nothing in a body is taken for a request."""
    chance, sound = random.Random(examples), 0

    async def scenario():
        nonlocal sound
        async with (
            recording(http_answer(200, MESSAGE)) as upstream,
            started(tmp_path, config_for(upstream.url), deadlines=QUICK) as gateway,
        ):
            for _ in range(examples):
                raw, wanted = _message(chance)
                before = len(upstream.bodies)
                data = raw.replace(b"KEY", gateway.secret.encode()) + NEXT
                statuses = await _served(gateway.url, data)
                served = [json.loads(each) for each in upstream.bodies[before:]]
                sound += wanted is not None and statuses == [200, 200]
                if served:
                    assert wanted is not None, raw
                    (given,) = served  # one without a limit is streamed behind its back
                    assert given == {**given, **json.loads(wanted), "model": "upstream-model"}, raw
                else:
                    assert 200 not in statuses[:1], (raw, statuses)
                assert len(statuses) <= 2, raw

    run(scenario)

    assert sound > examples / 5
    assert " ERROR " not in (tmp_path / "gateway.log").read_text()
