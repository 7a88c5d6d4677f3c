"""The rules that decide over requests: config and presets must fit one another."""

import asyncio
import logging

import pytest
from support.gateways import DEMO_CONFIG, lay_out, started
from support.raw_upstream import until

from server.calls import Rules
from server.config.load import load
from server.errors import ConfigError
from server.presets.load import load_presets


def _rules(folder, model):
    """Prepare the rules of a folder whose one preset says that `auto` is `model`."""
    settings = load(lay_out(folder, DEMO_CONFIG))
    for path in settings.presets_path.glob("*.yaml"):
        path.unlink()
    _write(settings.presets_path, model)
    return Rules.of(settings.config, load_presets(settings.presets_path), {})


def _write(folder, model):
    (folder / "cline.yaml").write_text(f"tool: cline\nversion: 1\nmodel: {model}\n")


@pytest.mark.parametrize("model", ["null", "auto", "claude-auto", "fast", "claude-anything"])
def test_a_preset_may_name_a_model_an_alias_or_auto(tmp_path, model):
    assert set(_rules(tmp_path, model).presets) == {"cline"}


def test_a_preset_that_names_no_model_of_the_config_is_an_error(tmp_path):
    """Else every `auto` request of its tool would be a 404, and nothing would have said why."""
    with pytest.raises(ConfigError, match=r'cline\.yaml: model: .* "fats"\. Did you mean "fast"'):
        _rules(tmp_path, "fats")


def test_a_preset_that_comes_to_name_no_model_is_not_taken_over(tmp_path, caplog):
    async def scenario():
        async with started(tmp_path, DEMO_CONFIG, reload_every_s=0.05) as gateway:
            before = gateway.gateway.rules
            _write(tmp_path / "presets", "fats")
            await until(lambda: "presets were not reloaded" in caplog.text)
            kept = gateway.gateway.rules is before
            _write(tmp_path / "presets", "fast")
            await until(lambda: gateway.gateway.rules is not before)
            return kept, gateway.gateway.rules.presets["cline"].model

    caplog.set_level(logging.INFO)

    assert asyncio.run(scenario()) == (True, "fast")
