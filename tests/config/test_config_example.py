import re
from pathlib import Path

import msgspec
import pytest

from server.config import schema
from server.config.load import example_text, load
from server.config.missing import missing_keys
from server.secret import Secret

ROOT = Path(__file__).parents[2]


def switched_on(text):
    """Do what the example's head says: take the `#` from lines where no space follows."""
    return re.sub(r"(?m)^( *)#(?=\S)", r"\1", text)


def sections_below(section):
    # Presets are made of sections too, once something has imported them.
    for below in section.__subclasses__():
        if below.__module__ == schema.__name__:
            yield below
            yield from sections_below(below)


def every_key():
    sections = sections_below(schema.Section)
    return sorted({key for section in sections for key in section.__struct_fields__})


def test_the_packaged_example_is_the_one_at_the_top_of_the_repository():
    packaged = ROOT / "server" / "config" / "config.example.yaml"

    assert packaged.read_bytes() == (ROOT / "config.example.yaml").read_bytes()
    assert packaged.read_text(encoding="utf-8") == example_text()


def test_the_example_works_without_any_key(write):
    loaded = load(write(example_text()))

    assert loaded.warnings == ()
    assert missing_keys(loaded, {}) == ()
    assert {name: model.targets for name, model in loaded.config.models.items()} == {
        "smart": (schema.Target(upstream="demo", model="demo-smart"),),
        "fast": (schema.Target(upstream="demo", model="demo-fast"),),
    }
    assert loaded.config.default_tier == "team"


def test_the_examples_commented_settings_can_be_switched_on(write):
    loaded = load(write(switched_on(example_text())))

    assert list(loaded.config.upstreams) == ["demo", "anthropic", "openai"]
    assert loaded.config.upstreams["anthropic"] == schema.Upstream(
        protocol="anthropic",
        base_url="https://api.anthropic.com",
        api_key=Secret("${ANTHROPIC_API_KEY}"),
    )
    targets = {
        name: [target.model for target in model.targets[1:]]
        for name, model in loaded.config.models.items()
    }
    assert targets == {
        "smart": ["claude-opus-5-5", "gpt-5.4"],
        "fast": ["claude-haiku-4-5", "gpt-5.4-mini"],
    }
    assert [each.upstream for each in missing_keys(loaded, {})] == ["anthropic", "openai"]
    price = loaded.config.models["smart"].price
    assert price.long_context == schema.LongContext(
        above_input_tokens=200_000, input="8.00", output="30.00"
    )
    assert price.per_request == schema.PerRequest(
        web_search="0.01",
        code_execution="0.05",
        speed={"fast": "6"},
        service_tier={"priority": "1.75", "flex": "0.5"},
        inference_geo={"us": "1.1"},
    )


def test_the_examples_demo_targets_can_be_replaced(write):
    """`Instead of that line` means just that."""
    text = re.sub(r"(?m)^ *- \{upstream: demo.*\n", "", switched_on(example_text()))

    models = load(write(text)).config.models

    assert {
        name: [target.upstream for target in model.targets] for name, model in models.items()
    } == {
        "smart": ["anthropic", "openai"],
        "fast": ["anthropic", "openai"],
    }


def test_the_example_shows_the_defaults(write):
    config = load(write(example_text())).config

    assert msgspec.structs.replace(config.server, public_url=None) == schema.Server()
    assert config.server.public_url == "http://127.0.0.1:8080"
    assert config.log == schema.Log()
    assert (config.database, config.presets) == ("gateway.db", "presets")
    assert config.billing == schema.Billing()
    assert config.quota_weights == schema.QuotaWeights()
    assert config.stripe == schema.Stripe()


@pytest.mark.parametrize("key", every_key())
def test_the_example_shows_every_key(key):
    assert re.search(rf"\b{key}:", example_text())
