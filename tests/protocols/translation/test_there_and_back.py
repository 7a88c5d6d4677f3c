"""Messages to Chat and back: whichever way a conversation went, it says the same."""

import json

from hypothesis import given
from hypothesis import strategies as st

from server.protocols import body
from server.protocols.compat import Compat
from server.protocols.translation.requests import chat_to_messages, messages_to_chat

# Thinking has a place in Chat only where a server knows this member.
COMPAT = Compat(reasoning_field="reasoning_details")

WORDS = st.text(min_size=1).filter(str.strip)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
IDENT = st.from_regex(r"toolu_[A-Za-z0-9_-]{1,12}", fullmatch=True)
NAME = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
TEXT = st.builds(lambda words: {"type": "text", "text": words}, WORDS)
URL = st.sampled_from(["https://host.example/a.png", "https://host.example/ü?b=c"])
DATA = st.sampled_from(["AAAA", "iVBORw0KGgo="])
IMAGE = st.builds(
    lambda source: {"type": "image", "source": source},
    st.builds(lambda url: {"type": "url", "url": url}, URL)
    | st.builds(
        lambda media, data: {"type": "base64", "media_type": media, "data": data},
        st.sampled_from(["image/png", "image/jpeg"]),
        DATA,
    ),
)
THOUGHT = st.builds(
    lambda words, signature: {"type": "thinking", "thinking": words, "signature": signature},
    st.text(),
    WORDS,
) | st.builds(lambda data: {"type": "redacted_thinking", "data": data}, WORDS)


def tool_use(ident, name, given):
    return {"type": "tool_use", "id": ident, "name": name, "input": given}


def tool_result(ident, content):
    return {"type": "tool_result", "tool_use_id": ident, "content": content}


@st.composite
def conversations(draw):
    """Draw a session of Messages turns that Anthropic would accept."""
    turns = [{"role": "user", "content": draw(st.lists(TEXT | IMAGE, min_size=1, max_size=3))}]
    idents = draw(st.lists(IDENT, unique=True, max_size=6))
    for _ in range(draw(st.integers(0, 3))):
        count = draw(st.integers(0, 2))
        called, idents = idents[:count], idents[count:]
        said = draw(st.lists(THOUGHT, max_size=2)) + draw(st.lists(TEXT, min_size=1, max_size=1))
        uses = [
            tool_use(each, draw(NAME), draw(st.dictionaries(st.text(), JSON, max_size=3)))
            for each in called
        ]
        results = [
            tool_result(each, draw(st.lists(TEXT, max_size=1)) + draw(st.lists(IMAGE, max_size=1)))
            for each in called
        ]
        more = draw(st.lists(TEXT | IMAGE, min_size=0 if called else 1, max_size=2))
        turns += [
            {"role": "assistant", "content": said + uses},
            {"role": "user", "content": results + more},
        ]
    return turns


def there_and_back(**members):
    raw = json.dumps({"model": "m", "max_tokens": 7, **members}).encode()
    chat = body.join(messages_to_chat.request(body.read_messages(raw).fields, COMPAT).fields)
    made = chat_to_messages.request(body.read_chat(chat).fields, max_tokens=1).fields
    return json.loads(body.join(made))


def meaning(turns):
    """Tell by turn who said what, called what and got what; images in the order they came."""
    return [
        (turn["role"], _said(turn["content"]), _images(turn["content"])) for turn in turns
    ]  # fmt: skip


def _said(blocks):
    """Leave out images, and what tells where one was moved from."""
    return [
        {**block, "content": _said(block.get("content", []))}
        if block["type"] == "tool_result"
        else block
        for block in blocks
        if block["type"] != "image" and not block.get("text", "").startswith("From the result of ")
    ]


def _images(blocks):
    found = []
    for block in blocks:
        if block["type"] == "image":
            found.append(block["source"])
        found += _images(block.get("content", []))
    return found


@given(conversations())
def test_a_conversation_keeps_its_meaning(turns):
    made = there_and_back(messages=turns)["messages"]

    assert meaning(made) == meaning(turns)


@given(
    st.lists(st.builds(tool_use, st.just("f"), NAME, st.dictionaries(st.text(), JSON)), max_size=3)
)
def test_tools_keep_their_names_and_schemas(drawn):
    schemas = {each["name"]: {"type": "object", "properties": each["input"]} for each in drawn}
    tools = [{"name": name, "input_schema": schema} for name, schema in schemas.items()]

    asked = there_and_back(messages=[{"role": "user", "content": "hi"}], tools=tools)

    assert asked.get("tools", []) == tools


def test_settings_come_back():
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    settings = {
        "stream": True,
        "stop_sequences": ["END"],
        "temperature": 0.2,
        "tools": [{"name": "f", "description": "d", "input_schema": schema, "strict": True}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "output_config": {"format": {"type": "json_schema", "schema": schema}},
        "system": [{"type": "text", "text": "s"}],
        "max_tokens": 900,
    }

    asked = there_and_back(messages=[{"role": "user", "content": "hi"}], **settings)

    assert {name: asked.get(name) for name in settings} == settings
