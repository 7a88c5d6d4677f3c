"""What of a reload goes wrong is told, and the next one finds a gateway that still looks."""

import asyncio
import logging
import os

import pytest
from support.gateways import DEMO_CONFIG, config_for, started
from support.locks import locked
from support.raw_upstream import until

PRESET = "tool: cline\nversion: 9\n"


@pytest.mark.parametrize(
    ("key", "content", "said"),
    [
        ("api_key", "\ufeffsk-fake", "file:secret has a line break, a control character or one"),
        ("proxy", "me:fake-word@proxy:3128", "config.yaml:3: upstreams.there.proxy: must be"),
        ("proxy", "socks5://me:fake-word@proxy", "config.yaml:3: upstreams.there.proxy: must be"),
    ],
)
def test_a_secret_that_cannot_be_used_is_refused_and_later_edits_count(
    tmp_path, caplog, key, content, said
):
    caplog.set_level(logging.INFO)
    (tmp_path / "secret").write_text(content, encoding="utf-8")
    config = config_for("http://127.0.0.1:1")

    async def scenario():
        async with started(tmp_path, config, reload_every_s=0.05) as gateway:
            path = tmp_path / "config.yaml"
            good = path.read_text()
            path.write_text(good.replace('api_key: "sk-fake-upstream-key"', f"{key}: file:secret"))
            await until(lambda: said in caplog.text)
            path.write_text(good.replace("upstream-model", "another-model"))
            await until(lambda: "config reloaded" in caplog.text)
            return gateway.gateway.rules.config.models["smart"].targets[0].model

    assert asyncio.run(scenario()) == "another-model"
    assert "fake-word" not in caplog.text


def test_a_broken_preset_is_told_whenever_its_config_is_taken_over(tmp_path, caplog):
    """By a signal, and by one deployment of both: neither success hides the failure."""
    caplog.set_level(logging.INFO)
    asked = asyncio.Event()

    async def scenario():
        async with started(tmp_path, DEMO_CONFIG, reload=asked, reload_every_s=0.05) as gateway:
            preset, path = tmp_path / "presets" / "cline.yaml", tmp_path / "config.yaml"
            preset.write_text(PRESET + "model: [")
            await until(lambda: caplog.text.count("presets were not reloaded") == 1)
            asked.set()
            await until(lambda: caplog.text.count("presets were not reloaded") == 2)
            preset.write_text(PRESET + "model: {")
            path.write_text(path.read_text().replace("demo-smart", "demo-other"))
            await until(lambda: caplog.text.count("presets were not reloaded") == 3)
            return gateway.gateway.rules

    rules = asyncio.run(scenario())

    assert rules.presets["cline"].version != 9
    assert rules.config.models["smart"].targets[0].model == "demo-other"


def test_a_preset_that_the_file_system_refuses_leaves_the_former_and_later_edits_count(
    tmp_path, caplog
):
    """A name too long for any file stands for what a file system may say."""
    unreadable = PRESET + f"skills: [{{name: a, file: {'long' * 80}}}]\n"

    async def scenario():
        async with started(tmp_path, DEMO_CONFIG, reload_every_s=0.05) as gateway:
            preset, before = tmp_path / "presets" / "cline.yaml", gateway.gateway.rules
            preset.write_text(unreadable)
            await until(lambda: "File name too long" in caplog.text)
            between = gateway.gateway.rules
            preset.write_text(PRESET)
            await until(lambda: gateway.gateway.rules.presets["cline"].version == 9)
            return between is before

    assert asyncio.run(scenario())
    assert caplog.text.count("presets were not reloaded") == 1


def test_a_pipe_in_the_place_of_the_config_is_told_and_later_edits_count(tmp_path, caplog):
    caplog.set_level(logging.INFO)

    async def scenario():
        async with started(tmp_path, DEMO_CONFIG, reload_every_s=0.05) as gateway:
            path = tmp_path / "config.yaml"
            text = path.read_text()
            path.unlink()
            os.mkfifo(path)
            await until(lambda: "config.yaml: is not a regular file" in caplog.text)
            path.unlink()
            path.write_text(text.replace("demo-smart", "demo-other"))
            await until(lambda: "config reloaded" in caplog.text)
            return gateway.gateway.rules.config.models["smart"].targets[0].model

    assert asyncio.run(scenario()) == "demo-other"


def test_what_a_locked_database_kept_from_being_taken_over_is_so_once_it_is_free(tmp_path, caplog):
    """Asked for by a signal alone: no edit of a file would bring it back to mind."""
    caplog.set_level(logging.INFO)
    asked = asyncio.Event()

    async def scenario():
        async with started(tmp_path, DEMO_CONFIG, reload=asked, reload_every_s=0.05) as gateway:
            async with locked(gateway.services.settings.database_path):
                asked.set()
                await until(lambda: "config was not reloaded" in caplog.text, 20)
            await until(lambda: "config reloaded" in caplog.text, 20)
            return gateway.services.watch.reloads["done"]

    assert asyncio.run(scenario()) == 1
