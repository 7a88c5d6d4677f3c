"""The fuzzer of chunkings: it loses nothing, and it does cut where it hurts."""

from pathlib import Path

import pytest
from support.chunkings import chunkings, paused, with_crlf

DATA = Path(__file__).parent.parent / "data"


@pytest.mark.parametrize("path", sorted(DATA.glob("*.sse")), ids=lambda path: path.stem)
def test_pieces_are_the_stream_again(path):
    for stream in (path.read_bytes(), with_crlf(path.read_bytes())):
        for name, pieces in chunkings(stream).items():
            assert b"".join(pieces) == stream, name
            assert all(pieces), name


def test_each_way_cuts_where_it_says():
    ways = chunkings("data: é\r\n\r\ndata: 👋\r\n\r\n".encode())

    assert ways["whole"] == ["data: é\r\n\r\ndata: 👋\r\n\r\n".encode()]
    assert ways["by event"] == ["data: é\r\n\r\n".encode(), "data: 👋\r\n\r\n".encode()]
    assert ways["inside characters"] == [
        b"data: \xc3",
        b"\xa9\r\n\r\ndata: \xf0",
        b"\x9f",
        b"\x91",
        b"\x8b\r\n\r\n",
    ]
    assert ways["between the line ends"] == [
        *("data: é\r".encode(), b"\n", b"\r", b"\n"),
        *("data: 👋\r".encode(), b"\n", b"\r", b"\n"),
    ]
    assert {len(piece) for piece in ways["byte by byte"]} == {1}


def test_a_script_pauses_behind_each_piece_but_not_for_long():
    assert paused([b"a", b"bc"], 0.002)[1:] == [
        *(b"1\r\na\r\n", 0.002, b"2\r\nbc\r\n", 0.002),
        b"0\r\n\r\n",
    ]
    pauses = [each for each in paused([b"a"] * 5000) if isinstance(each, float)]
    assert len(pauses) == 5000
    assert sum(pauses) < 0.6
