"""A provider that forgets the limit of output: the stream is ended before it costs a fortune."""

import pytest
from support.gateways import started
from support.priced import check_books
from support.validators import check_chat_stream, check_messages_stream
from support.wires import ASK, run

PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
CHECK = {"anthropic": check_messages_stream, "openai": check_chat_stream}
CONFIG = """
upstreams:
  demo: {protocol: demo}
models:
  endless:
    targets: [{upstream: demo, model: "fault:endless:0"}]
    price: {input: "4.00", output: "20.00"}
billing: {hold_slice_tokens: 100}
"""


@pytest.mark.parametrize("protocol", PATHS)
def test_a_stream_far_beyond_its_limit_ends_as_if_at_it(tmp_path, protocol):
    ask = {**ASK, "model": "endless", "max_tokens": 50, "stream": True}

    async def scenario():
        async with started(tmp_path, CONFIG) as gateway, gateway.client() as client:
            return (await client.post(PATHS[protocol], json=ask)).content

    said = CHECK[protocol](run(scenario))

    assert (said.error, said.stop_reason) == (
        None,
        {"anthropic": "max_tokens", "openai": "length"}[protocol],
    )
    (row,) = check_books(tmp_path)
    assert row["outcome"] == "cut"
    # Four times the limit and the slack, and what one packet of the provider holds beyond.
    assert 50 < row["output_tokens"] < 50 * 4 + 8192 + 20_000
