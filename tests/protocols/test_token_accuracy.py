"""How far the estimates are from true counts, on text that the weights have never seen.

The counts are those of the tokenizers that both vendors published; docs/tokens.md says how the
samples were made, and has the figures for each kind of text.
"""

import json
from pathlib import Path
from statistics import median, quantiles

import pytest

from server.protocols import body, tokens
from server.protocols.text_tokens import Vocabulary, text_tokens

HELD_OUT = json.loads((Path(__file__).parents[1] / "data/tokens/held_out.json").read_text())


def errors(vocabulary, at_least=0):
    return [
        text_tokens(text.encode(), vocabulary) / counts[vocabulary] - 1
        for _, text, *counts in HELD_OUT
        if len(text) >= at_least
    ]


@pytest.mark.parametrize("vocabulary", Vocabulary)
def test_half_of_the_estimates_are_within_8_percent_and_nine_of_ten_within_20(vocabulary):
    sizes = [abs(error) for error in errors(vocabulary)]

    assert len(sizes) > 200
    assert median(sizes) <= 0.08
    assert quantiles(sizes, n=10)[-1] <= 0.20


@pytest.mark.parametrize("vocabulary", Vocabulary)
def test_estimates_lean_upward(vocabulary):
    found = errors(vocabulary)

    assert median(found) > 0
    assert sum(error < -0.10 for error in found) < len(found) / 8


@pytest.mark.parametrize("vocabulary", Vocabulary)
def test_texts_of_a_page_or_more_are_closer(vocabulary):
    assert quantiles(map(abs, errors(vocabulary, at_least=1500)), n=10)[-1] <= 0.15


@pytest.mark.parametrize("escaped", [True, False], ids=["escaped", "UTF-8"])
@pytest.mark.parametrize(
    ("estimate", "vocabulary"),
    [
        (tokens.estimate_messages, Vocabulary.CLAUDE),
        (tokens.estimate_chat, Vocabulary.O200K),
    ],
)
def test_a_request_counts_as_its_text_does_however_it_is_escaped(estimate, vocabulary, escaped):
    for kind, text, *_ in HELD_OUT:
        request = {"messages": [{"role": "user", "content": text}]}
        fields = body.split(json.dumps(request, ensure_ascii=escaped).encode())
        plain = text_tokens(text.encode(), vocabulary)

        assert abs(estimate(fields) - 7 - plain) <= (plain / 2 if kind == "emoji" else 1)
