"""Bodies: what is refused, what is read, and what leaves untouched."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from server.errors import InvalidRequest
from server.protocols import Protocol, body

MESSAGES = b'{"model":"smart","max_tokens":1024,"messages":[]}'


def messages_with(**members):
    return json.dumps({"model": "smart", "messages": [], **members}).encode()


def test_what_is_not_read_leaves_byte_for_byte_and_in_order():
    big = b"9" * 6000
    raw = b'{"zeta":1.10,"model":"m","path":"a\\/b","int":%b,"obj":{ "k" : [1e0 ,\n2] },"t":"\xf0"}'
    raw = raw.replace(b"\xf0", "\\ud83d\\ude00 日本 \\\\ud800".encode()) % big

    fields = body.split(raw)

    assert body.join(fields) == raw
    assert bytes(fields["zeta"]) == b"1.10"
    assert list(fields) == ["zeta", "model", "path", "int", "obj", "t"]


def test_space_around_members_goes_and_space_inside_stays():
    assert body.join(body.split(b' { "a" : [1 ,2] ,\n"b":{ } } \n')) == b'{"a":[1 ,2],"b":{ }}'


def test_of_duplicates_the_last_wins_however_it_is_spelled():
    fields = body.split(b'{"model":"a","x":1,"mod\\u0065l":"b"}')

    assert body.join(fields) == b'{"model":"b","x":1}'


def test_names_are_escaped_again_when_joined():
    assert body.join({'a"\n': b"1", "é": Raw(b"2")}) == '{"a\\"\\n":1,"é":2}'.encode()


def test_an_empty_object_joins_to_an_empty_object():
    assert body.join(body.split(b"{}")) == b"{}"


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "body is empty"),
        (b"  ", "ends too early"),
        (b'{"a":[1', "ends too early"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"a":1} {}', r"trailing characters"),
        (b'{"a":NaN}', "NaN and Infinity"),
        (b'{"a":[-Infinity]}', "not valid JSON"),
        (b'{"a":[Infinity]}', "NaN and Infinity"),
        (b"{'a':1}", "not valid JSON"),
        (b'{"a":01}', "invalid number"),
        (b'{"a":"\x00"}', "invalid character"),
        (b'{"a":["\xff"]}', r"not UTF-8 \(byte 7\)"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
        (b'\xef\xbb\xbf{"a":1}', "not valid JSON"),
        pytest.param(b"[" * 100_000, "must be a JSON object", id="100,000 brackets"),
        pytest.param(
            b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply", id="deep array"
        ),
        pytest.param(
            b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply", id="deep object"
        ),
    ],
)
def test_what_is_not_a_json_object_is_refused_with_a_reason(raw, sentence):
    with pytest.raises(InvalidRequest, match=sentence):
        body.split(raw)


@pytest.mark.parametrize(
    "text",
    ["\\ud800", "\\uDFFF", "a\\ud83d", "\\ud83dx", "\\ude00\\ud83d", "\\\\\\ud800", "\\ud800\\n"],
)
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(text):
    for raw in (f'{{"a":"{text}"}}', f'{{"a":[{{"b":"{text}"}}]}}', f'{{"{text}":1}}'):
        with pytest.raises(InvalidRequest, match="surrogate"):
            body.split(raw.encode())


@pytest.mark.parametrize(
    "text", ["\\ud83d\\ude00", "\\\\ud800", "\\\\\\\\uDFFF", "ud800", "\\ud7ff"]
)
def test_whole_pairs_and_escaped_backslashes_pass(text):
    assert bytes(body.split(f'{{"a":"{text}"}}'.encode())["a"]) == f'"{text}"'.encode()


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(["\\ud83d", "\\ude00", "\\\\", "\\n", "ud800", "x", "é", '\\"'])))
def test_surrogates_are_judged_as_python_judges_them(parts):
    """msgspec, which checks the values that it skips, is held to the letter by another parser."""
    raw = '{"a":["' + "".join(parts) + '"]}'
    try:
        json.loads(raw)["a"][0].encode()
        is_sound = True
    except UnicodeEncodeError:
        is_sound = False

    try:
        body.split(raw.encode())
        passed = True
    except InvalidRequest:
        passed = False

    assert passed == is_sound


@pytest.mark.parametrize("twin", ["Model", "MAX_TOKENS", "\u017ftream", "too\u006cS"])
def test_a_twin_of_a_known_name_is_refused_naming_both(twin):
    known = twin.casefold()

    with pytest.raises(InvalidRequest, match=f'"{twin}".*"{known}"') as caught:
        body.split(json.dumps({"model": "a", twin: 1}).encode())

    assert caught.value.param == twin


def test_unknown_names_of_any_case_pass():
    assert list(body.split(b'{"Foo":1,"foo":2}')) == ["Foo", "foo"]


def test_a_messages_body_is_read():
    read = body.read_messages(
        messages_with(
            stream=True,
            max_tokens=7,
            tools=[{"name": "t"}],
            output_config={"format": {"type": "x"}},
        )
    )

    assert (read.protocol, read.model, read.stream) == (Protocol.ANTHROPIC, "smart", True)
    assert (read.max_tokens, read.has_tools, read.wants_schema) == (7, True, True)


def test_a_small_messages_body_has_plain_defaults():
    read = body.read_messages(b'{"model":"m","messages":[]}')

    assert (read.stream, read.max_tokens, read.has_tools) == (False, None, False)
    assert (read.wants_schema, read.choices, read.wants_usage) == (False, 1, False)


def test_null_counts_as_left_out():
    nothing = {"stream": None, "max_tokens": None, "tools": None, "output_config": None}
    chat = {"response_format": None, "stream_options": None, "n": None, "functions": None}

    assert not body.read_messages(messages_with(**nothing)).stream
    assert not body.read_messages(messages_with(output_config={"format": None})).wants_schema
    assert body.read_chat(messages_with(**nothing, **chat)).choices == 1


def test_an_empty_list_of_tools_is_no_tools():
    assert not body.read_messages(b'{"model":"m","messages":[],"tools":[ \n]}').has_tools
    assert body.read_messages(b'{"model":"m","messages":[],"tools":[ {}]}').has_tools


def test_no_output_at_all_is_a_legal_limit():
    assert body.read_messages(messages_with(max_tokens=0)).max_tokens == 0


def test_a_chat_body_is_read():
    read = body.read_chat(
        messages_with(
            n=3,
            stream=True,
            stream_options={"include_usage": True},
            functions=[{"name": "f"}],
            response_format={"type": "json_object"},
        )
    )

    assert (read.protocol, read.choices, read.wants_usage) == (Protocol.OPENAI, 3, True)
    assert (read.stream, read.has_tools, read.wants_schema) == (True, True, True)


def test_of_two_chat_limits_the_larger_counts():
    assert body.read_chat(messages_with(max_tokens=5, max_completion_tokens=9)).max_tokens == 9
    assert body.read_chat(messages_with(max_tokens=5)).max_tokens == 5


def test_plain_text_as_response_format_is_no_schema():
    assert not body.read_chat(messages_with(response_format={"type": "text"})).wants_schema


@pytest.mark.parametrize("read", [body.read_messages, body.read_chat])
@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"model": "m" * 257}, "model"),
        ({"model": "a\nb"}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": {}}, "messages"),
        ({"stream": "true"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 10**18}, "max_tokens"),
        pytest.param({"max_tokens": int("9" * 4000)}, "max_tokens", id="4,000 digits"),
    ],
)
def test_a_wrong_type_is_refused_naming_the_field(read, members, param):
    with pytest.raises(InvalidRequest, match=param) as caught:
        read(messages_with(**members))

    assert caught.value.param == param


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_required_field_that_is_missing_is_named(missing):
    members = {"model": "m", "messages": []}
    del members[missing]

    with pytest.raises(InvalidRequest, match=f"{missing} is required|{missing} must be") as caught:
        body.read_messages(json.dumps(members).encode())

    assert caught.value.param == missing


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"max_completion_tokens": False}, "max_completion_tokens"),
        ({"stream_options": []}, "stream_options"),
        ({"response_format": "json"}, "response_format"),
        ({"n": 0}, "n"),
        ({"n": "2"}, "n"),
    ],
)
def test_a_wrong_type_in_chat_is_refused_naming_the_field(members, param):
    with pytest.raises(InvalidRequest, match=param) as caught:
        body.read_chat(messages_with(**members))

    assert caught.value.param == param


def test_the_model_is_replaced_in_its_place():
    fields = body.split(MESSAGES)

    assert body.join(body.with_model(fields, 'x"y')) == MESSAGES.replace(b'"smart"', b'"x\\"y"')
    assert body.join(fields) == MESSAGES


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"a":1}', b'{"a":1,"stream_options":{"include_usage":true}}'),
        (b'{"stream_options":null}', b'{"stream_options":{"include_usage":true}}'),
        (
            b'{"stream_options":{"include_usage":false,"x":1.10}}',
            b'{"stream_options":{"include_usage":true,"x":1.10}}',
        ),
    ],
)
def test_usage_is_asked_for_and_other_stream_options_keep_their_bytes(before, after):
    assert body.join(body.with_include_usage(body.split(before))) == after


@pytest.mark.parametrize(
    ("named", "limit_field", "left"),
    [
        ({}, "max_completion_tokens", {"max_completion_tokens": 7}),
        ({}, "max_tokens", {"max_tokens": 7}),
        ({"max_tokens": 9}, "max_completion_tokens", {"max_tokens": 7}),
        ({"max_tokens": 9}, "max_tokens", {"max_tokens": 7}),
        ({"max_completion_tokens": 9}, "max_completion_tokens", {"max_completion_tokens": 7}),
        ({"max_completion_tokens": 9}, "max_tokens", {"max_tokens": 7}),
        (
            {"max_tokens": 9, "max_completion_tokens": 8},
            "max_completion_tokens",
            {"max_tokens": 7, "max_completion_tokens": 7},
        ),
        ({"max_tokens": 9, "max_completion_tokens": 8}, "max_tokens", {"max_tokens": 7}),
    ],
)
def test_a_lowered_limit_goes_by_the_name_that_the_server_knows(named, limit_field, left):
    """One that passes over the newer name would go beyond what is held."""
    fields = {name: Raw(b"%d" % limit) for name, limit in named.items()}

    lowered = body.with_output_limit(fields, limit_field, 7)

    assert {name: int(bytes(limit)) for name, limit in lowered.items()} == left
