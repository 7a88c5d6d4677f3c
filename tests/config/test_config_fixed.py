"""What a running gateway keeps of its config, whatever the file comes to say."""

from msgspec.structs import replace

from server.config.fixed import changed_keys, with_fixed
from server.config.schema import (
    Config,
    Log,
    Model,
    Server,
    Stripe,
    Target,
    Tls,
    Traces,
    Upstream,
)
from server.secret import Secret

OLD = Config(
    upstreams={"demo": Upstream(protocol="demo")},
    models={"smart": Model(targets=(Target(upstream="demo", model="m"),), free=True)},
)


def test_what_sockets_files_and_accounts_were_made_from_stays_and_is_named():
    new = replace(
        OLD,
        server=Server(host="::1", port=9, max_body_mb=1, tls=Tls(cert="c", key="k"), drain_s=7),
        log=Log(file="other.log", access=None, level="debug"),
        traces=Traces(endpoint="http://127.0.0.1:4318"),
        database="other.db",
        presets="others",
        stripe=Stripe(secret_key=Secret("sk")),
    )

    config, waiting = with_fixed(OLD, new)

    assert waiting == (
        *("server.host", "server.port", "server.max_body_mb", "server.tls"),
        *("log.file", "log.access", "traces", "database", "presets", "stripe"),
    )
    assert config == replace(OLD, server=Server(drain_s=7), log=Log(level="debug"))
    assert changed_keys(OLD, config) == ("server", "log")


def test_all_else_is_taken_over():
    new = replace(OLD, aliases={"claude-*": "smart"}, models={}, upstreams={})

    assert with_fixed(OLD, new) == (new, ())
    assert changed_keys(OLD, new) == ("upstreams", "models", "aliases")
    assert changed_keys(OLD, OLD) == ()
