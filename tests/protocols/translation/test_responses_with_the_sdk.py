"""OpenAI's own SDK, with its strict validation on, reads what the translation writes."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest
from support.responses_rules import check_responses_stream

from server.protocols import body
from server.protocols.translation import Context
from server.protocols.translation.answers.chat_as_responses import ChatAsResponses, answer
from server.protocols.translation.answers.responses_errors import failed_event
from server.protocols.translation.requests.responses_to_chat import request

CONTEXT = Context("auto", "0123abc", 1_795_000_000, 10, {})
USAGE = {"prompt_tokens": 100, "completion_tokens": 20}
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Tells it.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
SIGNED = {"type": "reasoning.text", "text": "hm", "signature": "c2ln", "index": 0}


def delta(finish=None, **said):
    choices = [{"index": 0, "delta": said, "finish_reason": finish}]
    return b"data: %b\n\n" % json.dumps({"choices": choices, "usage": USAGE}).encode()


def call(arguments, **named):
    return delta(tool_calls=[{"index": 0, **named, "function": {**named, "arguments": arguments}}])


CALLS = [
    delta(reasoning_content="hm"),
    delta(reasoning_details=[SIGNED]),
    delta(content="I "),
    delta(content="look."),
    call("", id="c1", name="weather"),
    call('{"city":'),
    call('"Paris"}'),
    delta("tool_calls"),
]


@contextmanager
def serving(*events, whole=None, ending=None):
    """Serve one scripted Chat answer as Responses; give a client of it and what it asked."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            raw = self.rfile.read(int(self.headers["content-length"]))
            asked = request(body.split(raw))
            seen.append({name: json.loads(bytes(raw)) for name, raw in asked.fields.items()})
            if seen[-1].get("stream"):
                kind, out = "text/event-stream", self._stream(asked)
            else:
                kind, out = "application/json", answer(json.dumps(whole).encode(), CONTEXT, asked)
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(out)))
            self.end_headers()
            self.wfile.write(out)

        def _stream(self, asked):
            machine = ChatAsResponses(CONTEXT, asked)
            out = b"".join(machine.feed(event) for event in events) + (ending or machine.finish())
            check_responses_stream(out)
            return out

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        with openai.OpenAI(
            api_key="k", base_url=url, max_retries=0, _strict_response_validation=True
        ) as client:
            yield client.responses, seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_stream_of_reasoning_text_and_a_call_is_read():
    with (
        serving(*CALLS) as (responses, _),
        responses.stream(model="auto", input="hi", tools=[WEATHER]) as stream,
    ):
        kinds = [event.type for event in stream]
        final = stream.get_final_response()

    assert kinds[:3] == [
        *("response.created", "response.in_progress", "response.output_item.added")
    ]
    assert kinds[-1] == "response.completed"
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.output_text == "I look."
    assert final.output[-1].parsed_arguments == {"city": "Paris"}
    assert (final.usage.input_tokens, final.usage.output_tokens) == (100, 20)


def test_what_was_answered_can_be_sent_back_as_it_is():
    with serving(*CALLS) as (responses, seen):
        with responses.stream(model="auto", input="hi", tools=[WEATHER]) as stream:
            said = stream.get_final_response().output
        result = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}
        for _ in responses.create(model="auto", input=[*said, result], stream=True):
            pass

    turn, tool = seen[1]["messages"]
    assert turn["content"] == "I look."
    assert turn["reasoning_details"] == [SIGNED]
    assert turn["tool_calls"][0]["function"]["arguments"] == '{"city":"Paris"}'
    assert tool["content"] == "sunny"


def test_a_whole_answer_is_read():
    choice = {"message": {"content": "Hello", "reasoning": "hm"}, "finish_reason": "stop"}

    with serving(whole={"choices": [choice], "usage": USAGE}) as (responses, seen):
        read = responses.create(model="auto", input="hi", instructions="Be brief.")

    assert (read.output_text, read.status, read.instructions) == ("Hello", "completed", "Be brief.")
    assert seen[0]["messages"][0] == {"role": "system", "content": "Be brief."}


def test_structured_output_is_parsed():
    class City(openai.BaseModel):
        city: str

    with (
        serving(delta(content='{"city":"Par'), delta("stop", content='is"}')) as (responses, seen),
        responses.stream(model="auto", input="hi", text_format=City) as stream,
    ):
        final = stream.get_final_response()

    assert final.output_parsed == City(city="Paris")
    assert seen[0]["response_format"]["json_schema"]["name"] == "City"


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_a_cut_answer_ends_as_incomplete(finish, reason):
    with serving(delta(content="Hel"), delta(finish)) as (responses, _):
        *_, last = responses.create(model="auto", input="hi", stream=True)

    assert (last.type, last.response.incomplete_details.reason) == ("response.incomplete", reason)


def test_a_failure_in_the_middle_is_read():
    failed = failed_event("insufficient_balance", "Top up.", CONTEXT)

    with serving(delta(content="Hel"), ending=failed) as (responses, _):
        *_, last = responses.create(model="auto", input="hi", stream=True)

    assert (last.type, last.response.error.message) == ("response.failed", "Top up.")
