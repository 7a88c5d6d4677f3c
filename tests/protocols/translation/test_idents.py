"""Ids of tool calls: any server's on its way to a Messages client, and back again."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocols.translation.idents import PREFIX, from_safe, to_safe

# Near misses of the escape are likelier here than in any text.
IDENTS = st.text() | st.text("esc_.0a-:é").map(lambda text: PREFIX + text)


@pytest.mark.parametrize("ident", ["toolu_01A", "call_x-9", "chatcmpl-tool-0f", "esc", "0"])
def test_a_safe_id_stays_as_it_is(ident):
    assert to_safe(ident) == ident
    assert from_safe(ident) == ident


def test_an_id_that_the_messages_api_refuses_is_escaped():
    assert to_safe("functions.Read_it:0") == "esc_functions_2eRead_5fit_3a0"


@given(IDENTS)
def test_every_id_becomes_one_that_the_messages_api_accepts(ident):
    assert re.fullmatch(r"[a-zA-Z0-9_-]+", to_safe(ident))


@given(IDENTS)
def test_every_id_comes_back_as_it_was(ident):
    """It follows that no two ids share an escape."""
    assert from_safe(to_safe(ident)) == ident


@given(IDENTS)
def test_no_two_ids_become_one_on_the_way_to_a_chat_server(ident):
    """A client may send ids that no gateway made; they must not be mistaken for another's."""
    back = from_safe(ident)

    assert back == ident or to_safe(back) == ident


@pytest.mark.parametrize("ident", ["esc_.", "esc_é", "esc__ff", "esc__zz", "esc__41"])
def test_an_id_that_only_looks_escaped_stays_as_it_is(ident):
    assert from_safe(ident) == ident
