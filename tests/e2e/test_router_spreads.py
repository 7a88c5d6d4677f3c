"""Conversations on several keys and targets: each stays where it is as long as that is there."""

import asyncio
from collections import Counter

import pytest
from support.gateways import started
from support.priced import check_books, prove
from support.raw_upstream import EVENTS, chunked, upstream
from support.relays import STREAMS
from support.routed import (
    PATHS,
    SESSION,
    WHOLE,
    asked,
    idle,
    key_of,
    model,
    place,
    provider,
    routed,
    tried,
)
from support.wires import http_answer, run, until

from server.routing.breaker import State

BOTH = pytest.mark.parametrize("protocol", PATHS)
KEYS = ["sk-fake-key-of-the-first", "sk-fake-key-of-the-second", "sk-fake-key-of-the-third"]
FULL = {"anthropic": 529, "openai": 503}
SESSIONS = [f"session-{number}" for number in range(18)]


def _keyed(there, protocol, **routing):
    """Write a config whose one upstream has three keys, and a model there."""
    more = {"api_key": KEYS[0], "api_keys": KEYS[1:]}
    return routed([place("one", there.url, protocol, **more)], [model("smart", "one")], **routing)


async def _say(client, protocol, session, stream=False):
    """Ask within a session that the client names; the provider is told its name as text."""
    ask, headers = asked(session, stream=stream), {SESSION: session}
    return await client.post(PATHS[protocol], json=ask, headers=headers)


@BOTH
def test_sessions_are_spread_over_the_keys_and_each_stays_with_one(tmp_path, protocol):
    async def scenario():
        async with (
            provider(lambda *_: WHOLE[protocol]) as there,
            started(tmp_path, _keyed(there, protocol)) as gateway,
            gateway.client() as client,
        ):
            for _ in range(3):
                await asyncio.gather(*(_say(client, protocol, each) for each in SESSIONS))
            await idle(gateway)
            return there

    there = run(scenario)

    of_sessions = {each: there.keys_for(each) for each in SESSIONS}
    assert {len(keys) for keys in of_sessions.values()} == {3}
    assert {len(set(keys)) for keys in of_sessions.values()} == {1}
    spread = Counter(keys[0] for keys in of_sessions.values())
    assert spread.keys() == set(KEYS)
    assert max(spread.values()) <= 10, spread
    check_books(tmp_path)


@BOTH
def test_a_conversation_without_a_name_stays_with_one_key_as_it_grows(tmp_path, protocol):
    begun = [f"Please look at file {number}." for number in range(9)]

    async def talk(client, text):
        messages = [{"role": "system", "content": "Be kind."}] if protocol == "openai" else []
        messages.append({"role": "user", "content": text})
        for turn in range(10):
            ask = {**asked(), "messages": messages}
            assert (await client.post(PATHS[protocol], json=ask)).status_code == 200
            said = [{"type": "text", "text": f"Now turn {turn}, with another mark."}]
            messages += [
                {"role": "assistant", "content": "hello"},
                {"role": "user", "content": said},
            ]

    async def scenario():
        async with (
            provider(lambda *_: WHOLE[protocol]) as there,
            started(tmp_path, _keyed(there, protocol)) as gateway,
            gateway.client() as client,
        ):
            await asyncio.gather(*(talk(client, text) for text in begun))
            await idle(gateway)
            return there.calls

    calls = run(scenario)

    at = 1 if protocol == "openai" else 0
    keys = {text: [] for text in begun}
    for key, body in calls:
        keys[body["messages"][at]["content"]].append(key)
    assert {len(each) for each in keys.values()} == {10}
    assert {len(set(each)) for each in keys.values()} == {1}
    assert {each[0] for each in keys.values()} == set(KEYS)


@BOTH
def test_a_refused_key_is_left_out_at_once_and_its_sessions_move_for_good(
    tmp_path, protocol, caplog
):
    caplog.set_level("DEBUG")
    refused, replies = set(), []

    def answer(key, _):
        said = {"error": {"message": f"Incorrect API key provided: {key}"}}
        return http_answer(401, said) if key in refused else WHOLE[protocol]

    async def scenario():
        async with provider(answer) as there:
            config = _keyed(there, protocol, breaker_failures=5, breaker_open_s=1)
            async with started(tmp_path, config) as gateway, gateway.client() as client:

                async def all_ask():
                    there.calls.clear()
                    replies.extend([await _say(client, protocol, each) for each in SESSIONS])
                    return {each: there.keys_for(each) for each in SESSIONS}

                before = await all_ask()
                refused.add(KEYS[1])
                during = await all_ask()
                refused.clear()
                await until(lambda: _may_be_tried_again(gateway))
                after = await all_ask()
                refused.update(KEYS)
                codes = [(await _say(client, protocol, each)).status_code for each in SESSIONS[:4]]
                replies.append(await _say(client, protocol, "the last"))
                await idle(gateway)
                return before, during, after, codes

    before, during, after, codes = run(scenario)

    first = next(each for each in SESSIONS if before[each] == [KEYS[1]])
    assert during[first][0] == KEYS[1]
    assert [keys for each, keys in during.items() if KEYS[1] in keys] == [during[first]]
    for each in SESSIONS:
        if before[each] != [KEYS[1]]:
            assert before[each] == during[each] == after[each]
        assert after[each] == during[each][-1:]
    assert {tuple(keys) for each, keys in after.items() if before[each] == [KEYS[1]]} <= {
        (KEYS[0],),
        (KEYS[2],),
    }
    assert {reply.status_code for reply in replies[:-1]} == {200}
    assert codes[0] == 502
    assert codes[-1] == replies[-1].status_code == FULL[protocol]
    rows = check_books(tmp_path)
    told = [tried(row) for row in rows if row["attempts"] and row["outcome"] == "completed"]
    assert [[error for *_, error in each] for each in told] == [["upstream_error", None]]
    assert told[0][0][:2] == ("one", 2)
    assert {row["cost_micros"] for row in rows if row["outcome"] != "completed"} == {0}
    _check_keys_are_nowhere(tmp_path, caplog, replies)
    prove(tmp_path)


async def _may_be_tried_again(gateway):
    now = asyncio.get_running_loop().time()
    states = [each.state(now) for _, each in gateway.gateway.router.breakers()]
    return states.count(State.HALF_OPEN) == 1


def _check_keys_are_nowhere(folder, caplog, replies):
    texts = {path.name: path.read_bytes() for path in folder.glob("*.*") if path.suffix != ".yaml"}
    assert {"gateway.db", "access.log"} <= texts.keys()
    texts["log"] = caplog.text.encode()
    texts["replies"] = b"".join(reply.content + str(reply.headers).encode() for reply in replies)
    found = [(name, key) for name, text in texts.items() for key in KEYS if key.encode() in text]
    assert not found


def test_sessions_are_spread_over_targets_by_their_weights(tmp_path):
    async def scenario():
        async with (
            provider(lambda *_: WHOLE["anthropic"]) as one,
            provider(lambda *_: WHOLE["anthropic"]) as two,
        ):
            targets = [
                {"upstream": name, "model": "m", "weight": weight}
                for name, weight in (("one", 3), ("two", 1))
            ]
            places = [place("one", one.url), place("two", two.url)]
            config = routed(places, [model("smart", *targets)])
            async with started(tmp_path, config) as gateway, gateway.client() as client:
                for start in range(0, 300, 20):
                    several = range(start, start + 20)
                    await asyncio.gather(*(_say(client, "anthropic", f"s-{n}") for n in several))
                await idle(gateway)
                return len(one.calls), len(two.calls)

    many, few = run(scenario)

    assert many + few == 300
    assert abs(many - 225) <= 22.5
    assert abs(few - 75) <= 7.5
    check_books(tmp_path)


def test_a_replaced_key_is_used_by_the_next_request_and_streams_go_on(tmp_path):
    stream = STREAMS["anthropic"]
    first = stream[: stream.index(b"\n\n", stream.index(b"content_block_delta")) + 2]

    async def scenario():
        go = asyncio.Event()
        running = [EVENTS, chunked(first, end=b""), go, chunked(stream[len(first) :])]
        async with upstream(running, WHOLE["anthropic"]) as there:
            config = routed([place("one", there.url)], [model("smart", "one")])
            async with (
                started(tmp_path, config, reload_every_s=0.05) as gateway,
                gateway.client() as client,
            ):
                ask, headers, got = asked(stream=True), {SESSION: "the same"}, b""
                opened = client.stream("POST", "/v1/messages", json=ask, headers=headers)
                async with opened as reply:
                    async for piece in reply.aiter_raw():
                        if not got:
                            await _replace_key(gateway)
                            next_ = await _say(client, "anthropic", "the same")
                            go.set()
                        got += piece
                await idle(gateway)
                return got, next_.status_code, [head for head, _ in there.requests]

    got, status, heads = run(scenario)

    assert (got, status) == (stream, 200)
    assert [key_of("one").encode() in head for head in heads] == [True, False]
    assert key_of("new").encode() in heads[1]
    rows = check_books(tmp_path)
    assert [row["outcome"] for row in rows] == ["completed", "completed"]
    prove(tmp_path)


async def _replace_key(gateway):
    path, watch = gateway.folder / "config.yaml", gateway.services.watch
    path.write_text(path.read_text().replace(key_of("one"), key_of("new")))

    async def is_done():
        return watch.reloads["done"]

    await until(is_done)
