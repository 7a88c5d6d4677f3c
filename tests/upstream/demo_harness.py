"""Runs a demo upstream for one test, and checks its streams strictly."""

import asyncio
import json
import time

import httpx

from server.upstream.demo import DemoOptions, start


def serve(scenario, **options):
    """Run `scenario(server)` against a fresh demo upstream; nothing may outlive it."""

    async def main():
        server = await start("127.0.0.1", 0, options=DemoOptions(seed="demo", **options))
        try:
            return await scenario(server)
        finally:
            await server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            assert all(task.done() for task in others)

    return asyncio.run(main())


def client(server, **options):
    return httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=10, **options)


async def post(server, path, body, **headers):
    async with client(server, headers=headers) as http:
        return await http.post(path, json=body)


async def log(server):
    async with client(server) as http:
        return (await http.get("/__log")).json()["entries"]


async def until(condition, seconds=5):
    """Poll until the awaitable `condition()` is true."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.01)


async def raw(server, request, *, read_s=5):
    """Send bytes, and give all that comes back, then how the connection ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    received = b""
    try:
        while data := await asyncio.wait_for(reader.read(65536), read_s):
            received += data
        end = "fin"
    except ConnectionResetError:
        end = "rst"
    writer.close()
    return received, end


def request_bytes(path, body, *headers):
    data = json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "host: demo", f"content-length: {len(data)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + data


def messages_body(content="hello", *, model="demo", **fields):
    messages = [{"role": "user", "content": content}]
    return {"model": model, "max_tokens": 1000, "messages": messages, **fields}


def chat_body(content="hello", *, model="demo", **fields):
    return {"model": model, "messages": [{"role": "user", "content": content}], **fields}


DELTAS = {
    "text": {"text_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
}


def check_messages_stream(data):
    """Walk the state machine of a Messages stream; give the message it builds."""
    assert data.endswith(b"\n\n")
    events = []
    for chunk in data[:-2].split(b"\n\n"):
        name, payload = chunk.split(b"\n")
        event = json.loads(payload.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        events.append(event)
    assert [events[0]["type"], events[-1]["type"]] == ["message_start", "message_stop"]
    message = events[0]["message"]
    assert (message["content"], message["stop_reason"]) == ([], None)
    opened = finished = None
    for event in events[1:-1]:
        kind = event["type"]
        if kind == "content_block_start":
            assert opened is None
            assert finished is None
            assert event["index"] == len(message["content"])
            opened = event["content_block"]
            assert opened.get("text", opened.get("thinking", opened.get("input"))) in ("", {})
            opened["json"] = ""
            message["content"].append(opened)
        elif kind == "content_block_delta":
            delta = event["delta"]
            assert event["index"] == len(message["content"]) - 1
            assert delta["type"] in DELTAS[opened["type"]]
            field = delta["type"].removesuffix("_delta")
            if field == "input_json":
                opened["json"] += delta["partial_json"]
            else:
                opened[field] += delta[field]
        elif kind == "content_block_stop":
            assert event["index"] == len(message["content"]) - 1
            text = opened.pop("json")
            if opened["type"] == "tool_use":
                opened["input"] = json.loads(text)
            opened = None
        elif kind == "message_delta":
            assert opened is None
            finished = event
        else:
            assert kind == "ping"
    usage = {**message["usage"], **finished["usage"]}
    return {**message, **finished["delta"], "usage": usage}


def check_chat_stream(data, *, include_usage=False):
    """Walk a Chat Completions stream; give text, arguments by tool, finish_reason and usage."""
    *chunks, done, end = data.split(b"\n\n")
    assert (done, end) == (b"data: [DONE]", b"")
    events = [json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks]
    usage = None
    if include_usage:
        last = events.pop()
        assert last["choices"] == []
        usage = last["usage"]
        assert all(event["usage"] is None for event in events)
    else:
        assert all("usage" not in event for event in events)
    assert len({(event["id"], event["created"], event["model"]) for event in events}) == 1
    choices = [event["choices"] for event in events]
    assert all(len(each) == 1 and each[0]["index"] == 0 for each in choices)
    deltas = [each[0]["delta"] for each in choices]
    assert deltas[0]["role"] == "assistant"
    assert all("role" not in delta for delta in deltas[1:])
    reasons = [each[0]["finish_reason"] for each in choices]
    assert reasons[:-1] == [None] * (len(reasons) - 1)
    text = "".join(delta.get("content") or "" for delta in deltas)
    tools = {}
    for delta in deltas:
        for call in delta.get("tool_calls", ()):
            name = call["function"].get("name")
            assert (call["index"] in tools) == (name is None)
            known = tools.setdefault(call["index"], [name, call.get("id"), ""])
            known[2] += call["function"]["arguments"]
    return {"text": text, "tools": tools, "finish_reason": reasons[-1], "usage": usage}
