"""The session and the agent that a tool names, as the row of its request keeps them."""

import json

import pytest
from support.gateways import config_for, started
from support.wires import ASK, MESSAGE, http_answer, recording, request, run, wire

CASES = [
    ({"x_claude_code_session_id": "s-1", "x_claude_code_agent_id": "a-1"}, ("s-1", "a-1")),
    ({"x_session_id": "ses_2"}, ("ses_2", None)),
    ({"session_id": "01a2"}, ("01a2", None)),
    ({"x_session_id": "ses_2", "x_claude_code_session_id": "s-1"}, ("s-1", None)),
    ({"x_claude_code_agent_id": "a" * 128}, (None, "a" * 128)),
    ({}, (None, None)),
    ({"x_session_id": "", "x_claude_code_agent_id": "two words"}, (None, None)),
    ({"x_session_id": "caf\xe9", "x_claude_code_agent_id": "a" * 129}, (None, None)),
]


@pytest.mark.parametrize("stream", [False, True])
def test_a_row_tells_session_and_agent_where_they_can_be_read(tmp_path, stream):
    body = json.dumps({**ASK, "stream": stream}).encode()

    async def scenario():
        async with (
            recording(http_answer(200, MESSAGE)) as upstream,
            started(tmp_path, config_for(upstream.url)) as gateway,
            wire(gateway.url) as connection,
        ):
            for headers, _ in CASES:
                sent = {"x_api_key": gateway.secret, **headers}
                await connection.ask(request("POST", "/claudecode/v1/messages", body, **sent))
            return await gateway.rows(), upstream.heads

    rows, heads = run(scenario)

    assert [(row["session"], row["agent"]) for row in rows] == [labels for _, labels in CASES]
    assert not any(b"session-id" in head or b"agent-id" in head for head in heads)
