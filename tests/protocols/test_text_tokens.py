"""Text: escapes resolved, kinds counted, and no estimate beyond what can be."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocols.text_tokens import Vocabulary, features, text_tokens, unescaped

# Half surrogates are left out, and so is what JSON writes as two of them.
BASIC = st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"], exclude_characters="\x1a")


@given(st.text(BASIC), st.booleans())
def test_escapes_are_resolved(text, ascii_only):
    raw = json.dumps(text, ensure_ascii=ascii_only).encode()[1:-1]

    assert unescaped(raw) == text.encode()


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (r"plain", "plain"),
        (r"a\/b", "a/b"),
        (r"a\\/b", r"a\/b"),
        (r"a\\\/b", r"a\/b"),
        (r"C:\\new\\u4e2d", r"C:\new\u4e2d"),
        (r"\u4e2d\n\"中\"", '中\n"中"'),
        (r'{"a":"\\\"\u00e9\""}', '{"a":"\\"é""}'),
    ],
)
def test_an_escape_never_hides_the_next_one(raw, text):
    assert unescaped(raw.encode()) == text.encode()


def test_an_emoji_written_as_two_halves_counts_as_a_few_tokens():
    assert 1 <= text_tokens(unescaped(rb"\ud83d\ude80"), Vocabulary.CLAUDE) <= 6


@pytest.mark.parametrize("vocabulary", Vocabulary)
@pytest.mark.parametrize(
    "text",
    [
        "a",
        "ﷺ",
        "aAA" * 500,
        "w\uff01" * 500,
        "th" * 500,
        "AAA" * 500,
        "0" * 999,
        "x" * 999,
        "\uff01" * 999,
    ],
)
def test_an_estimate_stays_between_an_eighth_of_the_characters_and_all_bytes(text, vocabulary):
    found = text_tokens(text.encode(), vocabulary)

    assert len(text) / 8 <= found <= len(text.encode())


@pytest.mark.parametrize("vocabulary", Vocabulary)
def test_spaces_take_few_tokens(vocabulary):
    assert text_tokens(b" " * 1000, vocabulary) < 50


def test_nothing_takes_no_tokens():
    assert text_tokens(b"", Vocabulary.CLAUDE) == 0


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_features_add_up(one, other):
    """So a long text is as well estimated as its parts are; only the seam may differ."""
    together, apart = (
        features(one + b"\x01" + other),
        zip(features(one), features(other), strict=True),
    )

    assert all(abs(whole - sum(parts)) <= 2 for whole, parts in zip(together, apart, strict=True))


def test_a_long_text_is_judged_by_blocks_from_all_over_it():
    page = b"A line of prose, of some words.\n" * 128 + b"0x%08x, " % 77 * 400
    one = text_tokens(page, Vocabulary.CLAUDE)

    for times in (60, 100, 1000):
        many = text_tokens(page * times, Vocabulary.CLAUDE)
        assert abs(many / (one * times) - 1) < 0.05
