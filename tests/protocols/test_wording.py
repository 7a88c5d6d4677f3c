"""What servers say of a prompt that is too long, and what clients of either protocol get to read.

The messages are those of the servers' own sources, or as people who met them quoted them (2026-11).
"""

import json

import pytest

from server.protocols import Protocol, envelopes
from server.protocols.meter import ReportedError

OVER = "This model's maximum context length is"
# message: (input, maximum), or (input, output, maximum), or None where it does not say
SAID = {
    # OpenAI
    f"{OVER} 128000 tokens. However, your messages resulted in 204308 tokens. Please reduce the "
    "length of the messages.": (204308, 128000),
    f"{OVER} 8192 tokens. However, you requested 8213 tokens (6683 in the messages, 730 in the "
    "functions, and 800 in the completion).": (7413, 800, 8192),
    "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 285123 "
    "tokens. Please reduce the length of the messages.": (285123, 272000),
    "Your input exceeds the context window of this model. Please adjust your input.": None,
    # vLLM, DeepSeek
    f"{OVER} 131072 tokens. However, you requested 156632 tokens (152536 in the messages, 4096 in "
    "the completion). Please reduce the length of the messages or completion.": (152536, 131072),
    f"{OVER} 131072 tokens. However, you requested 131134 tokens (122942 in the messages, 8192 in "
    "the completion).": (122942, 8192, 131072),
    f"{OVER} 4096 tokens. However, your request has 5000 input tokens. Please reduce the length "
    "of the input messages.": (5000, 4096),
    f"'max_tokens' or 'max_completion_tokens' is too large: 32000. {OVER} 32768 tokens and your "
    "request has 5000 input tokens (32000 > 32768 - 5000).": (5000, 32000, 32768),
    f"{OVER} 4096 tokens. However, you requested 10 output tokens and your prompt contains at "
    "least 4087 input tokens, for a total of at least 4097 tokens.": (4087, 10, 4096),
    "You passed 2015 input tokens and requested 10 output tokens. However, the model's context "
    "length is only 1024 tokens, resulting in a maximum input length of 1014 tokens.": (2015, 1024),
    # SGLang
    "The input (61709 tokens) is longer than the model's context length (40960 tokens).": (
        61709,
        40960,
    ),
    "Requested token count exceeds the model's maximum context length of 1048576 tokens. You "
    "requested a total of 1050647 tokens: 177022 tokens from the input messages and 873625 tokens "
    "for the completion.": (177022, 873625, 1048576),
    "Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens).": (
        160062,
        59862,
    ),
    # OpenRouter
    "This endpoint's maximum context length is 131072 tokens. However, you requested about 138956 "
    "tokens (7884 of text input, 131072 in the output).": (7884, 131072, 131072),
    "Input length 300000 exceeds the maximum allowed input length of 262144 tokens.": (
        300000,
        262144,
    ),
    # Ollama, llama.cpp
    "prompt too long; exceeded max context length by 1200 tokens": None,
    "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it": (
        5000,
        4096,
    ),
    "the request exceeds the available context size, try increasing it": None,
}
ANTHROPICS = [
    "prompt is too long: 250000 tokens > 200000 maximum",
    (
        "input length and `max_tokens` exceed context limit: 187254 + 20000 > 200000, decrease "
        "input length or `max_tokens` and try again"
    ),
]
ANOTHERS = [
    "max_tokens is too large: 32000. This model supports at most 16384 completion tokens.",
    "Invalid 'messages': empty array.",
    "This request would exceed your organization's rate limit of 40000 input tokens per minute.",
]


def refused(message, protocol, code=None):
    error = {"message": message, "type": "BadRequestError", "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    return envelopes.from_upstream(400, {}, body, Protocol(protocol))


def to_messages(err):
    return envelopes.anthropic(err, "req_1")["error"]["message"]


def code(err):
    return envelopes.openai(err)["error"]["code"]


@pytest.mark.parametrize(("message", "numbers"), SAID.items())
def test_a_messages_client_reads_the_words_on_which_it_acts(message, numbers):
    """The first leads Claude Code to compact, the second to ask for less output."""
    err = refused(message, "openai", 400)

    match numbers:
        case (sent, most):
            begin = f"prompt is too long: {sent} tokens > {most} maximum. "
        case (sent, output, most):
            begin = (
                f"input length and `max_tokens` exceed context limit: {sent} + {output} > {most}, "
                "decrease input length or `max_tokens` and try again. "
            )
        case None:
            begin = "prompt is too long: "
    assert to_messages(err) == begin + message


@pytest.mark.parametrize("message", [*SAID, *ANTHROPICS])
@pytest.mark.parametrize("protocol", ["anthropic", "openai"])
def test_a_chat_client_reads_the_code_on_which_it_acts_beside_the_providers_words(
    message, protocol
):
    err = refused(message, protocol, "invalid_request_error")

    assert code(err) == "context_length_exceeded"
    assert envelopes.openai(err)["error"]["message"] == message
    assert err.reason == "prompt_too_long"


@pytest.mark.parametrize("message", ANTHROPICS)
@pytest.mark.parametrize("protocol", ["anthropic", "openai"])
def test_anthropics_own_words_stay_as_they_are(message, protocol):
    assert to_messages(refused(message, protocol)) == message


def test_the_code_alone_will_do():
    err = refused("Too much.", "openai", "context_length_exceeded")

    assert to_messages(err) == "prompt is too long: Too much."
    assert err.reason == "prompt_too_long"


@pytest.mark.parametrize("message", ANOTHERS)
@pytest.mark.parametrize("protocol", ["anthropic", "openai"])
def test_other_refusals_are_not_taken_for_it(message, protocol):
    err = refused(message, protocol)

    assert to_messages(err) == message
    assert (code(err), err.reason) == ("invalid_request", "invalid_request")


@pytest.mark.parametrize(
    ("reported", "protocol", "status", "chat_code"),
    [
        (ReportedError("overloaded_error", "Overloaded"), "anthropic", 529, "overloaded"),
        (ReportedError("rate_limit_error", "Slowly."), "anthropic", 429, "rate_limited"),
        (ReportedError("timeout_error", "Late."), "anthropic", 504, "upstream_timeout"),
        (ReportedError("api_error", "Boom."), "anthropic", 502, "upstream_error"),
        (ReportedError("authentication_error", "Key."), "anthropic", 502, "upstream_error"),
        (ReportedError("requests", "Slowly.", "rate_limit_exceeded"), "openai", 429, None),
        (ReportedError("error", "Slowly.", "429"), "openai", 429, "rate_limited"),
        (ReportedError("error", "No credit.", "402"), "openai", 502, "upstream_error"),
        (ReportedError("error", "Nobody there.", "503"), "openai", 529, "overloaded"),
        (ReportedError("BadRequestError", "Odd.", "400"), "openai", 400, "invalid_request"),
        (ReportedError("server_error", "Boom.", "server_error"), "openai", 502, "upstream_error"),
        (
            ReportedError("BadRequestError", f"{OVER} 10 tokens.", "400"),
            "openai",
            400,
            "context_length_exceeded",
        ),
        (
            ReportedError("invalid_request_error", ANTHROPICS[0]),
            "anthropic",
            400,
            "context_length_exceeded",
        ),
    ],
)
def test_an_error_inside_a_200_is_what_an_answer_of_its_status_would_be(
    reported, protocol, status, chat_code
):
    """OpenRouter and vLLM give the status as the code; others have words for it."""
    err = envelopes.from_event(reported, Protocol(protocol))

    assert err.http_status == status
    assert code(err) == (chat_code or reported.code)
    assert (str(err) == reported.message) == (status in (400, 429))


def test_a_type_of_the_other_protocol_gives_way_to_the_status():
    large = json.dumps({"error": {"type": "request_too_large", "message": "Too large."}}).encode()
    other = json.dumps({"error": {"type": "invalid_request_error", "message": "No."}}).encode()

    chat = envelopes.openai(envelopes.from_upstream(413, {}, large, Protocol.ANTHROPIC))
    messages = envelopes.anthropic(
        envelopes.from_upstream(413, {}, other, Protocol.OPENAI), "req_1"
    )

    assert chat["error"]["type"] == "invalid_request_error"
    assert messages["error"]["type"] == "request_too_large"


def test_an_unpaid_account_is_the_operators_business_inside_a_stream_too():
    told = ReportedError("invalid_request_error", "Your credit balance is too low to go on.")

    err = envelopes.from_event(told, Protocol.ANTHROPIC)

    assert err.http_status == 502
    assert "credit balance" not in str(err)
