"""Compression that nobody asked for: undone piece by piece, never a bomb."""

import gzip
import subprocess
import sys
import zlib

import pytest

from server.errors import UpstreamError
from server.upstream.inflate import FREE_BYTES, Inflater

TEXT = b'{"text": "' + b"hello, w\xc3\xb6rld " * 500 + b'"}'


def bare(data):
    squeezed = zlib.compressobj(wbits=-15)
    return squeezed.compress(data) + squeezed.flush()


PACKED = {
    b"gzip": gzip.compress(TEXT, mtime=0),
    b"x-gzip": gzip.compress(TEXT, mtime=0),
    b"deflate": zlib.compress(TEXT),
    b"deflate bare": bare(TEXT),
}


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("step", [1, 7, 10**6])
def test_each_encoding_inflates_however_it_is_cut(name, step):
    packed, inflater = PACKED[name], Inflater(name.partition(b" ")[0])

    pieces = [inflater.feed(packed[at : at + step]) for at in range(0, len(packed), step)]

    assert b"".join(pieces) == TEXT
    assert inflater.is_whole


@pytest.mark.parametrize("name", PACKED)
def test_a_truncated_body_is_not_whole(name):
    inflater = Inflater(name.partition(b" ")[0])
    assert not inflater.is_whole
    inflater.feed(b"")
    inflater.feed(PACKED[name][:-1])

    assert not inflater.is_whole


@pytest.mark.parametrize(
    ("encoding", "data", "sentence"),
    [
        (b"gzip", b"no gzip at all", "is damaged"),
        (b"gzip", zlib.compress(TEXT), "is damaged"),
        (b"gzip", gzip.compress(TEXT, mtime=0)[:-8] + b"\0" * 8, "is damaged"),
        (b"deflate", b"\xff" * 20, "is damaged"),
        (b"gzip", gzip.compress(TEXT, mtime=0) + b"more", "goes on behind its end"),
        (b"br", b"x", "in a way nobody asked for"),
        (b"gzip, gzip", b"x", "in a way nobody asked for"),
    ],
)
def test_damage_and_unknown_encodings_are_errors(encoding, data, sentence):
    with pytest.raises(UpstreamError, match=sentence):
        Inflater(encoding).feed(data)


def test_what_comes_after_the_end_is_an_error_in_a_later_piece_too():
    inflater = Inflater(b"gzip")
    inflater.feed(gzip.compress(b"{}", mtime=0))

    with pytest.raises(UpstreamError, match="goes on behind its end"):
        inflater.feed(b"more")


def test_well_packed_text_passes_beyond_the_free_bytes():
    text = b"".join(b'{"line": %d, "text": "all is well"}\n' % at for at in range(200_000))
    packed, inflater = gzip.compress(text, mtime=0), Inflater(b"gzip")

    size = sum(len(inflater.feed(packed[at : at + 9999])) for at in range(0, len(packed), 9999))

    assert size == len(text) > FREE_BYTES
    assert inflater.is_whole


BOMB = """
import resource, zlib
from server.errors import UpstreamError
from server.upstream.inflate import Inflater

squeezed = zlib.compressobj(wbits=31)
bomb = b"".join(squeezed.compress(bytes(1 << 20)) for _ in range(512)) + squeezed.flush()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
inflater, given = Inflater(b"gzip"), 0
try:
    for at in range(0, len(bomb), STEP):
        given += len(inflater.feed(bomb[at : at + STEP]))
except UpstreamError as err:
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(err, given, grown, sep="|")
"""


@pytest.mark.parametrize("step", [16_384, 262_144])
def test_a_bomb_is_refused_before_it_takes_memory(step):
    """512 MB of zeros in half a megabyte; one read may inflate to a hundred times itself."""
    done = subprocess.run(
        [sys.executable, "-c", BOMB.replace("STEP", str(step))],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    message, given, grown = done.stdout.split("|")
    unit = 1024 if sys.platform == "darwin" else 1

    assert message == "The provider's answer inflates beyond all measure."
    assert int(given) <= FREE_BYTES
    assert int(grown) / unit < 64 * 1024
