import pytest

from server.config.load import load
from server.secret import Secret

ORIGIN = "must be as browsers send it: https://host, or https://host:port"
URL = "must be an http:// or https:// URL"
PROXY = "must be the URL of an HTTP proxy: http://host:port or http://user:…@host:port"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("server: {public_url: localhost}", f"server.public_url: {URL}"),
        ("server: {public_url: 'ftp://a'}", f"server.public_url: {URL}"),
        ("server: {trusted_proxies: ['::1', x]}", "server.trusted_proxies[1]: must be an IP addr"),
        ("server: {trusted_proxies: ['10.0.0.1/8']}", "server.trusted_proxies[0]: must be an IP "),
        (
            "server: {cors_origins: ['*']}",
            "server.cors_origins[0]: must be one origin: with `*`, k",
        ),
        ("server: {cors_origins: ['https://*.a.b']}", "server.cors_origins[0]: must be one origin"),
        ("server: {cors_origins: ['https://a', x]}", f"server.cors_origins[1]: {ORIGIN}"),
        ("server: {cors_origins: ['null']}", f"server.cors_origins[0]: {ORIGIN}"),
        ("server: {cors_origins: ['https://a/']}", f"server.cors_origins[0]: {ORIGIN}"),
        ("server: {cors_origins: ['https://A.b']}", f"server.cors_origins[0]: {ORIGIN}"),
        ("server: {cors_origins: ['https://a@b']}", f"server.cors_origins[0]: {ORIGIN}"),
        ("server: {cors_origins: ['https://a:443']}", f"server.cors_origins[0]: {ORIGIN}"),
        ("server: {cors_origins: ['http://a:80']}", f"server.cors_origins[0]: {ORIGIN}"),
        ("database: 'postgresql://db/x'", "database: is not supported yet; give the path of an S"),
        (
            "aliases: {'claude-*': smrt}",
            'aliases."claude-*": `smrt` is not the name of a model; did',
        ),
        ("aliases: {a: nothing}", "aliases.a: `nothing` is not the name of a model"),
        ("auto: {default: x}", "auto.default: `x` is not the name of a model"),
        ("auto: {rules: [{when: {}, use: x}]}", "auto.rules[0].use: `x` is not the name of a mod"),
        ("default_tier: team", "default_tier: `team` is not the name of a tier"),
        (
            "tiers: {a: {name: A, price_cents: 0, limits: {networks: [10.0.0.0/8, 10.0.0.1/8]}}}",
            "tiers.a.limits.networks[1]: must be an IP address or a network such as 10.0.0.0/8",
        ),
        (
            "server: {trusted_proxies: ['::ffff:10.0.0.1']}",
            "server.trusted_proxies[0]: must be written as IPv4",
        ),
        (
            "tiers: {a: {name: A, price_cents: 0, limits: {networks: ['::ffff:10.0.0.0/104']}}}",
            "tiers.a.limits.networks[0]: must be written as IPv4",
        ),
        (
            "tiers: {a: {name: A, price_cents: 0, limits: {models: [smart, smrt]}}}",
            "tiers.a.limits.models[1]: `smrt` is not the name of a model; did",
        ),
        (
            "tiers: {a: {name: A, price_cents: 0, limits: {models: ['s*', 'x*']}}}",
            "tiers.a.limits.models[1]: `x*` matches no model",
        ),
        (
            "tiers: {a: {name: A, price_cents: 0, limits: {requests_per_minute: 0}}}",
            "tiers.a.limits.requests_per_minute: must be a whole number above 0",
        ),
        (
            'tiers: {a: {name: A, price_cents: 0, limits: {monthly_usd: "5"}}}',
            "tiers.a.limits.monthly_usd: cannot be set: a subscription's requests cost quota",
        ),
        ("limits: {mode: off}", "limits.mode: must be"),
        ("tiers: {a b: {name: A, price_cents: 0}}", 'tiers."a b": is not a name: it must be text'),
        ("traces: {endpoint: 'http://u:p@a'}", "traces.endpoint: must not contain a user name"),
        ("traces: {headers: {Host: a}}", "traces.headers.Host: is set by the gateway and cannot"),
        ("traces: {headers: {x: '${'}}", "traces.headers.x: has `${` but is not a reference"),
        ("traces: {sample_ratio: 1.5}", "traces.sample_ratio: must be a number from 0 to 1"),
        ("stripe: {api_base: x}", f"stripe.api_base: {URL}"),
        ("stripe: {secret_key: '${A-B}'}", "stripe.secret_key: has `${` but is not a reference"),
        ("stripe: {webhook_secrets: ['${']}", "stripe.webhook_secrets[0]: has `${` but is not a"),
    ],
)
def test_what_contradicts_the_rest_is_named_by_path_and_line(refusal, text, error):
    assert refusal(text, after_minimal=True).startswith(f"config.yaml:4: {error}")


@pytest.mark.parametrize(
    ("upstream", "error"),
    [
        ("{protocol: openai}", "a: the key `base_url` is missing"),
        ("{protocol: demo, base_url: 'http://a'}", "a.base_url: must be left out: the demo upst"),
        ("{protocol: demo, api_key: '${}'}", "a.api_key: has `${` but is not a reference; write "),
        ("{protocol: demo, api_key: sk\u2013fake}", "a.api_key: must be one line of ASCII charac"),
        (
            "{protocol: demo, api_keys: [sk, '\ufeffsk']}",
            "a.api_keys[1]: must be one line of",
        ),
        ("{protocol: demo, headers: {x y: z}}", 'a.headers."x y": is not a header name'),
        ("{protocol: demo, headers: {'': z}}", 'a.headers."": is not a header name'),
        ("{protocol: demo, headers: {x: 'é'}}", "a.headers.x: must be one line of ASCII charac"),
        ('{protocol: demo, headers: {x: "a\\nb"}}', "a.headers.x: must be one line of ASCII char"),
        ("{protocol: demo, headers: {x: '${'}}", "a.headers.x: has `${` but is not a reference"),
        ("{protocol: demo, proxy: proxy:3128}", f"a.proxy: {PROXY}"),
        ("{protocol: demo, proxy: 'socks5://p:1'}", f"a.proxy: {PROXY}"),
        ("{protocol: demo, proxy: 'http://u:12/pw@p'}", f"a.proxy: {PROXY}"),
        ("{protocol: demo, proxy: 'http://p?x'}", f"a.proxy: {PROXY}"),
    ],
)
def test_an_upstream_that_cannot_work_is_named_by_path_and_line(refusal, upstream, error):
    text = f"upstreams:\n  a: {upstream}\nmodels: {{}}\n"

    assert refusal(text).startswith(f"config.yaml:2: upstreams.{error}")


@pytest.mark.parametrize(
    "url",
    [
        "example.com",
        "ftp://example.com",
        "http://",
        "http://:80",
        "https://a b",
        "http://a:99999",
        "http://a:0",
        "http://[::1",
        "http://a:x",
        "//a",
        "${URL}",
        "http://${HOST}",
        "http://é",
        "http://a..b",
        "http://.",
        f"http://{'a' * 64}.example",
        '""',
    ],
)
def test_a_base_url_that_is_no_web_address_is_refused(refusal, url):
    text = f"upstreams:\n  a:\n    protocol: openai\n    base_url: {url}\nmodels: {{}}\n"
    if url.startswith("${"):
        text = text.replace(url, f'"{url}"')

    assert refusal(text) == f"config.yaml:4: upstreams.a.base_url: {URL}"


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://user:fake@a", "must not contain a user name or password"),
        ("http://@a", "must not contain a user name or password"),
        ("'http://a/v1?key=1'", "must not have a query or a fragment"),
        ("'http://a/v1?'", "must not have a query or a fragment"),
        ('"http://a/v1#x"', "must not have a query or a fragment"),
    ],
)
def test_a_base_url_is_only_host_and_path(refusal, url, error):
    text = f"upstreams: {{a: {{protocol: openai, base_url: {url}}}}}\nmodels: {{}}\n"

    assert refusal(text) == f"config.yaml:1: upstreams.a.base_url: {error}"


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com",
        "http://127.0.0.1:8000/v1",
        "http://[::1]:80",
        "http://[fe80::1]",
        "HTTP://host_1/",
        f"http://{'a' * 63}.example.",
    ],
)
def test_a_base_url_may_be_any_web_address(write, url):
    text = f'upstreams: {{a: {{protocol: openai, base_url: "{url}"}}}}\nmodels: {{}}\n'

    assert load(write(text)).config.upstreams["a"].base_url == url


@pytest.mark.parametrize(
    "name",
    ["Authorization", "x-api-key", "HOST", "content-length", "transfer-encoding", "Connection"],
)
def test_headers_that_the_gateway_sets_are_not_for_the_config(refusal, name):
    text = f"upstreams:\n  a:\n    protocol: demo\n    headers:\n      {name}: x\nmodels: {{}}\n"

    assert refusal(text) == (
        f"config.yaml:5: upstreams.a.headers.{name}: is set by the gateway and cannot be configured"
    )


@pytest.mark.parametrize(
    ("name", "model", "error"),
    [
        (
            "m",
            "targets: [{upstream: dmeo, model: x}], free: true",
            "m.targets[0].upstream: `dmeo` ",
        ),
        (
            "m",
            "targets: [{upstream: demo, model: x}]",
            "m: has no price; add `price`, or `free: tr",
        ),
        ("m", "targets: [{upstream: demo, model: x}], price: null", "m: has no price; add `price`"),
        (
            "m",
            'targets: [{upstream: demo, model: x}], free: true, price: {input: "1", output: "1"}',
            "m.free: contradicts `price`; keep one of the two",
        ),
        ("auto", "targets: [{upstream: demo, model: x}], free: true", "auto: is a reserved name"),
        (
            "claude-auto",
            "targets: [{upstream: demo, model: x}], free: true",
            "claude-auto: is a res",
        ),
        ('"m*"', "targets: [{upstream: demo, model: x}], free: true", '"m*": cannot contain `*`'),
        ('"m m"', "targets: [{upstream: demo, model: x}], free: true", '"m m": is not a name'),
        ('""', "targets: [{upstream: demo, model: x}], free: true", '"": is not a name'),
    ],
)
def test_a_model_that_cannot_be_served_or_billed_is_refused(refusal, name, model, error):
    text = f"upstreams: {{demo: {{protocol: demo}}}}\nmodels:\n  {name}: {{{model}}}\n"

    assert refusal(text).startswith(f"config.yaml:3: models.{error}")


def test_near_names_are_offered(refusal):
    text = (
        "upstreams: {demo: {protocol: demo}, demo2: {protocol: demo}}\n"
        "models: {m: {targets: [{upstream: dem, model: x}], free: true}}\n"
    )

    assert refusal(text).endswith("is not the name of an upstream; did you mean `demo` or `demo2`?")


@pytest.mark.parametrize(
    "proxy",
    [
        "http://p:3128",
        "http://user:fake@p:3128/",
        "http://u:${PASS}@${HOST}:${PORT}",
        "${PROXY}",
        "file:proxy.txt",
    ],
)
def test_a_proxy_may_be_an_address_or_a_reference(write, proxy):
    text = f'upstreams: {{a: {{protocol: demo, proxy: "{proxy}"}}}}\nmodels: {{}}\n'

    assert load(write(text)).config.upstreams["a"].proxy == Secret(proxy)


def test_factors_that_could_make_a_bill_too_large_to_store_are_refused(refusal, write):
    extras = 'per_request: {speed: {fast: "99"}, service_tier: {flex: "0.5", priority: "%s"}}'
    text = (
        "upstreams: {demo: {protocol: demo}}\nmodels:\n  m:\n"
        "    targets: [{upstream: demo, model: x}]\n"
        f'    price:\n      input: "1"\n      output: "1"\n      {extras}\n'
    )

    assert refusal(text % "10.2") == (
        "config.yaml:8: models.m.price.per_request: has factors that come to a thousand or more "
        "together"
    )
    assert load(write(text % "10.1")).config.models["m"].price.per_request.speed == {"fast": "99"}
