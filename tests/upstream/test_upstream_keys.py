"""An upstream's keys: a request leaves with the one it was given, and none is printed."""

import msgspec
import pytest
from support.raw_upstream import run, upstream
from support.relays import BOTH, STREAMS, dispatch, events, relay_for

from server.config.schema import Upstream
from server.protocols import Protocol
from server.secret import Secret
from server.upstream.client import UpstreamClient, endpoint_of
from server.upstream.pool import Pool

KEYS = ("sk-fake-first", "sk-fake-second")


def test_each_key_has_a_head_of_its_own_and_none_is_ever_printed():
    def prepared(**options):
        provider = Upstream(protocol="anthropic", base_url="http://127.0.0.1:1", **options)
        return endpoint_of("there", provider, None)

    both = prepared(api_keys=tuple(map(Secret, KEYS)))
    one, none = prepared(api_key=Secret(KEYS[0])), prepared()

    heads = both.heads[Protocol.ANTHROPIC]
    assert [head.rpartition(b"x-api-key: ")[2].decode() for head in heads] == list(KEYS)
    assert (one.heads[Protocol.ANTHROPIC], one.keys) == (heads[:1], both.keys[:1])
    assert len(set(both.keys)) == 2
    assert (len(none.keys), b"x-api-key" in none.heads[Protocol.ANTHROPIC][0]) == (1, False)
    for printed in (repr(both), repr(one), str(both.keys)):
        assert "sk-fake" not in printed


@BOTH
@pytest.mark.parametrize("key", [0, 1])
def test_a_request_leaves_with_the_key_it_was_given(protocol, key):
    async def scenario():
        async with upstream(events(STREAMS[protocol])) as server:
            provider = Upstream(
                protocol=protocol, base_url=server.url, api_keys=tuple(map(Secret, KEYS))
            )
            client = UpstreamClient({"there": endpoint_of("there", provider, None)}, Pool())
            sent = msgspec.structs.replace(dispatch(protocol), key=key)
            error = await client.forward(sent, relay_for(protocol).attempt)
            await client.close()
        return error, server.requests[0][0]

    error, head = run(scenario())

    assert error is None
    assert [own.encode() in head for own in KEYS] == [key == 0, key == 1]
