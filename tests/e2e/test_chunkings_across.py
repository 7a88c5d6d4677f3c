"""Golden streams of upstreams, translated: however the network cuts them, clients get the same.

Real pauses lie between the pieces: without them the system would glue them together again.
"""

import asyncio
import json
import re
from pathlib import Path

import pytest
from support.across import CHECK, EVERY_WAY, PATHS, WAYS, asking, crossing
from support.chunkings import chunkings, paused, with_crlf
from support.gateways import started
from support.priced import check_books
from support.raw_upstream import upstream
from support.wires import run

DATA = Path(__file__).parent.parent / "data"
PAUSE_S = 0.001
FILES = {
    "anthropic": [DATA / "messages_text.sse", DATA / "messages_tools.sse"],
    "openai": [
        DATA / "chat_text.sse",
        DATA / "chat_tools.sse",
        *sorted((DATA / "translation").glob("chat_*.sse")),
    ],
}
GOLDEN = [(*way, path) for way in WAYS for path in FILES[way[1]]]
OWN = re.compile(rb'01[0-9a-f]{42}|(?<="created":)\d+|(?<="created_at":)\d+')  # not the others'
KEPT = ("outcome", "stop_reason", "input_tokens", "output_tokens", "estimated", "cost_micros")
golden = pytest.mark.parametrize(
    ("client", "spoken", "path"),
    GOLDEN,
    ids=["-".join((*each[:2], each[2].stem)) for each in GOLDEN],
)


def relayed(folder, client, spoken, ways, *, stream=True):
    """Play each way at once; give what the client got and the row, by the way's name."""
    ask = asking(client, f"m-{spoken}", stream=stream, limit=20_000)

    async def scenario():
        async with (
            upstream(*ways.values()) as there,
            started(folder, crossing(there.url, {"m": "m"}), usd=100) as gateway,
            gateway.client() as http,
        ):
            replies = await asyncio.gather(*(http.post(PATHS[client], json=ask) for _ in ways))
            return dict(zip(ways, replies, strict=True))

    replies = run(scenario)
    rows = {row["request_id"]: row for row in check_books(folder)}
    assert {reply.status_code for reply in replies.values()} == {200}
    return {
        way: (
            OWN.sub(b"1", reply.content),
            {name: rows[reply.headers["request-id"]][name] for name in KEPT},
        )
        for way, reply in replies.items()
    }


def told_in(folder, client, spoken, stream, *left_out):
    """Give what the client is told in each way, which has to be sound in itself."""
    ways = {
        way: paused(pieces, PAUSE_S)
        for way, pieces in chunkings(stream).items()
        if way not in left_out
    }
    return relayed(folder, client, spoken, ways)


def check_all_same(told, client):
    plain, row = told["whole"]
    for way, (body, other) in told.items():
        assert _events(body) == _events(plain), way
        assert other == row, way
    assert row["outcome"] == "completed"
    CHECK[client](plain)


def _events(body):
    """List the events; comments and pings come when they come."""
    pieces = [piece for piece in body.split(b"\n\n") if piece and not piece.startswith(b":")]
    return [piece for piece in pieces if not piece.startswith(b"event: ping")]


@golden
def test_a_translated_stream_is_the_same_however_it_was_cut(tmp_path, client, spoken, path):
    told = told_in(tmp_path, client, spoken, path.read_bytes(), "byte by byte")

    check_all_same(told, client)


@pytest.mark.parametrize(("client", "spoken"), WAYS)
def test_a_translated_stream_with_crlf_is_the_same_as_without(tmp_path, client, spoken):
    stream = FILES[spoken][1].read_bytes()
    (tmp_path / "plain").mkdir()

    told = told_in(tmp_path, client, spoken, with_crlf(stream), "byte by byte")
    plain = told_in(tmp_path / "plain", client, spoken, stream, *set(chunkings(stream)) - {"whole"})

    check_all_same({**told, "whole": plain["whole"], "whole, CRLF": told["whole"]}, client)


@pytest.mark.parametrize(
    ("client", "spoken"), [("anthropic", "openai"), ("responses", "anthropic")]
)
def test_a_translated_stream_survives_a_pause_behind_every_byte(tmp_path, client, spoken):
    stream = FILES[spoken][1].read_bytes()
    others = set(chunkings(stream)) - {"whole", "byte by byte"}

    check_all_same(told_in(tmp_path, client, spoken, stream, *others), client)


@pytest.mark.parametrize(("client", "spoken"), EVERY_WAY)
def test_a_gathered_answer_is_the_same_however_its_stream_was_cut(tmp_path, client, spoken):
    pieces = chunkings(with_crlf(FILES[spoken][1].read_bytes()))
    ways = {way: paused(each, PAUSE_S) for way, each in pieces.items() if way != "byte by byte"}

    told = relayed(tmp_path, client, spoken, ways, stream=False)

    assert told == dict.fromkeys(ways, told["whole"])
    body, row = told["whole"]
    assert row["outcome"] == "completed"
    assert json.loads(body)["usage"]


@pytest.mark.slow
@golden
def test_every_translated_stream_survives_a_pause_behind_every_byte(tmp_path, client, spoken, path):
    check_all_same(told_in(tmp_path, client, spoken, path.read_bytes()), client)
