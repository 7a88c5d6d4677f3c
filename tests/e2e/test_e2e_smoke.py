import asyncio

from support.gateways import started
from support.validators import check_chat_stream, check_messages_stream

ASK = {"model": "auto", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]}


def test_both_protocols_stream_and_answer_whole_through_the_example_config(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway, gateway.client() as client:
            whole = await client.post("/v1/messages", json=ASK)
            stream = await client.post("/v1/messages", json={**ASK, "stream": True})
            chat = await client.post("/v1/chat/completions", json={**ASK, "stream": True})
            rows = await gateway.rows()
        return whole, stream, chat, rows

    whole, stream, chat, rows = asyncio.run(scenario())

    assert whole.json()["stop_reason"] == "end_turn"
    assert check_messages_stream(stream.content).text == whole.json()["content"][0]["text"]
    assert check_chat_stream(chat.content).stop_reason == "stop"
    assert [row["outcome"] for row in rows] == ["completed"] * 3
    reported = whole.json()["usage"]["output_tokens"]
    assert [row["output_tokens"] for row in rows[:2]] == [reported, reported]
    assert rows[2]["output_tokens"] > 0
