"""The official SDKs, in strict mode and without retries, find nothing to object to."""

import json

import anthropic
import openai
import pytest
from support.gateways import DEMO_CONFIG, started
from support.wires import run

from server.tenants.keys import Billing

HELLO = [{"role": "user", "content": "hello"}]
TASK = [{"role": "user", "content": "Create a file hello.txt containing hi"}]
ASK = {"model": "auto", "max_tokens": 2000, "messages": HELLO}
CHAT = {"model": "auto", "messages": HELLO}
SCHEMA = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
    "required": ["path", "content"],
}
TOOL = {"name": "write_file", "description": "Write a file.", "input_schema": SCHEMA}
FUNCTION = {"type": "function", "function": {"name": "write_file", "parameters": SCHEMA}}
WRITTEN = {"path": "hello.txt", "content": "hi"}
THINKING = {"type": "enabled", "budget_tokens": 1024}
FAULTS = ("badrequest", "cut", "error", "overloaded", "ratelimit", "unauthorized")
CONFIG = DEMO_CONFIG.replace(
    "models:\n",
    "models:\n"
    + "".join(
        f"  {name}: {{targets: [{{upstream: demo, model: 'fault:{name}'}}], free: true}}\n"
        for name in FAULTS
    ),
)


class Title(openai.BaseModel):
    """A structured answer."""

    title: str


async def ask(vendor, client, **fields):
    """Ask for an answer in the words of the SDK's own protocol."""
    if vendor is anthropic:
        return await client.messages.create(**ASK | fields)
    return await client.chat.completions.create(**CHAT | fields)


async def exhaust(stream):
    async for _ in stream:
        pass


@pytest.fixture
def sdk(tmp_path):
    """Run `scenario(client)` with a strict client of an SDK; give its result and the rows."""

    def call(
        vendor, scenario, *, root="", billing=Billing.PAY_PER_TOKEN, auth="api_key", **options
    ):
        settings = {"max_retries": 0, "_strict_response_validation": True, **options}

        async def play():
            async with started(tmp_path, CONFIG) as gateway:
                _, secret = await gateway.mint(billing=billing)
                if vendor is anthropic:
                    make, base = anthropic.AsyncAnthropic, f"{gateway.url}{root}"
                else:
                    make, base = openai.AsyncOpenAI, f"{gateway.url}{root}/v1"
                if auth == "x-api-key":
                    key = {"api_key": "not-this-one", "default_headers": {"x-api-key": secret}}
                else:
                    key = {auth: secret}
                async with make(base_url=base, **key, **settings) as client:
                    return await scenario(client), await gateway.rows()

        return run(play)

    return call


@pytest.mark.parametrize("auth", ["api_key", "auth_token", "x-api-key"])
def test_messages_answer_whole_however_the_key_is_sent(sdk, auth):
    async def scenario(client):
        return await client.messages.create(**ASK)

    message, (row,) = sdk(anthropic, scenario, auth=auth)

    assert message.content[0].text.startswith("Hello from the demo upstream")
    assert (message.stop_reason, message._request_id) == ("end_turn", row["request_id"])
    assert message.usage.input_tokens == row["input_tokens"] > 0
    assert message.usage.output_tokens == row["output_tokens"] > 0


def test_messages_stream_with_thinking_and_a_tool_through_a_tool_route(sdk):
    async def scenario(client):
        asked = {**ASK, "messages": TASK, "tools": [TOOL], "thinking": THINKING}
        async with client.messages.stream(**asked) as stream:
            first = await stream.get_final_message()
        result = {"type": "tool_result", "tool_use_id": first.content[-1].id, "content": "done"}
        turns = [
            *TASK,
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ]
        async with client.messages.stream(**asked | {"messages": turns}) as stream:
            return first, await stream.get_final_message()

    (first, last), rows = sdk(anthropic, scenario, root="/claudecode", billing=Billing.SUBSCRIPTION)

    assert [block.type for block in first.content] == ["thinking", "text", "tool_use"]
    assert (first.content[2].name, first.content[2].input) == ("write_file", WRITTEN)
    assert (first.stop_reason, last.stop_reason) == ("tool_use", "end_turn")
    assert last.content[-1].text == "Done: hello.txt created."
    for message, row in zip((first, last), rows, strict=True):
        assert message.usage.output_tokens == row["output_tokens"]
        assert message.usage.cache_read_input_tokens == row["cache_read_input_tokens"]
    assert rows[1]["cache_read_input_tokens"] > 0  # of the preset


def test_the_beta_namespace_of_older_sdks_works_with_its_query(sdk):
    async def scenario(client):
        query = {"extra_query": {"beta": "true"}, "betas": ["context-management-2025-06-27"]}
        counted = await client.beta.messages.count_tokens(model="auto", messages=HELLO, **query)
        return counted, await client.beta.messages.create(**ASK, **query)

    (counted, message), (row,) = sdk(anthropic, scenario)

    assert 8 <= counted.input_tokens <= 10  # 8 is what the vendor's own API counts
    assert message.usage.input_tokens == row["input_tokens"]
    assert message.stop_reason == "end_turn"


def test_messages_answer_in_a_given_form(sdk):
    async def scenario(client):
        return await client.messages.parse(**ASK, output_format=Title)

    message, _ = sdk(anthropic, scenario)

    assert message.parsed_output == Title(title="hello")


@pytest.mark.parametrize("root", ["", "/claudecode", "/roocode"])
def test_tokens_are_counted_without_the_preset_and_without_a_row(sdk, root):
    async def scenario(client):
        return await client.messages.count_tokens(model="auto", messages=HELLO)

    counted, rows = sdk(anthropic, scenario, root=root)

    assert 1 <= counted.input_tokens < 50
    assert rows == []


@pytest.mark.parametrize("vendor", [anthropic, openai])
@pytest.mark.parametrize("root", ["", "/cursor"])
def test_models_are_listed_and_shown_to_both(sdk, vendor, root):
    async def scenario(client):
        listed = [model.id async for model in client.models.list()]
        return listed, await client.models.retrieve("smart")

    (listed, model), _ = sdk(vendor, scenario, root=root)

    assert listed == ["auto", "claude-auto", *FAULTS, "smart", "fast"]
    assert model.id == "smart"


def test_a_page_of_models_leads_to_the_next(sdk):
    async def scenario(client):
        pages = [page async for page in (await client.models.list(limit=3)).iter_pages()]
        return [len(page.data) for page in pages]

    lengths, _ = sdk(anthropic, scenario)

    assert lengths == [3, 3, 3, 1]


def test_chat_completions_answer_whole(sdk):
    async def scenario(client):
        return await client.chat.completions.create(**CHAT)

    completion, (row,) = sdk(openai, scenario)

    assert completion.choices[0].message.content.startswith("Hello from the demo upstream")
    assert (completion.choices[0].finish_reason, completion._request_id) == (
        "stop",
        row["request_id"],
    )
    assert completion.usage.prompt_tokens == row["input_tokens"] > 0
    assert completion.usage.completion_tokens == row["output_tokens"] > 0


@pytest.mark.parametrize("wanted", [True, False])
def test_chat_completions_stream_usage_only_where_it_was_asked_for(sdk, wanted):
    """The row has it either way: the gateway asks for it, and keeps it from who did not."""

    async def scenario(client):
        options = {"stream_options": {"include_usage": True}} if wanted else {}
        async with client.chat.completions.stream(**CHAT, **options) as stream:
            return await stream.get_final_completion()

    completion, (row,) = sdk(openai, scenario)

    assert completion.choices[0].finish_reason == "stop"
    assert row["output_tokens"] > 0
    assert not row["estimated"]
    if wanted:
        assert completion.usage.completion_tokens == row["output_tokens"]
    else:
        assert completion.usage is None


def test_chat_completions_stream_a_tool_through_a_tool_route(sdk):
    async def scenario(client):
        asked = {"model": "auto", "tools": [FUNCTION]}
        async with client.chat.completions.stream(**asked, messages=TASK) as stream:
            first = (await stream.get_final_completion()).choices[0]
        call = first.message.tool_calls[0]
        turns = [
            *TASK,
            first.message.to_dict(),
            {"role": "tool", "tool_call_id": call.id, "content": "done"},
        ]
        async with client.chat.completions.stream(**asked, messages=turns) as stream:
            return first, call, (await stream.get_final_completion()).choices[0]

    (first, call, last), rows = sdk(openai, scenario, root="/cursor", billing=Billing.SUBSCRIPTION)

    assert (first.finish_reason, last.finish_reason) == ("tool_calls", "stop")
    assert (call.function.name, json.loads(call.function.arguments)) == ("write_file", WRITTEN)
    assert last.message.content == "Done: hello.txt created."
    assert {(row["tool"], row["outcome"]) for row in rows} == {("cursor", "completed")}


def test_chat_completions_answer_in_a_given_form(sdk):
    async def scenario(client):
        return await client.chat.completions.parse(**CHAT, response_format=Title)

    completion, _ = sdk(openai, scenario)

    assert completion.choices[0].message.parsed == Title(title="hello")


def check_ids(rows, errors, model):
    """Check that an error names its row; a model that is not there never gets one."""
    ids = [] if model == "nonsense" else [error.request_id for error in errors]
    assert [row["request_id"] for row in rows] == ids
    assert len({error.request_id for error in errors}) == len(errors)


MESSAGES_ERRORS = [
    ("nonsense", anthropic.NotFoundError, 404, 'There is no model "nonsense".'),
    ("badrequest", anthropic.BadRequestError, 400, "messages.0.content: Input should be a valid"),
    ("ratelimit", anthropic.RateLimitError, 429, "This request would exceed the rate limit"),
    ("error", anthropic.InternalServerError, 502, "The provider failed with status 500"),
    ("unauthorized", anthropic.InternalServerError, 502, "The provider did not accept"),
    ("overloaded", anthropic.OverloadedError, 529, "The provider is overloaded"),
]


@pytest.mark.parametrize(("model", "kind", "status", "words"), MESSAGES_ERRORS)
def test_a_messages_error_is_the_sdks_own(sdk, model, kind, status, words):
    async def scenario(client):
        with pytest.raises(kind) as whole:
            await ask(anthropic, client, model=model)
        with pytest.raises(kind) as streamed:
            await ask(anthropic, client, model=model, stream=True)
        return whole.value, streamed.value

    errors, rows = sdk(anthropic, scenario)

    for error in errors:
        assert type(error) is kind
        assert (error.status_code, error.api_message[: len(words)]) == (status, words)
        assert error.request_id == error.body["request_id"]
        assert error.response.headers.get("retry-after") == ("2" if model == "ratelimit" else None)
    check_ids(rows, errors, model)


CHAT_ERRORS = [
    ("nonsense", openai.NotFoundError, 404, "model_not_found", 'There is no model "nonsense".'),
    ("badrequest", openai.BadRequestError, 400, None, "messages.0.content: Input should be"),
    ("ratelimit", openai.RateLimitError, 429, None, "This request would exceed the rate limit"),
    ("error", openai.InternalServerError, 502, "upstream_error", "The provider failed with"),
    ("overloaded", openai.InternalServerError, 503, "overloaded", "The provider is overloaded"),
]


@pytest.mark.parametrize(("model", "kind", "status", "code", "words"), CHAT_ERRORS)
def test_a_chat_error_is_the_sdks_own(sdk, model, kind, status, code, words):
    async def scenario(client):
        with pytest.raises(kind) as whole:
            await ask(openai, client, model=model)
        with pytest.raises(kind) as streamed:
            await ask(openai, client, model=model, stream=True)
        return whole.value, streamed.value

    errors, rows = sdk(openai, scenario)

    for error in errors:
        assert type(error) is kind
        assert (error.status_code, error.body["message"][: len(words)]) == (status, words)
        if code is not None:
            assert error.code == code
    check_ids(rows, errors, model)


@pytest.mark.parametrize("vendor", [anthropic, openai])
def test_an_unknown_key_is_an_authentication_error_and_is_not_tried_again(sdk, vendor):
    async def scenario(client):
        client = client.copy(api_key="gwk_fake")
        with pytest.raises(vendor.AuthenticationError, match="API key") as caught:
            await client.models.list()
        return caught.value

    error, _ = sdk(vendor, scenario, max_retries=5)

    assert error.status_code == 401
    assert error.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("vendor", [anthropic, openai])
def test_a_subscription_key_on_a_generic_route_is_refused_permission(sdk, vendor):
    async def scenario(client):
        with pytest.raises(vendor.PermissionDeniedError, match="only on the tool routes"):
            await ask(vendor, client)

    _, rows = sdk(vendor, scenario, billing=Billing.SUBSCRIPTION, max_retries=5)

    assert rows == []


@pytest.mark.parametrize("vendor", [anthropic, openai])
def test_a_stream_that_is_cut_raises_in_the_sdk(sdk, vendor):
    """Never a short answer that looks whole."""

    async def scenario(client):
        stream = await ask(vendor, client, model="cut", stream=True)
        first = await anext(stream)
        with pytest.raises(vendor.APIError, match="The provider cut its answer short"):
            await exhaust(stream)
        return first

    first, (row,) = sdk(vendor, scenario)

    assert first
    assert (row["status"], row["outcome"], row["error"]) == (
        200,
        "upstream_error",
        "upstream_error",
    )


@pytest.mark.parametrize("vendor", [anthropic, openai])
def test_an_overloaded_provider_is_tried_again_by_the_sdk(sdk, vendor):
    async def scenario(client):
        with pytest.raises(vendor.InternalServerError):
            await ask(vendor, client, model="overloaded")

    _, rows = sdk(vendor, scenario, max_retries=1)

    assert len({row["request_id"] for row in rows}) == 2
