"""Token estimates of requests: every part counted, and base64 never counted as text."""

import base64
import json
import struct

import pytest

from server.protocols import body, tokens
from server.protocols.images import pixel_size

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 1500, 1000)
GIF = b"GIF89a" + struct.pack("<HH", 640, 480)
WEBP_X = b"RIFF\0\0\0\0WEBPVP8X\n\0\0\0\0\0\0\0" + b"\x7f\x02\0" + b"\xdf\x01\0"
WEBP_L = b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f" + struct.pack("<I", 639 | 479 << 14)
WEBP_LOSSY = b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 640, 480)
JPEG = (
    b"\xff\xd8\xff\xe0\x00\x10" + b"J" * 14 + b"\xff\xc2\x00\x11\x08" + struct.pack(">HH", 480, 640)
)


def messages(*content, **members):
    turn = {"role": "user", "content": list(content)}
    return body.split(json.dumps({"model": "m", "messages": [turn], **members}).encode())


def base64_of(data, size=300_000):
    return base64.b64encode(data + bytes(size)).decode()


def source(data, media_type="image/png"):
    return {"type": "base64", "media_type": media_type, "data": data}


def image(data):
    return {"type": "image", "source": source(data)}


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (PNG, (1500, 1000)),
        (GIF, (640, 480)),
        (WEBP_X, (640, 480)),
        (WEBP_L, (640, 480)),
        (WEBP_LOSSY, (640, 480)),
        (JPEG, (640, 480)),
        (PNG[:18], None),
        (JPEG[:22], None),
        (b"\xff\xd8\xff", None),
        (b"\xff\xd8" + b"\xff\xe0\x00\x02" * 9, None),
        (b"RIFF\0\0\0\0WEBPnone", None),
        (b"%PDF-1.7", None),
        (b"", None),
    ],
)
def test_pixel_sizes_are_read_from_the_head(head, size):
    assert pixel_size(head) == size


def test_other_scripts_count_at_least_their_characters():
    assert tokens.estimate_text("今天天气很好" * 100) >= 600
    assert tokens.estimate_text("") == 0
    assert tokens.estimate_text("\ud800") > 0


def test_every_part_of_a_messages_request_counts():
    plain = tokens.estimate_messages(messages({"type": "text", "text": "hi"}))
    words = "some words in a row " * 120

    for more in (
        messages({"type": "text", "text": "hi"}, system=words),
        messages({"type": "text", "text": "hi"}, tools=[{"name": "t", "description": words}]),
        messages({"type": "text", "text": "hi " + words}),
        messages({"type": "tool_result", "tool_use_id": "t", "content": words}),
        messages({"type": "thinking", "thinking": words, "signature": "x"}),
        messages({"type": "text", "text": "hi"}, output_config={"format": {"schema": words}}),
    ):
        assert tokens.estimate_messages(more) >= plain + 500


def test_every_part_of_a_chat_request_counts():
    words = "some words in a row " * 120
    tool = {"type": "function", "function": {"name": "f", "description": words}}

    assert tokens.estimate_chat(messages(words)) > 500
    assert tokens.estimate_chat(messages(tools=[tool])) > 500
    assert tokens.estimate_chat(messages(functions=[tool])) > 500
    assert tokens.estimate_chat(messages(response_format={"type": words})) > 500


@pytest.mark.parametrize(
    ("data", "by_pixels", "by_tiles"),
    [
        (base64_of(PNG), 2000, 85 + 170 * 6),
        (base64_of(JPEG), 410, 85 + 170 * 2),
        (base64_of(PNG[:16] + struct.pack(">II", 1, 1)), 85, 85 + 170),
        (base64_of(PNG[:16] + struct.pack(">II", 60_000, 60_000)), 4784, 85 + 170 * 4),
        (base64_of(PNG[:16] + struct.pack(">II", 10_000, 20)), 267, 85 + 170 * 4),
        (base64_of(PNG[:16] + struct.pack(">II", 4096, 1536)), 4784, 85 + 170 * 8),
        (base64_of(b"unknown"), 1600, 85 + 170 * 8),
        ("not base64!" * 9, 1600, 85 + 170 * 8),
        ("é" * 9, 1600, 85 + 170 * 8),
    ],
    ids=["png", "jpeg", "tiny", "huge", "sliver", "wide", "unknown", "no base64", "no ASCII"],
)
def test_an_image_counts_by_its_size_in_every_place(data, by_pixels, by_tiles):
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + data}}
    nested = {"type": "tool_result", "content": [image(data)]}
    document = {"type": "document", "source": {"type": "content", "content": [image(data)]}}

    for part in (image(data), nested, document):
        assert 0 <= tokens.estimate_messages(messages(part)) - by_pixels <= 40
    assert 0 <= tokens.estimate_chat(messages(url)) - by_tiles <= 40


def test_an_image_of_low_detail_counts_flat():
    url = {"url": "data:image/png;base64," + base64_of(PNG), "detail": "low"}

    part = {"type": "image_url", "image_url": url}

    assert 85 <= tokens.estimate_chat(messages(part)) <= 125


def test_media_behind_an_address_count_flat():
    picture = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    paper = {"type": "document", "source": {"type": "file", "file_id": "file_1"}}

    assert 1600 <= tokens.estimate_messages(messages(picture)) <= 1640
    assert 3000 <= tokens.estimate_messages(messages(paper)) <= 3040


def test_documents_count_by_their_bytes():
    data = base64_of(b"%PDF-1.7")
    pdf = {"type": "document", "source": source(data, "application/pdf")}
    file = {"type": "file", "file": {"file_data": "data:application/pdf;base64," + data}}
    bare = {"type": "file", "file": {"file_data": data, "filename": "a.pdf"}}

    for estimate in (
        tokens.estimate_messages(messages(pdf)),
        tokens.estimate_chat(messages(file)),
        tokens.estimate_chat(messages(bare)),
    ):
        assert 20_000 <= estimate <= 20_200


def test_a_text_document_counts_as_text():
    text = "plain words, twice\n" * 1000
    paper = {"type": "document", "source": {"type": "text", "data": text}}

    assert 0 <= tokens.estimate_messages(messages(paper)) - tokens.estimate_text(text) <= 60


def test_recordings_count_by_their_bytes():
    part = {"type": "input_audio", "input_audio": {"data": base64_of(b"RIFF"), "format": "wav"}}

    assert 1001 <= tokens.estimate_chat(messages(part)) <= 1040


def test_a_short_question_costs_little_more_than_its_words():
    """Fragments are asked about too; Anthropic's own count of this one is 14."""
    turn = {"role": "user", "content": "Hello, Claude"}
    fields = body.split(json.dumps({"system": "You are a scientist", "messages": [turn]}).encode())

    assert 14 <= tokens.estimate_messages(fields) <= 19


def test_a_text_costs_the_same_as_a_string_and_as_a_part():
    text = "Some lines\n\tof text.\n" * 50
    plain = body.split(json.dumps({"messages": [{"role": "user", "content": text}]}).encode())

    for estimate in (tokens.estimate_messages, tokens.estimate_chat):
        assert estimate(plain) == estimate(messages({"type": "text", "text": text}))


def test_offered_tools_cost_what_the_provider_says_about_them():
    tool = {"name": "now", "description": "Tell the time.", "input_schema": {"type": "object"}}
    text = {"type": "text", "text": "hi"}

    more = tokens.estimate_messages(messages(text, tools=[tool]))

    assert 346 < more - tokens.estimate_messages(messages(text)) < 400


@pytest.mark.parametrize(
    ("part", "least", "most"),
    [
        ({"type": "redacted_thinking", "data": "x" * 5000}, 1000, 1030),
        ({"type": "thinking", "thinking": "", "signature": "x" * 5000}, 1000, 1030),
        ({"type": "thinking", "thinking": "short words " * 200, "signature": "x" * 500}, 380, 700),
    ],
    ids=["redacted", "not shown", "shown"],
)
def test_sealed_thinking_counts_by_what_it_seals(part, least, most):
    assert least <= tokens.estimate_messages(messages(part)) <= most


def test_base64_that_is_text_counts_as_text():
    data = base64_of(b"")
    call = {"type": "tool_use", "name": "t", "input": {"source": {"data": data}}}

    assert tokens.estimate_messages(messages(call)) > len(data) // 8


@pytest.mark.parametrize(
    "turns",
    [
        b'"source"',
        b'["source"]',
        b'[{"content":"source","source":1}]',
        b'[{"content":[{"type":"image","source":5}]}]',
        b'[{"content":[{"type":5,"source":{}}]}]',
        b'[{"content":[{"type":"image"}]}]',
        b'[{"content":[{"type":"tool_result","content":"source"}], "source":{}}]',
        b'[{"content":{"source":{}}}]',
    ],
)
def test_odd_shapes_are_estimated_all_the_same(turns):
    fields = body.split(b'{"messages":%b}' % turns)

    assert 3 < tokens.estimate_messages(fields) < 1700
    assert 3 < tokens.estimate_chat(fields) < 1700


def test_a_request_without_messages_is_estimated():
    assert tokens.estimate_messages({}) == tokens.estimate_chat({}) == 3


def test_a_body_nested_on_purpose_is_not_looked_through():
    inner = b'"source"'
    for _ in range(200):
        inner = b'[{"type":"tool_result","content":%b}]' % inner

    assert tokens.estimate_messages(body.split(b'{"messages":[{"content":%b}]}' % inner)) > 1000


@pytest.mark.parametrize(
    "turns",
    [
        [{}] * 20_000,
        [{"role": "user", "content": "a"}] * 20_000,
        [{"role": "user", "content": [{"type": "text", "text": "a"}] * 20_000}],
        [{"role": "user", "content": [{}] * 100}] * 200,
    ],
    ids=["empty turns", "turns", "parts", "empty parts"],
)
def test_more_turns_than_any_session_has_count_as_text(turns):
    """Looking at each would take a thousand times as long as reading it as text."""
    fields = body.split(json.dumps({"messages": turns}).encode())

    assert tokens.estimate_messages(fields) > 20_000
