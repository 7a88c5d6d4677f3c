"""The check that stands behind every test with a gateway: it sees what a client was given."""

import pytest
from support.gateways import config_for, started
from support.raw_upstream import EVENTS, chunked, upstream
from support.stream_rules import BrokenStreamError
from support.wires import request, run, wire

PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
TORN = {
    "anthropic": b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    "openai": b"data: [DONE]\n\n",
}


def ask_for_broken_stream(folder, protocol, model):
    async def scenario():
        async with upstream([EVENTS, chunked(TORN[protocol])]) as there:
            config = config_for(there.url, protocol=protocol).replace("upstream-model", model)
            async with started(folder, config) as gateway, wire(gateway.url) as connection:
                body = b'{"model":"smart","max_tokens":9,"stream":true,"messages":[]}'
                return await connection.ask(
                    request("POST", PATHS[protocol], body, x_api_key=gateway.secret)
                )

    return run(scenario)


@pytest.mark.parametrize("protocol", PATHS)
def test_a_broken_stream_of_a_sound_upstream_fails_the_test_that_made_it(tmp_path, protocol):
    with pytest.raises(BrokenStreamError, match="before"):
        ask_for_broken_stream(tmp_path, protocol, "demo-smart")


@pytest.mark.parametrize("protocol", PATHS)
def test_what_a_scripted_upstream_says_in_its_protocol_is_its_own_affair(tmp_path, protocol):
    reply = ask_for_broken_stream(tmp_path, protocol, "upstream-model")

    assert reply.status == 200
