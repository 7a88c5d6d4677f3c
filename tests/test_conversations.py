"""Which conversation a request belongs to: the same in every turn, another for another."""

import json

import pytest
from support.tool_sessions import SESSIONS, written

from server.calls import Call
from server.conversations import conversation_of
from server.errors import InvalidRequest
from server.protocols import Protocol
from server.protocols.reading import read
from server.tenants.keys import Billing, Caller, Scope

MESSAGES, CHAT, RESPONSES = Protocol.ANTHROPIC, Protocol.OPENAI, Protocol.RESPONSES
MARK = {"type": "ephemeral"}


def named(raw, protocol=MESSAGES, *, tool=None, key=1, model="smart", **headers):
    """Name the conversation of a request as a journey does."""
    caller = Caller(key, f"key_{key}", 1, None, Billing.PAY_PER_TOKEN, Scope.MANAGE, None)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    call = Call(caller, protocol, tool, sent, raw, "req_test")
    return conversation_of(call, read(raw, protocol, tool), model)


def body(*messages, **members):
    return json.dumps({"model": "smart", "messages": messages, **members}).encode()


def user(content, **members):
    return {"role": "user", "content": content, **members}


def text(said, **members):
    return {"type": "text", "text": said, **members}


GO, STOP = body(user("Go.")), body(user("Stop."))


@pytest.mark.parametrize("name", SESSIONS)
def test_ten_turns_of_a_tools_session_are_one_conversation(name):
    path, session = SESSIONS[name]
    tool = path.split("/")[1]
    protocol = MESSAGES if "messages" in path else RESPONSES if "responses" in path else CHAT
    turns = [written(turn) for turn in session()]

    assert len(turns) == len(set(turns)) == 10
    assert len({named(turn, protocol, tool=tool) for turn in turns}) == 1


@pytest.mark.parametrize("header", ["x_claude_code_session_id", "x_session_id", "session_id"])
def test_the_session_that_a_tool_names_goes_before_all_that_is_said(header):
    one, two = ({header: value} for value in ("s1", "s2"))

    assert named(GO, **one) == named(STOP, **one) != named(GO, **two)
    assert named(GO, **one) != named(GO)


def test_a_session_that_is_not_fit_to_be_kept_is_passed_over():
    assert named(GO, x_session_id="no blanks") == named(GO) == named(GO, x_session_id="")


def test_models_and_keys_have_conversations_of_their_own():
    names = {named(GO), named(STOP), named(GO, key=2), named(GO, model="fast")}

    assert len(names | {named(GO, key=2, x_session_id="s"), named(GO, x_session_id="s")}) == 6


def test_text_and_parts_of_text_say_the_same():
    parts = body(user([text("Go")]), user("later")), body(user([text("G"), text("o")]))

    assert {named(each) for each in parts} == {named(body(user("Go")))}


def test_what_is_marked_for_the_cache_is_the_same_conversation():
    marked = body(user([text("Go.", cache_control=MARK)]), system="other")

    assert named(marked) == named(GO)


def test_instructions_are_passed_over():
    """They tell one team's conversations apart no better than nothing would."""
    told = [{"role": role, "content": "Be kind."} for role in ("system", "developer")]

    assert named(body(*told, user("Go.")), CHAT) == named(GO, CHAT)


def test_pictures_are_not_read():
    image = {"type": "image", "source": {"type": "base64", "data": "A" * 100}}

    assert named(body(user([image, text("Go.")]))) == named(GO)


@pytest.mark.parametrize(
    "given",
    ["Go.", [user("Go.")], [user([{"type": "input_text", "text": "Go."}])]],
)
def test_a_responses_input_may_be_text_or_items(given):
    raw = json.dumps({"model": "smart", "input": given}).encode()

    assert named(raw, RESPONSES) == named(GO, CHAT)


@pytest.mark.parametrize("protocol", [MESSAGES, CHAT])
@pytest.mark.parametrize(
    "messages",
    [
        [],
        [None],
        [1, "two", [3]],
        [{}],
        [{"role": 7}],
        [{"role": ["system"], "content": "x"}],
        [{"role": {"a": 1}, "content": "x"}],
        [user(None)],
        [user(7)],
        [user({"text": "no list"})],
        [user([None, 1, "text", {"text": 5}, {"text": None}])],
        [{"role": "system", "content": "only instructions"}],
        [user("\u00e9\U0001f600\u0000")],
    ],
)
def test_odd_messages_belong_to_some_conversation(protocol, messages):
    raw = body(*messages)

    assert named(raw, protocol) == named(raw, protocol) != named(raw, protocol, key=2)


def test_what_is_nested_as_deep_as_a_body_may_be_is_no_bug():
    """Who reads it again stands deeper on the stack, and may be refused where the first was not."""
    bodies = (
        b'{"model": "smart", "messages": [' + b"[" * depth + b"]" * depth + b"]}"
        for depth in range(1, 2_000, 7)
    )

    assert all(_name_or_refusal(raw) for raw in bodies)


def _name_or_refusal(raw):
    try:
        return named(raw)
    except InvalidRequest as refusal:
        return str(refusal)


def test_a_long_beginning_makes_no_long_name():
    """It is hashed once for each place, and kept as long as the conversation lasts."""
    assert len(named(body(user("word " * 100_000)))) == len(named(GO))
