"""What README.md shows can be pasted: its snippets parse, load and run."""

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import tomllib

import httpx
import pytest
import yaml
from support.gateways import started
from support.readme import ROOT, TEXT, blocks, parameters, whole_config

from gatewayctl.main import run
from server.config.load import load
from server.config.missing import missing_keys
from server.presets.load import load_preset
from server.routes.paths import ROOTS, TOOLS
from server.routing.resolve import Routing

CONFIGS = [block for block in blocks("yaml") if block.file == "config.yaml"]


@pytest.mark.parametrize("block", **parameters("sh"))
def test_shell_parses(block):
    subprocess.run(["sh", "-n"], input=block.text, text=True, check=True)


@pytest.mark.parametrize("block", **parameters("json"))
def test_json_parses(block):
    assert json.loads(block.text)


@pytest.mark.parametrize("block", **parameters("yaml"))
def test_yaml_parses_and_names_its_file(block):
    assert yaml.safe_load(block.text)
    assert block.file is not None


@pytest.mark.parametrize("block", **parameters("toml"))
def test_toml_parses(block):
    assert tomllib.loads(block.text)


@pytest.mark.parametrize("block", **parameters("python"))
def test_python_compiles(block):
    assert compile(block.text, "README.md", "exec")


@pytest.mark.parametrize("block", CONFIGS, ids=lambda block: f"line {block.line}")
def test_a_config_snippet_loads(block, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(whole_config(block))

    assert load(path).warnings == ()


def test_with_the_providers_of_the_readme_both_kinds_of_client_reach_every_model(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(whole_config(CONFIGS[0]))

    settings = load(path)
    routing = Routing(settings.config)
    served = {
        routing.resolve(name, tool=None, preset_model=None, input_tokens_estimate=int)
        for name in ("auto", "smart", "fast")
    }

    assert served == {"smart", "fast"}
    assert [each.upstream for each in missing_keys(settings, {})] == ["anthropic", "openai"]


def test_the_preset_snippet_loads(tmp_path):
    (block,) = [block for block in blocks("yaml") if block.file == "presets/cline.yaml"]
    path = tmp_path / "cline.yaml"
    path.write_text(block.text)

    preset = load_preset(path)

    assert preset.tool == "cline"
    assert [skill.enabled for skill in preset.skills] == [True, False]


def test_every_command_of_the_readme_works_in_its_order(tmp_path, monkeypatch, capsys):
    for name in ("GATEWAYCTL_CONFIG", "NO_COLOR", "TZ"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert run(["init"]) == 0
    commands = [
        shlex.split(line, comments=True)[1:]
        for block in blocks("sh")
        for line in block.text.splitlines()
        if line.startswith("gatewayctl ")
    ]
    assert len(commands) > 10

    for words in commands:
        capsys.readouterr()
        assert run(["keys", "list"]) == 0
        newest = capsys.readouterr().out.split("\t")[0]
        assert run([newest if word == "key_…" else word for word in words]) == 0, words


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="the program sqlite3 is not installed")
def test_both_ways_to_back_up_give_a_whole_database(tmp_path, monkeypatch):
    monkeypatch.delenv("GATEWAYCTL_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    assert run(["init"]) == 0
    (block,) = [block for block in blocks("sh") if "VACUUM INTO" in block.text]

    subprocess.run(["sh", "-e"], input=block.text, text=True, check=True)

    config = (tmp_path / "config.yaml").read_text()
    for copy in ("backup.db", "backup-small.db"):
        (tmp_path / "copy.yaml").write_text(config.replace("gateway.db", copy))
        assert run(["--config", "copy.yaml", "db", "check"]) == 0


def test_every_route_of_the_readme_is_there(tmp_path):
    table = TEXT.partition("## Over HTTP")[2].partition("\n## ")[0]
    routes = [
        (method, path.replace("{tool}", tool).replace("{id}", "some"), "| none |" in line)
        for line in table.splitlines()
        for method, path in re.findall(r"`(GET|POST|DELETE) (/[^`?]+)[^`]*`", line)
        for tool in (TOOLS if "{tool}" in path else ("",))
    ]
    assert len(routes) > 20

    async def ask():
        async with started(tmp_path) as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
            return [(await client.request(method, path)).status_code for method, path, _ in routes]

    assert asyncio.run(ask()) == [200 if is_open else 401 for _, _, is_open in routes]


def test_every_base_url_of_the_readme_is_one_that_the_gateway_serves():
    own = r"(?:http://127\.0\.0\.1:8080|https://gateway\.example\.com)(/[\w/]*)"
    paths = set(re.findall(own, TEXT))
    assert len(paths) > 5

    assert {path.removesuffix("/messages") for path in paths} <= set(ROOTS)


def test_every_file_that_the_readme_names_is_there():
    linked = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    house = TEXT.partition("## How it is built")[2]
    named = re.findall(r"\bserver/[\w/]+\.py\b", house)
    assert len(named) > 10

    missing = [name for name in {*linked, *named} if not (ROOT / name).exists()]

    assert missing == []
