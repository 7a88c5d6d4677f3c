"""Arguments of tool calls: what comes out is always a JSON object."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.protocols.translation.arguments import LONGEST_TOKEN, Arguments, whole

DOCUMENT = json.dumps(
    {"a": [1, -2.5e3, 0, {"b": 'x"\\é\u2028\ud83d'}, [], {}], "c": True, "d": None, "e": {"f": {}}}
)


def in_pieces(text, size):
    arguments = Arguments()
    taken = [arguments.take(text[at : at + size]) for at in range(0, len(text), size)]
    return "".join(taken), arguments


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_sound_object_comes_out_as_it_went_in(size):
    taken, arguments = in_pieces(DOCUMENT, size)

    assert (taken, arguments.close(), arguments.is_complete) == (DOCUMENT, "", True)


@pytest.mark.parametrize("end", range(len(DOCUMENT)))
def test_wherever_it_is_torn_it_is_closed_as_an_object(end):
    taken, arguments = in_pieces(DOCUMENT[:end], 4)

    closed = taken + arguments.close()

    assert DOCUMENT[:end] == taken + arguments.rest
    assert isinstance(json.loads(closed), dict)
    assert ("invalid_arguments" in json.loads(closed)) == (end > 0)


def test_a_string_is_given_as_it_comes_and_a_number_once_it_is_whole():
    arguments = Arguments()

    assert arguments.take('{"a": "lon') == '{"a": "lon'
    assert arguments.take("g\\") == "g"
    assert arguments.take('n", "b": 12') == '\\n", "b":'
    assert arguments.take("3}") == " 123}"


@pytest.mark.parametrize("text", ["", " \n", "null", "{}"])
def test_no_arguments_are_an_empty_object(text):
    assert json.loads(whole(text)) == {}


@pytest.mark.parametrize("text", ["[1]", "1", "{", '{"a":01}', '{"a":NaN}', "{a:1}", '{"a":"\n"}'])
def test_what_is_no_object_becomes_a_member_of_one(text):
    assert json.loads(whole(text)) == {"invalid_arguments": text}


def test_what_stands_behind_the_object_is_left_out():
    assert whole('{"a":1} {"a":1}') == '{"a":1}'


def test_endless_space_or_digits_are_given_up():
    for endless in (" ", "1"):
        arguments = Arguments()
        arguments.take('{"a":')
        for _ in range(LONGEST_TOKEN + 1):
            arguments.take(endless)

        assert arguments.take("1}") == ""
        assert json.loads('{"a":' + arguments.close())["a"] is None


@settings(deadline=None)
@given(st.text('{}[]":,\\ue1.0-trfalsn \n', max_size=30), st.integers(1, 5))
def test_no_text_makes_anything_but_an_object(text, size):
    taken, arguments = in_pieces(text, size)

    assert isinstance(json.loads(taken + arguments.close()), dict)
    assert isinstance(json.loads(whole(text)), dict)
