"""What is known of the named servers, and what never leaves for one of them."""

import msgspec
import pytest
from msgspec import Raw

from server.protocols.compat import SERVERS, Compat, dropped

NAMED = ("openai", "vllm", "sglang", "ollama", "deepseek", "openrouter", "generic")


def test_every_named_server_has_a_ready_set():
    assert tuple(SERVERS) == NAMED


@pytest.mark.parametrize("name", NAMED)
def test_a_ready_set_reads_as_it_is_written(name):
    """An operator may copy one into a configuration and change a flag of it."""
    written = msgspec.json.encode(SERVERS[name])

    assert msgspec.json.decode(written, type=Compat) == SERVERS[name]


@pytest.mark.parametrize("name", NAMED)
def test_only_a_server_that_wants_reasoning_back_can_require_it(name):
    assert SERVERS[name].reasoning_field or not SERVERS[name].reasoning_required


def test_members_to_drop_are_left_out_and_the_others_stay_as_they_were():
    fields = {"model": Raw(b'"m"'), "temperature": Raw(b"1.0"), "seed": Raw(b"7")}

    left = dropped(fields, Compat(drop_params=("temperature", "top_p")))

    assert left == {"model": Raw(b'"m"'), "seed": Raw(b"7")}
    assert list(left) == ["model", "seed"]
