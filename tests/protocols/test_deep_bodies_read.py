"""Bodies nested to the last level that is read: a refusal or a request, and never our bug."""

import pytest

from server.errors import InvalidRequest
from server.protocols import Protocol
from server.protocols.reading import read

WAYS = [
    (Protocol.ANTHROPIC, "claudecode"),
    (Protocol.OPENAI, None),
    (Protocol.OPENAI, "cursor"),
    (Protocol.RESPONSES, "codex"),
]
PLACES = [
    '"tools":[{"name":"t","input_schema":{"x":%s}}]',
    '"tools":[{"type":"function","function":{"name":"t","parameters":%s}}]',
    '"tools":[{"type":"custom","custom":{"name":"t","format":%s}}]',
    '"messages":[{"role":"user","content":[{"type":"text","text":"x","y":%s}]}]',
    '"messages":[{"role":"user","content":%s}]',
    '"input":[{"role":"user","content":%s}]',
    '"output_config":{"format":%s}',
    '"response_format":{"type":"text","x":%s}',
    '"stream_options":{"x":%s}',
    '"tool_choice":%s',
    '"x":%s',
]


@pytest.mark.parametrize(("protocol", "tool"), WAYS)
@pytest.mark.parametrize("place", PLACES)
def test_the_last_level_that_is_read_is_a_request_or_a_refusal(protocol, tool, place):
    """What reads a body again stands deeper on the stack than what let it pass."""
    members = '"model":"m","messages":[{"role":"user","content":"hello"}],'
    refused = 0

    for depth in range(900, 1000):
        deep = place % ("[" * depth + "]" * depth)
        try:
            read(f"{{{members}{deep}}}".encode(), protocol, tool)
        except InvalidRequest:
            refused += 1

    assert refused > 0
