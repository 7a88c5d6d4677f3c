"""`/tenant/keys` and `/tenant/usage` as clients use them."""

import json
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from support.gateways import started
from support.wires import ASK, check_refusal, request, run, wire

from server import clock
from server.store.models import Request
from server.tenants import keys, secrets, tenants
from server.tenants.keys import Billing, Scope

KEY_FIELDS = [
    "id",
    "object",
    "name",
    "member",
    "billing",
    "scope",
    "prefix",
    "last4",
    "status",
    "created_at",
    "created_by",
    "expires_at",
    "last_used_at",
    "revoked_at",
    "limits",
    "limits_key_id",
]


async def _create(gateway, fields, secret=None):
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    async with wire(gateway.url) as connection:
        return await connection.ask(
            request("POST", "/tenant/keys", body, x_api_key=secret or gateway.secret)
        )


async def _other_tenant(gateway):
    """A key of another tenant: its id and its secret."""
    secret, now = secrets.generate(), clock.now()

    def add():
        other = tenants.create("other", now)
        return keys.mint(
            other.id,
            "theirs",
            billing=Billing.PAY_PER_TOKEN,
            scope=Scope.MANAGE,
            member=None,
            expires_at=None,
            created_by="cli",
            now=now,
            secret=secret,
        ).key.public_id

    return await gateway.services.store.write(add), secret


def test_a_key_is_made_with_the_least_rights_and_its_secret_is_shown_once(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway, gateway.client() as client:
            made = await client.post("/tenant/keys", json={"name": "ci"})
            shown = await client.get(f"/tenant/keys/{made.json()['id']}")
            listed = await client.get("/tenant/keys")
            secret = made.json()["secret"]
            served = await client.post("/v1/messages", json=ASK, headers={"x-api-key": secret})
        return made, shown, listed, served, secret

    made, shown, listed, served, secret = run(scenario)

    key = made.json()
    assert made.status_code == 201
    assert list(key) == [*KEY_FIELDS, "secret"]
    assert (key["name"], key["scope"], key["billing"]) == ("ci", "inference", "pay_per_token")
    assert (key["status"], key["expires_at"], key["member"]) == ("active", None, None)
    assert secret.startswith(key["prefix"])
    assert secret.endswith(key["last4"])
    assert shown.json() == {name: key[name] for name in KEY_FIELDS}
    assert listed.json()["data"][0] == shown.json()
    assert listed.json()["data"][1]["id"] == key["created_by"]
    assert (listed.json()["object"], listed.json()["has_more"]) == ("list", False)
    assert secret not in listed.text
    assert served.status_code == 200


BAD_FIELDS = [
    ({}, 400, "name"),
    (b"", 400, "name"),
    ({"name": ""}, 400, "name"),
    ({"name": "x" * 101}, 400, "name"),
    ({"name": "two\nlines"}, 400, "name"),
    ({"name": 1}, 400, "name"),
    ({"name": None}, 400, "name"),
    ({"name": "x", "member": ""}, 400, "member"),
    ({"name": "x", "member": ["a"]}, 400, "member"),
    ({"name": "x", "scope": "admin"}, 400, "scope"),
    ({"name": "x", "scope": ["manage"]}, 400, "scope"),
    ({"name": "x", "billing": "free"}, 400, "billing"),
    ({"name": "x", "billing": {}}, 400, "billing"),
    ({"name": "x", "billing": "subscription"}, 403, "billing"),
    ({"name": "x", "tenant": 1}, 400, "tenant"),
    ({"name": "x", "allowed_routes": ["/*"]}, 400, "allowed_routes"),
    ({"name": "x", "Name": "y"}, 400, "Name"),
    ({"name": "x", "expires_at": "tomorrow"}, 400, "expires_at"),
    ({"name": "x", "expires_at": 1}, 400, "expires_at"),
    ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, 400, "expires_at"),
    ({"name": "x", "expires_at": "9999-12-31T23:59:59-23:59"}, 400, "expires_at"),
    (b'{"name": "x", "expires_at": ' + b"9" * 6000 + b"}", 400, None),
    (b"[]", 400, None),
    (b'{"name": "\\ud800"}', 400, None),
    (b'{"name": "\xff"}', 400, None),
    (b'{"name": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", 400, None),
]


def test_a_field_that_cannot_be_used_is_named(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway:
            replies = [await _create(gateway, fields) for fields, _, _ in BAD_FIELDS]
            return replies, len(await gateway.services.store.read(lambda: list(keys.Key.select())))

    replies, count = run(scenario)

    for reply, (_, status, param) in zip(replies, BAD_FIELDS, strict=True):
        code = "invalid_request" if status == 400 else "key_not_allowed"
        check_refusal(reply, "openai", status, code)
        assert reply.json()["error"]["param"] == param
    assert count == 1


def test_a_child_never_outlives_or_outranks_its_parent(tmp_path):
    soon = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
    later = clock.rfc3339(soon + timedelta(seconds=1))
    earlier = clock.rfc3339(soon - timedelta(minutes=1))

    async def scenario():
        async with started(tmp_path) as gateway:
            _, parent = await gateway.mint(
                expires_at=soon, billing=Billing.SUBSCRIPTION, scope=Scope.MANAGE
            )
            wanted = [
                {"name": "x", "expires_at": later},
                {"name": "x", "billing": "pay_per_token"},
                {"name": "x", "expires_at": None},
                {"name": "x", "expires_at": earlier, "scope": "manage", "member": "ada"},
            ]
            return [await _create(gateway, fields, parent) for fields in wanted]

    outlives, outranks, inherits, made = run(scenario)

    check_refusal(outlives, "openai", 403, "key_not_allowed")
    check_refusal(outranks, "openai", 403, "key_not_allowed")
    assert inherits.json()["expires_at"] == clock.rfc3339(soon)
    assert inherits.json()["billing"] == "subscription"
    key = made.json()
    assert (key["expires_at"], key["scope"], key["member"]) == (earlier, "manage", "ada")


def test_another_tenants_key_looks_like_one_that_does_not_exist(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway:
            theirs, their_secret = await _other_tenant(gateway)
            nobody = secrets.new_id("key_")
            async with wire(gateway.url) as connection:
                seen = []
                for key_id in (theirs, nobody):
                    for asked in (
                        ("GET", f"/tenant/keys/{key_id}"),
                        ("DELETE", f"/tenant/keys/{key_id}"),
                        ("GET", f"/tenant/usage?key_id={key_id}"),
                        ("GET", f"/tenant/keys?after_id={key_id}"),
                    ):
                        reply = await connection.ask(request(*asked, x_api_key=gateway.secret))
                        seen.append((reply.status, reply.body.replace(key_id.encode(), b"KEY")))
                alive = await connection.ask(request("GET", "/tenant/keys", x_api_key=their_secret))
        return seen, alive

    seen, alive = run(scenario)

    assert seen[:4] == seen[4:]
    assert [status for status, _ in seen[:4]] == [404, 404, 404, 400]
    assert [key["status"] for key in alive.json()["data"]] == ["active"]


def test_pages_cover_all_keys_once_newest_first(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway, gateway.client() as client:
            made = [(await gateway.mint())[0] for _ in range(44)]
            seen, last, sizes = [], "", []
            while True:
                page = (await client.get(f"/tenant/keys?limit=20{last}")).json()
                seen += [key["id"] for key in page["data"]]
                sizes.append(len(page["data"]))
                if not page["has_more"]:
                    break
                last = f"&after_id={seen[-1]}"
            default = (await client.get("/tenant/keys")).json()
            whole = (await client.get("/tenant/keys?limit=100")).json()
        return made, seen, sizes, default, whole

    made, seen, sizes, default, whole = run(scenario)

    assert seen[:-1] == made[::-1]
    assert sizes == [20, 20, 5]
    assert (len(default["data"]), default["has_more"]) == (20, True)
    assert [key["id"] for key in whole["data"]] == seen


BAD_QUERIES = [
    ("keys?limit=0", "limit"),
    ("keys?limit=101", "limit"),
    ("keys?limit=-1", "limit"),
    ("keys?limit=1e2", "limit"),
    ("keys?limit=%D9%A3", "limit"),
    ("keys?limit=" + "9" * 5000, "limit"),
    ("keys?after_id=nobody", "after_id"),
    ("keys?after_id=%00%ff", "after_id"),
    ("usage?from=yesterday", "from"),
    ("usage?from=2026-13-01", "from"),
    ("usage?to=20261101", "to"),
    ("usage?to=9999-12-31", "to"),
    ("usage?from=1969-12-31", "from"),
    ("usage?from=2026-11-02&to=2026-11-01", "from"),
    ("usage?from=2024-01-01&to=2026-01-01", "from"),
    ("usage?tz=Mars/Olympus", "tz"),
    ("usage?tz=../../etc/passwd", "tz"),
    ("usage?tz=/etc/localtime", "tz"),
    ("usage?tz=America", "tz"),
    ("usage?tz=%00", "tz"),
    ("usage?tz=" + "A" * 5000, "tz"),
]


def test_a_query_that_cannot_be_used_is_a_400_that_names_it(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway, wire(gateway.url) as connection:
            return [
                await connection.ask(request("GET", f"/tenant/{query}", x_api_key=gateway.secret))
                for query, _ in BAD_QUERIES
            ]

    for reply, (_, param) in zip(run(scenario), BAD_QUERIES, strict=True):
        assert len(check_refusal(reply, "openai", 400, "invalid_request")) < 400
        assert reply.json()["error"]["param"] == param


def _row(number, key_id, tenant_id, started_at):
    """A settled request's row, whose figures follow from its number."""
    return {
        "request_id": f"req_{number}",
        "state": "settled",
        "instance": 1,
        "tenant": tenant_id,
        "key": key_id,
        "protocol": "anthropic",
        "stream": False,
        "requested_model": "smart",
        "model": "smart",
        "upstream": "demo",
        "upstream_model": "demo-smart",
        "started_at": started_at,
        "input_tokens": number,
        "cache_read_input_tokens": 2 * number,
        "cache_write_5m_tokens": 3 * number,
        "cache_write_1h_tokens": 5 * number,
        "output_tokens": 7 * number,
    }


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/St_Johns"])
def test_usage_agrees_with_a_naive_count_of_the_rows(tmp_path, zone):
    first = datetime(2026, 3, 5, 1, 30, tzinfo=UTC)
    moments = [first + timedelta(hours=5 * number) for number in range(60)]

    async def scenario():
        async with started(tmp_path) as gateway:
            store = gateway.services.store
            other_id, other = await gateway.mint(scope=Scope.INFERENCE)
            mine = await store.read(lambda: list(keys.Key.select().order_by(keys.Key.id)))
            rows = [
                _row(number, mine[number % 2].id, mine[0].tenant_id, moment)
                for number, moment in enumerate(moments)
            ]
            stranger = await store.write(tenants.create, "stranger", clock.now())
            theirs = [_row(1000, mine[0].id, stranger.id, first)]
            await store.write(lambda: Request.insert_many([*rows, *theirs]).execute())
            query = f"/tenant/usage?from=2026-03-06&to=2026-03-15&tz={zone}"
            async with wire(gateway.url) as connection:
                answers = [
                    await connection.ask(request("GET", path, x_api_key=secret))
                    for path, secret in (
                        (query, gateway.secret),
                        (f"{query}&key_id={other_id}", gateway.secret),
                        (query, other),
                        (f"{query}&key_id={mine[0].public_id}", other),
                    )
                ]
            return answers, rows, mine[1].id

    (whole, one, own, foreign), rows, other_id = run(scenario)

    def count(chosen):
        days = {}
        for row in chosen:
            day = row["started_at"].astimezone(ZoneInfo(zone)).date().isoformat()
            days[day] = days.get(day, 0) + row["input_tokens"]
        return days

    for reply, chosen in ((whole, rows), (one, [r for r in rows if r["key"] == other_id])):
        document, expected = reply.json(), count(chosen)
        assert [day["date"] for day in document["data"]] == [
            f"2026-03-{day:02}" for day in range(6, 16)
        ]
        total = 0
        for day in document["data"]:
            tokens = expected.get(day["date"], 0)
            total += tokens
            assert day["input_tokens"] == tokens
            assert day["cache_read_input_tokens"] == 2 * tokens
            assert day["cache_creation_input_tokens"] == 8 * tokens
            assert day["output_tokens"] == 7 * tokens
            assert day["total_tokens"] == 18 * tokens
        assert document["total"]["input_tokens"] == total
        assert document["tz"] == zone
    assert own.json() == one.json()
    check_refusal(foreign, "openai", 403, "scope_not_allowed")


def test_usage_counts_what_was_just_asked_by_default(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway, gateway.client() as client:
            answer = (await client.post("/claudecode/v1/messages", json=ASK)).json()
            usage = (await client.get("/tenant/usage")).json()
        return answer, usage

    answer, usage = run(scenario)

    assert usage["object"] == "usage"
    assert len(usage["data"]) == 30
    assert usage["data"][-1] == {"date": usage["to"], **usage["total"]}
    assert usage["total"]["requests"] == 1
    assert usage["total"]["output_tokens"] == answer["usage"]["output_tokens"]
    assert usage["total"]["cost_micros"] > 0
