import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.presets.apply import apply_chat, apply_messages, should_inject
from server.presets.load import InjectWhen, Preset

TEXT = 'Do it "well".\nÜber alles \U0001f600'
PRESET = msgspec.json.encode({"type": "text", "text": TEXT})
MARK = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}


def split(body):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return msgspec.json.decode(raw, type=dict[str, msgspec.Raw])


def system_after(body):
    return bytes(apply_messages(split(body), TEXT)["system"])


def preset_mark(body):
    """Tell the cache_control of the block that was appended."""
    block = json.loads(system_after(body))[-1]
    assert block["text"] == TEXT
    return block.get("cache_control")


def user(*marks):
    return {
        "role": "user",
        "content": [{"type": "text", "text": "hi", "cache_control": mark} for mark in marks],
    }


def marked(block, mark):
    return block[:-1] + b',"cache_control":' + mark + b"}"


def test_claude_codes_three_blocks_stay_and_the_last_breakpoint_moves_on():
    """The attribution block stays first and whole, the count stays three."""
    first = (
        b'{"type":"text","text":"x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli;"}'
    )
    second = b'{"type":"text","text":"You are it.","cache_control":{"type":"ephemeral"}}'
    third = b'{"type":"text","text":"Long \\u00e9 \\/ prompt","cache_control":{"type":"ephemeral"}}'
    bare = b'{"type":"text","text":"Long \\u00e9 \\/ prompt"}'
    messages = b'[{"role":"user","content":[{"cache_control":{"type":"ephemeral"}}]}]'
    fields = split(
        b'{"system":[' + b",".join([first, second, third]) + b'],"messages":' + messages + b"}"
    )

    after = apply_messages(fields, TEXT)

    preset = marked(PRESET, b'{"type":"ephemeral"}')
    assert bytes(after["system"]) == b"[" + b",".join([first, second, bare, preset]) + b"]"
    assert bytes(after["messages"]) == messages
    assert list(after) == ["system", "messages"]
    assert len(json.loads(bytes(fields["system"]))) == 3


def test_the_moved_breakpoint_keeps_its_own_bytes():
    body = b'{"system":[{"cache_control" : { "ttl":"1h", "type":"ephemeral"}, "type":"text"}]}'

    assert system_after(body) == (
        b'[{ "type":"text"},' + marked(PRESET, b'{ "ttl":"1h", "type":"ephemeral"}') + b"]"
    )


def test_a_marked_attribution_block_is_not_touched():
    first = b'{"type":"text","text":"x-anthropic-billing-header: a","cache_control":{"type":"b"}}'

    assert system_after(b'{"system":[' + first + b"]}") == b"[" + first + b"," + PRESET + b"]"


def test_same_request_gives_the_same_bytes():
    body = {"system": "Be brief.", "messages": [user(MARK)]}

    assert system_after(body) == system_after(body)


@pytest.mark.parametrize("system", [b"null", b'""', b"[]"])
def test_an_empty_system_becomes_the_preset_alone(system):
    expected = b"[" + marked(PRESET, b'{"type":"ephemeral"}') + b"]"

    assert system_after(b'{"system":' + system + b"}") == expected


def test_a_missing_system_becomes_the_preset_alone():
    after = apply_messages(split({"model": "m", "messages": []}), TEXT)

    assert json.loads(bytes(after["system"])) == [
        {"type": "text", "text": TEXT, "cache_control": MARK}
    ]


def test_a_string_becomes_a_block_of_the_same_bytes():
    assert system_after(b'{"system":"a\\/b \\u00e9"}') == (
        b'[{"type":"text","text":"a\\/b \\u00e9"},' + marked(PRESET, b'{"type":"ephemeral"}') + b"]"
    )


@pytest.mark.parametrize("system", [b"1", b"true", b'{"type":"text"}'])
def test_a_system_of_another_type_is_left_for_the_upstream_to_refuse(system):
    assert system_after(b'{"system":' + system + b"}") == system


def test_strange_items_of_the_array_stay_as_they_are():
    items = b'1,"text",null,[{"cache_control":1}]'

    assert system_after(b'{"system":[' + items + b"]}") == (
        b"[" + items + b"," + marked(PRESET, b'{"type":"ephemeral"}') + b"]"
    )


@pytest.mark.parametrize("text", ["", " \n"])
def test_blank_text_changes_nothing(text):
    fields = split({"system": "a", "messages": [{"role": "user", "content": "b"}]})

    assert apply_messages(fields, text) == fields
    assert apply_chat(fields, text) == fields


def test_a_null_breakpoint_is_none():
    body = {"system": [{"type": "text", "text": "a", "cache_control": None}]}

    assert preset_mark(body) == MARK
    assert json.loads(system_after(body))[0]["cache_control"] is None


@pytest.mark.parametrize(("sent", "expected"), [(0, MARK), (3, MARK), (4, None), (5, None)])
def test_a_breakpoint_is_added_only_below_four(sent, expected):
    assert preset_mark({"system": "a", "messages": [user(*[MARK] * sent)]}) == expected


def test_breakpoints_count_wherever_they_stand():
    result = {"type": "tool_result", "content": [{"type": "text", "cache_control": MARK}]}
    tool = {"name": "t", "cache_control": MARK}
    body = {"tools": [tool], "messages": [user(MARK), {"role": "user", "content": [result]}]}

    assert preset_mark(body) == MARK
    assert preset_mark({**body, "cache_control": MARK}) is None
    assert preset_mark({**body, "cache_control": None}) == MARK
    assert preset_mark({**body, "tools": [tool, tool]}) is None


def test_the_words_in_a_prompt_or_a_tools_input_are_no_breakpoint():
    talk = {"type": "text", "text": '"cache_control" "ttl":"1h" ' * 9}
    call = {"type": "tool_use", "input": {"content": [{"cache_control": HOUR}] * 5}}
    messages = [{"role": "user", "content": [talk]}, {"role": "assistant", "content": [call]}]
    schema = {"name": "t", "input_schema": {"properties": {"cache_control": HOUR}}}

    assert preset_mark({"messages": messages, "tools": [schema] * 5}) == MARK


def test_an_hour_further_on_makes_the_added_breakpoint_an_hour():
    assert preset_mark({"messages": [user(MARK, HOUR)]}) == HOUR
    assert preset_mark({"messages": [user(MARK)], "cache_control": HOUR}) == HOUR
    assert preset_mark({"messages": [user(MARK)], "tools": [{"cache_control": HOUR}]}) == MARK


@pytest.mark.parametrize(
    "messages", [b"null", b"7", b'"text"', b"[1,null]", b'[{"content":{"a":1}},{"content":[3]}]']
)
def test_messages_of_a_strange_shape_hold_no_breakpoint(messages):
    padding = b'"x \\"cache_control\\" \\"1h\\""'
    body = b'{"messages":' + messages + b',"tools":[' + b'{"cache_control":null},' * 4 + padding

    assert preset_mark(body + b"]}") == MARK


BLOCK = st.fixed_dictionaries(
    {"type": st.just("text"), "text": st.text(max_size=20)},
    optional={"cache_control": st.sampled_from([None, MARK, HOUR])},
)


def count(blocks):
    return sum(block.get("cache_control") is not None for block in blocks)


@settings(deadline=None)  # the machine may be busy
@given(
    system=st.none() | st.text() | st.lists(BLOCK, max_size=4),
    content=st.lists(BLOCK, max_size=5),
    tools=st.lists(BLOCK, max_size=3),
)
def test_texts_stay_in_order_and_breakpoints_at_most_four(system, content, tools):
    body = {"system": system, "tools": tools, "messages": [{"role": "user", "content": content}]}
    before = [{"text": system}] if isinstance(system, str) and system else system or []
    sent = count(before) + count(content) + count(tools)

    after = json.loads(system_after(body))

    assert [block["text"] for block in after] == [*(block["text"] for block in before), TEXT]
    assert count(after) + count(content) + count(tools) == max(
        sent, sent + (sent < 4 and not count(before))
    )


def chat(messages):
    return apply_chat(split(b'{"model":"m","messages":' + messages + b',"n":1}'), TEXT)


@pytest.mark.parametrize("role", [b"system", b"developer"])
def test_chat_text_is_joined_to_the_opening_message(role):
    rest = b'{"role":"user", "content":"q\\/"}'
    opening = b'{ "role":"' + role + b'", "content":"Be \\u00e9.", "name":"n"}'

    after = bytes(chat(b"[" + opening + b", " + rest + b"]")["messages"])

    assert json.loads(after)[0]["content"] == f"Be é.\n\n{TEXT}"
    joined = b'"Be \\u00e9.\\n\\n' + msgspec.json.encode(TEXT)[1:]
    assert after == b"[" + opening.replace(b'"Be \\u00e9."', joined) + b"," + rest + b"]"


def test_chat_parts_get_one_more_text_part():
    part = b'{"type":"text", "text":"Be \\u00e9."}'
    after = chat(b'[{"role":"system","content":[' + part + b"]}]")

    assert bytes(after["messages"]) == (
        b'[{"role":"system","content":[' + part + b"," + PRESET + b"]}]"
    )


@pytest.mark.parametrize("content", ['"content":"",', '"content":null,', ""])
def test_an_opening_message_without_content_gets_the_text(content):
    after = chat(f'[{{{content}"role":"system"}}]'.encode())

    assert json.loads(bytes(after["messages"])) == [{"role": "system", "content": TEXT}]


@pytest.mark.parametrize(
    "first", [b'{"role":"user","content":"q"}', b'{"content":"q"}', b'{"role":1}', b"7"]
)
def test_a_chat_without_an_opening_system_message_gets_one(first):
    later = b'{"role":"system","content":"stays"}'
    after = chat(b"[" + first + b"," + later + b"]")

    added = msgspec.json.encode({"role": "system", "content": TEXT})
    assert bytes(after["messages"]) == b"[" + added + b"," + first + b"," + later + b"]"
    assert list(after) == ["model", "messages", "n"]


@pytest.mark.parametrize(
    "messages", [b"null", b"[]", b'"q"', b"7", b'[{"role":"system","content":7}]']
)
def test_strange_chat_messages_are_left_for_the_upstream_to_refuse(messages):
    assert bytes(chat(messages)["messages"]) == messages


def test_a_body_without_messages_is_left_as_it_is():
    fields = split({"model": "m", "input": "responses shaped"})

    assert apply_chat(fields, TEXT) == fields


def preset(tools="any"):
    return Preset("cline", 1, "Hi.", (), InjectWhen(tools=tools), None, Path("cline.yaml"))


@pytest.mark.parametrize(
    ("given", "has_tools", "wants_schema", "expected"),
    [
        (None, True, False, False),
        (preset(), False, False, True),
        (preset(), True, True, False),
        (preset("present"), False, False, False),
        (preset("present"), True, False, True),
    ],
)
def test_which_requests_get_the_preset(given, has_tools, wants_schema, expected):
    assert should_inject(given, has_tools=has_tools, wants_schema=wants_schema) is expected
