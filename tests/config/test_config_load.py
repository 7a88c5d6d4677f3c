import msgspec
import platformdirs
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.config.load import Settings, example_text, find, load, masked, place_to_write
from server.config.missing import missing_keys
from server.config.schema import Auto, Billing, Log, QuotaWeights, Server, Stripe, Timeouts
from server.errors import ConfigError
from server.secret import Secret


def test_the_smallest_config_gets_every_default(load_minimal):
    config = load_minimal().config

    assert msgspec.to_builtins(config.server) == {
        "host": "127.0.0.1",
        "port": 8080,
        "public_url": None,
        "max_body_mb": 32,
        "max_connections": 5000,
        "max_stream_s": 7200,
        "max_stream_mb": 256,
        "drain_s": 30,
        "trusted_proxies": (),
        "cors_origins": (),
        "tls": None,
        "metrics": "loopback",
    }
    assert config.log == Log(file="gateway.log", access="access.log", level="info")
    assert (config.database, config.presets) == ("gateway.db", "presets")
    assert config.upstreams["demo"].timeouts == Timeouts(
        connect_s=5, first_byte_s=600, idle_s=300, write_s=30
    )
    assert config.models["smart"].max_output_tokens == 32000
    assert (config.aliases, config.tiers, config.default_tier) == ({}, {}, None)
    assert config.auto == Auto(default=None, rules=())
    assert config.billing == Billing(
        hold="incremental",
        hold_slice_tokens=8192,
        assumed_tokens_per_s=100,
        min_output_tokens=256,
        on_disconnect="cancel",
    )
    assert config.quota_weights == QuotaWeights(
        input="1", output="1", cache_read="0.1", cache_write="1.25"
    )
    assert config.stripe == Stripe(
        secret_key=Secret("${STRIPE_SECRET_KEY}"),
        webhook_secrets=(Secret("${STRIPE_WEBHOOK_SECRET}"),),
        api_base=None,
    )


def test_a_config_cannot_be_changed(load_minimal):
    config = load_minimal().config

    with pytest.raises(AttributeError, match="immutable"):
        config.server = Server()


def test_paths_are_relative_to_the_configs_folder(load_minimal, tmp_path):
    loaded = load_minimal("server: {tls: {cert: a.crt, key: /b.key}}\nlog: {file: logs/g.log}\n")

    assert loaded.path == tmp_path / "config.yaml"
    assert loaded.database_path == tmp_path / "gateway.db"
    assert loaded.presets_path == tmp_path / "presets"
    assert loaded.log_path == tmp_path / "logs" / "g.log"
    assert [str(path) for path in loaded.tls_paths] == [f"{tmp_path}/a.crt", "/b.key"]


def test_without_tls_there_are_no_tls_paths(load_minimal):
    assert load_minimal().tls_paths is None


def test_paths_are_absolute_however_the_file_was_named(write, tmp_path, monkeypatch):
    write(example_text())
    monkeypatch.chdir(tmp_path)

    assert load(find(None, {}, tmp_path)).database_path == tmp_path / "gateway.db"
    assert load(find(None, {}, tmp_path.cwd()).relative_to(tmp_path)).path.is_absolute()


def test_the_named_file_comes_before_the_environments_before_the_folders(tmp_path):
    for name in ("named.yaml", "environ.yaml", "config.yaml"):
        (tmp_path / name).touch()
    environ = {"GATEWAYCTL_CONFIG": "environ.yaml"}

    assert find(tmp_path / "named.yaml", environ, tmp_path) == tmp_path / "named.yaml"
    assert find(None, environ, tmp_path) == tmp_path / "environ.yaml"
    assert find(None, {}, tmp_path) == tmp_path / "config.yaml"
    assert find(None, {"GATEWAYCTL_CONFIG": ""}, tmp_path) == tmp_path / "config.yaml"


def test_the_users_folder_comes_last(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    users = platformdirs.user_config_path("gatewayctl") / "config.yaml"
    users.parent.mkdir(parents=True)
    users.touch()

    assert find(None, {}, tmp_path) == users
    with pytest.raises(ConfigError, match=r"no\.yaml: there is no such file"):
        find(tmp_path / "no.yaml", {}, tmp_path)
    with pytest.raises(ConfigError, match=r"no\.yaml: there is no such file"):
        find(None, {"GATEWAYCTL_CONFIG": "no.yaml"}, tmp_path)


def test_without_any_file_the_error_names_init(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))

    with pytest.raises(
        ConfigError, match=r"config\.yaml: there is no such file; `gatewayctl init`"
    ):
        find(None, {}, tmp_path)


def test_init_writes_where_find_looks_first(tmp_path):
    environ = {"GATEWAYCTL_CONFIG": "environ.yaml"}

    assert place_to_write(tmp_path / "a.yaml", environ, tmp_path) == tmp_path / "a.yaml"
    assert place_to_write(None, environ, tmp_path) == tmp_path / "environ.yaml"
    assert place_to_write(None, {}, tmp_path) == tmp_path / "config.yaml"


UPSTREAMS = """\
upstreams:
  keyed: {protocol: openai, base_url: "http://127.0.0.1", api_key: "${KEY}"}
  local: {protocol: openai, base_url: "http://127.0.0.1"}
  idle: {protocol: openai, base_url: "http://127.0.0.1", api_key: "${OTHER}"}
  filed: {protocol: openai, base_url: "http://127.0.0.1", api_key: "file:key.txt"}
models:
  a: {targets: [{upstream: keyed, model: m}, {upstream: local, model: m}], free: true}
  b: {targets: [{upstream: filed, model: m}], free: true}
"""


def test_only_routable_upstreams_whose_key_resolves_to_nothing_are_a_problem(write, tmp_path):
    loaded = load(write(UPSTREAMS))

    assert [each.upstream for each in missing_keys(loaded, {})] == ["keyed", "filed"]
    assert [each.reference for each in missing_keys(loaded, {"KEY": "sk-fake"})] == ["file:key.txt"]

    (tmp_path / "key.txt").write_text("sk-fake\n")
    assert missing_keys(loaded, {"KEY": "sk-fake"}) == ()


def test_what_config_show_prints_loads_again_as_the_same_config(write, load_minimal):
    config = load(write(example_text())).config

    again = load(write(yaml.safe_dump(masked(config))))

    assert again.config == config


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["demo", "openai", "http://a", "${A}", "${", "1.5", "*", "x://", "smart"])
)
KEYS = st.sampled_from(
    [
        "server",
        "port",
        "tls",
        "upstreams",
        "models",
        "demo",
        "protocol",
        "base_url",
        "headers",
        "proxy",
        "targets",
        "upstream",
        "model",
        "price",
        "input",
        "free",
        "aliases",
        "auto",
        "rules",
        "when",
        "tiers",
        "stripe",
        "webhook_secrets",
        "trusted_proxies",
        "database",
    ]
) | st.text(max_size=4)
TREES = st.recursive(
    LEAVES,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(KEYS, parts, max_size=4),
    max_leaves=12,
)


@st.composite
def damaged_examples(draw):
    text = example_text()
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(start + 40, len(text))))
    middle = draw(
        st.text(max_size=6) | st.sampled_from(["\t", "&a ", "*a", "!x ", "? ", "- ", "{"])
    )
    return (text[:start] + middle + text[end:]).encode()


def is_config_or_refused(path, raw):
    """Tell whether it is read as a config, or refused by the name of its file."""
    path.write_bytes(raw)
    try:
        return isinstance(load(path), Settings)
    except ConfigError as error:
        return error.file == path


anything = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@anything
@given(raw=st.binary() | st.text(alphabet="ab:-[]{}&*!|>'\"\\\t\n #,?%@`0.x").map(str.encode))
def test_arbitrary_text_is_a_config_or_a_config_error(tmp_path, raw):
    assert is_config_or_refused(tmp_path / "config.yaml", raw)


@anything
@given(raw=damaged_examples())
def test_a_damaged_config_is_a_config_or_a_config_error(tmp_path, raw):
    assert is_config_or_refused(tmp_path / "config.yaml", raw)


@anything
@given(
    tree=st.fixed_dictionaries(
        {"upstreams": TREES, "models": TREES},
        optional=dict.fromkeys(("server", "aliases", "auto", "tiers", "stripe", "log"), TREES),
    )
)
def test_arbitrary_settings_are_a_config_or_a_config_error(tmp_path, tree):
    assert is_config_or_refused(tmp_path / "config.yaml", yaml.safe_dump(tree).encode())
