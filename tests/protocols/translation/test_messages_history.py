"""The turns of a Messages request as Chat messages: what each becomes, and in which order."""

import msgspec
import pytest
from support.chat_requests import as_chat, check_messages, translate_bytes, turns

from server.errors import InvalidRequest
from server.protocols.compat import SERVERS
from server.protocols.translation.idents import to_safe

PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}
PNG_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}
SIGNED = {"type": "thinking", "thinking": "Hidden thought.", "signature": "c2ln"}
UNSIGNED = {"type": "thinking", "thinking": "Other thought.", "signature": ""}
REDACTED = {"type": "redacted_thinking", "data": "ZW5j"}
CACHED = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


def text(content, **members):
    return {"type": "text", "text": content, **members}


def use(ident, name="Read", **given):
    return {"type": "tool_use", "id": ident, "name": name, "input": given}


def result(ident, content=None, **members):
    block = {"type": "tool_result", "tool_use_id": ident, **members}
    return block if content is None else {**block, "content": content}


def call(ident, arguments="{}", name="Read"):
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


def only(*pairs, compat=SERVERS["openai"]):
    """Give the one Chat message that these turns become."""
    (message,) = turns(*pairs, compat=compat)
    return message


def test_one_text_is_a_string_and_several_are_parts():
    assert only(("user", "a")) == {"role": "user", "content": "a"}
    assert only(("user", [text("a", **CACHED)])) == {"role": "user", "content": "a"}
    assert only(("user", [text("a", **CACHED), text("b")])) == {
        "role": "user",
        "content": [text("a"), text("b")],
    }


def test_several_texts_are_one_where_content_has_to_be_a_string():
    """DeepSeek refuses an array."""
    sent = only(("user", [text("a"), text("b")]), compat=SERVERS["deepseek"])

    assert sent == {"role": "user", "content": "a\n\nb"}


@pytest.mark.parametrize("content", ["", [], [text("")], None])
def test_empty_texts_are_left_out(content):
    assert turns(("user", content), ("assistant", content), ("user", "b")) == [
        {"role": "user", "content": "b"}
    ]
    assert only(("user", [text(""), text("b")])) == {"role": "user", "content": "b"}


def test_images_become_addresses():
    linked = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}

    assert only(("user", [PNG, text("what?"), linked]))["content"] == [
        PNG_PART,
        text("what?"),
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]


def test_documents_become_files_and_text():
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}
    plain = {"type": "text", "media_type": "text/plain", "data": "body"}
    mixed = {"type": "content", "content": [text("one"), PNG]}

    sent = only(
        ("user", [
            {"type": "document", "source": pdf, "title": "a.pdf"},
            {"type": "document", "source": pdf},
            {"type": "document", "source": plain, "title": "T", "context": "C", **CACHED},
            {"type": "document", "source": mixed, "citations": {"enabled": True}},
            {"type": "document", "source": {"type": "content", "content": "all"}, "title": "U"},
        ])
    )["content"]  # fmt: skip

    def file(name):
        data = "data:application/pdf;base64,JVBE"
        return {"type": "file", "file": {"filename": name, "file_data": data}}

    assert sent == [
        file("a.pdf"),
        file("document.pdf"),
        text("T\n\nC\n\nbody"),
        text("one"),
        PNG_PART,
        text("U"),
        text("all"),
    ]


def test_a_document_within_a_document_is_refused():
    inner = {"type": "document", "source": {"type": "content", "content": "a"}}
    outer = {"type": "document", "source": {"type": "content", "content": [inner]}}

    with pytest.raises(InvalidRequest, match="may hold text and images"):
        turns(("user", [outer]))


def test_a_search_result_becomes_text():
    block = {"type": "search_result", "title": "T", "source": "https://e.com", "content": [
        text("one"), text("two")]}  # fmt: skip

    assert only(("user", [block]))["content"] == "T\nhttps://e.com\none\ntwo"


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "source": {"type": "file", "file_id": "f"}},
        {"type": "document", "source": {"type": "file", "file_id": "f"}},
        {"type": "document", "source": {"type": "url", "url": "https://e.com/a.pdf"}},
        {"type": "container_upload", "file_id": "f"},
        {"type": "image"},
    ],
)
def test_what_cannot_be_shown_to_the_model_is_refused(block):
    with pytest.raises(
        InvalidRequest, match=r"only the Messages API|cannot be sent|cannot be read"
    ):
        turns(("user", [text("look"), block]))


def test_a_system_message_among_the_turns_stays_in_its_place():
    sent = turns(
        ("user", "a"),
        ("system", "b"),
        ("assistant", "c"),
        ("user", "d"),
        ("system", [text("e", **CACHED), {"type": "tool_addition", "tool": {}}, text("f")]),
        ("system", []),
        system="first",
    )

    assert [(each["role"], each["content"]) for each in sent] == [
        ("system", "first"),
        ("user", "a"),
        ("system", "b"),
        ("assistant", "c"),
        ("user", "d"),
        ("system", "e\n\nf"),
    ]


def test_members_of_one_message_beyond_its_content_are_passed_over():
    """Claude Code sets the effort of a single turn there."""
    late = {"role": "system", "content": "b", "output_config": {"effort": "high"}}

    sent = as_chat(messages=[{"role": "user", "content": "a"}, late])

    assert sent.keys() == {"model", "messages"}
    assert sent["messages"][1] == {"role": "system", "content": "b"}


@pytest.mark.parametrize("server", ["vllm", "sglang", "ollama", "generic"])
def test_a_late_system_message_is_a_users_where_templates_refuse_it(server):
    pairs = [("user", "a"), ("system", 'b "c"')]

    sent = turns(*pairs, system="first", compat=SERVERS[server])

    assert [each["role"] for each in sent] == ["system", "user", "user"]
    assert sent[2]["content"] == '<system-reminder>\nb "c"\n</system-reminder>'


def test_a_system_message_that_comes_first_stays_one_everywhere():
    sent = turns(("system", "a"), ("user", "b"), compat=SERVERS["vllm"])

    assert [each["role"] for each in sent] == ["system", "user"]


def test_calls_and_results():
    sent = turns(
        ("user", "go"),
        ("assistant", [text("Looking."), use("t1", path="a", n=1), use("t2", "Run")]),
        ("user", [result("t2", "two"), result("t1", [text("one"), text("more")])]),
    )

    assert sent[1:] == [
        {
            "role": "assistant",
            "content": "Looking.",
            "tool_calls": [call("t1", '{"path": "a", "n": 1}'), call("t2", name="Run")],
        },
        {"role": "tool", "tool_call_id": "t2", "content": "two"},
        {"role": "tool", "tool_call_id": "t1", "content": "one\nmore"},
    ]
    check_messages(sent)


def test_a_turn_of_calls_alone_has_no_content():
    sent = turns(("user", "go"), ("assistant", [use("t1")]), ("user", [result("t1", "x")]))

    assert sent[1] == {"role": "assistant", "content": None, "tool_calls": [call("t1")]}


def test_arguments_keep_the_text_of_the_input():
    given = rb'{"b": 1.10, "a": 12345678901234567890, "s": "\/ \u00e9 \"", "n": { } }'
    raw = (
        b'{"model":"m","messages":[{"role":"assistant","content":[{"type":"tool_use","id":"t",'
        b'"name":"Run","input":' + given + b'}]},{"role":"user","content":[{"type":"tool_result",'
        b'"tool_use_id":"t"}]}]}'
    )

    sent = translate_bytes(raw).fields["messages"]

    (calls,) = msgspec.json.decode(sent)[0]["tool_calls"]
    assert calls["function"]["arguments"] == given.decode()


@pytest.mark.parametrize("given", [{}, None])
def test_a_call_without_input_has_an_empty_object_as_arguments(given):
    block = {"type": "tool_use", "id": "t1", "name": "Read", "input": given}

    sent = turns(("assistant", [block]), ("user", [result("t1")]))

    assert sent[0]["tool_calls"] == [call("t1")]


@pytest.mark.parametrize("given", ["{}", [], 1, True])
def test_an_input_that_is_no_object_is_refused(given):
    with pytest.raises(InvalidRequest, match="must be an object"):
        turns(("assistant", [{**use("t1"), "input": given}]), ("user", [result("t1")]))


@pytest.mark.parametrize(
    ("block", "content"),
    [
        (result("t1"), ""),
        (result("t1", ""), ""),
        (result("t1", []), ""),
        (result("t1", [text("")]), ""),
        (result("t1", "no such file", is_error=True), "Error: no such file"),
        (result("t1", "fine", is_error=False), "fine"),
        (result("t1", "fine", is_error=None, **CACHED), "fine"),
        (result("t1", [{"type": "tool_reference", "tool_name": "Grep"}]), "Grep"),
    ],
)
def test_a_result_is_a_string(block, content):
    sent = turns(("assistant", [use("t1")]), ("user", [block]))

    assert sent[1] == {"role": "tool", "tool_call_id": "t1", "content": content}
    assert len(sent) == 2


def test_an_image_in_a_result_moves_to_the_user_message_behind_the_results():
    """A tool message is text alone."""
    sent = turns(
        ("assistant", [use("t1"), use("t2")]),
        ("user", [text("see"), result("t1", [text("shot"), PNG]), result("t2", [PNG])]),
    )

    assert sent[1:] == [
        {"role": "tool", "tool_call_id": "t1", "content": "shot"},
        {"role": "tool", "tool_call_id": "t2", "content": ""},
        {
            "role": "user",
            "content": [
                text("From the result of t1:"),
                PNG_PART,
                text("From the result of t2:"),
                PNG_PART,
                text("see"),
            ],
        },
    ]
    check_messages(sent)


def test_what_a_user_says_comes_behind_all_results_wherever_it_stood():
    sent = turns(
        ("assistant", [use("t1"), use("t2")]),
        ("user", [text("a"), result("t1", "one")]),
        ("system", "b"),
        ("user", [result("t2", "two"), text("c")]),
        ("user", "d"),
    )

    assert [(each["role"], each["content"]) for each in sent[1:]] == [
        ("tool", "one"),
        ("tool", "two"),
        ("user", "a"),
        ("system", "b"),
        ("user", "c"),
        ("user", "d"),
    ]
    check_messages(sent)


def test_assistant_turns_in_a_row_become_one():
    sent = turns(
        ("assistant", "a"),
        ("assistant", [use("t1")]),
        ("assistant", [use("t2")]),
        ("user", [result("t1"), result("t2")]),
    )

    assert sent[0] == {
        "role": "assistant",
        "content": "a",
        "tool_calls": [call("t1"), call("t2")],
    }
    check_messages(sent)


def test_texts_between_calls_stay_apart_and_pieces_of_one_text_do_not():
    sent = turns(
        ("assistant", [text("It is "), text("cited."), use("t1"), text("Done."), use("t2")]),
        ("user", [result("t1"), result("t2")]),
    )

    assert sent[0]["content"] == "It is cited.\n\nDone."


@pytest.mark.parametrize(
    "pairs",
    [
        [("assistant", [use("t1")])],
        [("assistant", [use("t1")]), ("user", "next")],
        [("assistant", [use("t1"), use("t2")]), ("user", [result("t1")]), ("assistant", "b")],
    ],
)
def test_a_call_without_its_result_is_refused(pairs):
    """Chat servers refuse it too. The words are those of the Messages API itself."""
    with pytest.raises(InvalidRequest, match="without `tool_result` blocks immediately after: t"):
        turns(("user", "go"), *pairs)


@pytest.mark.parametrize(
    "pairs",
    [
        [("user", [result("t1")])],
        [("assistant", [use("t1")]), ("user", [result("t1"), result("t1")])],
        [("assistant", [use("t1")]), ("user", [{"type": "tool_result"}])],
    ],
)
def test_a_result_without_its_call_is_refused(pairs):
    with pytest.raises(InvalidRequest, match="unexpected `tool_use_id`"):
        turns(*pairs)


def test_a_refusal_names_the_id_that_the_client_knows():
    ident = to_safe("functions.Read:0")

    with pytest.raises(InvalidRequest, match=ident):
        turns(("assistant", [use(ident)]))


def test_an_id_that_stands_twice_in_a_turn_is_refused():
    with pytest.raises(InvalidRequest, match="must be unique"):
        turns(("assistant", [use("t1"), use("t1")]), ("user", [result("t1")]))


def test_a_call_without_a_name_is_refused():
    with pytest.raises(InvalidRequest, match="needs an id and a name"):
        turns(("assistant", [{"type": "tool_use", "id": "t1"}]), ("user", [result("t1")]))


def test_an_id_that_was_made_safe_for_the_client_comes_back_as_it_was():
    ident = "functions.Read:0"

    sent = turns(("assistant", [use(to_safe(ident))]), ("user", [result(to_safe(ident))]))

    assert sent[0]["tool_calls"][0]["id"] == ident
    assert sent[1]["tool_call_id"] == ident


@pytest.mark.parametrize("thoughts", [[SIGNED], [UNSIGNED], [REDACTED], [SIGNED, REDACTED]])
def test_thinking_never_becomes_visible_text(thoughts):
    answered = [*thoughts, text("Hello.")]

    sent = turns(("user", "a"), ("assistant", answered), ("user", "b"))

    assert sent[1] == {"role": "assistant", "content": "Hello."}
    assert turns(("user", "a"), ("assistant", thoughts), ("user", "b")) == [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
    ]


@pytest.mark.parametrize(
    ("server", "field"),
    [("vllm", "reasoning"), ("sglang", "reasoning_content"), ("deepseek", "reasoning_content")],
)
def test_a_server_that_wants_its_reasoning_back_gets_it(server, field):
    sent = turns(
        ("user", "go"),
        ("assistant", [UNSIGNED, REDACTED, SIGNED, text("Looking."), use("t1")]),
        ("user", [result("t1")]),
        compat=SERVERS[server],
    )

    assert sent[1] == {
        "role": "assistant",
        "content": "Looking.",
        field: "Other thought.\n\nHidden thought.",
        "tool_calls": [call("t1")],
    }


def test_reasoning_without_an_answer_goes_back_too():
    sent = turns(("user", "a"), ("assistant", [UNSIGNED]), compat=SERVERS["vllm"])

    assert sent[1] == {"role": "assistant", "content": "", "reasoning": "Other thought."}


def test_reasoning_goes_back_empty_only_where_a_turn_must_have_it():
    """Another model may have answered the turn, and DeepSeek refuses one without."""
    pairs = [("user", "a"), ("assistant", [{**SIGNED, "thinking": ""}, text("b")])]

    required = turns(*pairs, compat=SERVERS["deepseek"])[1]
    welcome = turns(*pairs, compat=SERVERS["sglang"])[1]

    assert required == {"role": "assistant", "content": "b", "reasoning_content": ""}
    assert welcome == {"role": "assistant", "content": "b"}


def test_signed_thinking_goes_back_with_its_signature_before_the_calls():
    """Claude behind OpenRouter refuses a call whose signed thinking was lost."""
    sent = turns(
        ("user", "go"),
        ("assistant", [SIGNED, REDACTED, UNSIGNED, use("t1")]),
        ("user", [result("t1")]),
        compat=SERVERS["openrouter"],
    )

    signed = {"format": "anthropic-claude-v1"}
    assert sent[1]["reasoning_details"] == [
        {"type": "reasoning.text", "text": "Hidden thought.", "signature": "c2ln", **signed,
         "index": 0},
        {"type": "reasoning.encrypted", "data": "ZW5j", **signed, "index": 1},
        {"type": "reasoning.text", "text": "Other thought.", "format": "unknown", "index": 2},
    ]  # fmt: skip
    assert list(sent[1]) == ["role", "content", "reasoning_details", "tool_calls"]


def test_what_another_providers_own_tools_did_is_left_out():
    searched = [
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
        text("It rains."),
    ]

    sent = turns(("user", "weather?"), ("assistant", searched), ("user", "thanks"))

    assert sent[1] == {"role": "assistant", "content": "It rains."}


def test_the_summary_of_a_compacted_history_stays():
    compacted = [{"type": "compaction", "content": "So far: x."}, text("Next.")]

    sent = turns(("user", "a"), ("assistant", compacted), ("user", "b"))

    assert sent[1]["content"] == "So far: x.\n\nNext."
    failed = [{"type": "compaction", "content": None}, text("Next.")]
    assert turns(("user", "a"), ("assistant", failed))[1]["content"] == "Next."
