import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import InvalidRequest
from server.presets import splice

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
LAYOUTS = st.sampled_from([(",", ":"), (", ", ": "), ("\n , ", " :\t")])


@pytest.mark.parametrize(
    ("block", "left"),
    [
        (b'{"a":1,"x":{"t":"5m"}}', b'{"a":1}'),
        (b'{"x":1,"a":1.10}', b'{"a":1.10}'),
        (b'{ "x" : [1, 2] , "a" : "\\/" }', b'{ "a" : "\\/" }'),
        (b'{"a":1 , "x":null , "b":2}', b'{"a":1 , "b":2}'),
        (b'{"x":1}', b"{}"),
        (b"{ }", b"{ }"),
        (b'{"a":"\\"x\\":1,"}', b'{"a":"\\"x\\":1,"}'),
        (b'{"a":1,"\\u0078":2}', b'{"a":1}'),
        (b'{"x":1,"a":12,"x":1}', b'{"a":12}'),
        (b'{"a":1,"a":12,"x":3}', b'{"a":12}'),
        (b'{"a":1,"a":1,"x":1}', b'{"a":1}'),
    ],
)
def test_without_takes_one_member_out_and_leaves_the_other_bytes(block, left):
    assert bytes(splice.without(msgspec.Raw(block), "x")) == left


@pytest.mark.parametrize(
    ("block", "after"),
    [
        (b'{"a" : 1.10, "x":"old", "b":2}', b'{"a" : 1.10, "x":NEW, "b":2}'),
        (b"{}", b'{"x":NEW}'),
        (b'{"a":1}', b'{"a":1,"x":NEW}'),
        (b'{"x":1,"x":2,"a":3}', b'{"x":NEW,"a":3}'),
    ],
)
def test_replaced_changes_one_value_and_leaves_the_other_bytes(block, after):
    assert bytes(splice.replaced(msgspec.Raw(block), "x", b"NEW")) == after


@settings(deadline=None)  # the machine may be busy
@given(members=st.dictionaries(st.text(max_size=4), JSON), layout=LAYOUTS, data=st.data())
def test_any_member_of_any_object_can_be_taken_out_or_replaced(members, layout, data):
    name = data.draw(st.sampled_from([*members, "absent"]))
    raw = msgspec.Raw(json.dumps(members, separators=layout).encode())

    without = json.loads(bytes(splice.without(raw, name)))
    replaced = json.loads(bytes(splice.replaced(raw, name, b'"new"')))

    assert without == {key: value for key, value in members.items() if key != name}
    assert replaced == {**members, name: "new"}


def test_what_is_no_object_or_no_array_has_no_parts():
    assert splice.members(msgspec.Raw(b"[1]")) is None
    assert splice.items(msgspec.Raw(b'"text"')) is None


@pytest.mark.parametrize("cut", [splice.members, splice.items])
def test_nesting_without_end_is_the_clients_error(cut):
    opening = b'{"a":' if cut is splice.members else b"["
    closing = b"}" if cut is splice.members else b"]"
    deep = msgspec.Raw(opening * 100_000 + b"1" + closing * 100_000)

    with pytest.raises(InvalidRequest, match="nested too deeply"):
        cut(deep)
