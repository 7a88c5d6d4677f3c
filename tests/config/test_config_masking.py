import pytest

from server.config.load import environment_variables, load, masked


def upstream_of(settings):
    return masked(settings.config)["upstreams"]["a"]


@pytest.fixture
def load_upstream(write):
    """Load a config with one upstream, `a`, of these settings."""
    return lambda text: load(write(f"upstreams: {{a: {{protocol: demo, {text}}}}}\nmodels: {{}}\n"))


@pytest.mark.parametrize(
    ("api_key", "shown", "warned"),
    [
        ("sk-fake", "***", True),
        ("${KEY}", "${KEY}", False),
        ("file:key.txt", "file:key.txt", False),
        ("Bearer ${KEY}", "***", False),
        ("", "", False),
    ],
)
def test_only_a_literal_key_is_hidden_and_warned_of(load_upstream, api_key, shown, warned):
    settings = load_upstream(f'api_key: "{api_key}"')

    assert upstream_of(settings)["api_key"] == shown
    message = "is written out in the file; use ${NAME} or file:PATH instead"
    warning = f"{settings.path}: upstreams.a.api_key: {message}"
    assert settings.warnings == ((warning,) if warned else ())


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        ("http://p:3128", "http://p:3128"),
        ("http://user:fake@p:3128", "http://***:***@p:3128"),
        ("http://user:fa@ke@p:3128", "http://***:***@p:3128"),
        ("http://user@p:3128", "http://***@p:3128"),
        ("http://user:${PASS}@p:3128", "http://***:${PASS}@p:3128"),
        ("${PROXY}", "${PROXY}"),
    ],
)
def test_a_proxys_user_and_password_are_hidden(load_upstream, proxy, shown):
    assert upstream_of(load_upstream(f'proxy: "{proxy}"'))["proxy"] == shown


def test_what_headers_hold_is_hidden_whatever_their_name(load_upstream):
    settings = load_upstream(
        "headers: {X-Auth: fake, api-key: fake, x-team: a, Cookie: fake, x-token: '${TOKEN}'}"
    )

    assert upstream_of(settings)["headers"] == {
        "X-Auth": "***",
        "api-key": "***",
        "x-team": "***",
        "Cookie": "***",
        "x-token": "${TOKEN}",
    }


def test_what_a_collector_is_told_is_hidden_whatever_its_name(load_minimal):
    settings = load_minimal("traces: {headers: {x-team: fake, authorization: '${TOKEN}'}}")

    shown = {"x-team": "***", "authorization": "${TOKEN}"}
    assert masked(settings.config)["traces"]["headers"] == shown
    assert environment_variables(settings.config)[0] == "TOKEN"


def test_stripes_literal_secrets_are_hidden_and_warned_of(load_minimal):
    settings = load_minimal(
        "stripe: {secret_key: fake-1, webhook_secrets: ['${A}', fake-2], api_base: 'http://a'}"
    )

    assert masked(settings.config)["stripe"] == {
        "secret_key": "***",
        "webhook_secrets": ["${A}", "***"],
        "api_base": "http://a",
    }
    assert [warning.split(": ")[1] for warning in settings.warnings] == [
        "stripe.secret_key",
        "stripe.webhook_secrets[1]",
    ]
    assert "fake" not in "".join(settings.warnings)


def test_an_upstream_name_with_a_dot_is_quoted_in_the_warning(write):
    settings = load(write("upstreams: {a.b: {protocol: demo, api_key: fake}}\nmodels: {}\n"))

    assert 'upstreams."a.b".api_key' in settings.warnings[0]
