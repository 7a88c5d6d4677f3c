"""An edited config is taken over by a running gateway: whole or not at all."""

import asyncio
import gc
import logging
import os
import re
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.gateways import ASKING_ONCE, DEMO_CONFIG, config_for, started
from support.raw_upstream import until
from support.wires import ASK, MESSAGE, http_answer, recording

from server.calls import Rules
from server.store import audit

STREAM = ASK | {"stream": True}
PRICE = 'price: {input: "4", output: "20"}'
SLOW = f'  slow: {{targets: [{{upstream: demo, model: "fault:stall:1.2"}}], {PRICE}}}\n'
ENDLESS = f'  endless: {{targets: [{{upstream: demo, model: "fault:endless:20"}}], {PRICE}}}\n'
KEYLESS = '{protocol: openai, base_url: "http://127.0.0.1:1", api_key: "${NO_KEY}"}'
CONFIG = DEMO_CONFIG.replace("aliases:", SLOW + "aliases:") + ASKING_ONCE


class Edited:
    """A running gateway and its config file, which every way of editing may meet."""

    def __init__(self, gateway, caplog, asked):
        self.gateway, self.asked = gateway, asked
        self.path = gateway.folder / "config.yaml"
        self._caplog = caplog

    @property
    def rules(self):
        return self.gateway.gateway.rules

    @property
    def config(self):
        return self.rules.config

    def replace(self, old, new):
        text = self.path.read_text()
        assert old in text
        self.path.write_text(text.replace(old, new))

    async def said(self, words, *, times=1):
        """Wait until the log says it; give the last such line."""

        def lines():
            return [
                each.getMessage() for each in self._caplog.records if words in each.getMessage()
            ]

        await until(lambda: len(lines()) >= times)
        return lines()[-1]

    async def refused(self):
        return await self.said("config was not reloaded")

    async def reloaded(self, times=1):
        return await self.said("config reloaded", times=times)

    async def audited(self, action="config.reloaded"):
        await self.gateway.services.store.write(lambda: None)  # what is queued before is written
        rows = await self.gateway.services.store.read(
            lambda: [audit.as_json(each) for each in audit.newest_first()]
        )
        return [each for each in rows if each["action"] == action]


@pytest.fixture
def edited(tmp_path, caplog):
    caplog.set_level(logging.INFO)

    @asynccontextmanager
    async def opened(config=CONFIG, **options):
        asked = asyncio.Event()
        options = {"reload_every_s": 0.05, "reload": asked, **options}
        async with started(tmp_path, config, **options) as gateway:
            yield Edited(gateway, caplog, asked)

    return opened


def _by_rename(path, text):
    fresh = path.with_name(".config.yaml.tmp")
    fresh.write_text(text)
    fresh.rename(path)


def _by_truncation(path, text):
    with path.open("w") as stream:
        for part in (text[: len(text) // 2], text[len(text) // 2 :]):
            stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())


def _by_backup(path, text):
    backup = path.with_name("config.yaml~")
    path.rename(backup)
    path.write_text(text)
    backup.unlink()


def _by_moments_of_rubbish(path, text):
    path.write_text("models: {")
    path.write_text("")
    path.write_text(text)


@pytest.mark.parametrize(
    "edit",
    [_by_rename, _by_truncation, _by_backup, _by_moments_of_rubbish],
    ids=lambda e: e.__name__,
)
def test_however_a_file_is_edited_it_is_taken_over_once_and_nothing_else_is_said(
    edited, caplog, edit
):
    async def scenario():
        async with edited() as here:
            text = here.path.read_text().replace("demo-smart", "demo-other")
            edit(here.path, text)
            await here.reloaded()
            await asyncio.sleep(0.5)  # more looks at the same file
            return here.config.models["smart"].targets[0].model, await here.audited()

    model, rows = asyncio.run(scenario())

    assert model == "demo-other"
    assert [each["details"]["changed"] for each in rows] == [["models"]]
    assert "not reloaded" not in caplog.text


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("models:", "models: [", r"config\.yaml:\d+: .*YAML"),
        (CONFIG, "", r"config\.yaml:1: is empty"),
        ("aliases:", "alliases:", r"config\.yaml:\d+: alliases: "),
        ('"0.75"', "0.75", r"config\.yaml:\d+: models\.fast\.price\.input: "),
        ("{protocol: demo}", KEYLESS, r"config\.yaml:3: upstreams\.demo\.api_key: resolves to "),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_whole_with_its_place_and_told_once(
    edited, caplog, old, new, said
):
    async def scenario():
        async with edited() as here:
            before, text = here.rules, here.path.read_text()
            here.replace(old, new)
            await here.refused()
            await asyncio.sleep(0.5)
            kept = here.rules is before
            here.path.write_text(text.replace("demo-fast", "demo-faster"))
            await here.reloaded()
            return kept, here.config.models["fast"].targets[0].model, len(await here.audited())

    assert asyncio.run(scenario()) == (True, "demo-faster", 1)
    (line,) = [each.getMessage() for each in caplog.records if "not reloaded" in each.getMessage()]
    assert re.search(said, line)


def test_a_running_stream_ends_at_its_old_price_and_the_next_request_pays_the_new_one(edited):
    async def scenario():
        async with edited() as here, here.gateway.client() as client:
            async with client.stream(
                "POST", "/v1/messages", json=STREAM | {"model": "slow"}
            ) as old:
                here.replace('{input: "4", output: "20"}', '{input: "400", output: "2000"}')
                await here.reloaded()
                prices = {name: each.number for name, each in here.rules.prices.items()}
                body = await old.aread()
            await client.post("/v1/messages", json=STREAM | {"model": "slow"})
            return prices, body, await here.gateway.rows()

    prices, body, (old, new) = asyncio.run(scenario())

    assert b"message_stop" in body
    assert new["price"] == prices["slow"] > old["price"]
    assert new["output_tokens"] == old["output_tokens"]
    assert new["cost_micros"] == 100 * old["cost_micros"] > 0


def test_a_running_stream_ends_at_an_upstream_that_the_config_has_no_more(edited):
    both = CONFIG.replace("upstreams:", "upstreams:\n  other: {protocol: demo}")

    async def scenario():
        async with edited(both) as here, here.gateway.client() as client:
            ask = STREAM | {"model": "slow"}
            async with client.stream("POST", "/v1/messages", json=ask) as old:
                here.path.write_text(re.sub(r"\bdemo\b(?=[:,])", "other", CONFIG))
                await here.reloaded()
                was_running = bool(here.gateway.gateway.pumps)
                body = await old.aread()
            await client.post("/v1/messages", json=ask)
            rows = await here.gateway.rows()
            return was_running, body, [(row["upstream"], row["outcome"]) for row in rows]

    was_running, body, rows = asyncio.run(scenario())

    assert was_running
    assert b"message_stop" in body
    assert rows == [("demo", "completed"), ("other", "completed")]


def test_upstreams_that_may_be_silent_for_longer_are_waited_for(edited):
    async def scenario():
        async with recording(http_answer(200, MESSAGE)) as there:
            timeouts = "timeouts: {first_byte_s: 7000}, protocol"
            async with edited(config_for(there.url)) as here, here.gateway.client() as client:
                await client.get("/healthz")
                (connection,) = here.gateway.running.connections
                before = connection.response_timeout
                here.replace("protocol", timeouts)
                await here.reloaded()
                return before, connection.response_timeout

    assert asyncio.run(scenario()) == (660, 7060)


def test_a_first_demo_upstream_waits_for_a_restart(edited):
    async def scenario():
        async with recording(None) as there, edited(config_for(there.url)) as here:
            here.replace("upstreams:\n", "upstreams:\n  demo: {protocol: demo}\n")
            return await here.refused()

    said = asyncio.run(scenario())

    assert said.endswith(
        "config.yaml:3: upstreams.demo.protocol: the demo model starts with the gateway: restart it"
    )


def test_a_tier_that_somebody_subscribes_to_cannot_be_taken_away(edited):
    async def scenario():
        async with edited() as here:
            before = here.rules
            here.replace("tiers: {team: {name: Team, price_cents: 2000}}", "tiers: {}")
            return await here.refused(), here.rules is before

    said, is_kept = asyncio.run(scenario())

    assert re.search(
        r"config.yaml:\d+: tiers\.team: is gone, but 1 tenant is subscribed to it", said
    )
    assert is_kept


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ("", "models.endless: is gone, but 1 request is running on it"),
        (ENDLESS.replace(PRICE, "free: true"), "models.endless.price: is gone, but 1 request "),
    ],
)
def test_a_running_requests_model_and_price_cannot_be_taken_away_until_it_has_ended(
    edited, instead, said
):
    async def scenario():
        async with edited(CONFIG.replace(SLOW, SLOW + ENDLESS)) as here:
            before = here.rules
            async with here.gateway.client() as client:
                ask = STREAM | {"model": "endless"}
                async with client.stream("POST", "/v1/messages", json=ask) as reply:
                    pieces = reply.aiter_bytes()
                    await anext(pieces)
                    here.replace(ENDLESS, instead)
                    await here.said(said)
                    is_kept = here.rules is before
            await until(lambda: not here.gateway.gateway.pumps)
            here.asked.set()
            await here.reloaded()
            return is_kept, "endless" in here.rules.prices

    assert asyncio.run(scenario()) == (True, False)


def test_an_edited_preset_is_audited_by_its_tool(edited):
    """It changes what models are told, in everybody's name."""

    async def scenario():
        async with edited() as here:
            folder = here.gateway.folder / "presets"
            (folder / "cline.yaml").write_text("tool: cline\nversion: 9\n")
            await here.said("presets reloaded, changed: cline")
            return folder, await here.audited("presets.reloaded")

    folder, (row,) = asyncio.run(scenario())

    assert (row["target"], row["details"]) == (str(folder), {"changed": ["cline"]})


def test_a_model_that_a_preset_names_cannot_be_taken_away(edited):
    async def scenario():
        async with edited() as here:
            preset = here.gateway.folder / "presets" / "cline.yaml"
            preset.write_text("tool: cline\nversion: 9\nmodel: fast\n")
            await here.said("presets reloaded")
            here.path.write_text(CONFIG.replace("fast:", "quick:"))
            return await here.refused()

    assert "cline.yaml: model: " in asyncio.run(scenario())


def test_config_and_presets_that_need_one_another_are_taken_over_together(edited):
    async def scenario():
        async with edited() as here:
            preset = here.gateway.folder / "presets" / "cline.yaml"
            preset.write_text("tool: cline\nversion: 9\nmodel: quick\n")
            await here.said("presets were not reloaded")
            here.path.write_text(CONFIG.replace("fast:", "quick:"))
            await here.reloaded()
            await here.said("presets reloaded, changed: cline")
            return here.rules.presets["cline"].model, list(here.config.models)

    assert asyncio.run(scenario()) == ("quick", ["smart", "quick", "slow"])


def test_what_needs_a_restart_stays_and_is_said(edited):
    async def scenario():
        async with edited() as here:
            here.path.write_text(CONFIG + "server: {port: 1, drain_s: 3}\ndatabase: other.db\n")
            said = await here.said("need a restart")
            server = here.gateway.services.settings.config.server
            return said, server.port, server.drain_s, await here.audited()

    said, port, drain_s, (row,) = asyncio.run(scenario())

    assert said == "these changes need a restart: server.port, database"
    assert (port, drain_s) == (8080, 3)
    assert row["details"]["changed"] == ["server"]
    assert row["details"]["needs_restart"] == ["server.port", "database"]
    assert row["actor"].startswith("serve:")


def test_upstreams_change_and_what_was_called_before_is_hung_up_on(edited):
    async def scenario():
        async with (
            recording(http_answer(200, MESSAGE)) as first,
            recording(http_answer(200, MESSAGE)) as second,
            edited(config_for(first.url)) as here,
            here.gateway.client() as client,
        ):
            await client.post("/v1/messages", json=ASK)
            pool = here.gateway.gateway.upstream.pool
            kept = pool.open_count
            here.path.write_text(config_for(second.url))
            await here.reloaded()
            await until(lambda: not pool.open_count)
            await client.post("/v1/messages", json=ASK)
            return kept, len(first.bodies), len(second.bodies)

    assert asyncio.run(scenario()) == (1, 1, 1)


def test_a_key_in_a_file_is_read_anew_when_asked(edited, tmp_path):
    (tmp_path / "key").write_text("first-fake-key")

    async def scenario():
        async with recording(http_answer(200, MESSAGE)) as there:
            config = config_for(there.url).replace("sk-fake-upstream-key", "file:key")
            async with edited(config) as here, here.gateway.client() as client:
                await client.post("/v1/messages", json=ASK)
                (tmp_path / "key").write_text("second-fake-key")
                here.asked.set()
                await here.reloaded()
                await client.post("/v1/messages", json=ASK)
                return here.gateway.services.watch.reloads, there.heads

    reloads, heads = asyncio.run(scenario())

    assert reloads == {"done": 1, "refused": 0}
    assert [b"first-fake-key" in each for each in heads] == [True, False]
    assert b"second-fake-key" in heads[1]


def _what_there_is():
    gc.collect()
    rules = sum(isinstance(each, Rules) for each in gc.get_objects())
    return len(asyncio.all_tasks()), len(list(Path("/dev/fd").iterdir())), rules


def test_fifty_reloads_under_load_leave_nothing_behind(edited, tmp_path):
    async def scenario():
        async with edited(CONFIG, reload_every_s=0.01) as here, here.gateway.client() as client:
            statuses, is_over = [], False

            async def load():
                while not is_over:
                    reply = await client.post("/v1/messages", json=STREAM)
                    statuses.append(reply.status_code)

            async def counted(number):
                here.asked.set()
                await here.reloaded(number)

            loads = [asyncio.create_task(load()) for _ in range(4)]
            for number in range(1, 6):
                await counted(number)
            before = _what_there_is()
            for number in range(6, 56):
                await counted(number)
            after = _what_there_is()
            is_over = True
            await asyncio.gather(*loads)
            rows = await here.gateway.rows()
            return before, after, statuses, {each["state"] for each in rows}

    before, after, statuses, states = asyncio.run(scenario())

    assert set(statuses) == {200}
    assert states == {"settled"}
    assert all(now <= then + 6 for now, then in zip(after, before, strict=True)), (before, after)
