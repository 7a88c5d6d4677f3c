"""What Sanic is told, where its defaults would break a promise."""

from support.gateways import config_for, started
from support.wires import run

from server.app import create_app


def test_no_silence_that_a_provider_may_keep_ends_a_request(tmp_path):
    """Sanic's own timer gives up after 60 s, whatever the provider was granted."""
    granted = "timeouts: {first_byte_s: 900, idle_s: 1200}, api_key:"
    config = config_for("http://127.0.0.1:9").replace("api_key:", granted)

    async def scenario():
        async with started(tmp_path, config) as gateway:
            return create_app(gateway.services).config

    settings = run(scenario)

    assert settings.RESPONSE_TIMEOUT > 1200
    assert settings.ACCESS_LOG is False
