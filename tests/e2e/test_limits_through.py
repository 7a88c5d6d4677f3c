"""Limits over real sockets: who is refused, when, with which words, and what it never costs."""

import asyncio
import json
from datetime import timedelta

import pytest
from support.gateways import lay_out, started
from support.priced import CLASSES
from support.prometheus import parse
from support.raw_upstream import until, upstream
from support.wires import request, wire

from server import clock
from server.billing import subscriptions
from server.calls import Call
from server.config.schema import UsageLimits
from server.errors import ModelNotFound
from server.limits.bounds import Bound
from server.protocols import Protocol
from server.tenants import keys, secrets
from server.tenants.keys import Billing
from server.upstream.demo import DemoOptions

HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 50}
ROUTES = {
    "anthropic": "/cline/v1/messages",
    "openai": "/cursor/v1/chat/completions",
    "responses": "/codex/v1/responses",
}
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
BODY = json.dumps(
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 30, "output_tokens": 12},
    }
).encode()
ONE_AT_A_TIME = Bound(("key", "key_1"), "this key", UsageLimits(concurrent_requests=1))
ANSWER = OK % (len(BODY), BODY)
FAILURE = b"HTTP/1.1 500 Oops\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


def config(limits, *, more="", quota="null", url=None, mode="enforce"):
    """Write a config with the tiers `team`, limited, and `open`; `there` is a scripted upstream."""
    there = "there: {protocol: demo}"
    if url is not None:
        there = f'there: {{protocol: anthropic, base_url: "{url}", api_key: sk-fake}}'
    return f"""
upstreams:
  demo: {{protocol: demo}}
  {there}
models:
  smart: {{targets: [{{upstream: there, model: demo-smart}}], free: true}}
  fast: {{targets: [{{upstream: demo, model: demo-fast}}], free: true}}
  endless: {{targets: [{{upstream: demo, model: "fault:endless:5"}}], free: true}}
aliases: {{"claude-*": smart, quick: fast}}
auto: {{default: smart}}
limits: {{mode: {mode}}}
tiers:
  team: {{name: Team, price_cents: 0, quota_tokens: {quota}, limits: {limits}}}
  open: {{name: Open, price_cents: 0}}
{more}"""


def asked(model="smart", **more):
    return {"model": model, **HELLO, **more}


async def subscriber(gateway):
    """Give a client with a subscription key."""
    _, secret = await gateway.mint(billing=Billing.SUBSCRIPTION)
    return gateway.client(secret)


def with_limits(folder, limits, scenario, *, demo=None, **options):
    """Run `scenario(gateway, client)` with a subscription key whose tier has `limits`."""

    async def play():
        more = {} if demo is None else {"demo_options": demo}
        text = config(limits, **options)
        async with started(folder, text, **more) as gateway, await subscriber(gateway) as client:
            return await scenario(gateway, client)

    return asyncio.run(play())


def body_for(protocol, **more):
    if protocol == "responses":
        return {"model": "smart", "input": "hello", "max_output_tokens": 50, **more}
    return asked(**more)


async def status(client, model="smart", **more):
    return (await client.post(ROUTES["anthropic"], json=asked(model, **more))).status_code


def message_of(reply):
    return reply.json()["error"]["message"]


def test_of_many_at_once_exactly_as_many_as_allowed_pass(tmp_path):
    async def scenario():
        gate = asyncio.Event()
        async with upstream([gate, ANSWER]) as there:
            text = config("{concurrent_requests: 3}", url=there.url)
            async with started(tmp_path, text) as gateway, await subscriber(gateway) as client:
                calls = [
                    asyncio.create_task(client.post(ROUTES["anthropic"], json=asked()))
                    for _ in range(12)
                ]
                await until(lambda: sum(call.done() for call in calls) == 9)
                refused = [call.result() for call in calls if call.done()]
                gate.set()
                replies = await asyncio.gather(*calls)
                after = await client.post(ROUTES["anthropic"], json=asked())
                return refused, replies, after, len(there.requests)

    refused, replies, after, sent = asyncio.run(scenario())

    assert sorted(reply.status_code for reply in replies) == [200] * 3 + [429] * 9
    assert {reply.headers["retry-after"] for reply in refused} == {"1"}
    assert message_of(refused[0]).startswith("The limit of 3 requests at a time for all subscri")
    assert (after.status_code, sent) == (200, 4)


@pytest.mark.parametrize("protocol", ROUTES)
def test_who_comes_back_when_told_is_served(tmp_path, protocol):
    async def scenario(_, client):
        path, body = ROUTES[protocol], body_for(protocol)
        replies = [await client.post(path, json=body) for _ in range(61)]
        while replies[-1].status_code == 200:  # they took so long that one flowed back
            replies.append(await client.post(path, json=body))
        refused = replies[-1]
        await asyncio.sleep(int(refused.headers["retry-after"]))
        return replies, refused, await client.post(path, json=body)

    replies, refused, after = with_limits(tmp_path, "{requests_per_minute: 60}", scenario)

    assert {reply.status_code for reply in replies[:60]} == {200}
    assert (refused.status_code, after.status_code) == (429, 200)
    assert refused.headers["retry-after"] == "1"
    assert "x-should-retry" not in refused.headers
    error = refused.json()["error"]
    if protocol == "anthropic":
        assert (refused.json()["type"], error["type"]) == ("error", "rate_limit_error")
    else:
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limited")
    assert error["message"] == (
        "The limit of 60 requests per minute for all subscription keys in the tier team together "
        "is reached. Try again in 1 s."
    )


def test_the_tokens_that_a_request_came_to_count(tmp_path):
    """The first is larger than a minute's worth: it passes, and what it came to is owed."""

    async def scenario(gateway, client):
        first = await client.post(ROUTES["anthropic"], json=asked())
        second = await client.post(ROUTES["anthropic"], json=asked())
        return first, second, (await gateway.rows())[0]

    first, second, row = with_limits(tmp_path, "{tokens_per_minute: 10}", scenario)

    assert (first.status_code, second.status_code) == (200, 429)
    assert "10 tokens per minute" in message_of(second)
    owed_s = 6 * sum(row[each] for each in CLASSES)
    assert owed_s - 3 <= int(second.headers["retry-after"]) <= owed_s


def test_keys_of_a_tenant_share_the_limits_of_its_tier_and_other_keys_have_none(tmp_path):
    async def scenario(gateway, client):
        async with await subscriber(gateway) as sibling, gateway.client() as paying:
            return [await status(each) for each in (client, sibling, paying, paying)]

    assert with_limits(tmp_path, "{requests_per_minute: 1}", scenario) == [200, 429, 200, 200]


def test_a_change_of_tier_counts_with_the_very_next_request(tmp_path):
    async def scenario(gateway, client):
        told = [await status(client)]
        for tier in ("open", "team"):
            await gateway.subscribe(tier)
            told.append(await status(client))
        return told

    assert with_limits(tmp_path, "{requests_per_minute: 1}", scenario) == [200, 200, 429]


def test_a_model_is_refused_by_any_name_that_leads_to_it(tmp_path):
    async def scenario(_, client):
        names = ("fast", "quick", "smart", "claude-opus-5-5", "auto")
        return {name: await client.post(ROUTES["openai"], json=asked(name)) for name in names}

    replies = with_limits(tmp_path, "{models: [f*t]}", scenario)

    codes = {name: reply.status_code for name, reply in replies.items()}
    assert codes == {"fast": 200, "quick": 200, "smart": 403, "claude-opus-5-5": 403, "auto": 403}
    assert replies["auto"].json()["error"]["code"] == "key_not_allowed"
    assert replies["auto"].headers["x-should-retry"] == "false"
    assert message_of(replies["auto"]) == (
        "This API key may not use the model `smart`. Use one of: `fast`."
    )


PRIVATE = [
    ("POST", "/cline/v1/messages"),
    ("POST", "/cline/v1/messages/count_tokens"),
    ("POST", "/codex/v1/responses"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/smart"),
    ("GET", "/tenant/usage"),
    ("GET", "/tenant/credits"),
    ("GET", "/tenant/subscription"),
    ("GET", "/tenant/keys"),
    ("POST", "/tenant/keys"),
    ("POST", "/tenant/billing/topup"),
]


def test_a_client_elsewhere_is_refused_on_every_private_route_before_its_body_is_read(tmp_path):
    """The address is that behind the trusted proxy; what the client says before it is not."""

    async def scenario():
        limits = '{networks: ["203.0.113.0/24"]}'
        text = config(limits, more="server: {trusted_proxies: [127.0.0.1]}")
        async with started(tmp_path, text) as gateway:
            _, secret = await gateway.mint(billing=Billing.SUBSCRIPTION)
            told = {}
            for method, path in PRIVATE:
                head = request(
                    method,
                    path,
                    None,
                    x_api_key=secret,
                    x_forwarded_for="203.0.113.7, 198.51.100.1",
                    **({"content_length": "5000"} if method == "POST" else {}),
                )
                async with wire(gateway.url) as connection:
                    told[method, path] = await connection.ask(head)
            inside = {"x-forwarded-for": "198.51.100.1, 203.0.113.7"}
            async with gateway.client(secret) as client:
                client.headers.update(inside)
                served = await client.post(ROUTES["anthropic"], json=asked())
                listed = await client.get("/v1/models")
                public = await client.get("/pricing", headers={"x-forwarded-for": "198.51.100.1"})
            return told, [reply.status_code for reply in (served, listed, public)]

    told, inside = asyncio.run(scenario())

    assert {place: reply.status for place, reply in told.items()} == dict.fromkeys(told, 403)
    messages = {reply.json()["error"]["message"] for reply in told.values()}
    assert messages == {"This API key may not be used from your address."}
    assert inside == [200, 200, 200]


def test_token_counts_models_and_what_a_tenant_sees_are_outside_the_limits(tmp_path):
    async def scenario(_, client):
        free = []
        for _ in range(3):
            free.append(await client.post("/cline/v1/messages/count_tokens", json=asked()))
            free.append(await client.get("/v1/models"))
            free.append(await client.get("/tenant/usage"))
        first = await client.post(ROUTES["anthropic"], json=asked("fast"))
        second = await client.post(ROUTES["anthropic"], json=asked("fast"))
        free.append(await client.post("/v1/messages/count_tokens", json=asked()))
        return free, first, second

    limits = "{requests_per_minute: 1, concurrent_requests: 1, models: [fast]}"
    free, first, second = with_limits(tmp_path, limits, scenario)

    assert {reply.status_code for reply in free} == {200}
    assert (first.status_code, second.status_code) == (200, 429)


def test_shadow_refuses_nothing_and_tells_what_it_would_have(tmp_path):
    async def scenario(gateway, client):
        path = ROUTES["anthropic"]
        replies = [await client.post(path, json=asked("fast")) for _ in range(3)]
        replies.append(await client.post(path, json=asked("smart")))
        outside = {"x-forwarded-for": "198.51.100.1"}
        replies.append(await client.post(path, json=asked("fast"), headers=outside))
        replies.append(await client.get("/v1/models", headers=outside))
        async with gateway.client() as plain:
            figures = parse((await plain.get("/metrics")).text)
        return [reply.status_code for reply in replies], figures

    limits = '{requests_per_minute: 1, models: [fast], networks: ["203.0.113.0/24", "127.0.0.1"]}'
    more = "server: {trusted_proxies: [127.0.0.1]}"
    codes, figures = with_limits(tmp_path, limits, scenario, mode="shadow", more=more)

    assert codes == [200] * 6
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    over = "requests_per_minute"
    assert [line.get("would_block") for line in lines] == [None, over, over, "models", "networks"]
    name = "gatewayctl_limits_total"
    assert figures.total(name, limit=over, mode="shadow") == 2
    assert figures.total(name, limit="models", mode="shadow") == 1
    assert figures.total(name, limit="networks", mode="shadow") == 2
    assert figures.total(name) == 5


def test_refusals_are_counted_by_limit_and_name_nobody(tmp_path):
    async def scenario(gateway, client):
        for _ in range(3):
            await client.post(ROUTES["anthropic"], json=asked())
        async with gateway.client() as plain:
            return (await plain.get("/metrics")).text

    text = with_limits(tmp_path, "{requests_per_minute: 1}", scenario)

    assert 'gatewayctl_limits_total{limit="requests_per_minute",mode="enforce"} 2\n' in text
    assert "key_" not in text
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    assert [line.get("error") for line in lines] == [None, "rate_limited", "rate_limited"]


@pytest.mark.parametrize("mode", ["enforce", "shadow"])
def test_who_calls_from_elsewhere_is_counted_once_on_every_route(tmp_path, mode):
    """Remembered or not, and whether or not something else refuses the request as well."""

    async def scenario():
        async with started(tmp_path, config("{}", mode=mode)) as gateway:
            key_id, secret = await gateway.mint()
            async with gateway.client(secret) as client:
                told = [await status(client)]
                away = {"networks": ["203.0.113.0/24"]}
                write = gateway.services.store.write
                await write(keys.limit, key_id, away, actor="cli", now=clock.now())
                told += [await status(client), await status(client), await status(client, "none")]
                told.append((await client.get("/v1/models")).status_code)
            return told, +gateway.gateway.limiter.hits

    told, hits = asyncio.run(scenario())

    assert told == [200, *([200, 200, 404, 200] if mode == "shadow" else [403] * 4)]
    assert hits == {("networks", mode): 4}


@pytest.mark.parametrize("mode", ["enforce", "shadow"])
@pytest.mark.parametrize("limits", [{"models": ("fast",)}, {"networks": ("203.0.113.0/24",)}])
def test_a_limit_that_was_lifted_counts_no_request_that_is_served_now(tmp_path, limits, mode):
    async def scenario():
        async with started(tmp_path, config("{}", mode=mode)) as gateway:
            key_id, secret = await gateway.mint(limited=UsageLimits(**limits))
            async with gateway.client(secret) as client:
                told = [await status(client)]
                write, lifted = gateway.services.store.write, dict.fromkeys(limits)
                await write(keys.limit, key_id, lifted, actor="cli", now=clock.now())
                told.append(await status(client))
            return told, gateway.gateway.limiter.hits.total()

    assert asyncio.run(scenario()) == ([200 if mode == "shadow" else 403, 200], 1)


def test_a_place_is_free_again_however_its_request_ended(tmp_path):
    """Reset by its upstream, refused by it, answered, or refused before it left."""

    async def scenario():
        async with upstream(["RST"], FAILURE, ANSWER) as there:
            text = config("{concurrent_requests: 1}", url=there.url)
            async with started(tmp_path, text) as gateway, await subscriber(gateway) as client:
                told = [await status(client) for _ in range(3)]
                tenant_id = (await gateway.rows())[0]["tenant"]
                store = gateway.services.store
                await store.write(subscriptions.cancel, tenant_id, clock.now())
                told += [await status(client) for _ in range(2)]
                await gateway.subscribe("team")
                return [*told, await status(client), await status(client)]

    told = asyncio.run(scenario())

    assert told == [502, 502, 200, 402, 402, 200, 200]


def test_a_place_is_free_again_whenever_its_client_leaves(tmp_path):
    async def scenario(gateway, client):
        secret = client.headers["x-api-key"]
        body = json.dumps(asked("endless", stream=True)).encode()
        data = request("POST", ROUTES["anthropic"], body, x_api_key=secret)
        for turn in range(30):
            async with wire(gateway.url) as connection:
                await connection.send(data)
                if turn % 3:
                    await asyncio.wait_for(connection.reader.read(turn * 40), 5)
                elif turn % 2:
                    await asyncio.sleep(turn / 3000)
        await until(lambda: not gateway.gateway.pumps)
        return await client.post(ROUTES["anthropic"], json=asked())

    demo = DemoOptions(pace_words_per_s=500)
    after = with_limits(tmp_path, "{concurrent_requests: 1}", scenario, demo=demo)

    assert after.status_code == 200


def test_a_place_is_free_again_at_whatever_await_a_request_is_cancelled(tmp_path):
    async def scenario(gateway, client):
        server, bounds = gateway.gateway, (ONE_AT_A_TIME,)
        secret = client.headers["x-api-key"]
        caller = gateway.services.store.point(keys.authenticate, [secret], clock.now())

        async def ask(number, model):
            raw = json.dumps(asked(model, stream=True)).encode()
            made = f"req_{number}"
            call = Call(caller, Protocol.ANTHROPIC, "cline", {}, raw, made, bounds=bounds)
            async with server.serve(call) as flight:
                while await flight.relay.handoff.get():
                    pass

        for steps in range(40):
            task = asyncio.create_task(ask(steps, "endless"))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: not server.pumps)
        await ask("last", "smart")
        with pytest.raises(ModelNotFound, match="nothing"):
            await ask("unknown", "nothing")
        await ask("after", "smart")

    with_limits(tmp_path, "{}", scenario)


def test_counters_outlive_a_reload(tmp_path):
    async def scenario(gateway, client):
        told = [await status(client)]
        before = gateway.gateway.rules
        lay_out(tmp_path, config("{requests_per_minute: 2}"))
        await until(lambda: gateway.gateway.rules is not before)
        return [*told, await status(client), await status(client)]

    assert with_limits(tmp_path, "{requests_per_minute: 1}", scenario) == [200, 200, 429]


def test_a_key_meets_its_own_limits_and_its_children_share_them(tmp_path):
    async def scenario():
        async with started(tmp_path, config("{}")) as gateway:
            parent, secret = await gateway.mint(limited=UsageLimits(requests_per_minute=2))
            async with gateway.client(secret) as client, gateway.client() as other:
                minted = await client.post("/tenant/keys", json={"name": "child"})
                async with gateway.client(minted.json()["secret"]) as child:
                    told = [await status(each) for each in (client, child, other)]
                    refused = [
                        message_of(await each.post(ROUTES["anthropic"], json=asked()))
                        for each in (client, child)
                    ]
                    return parent, told, refused

    parent, told, refused = asyncio.run(scenario())

    assert told == [200, 200, 200]
    of_both = "The limit of 2 requests per minute for this key{} is reached. Try again in "
    assert refused[0].startswith(of_both.format(""))
    assert refused[1].startswith(of_both.format(f" and {parent} together"))


def test_a_successor_takes_over_what_its_key_has_used_of_its_limits(tmp_path):
    """A rotation gives no second minute's worth, to the old key in its grace either."""

    async def scenario():
        async with started(tmp_path, config("{}")) as gateway:
            key_id, secret = await gateway.mint(limited=UsageLimits(requests_per_minute=2))
            successor = secrets.generate()
            async with gateway.client(secret) as old, gateway.client(successor) as new:
                told = [await status(old)]
                grace = {"grace": timedelta(hours=1), "created_by": "cli", "now": clock.now()}
                write = gateway.services.store.write
                await write(keys.rotate, None, key_id, secret=successor, **grace)
                return [*told, await status(new), await status(new), await status(old)]

    assert asyncio.run(scenario()) == [200, 200, 429, 429]


def test_a_change_of_a_keys_limits_counts_with_the_very_next_request(tmp_path):
    """Given, changed and lifted while the server knows the key: each is met at once."""

    async def scenario():
        async with started(tmp_path, config("{}")) as gateway:
            key_id, secret = await gateway.mint()
            store = gateway.services.store

            async def change(**limits):
                now = clock.now()
                await store.write(keys.limit, key_id, limits, actor="cli", now=now)

            async with gateway.client(secret) as client:
                told = [await status(client), await status(client)]
                await change(models=["fast"])
                told.append(await status(client))
                await change(models=["fast", "smart"])
                told.append(await status(client))
                await change(networks=["203.0.113.0/24"])
                told.append(await status(client))
                await change(networks=None, models=None)
                return [*told, await status(client), await status(client)]

    assert asyncio.run(scenario()) == [200, 200, 403, 200, 403, 200, 200]


def test_a_change_of_a_keys_limits_counts_the_next_request_once(tmp_path):
    """It is judged by the former limits first, and anew by those of now."""

    async def scenario():
        async with started(tmp_path, config("{}")) as gateway:
            limited = UsageLimits(concurrent_requests=1, requests_per_minute=2)
            key_id, secret = await gateway.mint(limited=limited)
            async with gateway.client(secret) as client:
                told = [await status(client)]
                store, limits = gateway.services.store, {"tokens_per_minute": 1_000_000}
                await store.write(keys.limit, key_id, limits, actor="cli", now=clock.now())
                return [*told, await status(client), await status(client)]

    assert asyncio.run(scenario()) == [200, 200, 429]
