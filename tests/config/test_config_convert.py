import pytest

DECIMAL = 'must be a decimal of at most 6 places below a million, in quotes: "4.00"'
PER_USE = 'must be a decimal of at most 6 places below a thousand, in quotes: "0.01"'
FACTOR = 'must be a decimal of at most 6 places above 0 and below a thousand, in quotes: "1.1"'
TEXT = "must be text, in quotes where it looks like a number"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("sever: {}", "4: sever: unknown key; did you mean `server`?"),
        ("zzz: {}", "4: zzz: unknown key"),
        ("server:\n  prot: 1", "5: server.prot: unknown key; did you mean `port`?"),
        ("server: {port: x}", "4: server.port: must be a port from 1 to 65535, or 0 for any"),
        ("server: {port: 65536}", "4: server.port: must be a port from 1 to 65535"),
        ("server: {port: -1}", "4: server.port: must be a port from 1 to 65535"),
        ("server: {port: true}", "4: server.port: must be a port from 1 to 65535"),
        ("server: {port: 80.5}", "4: server.port: must be a port from 1 to 65535"),
        ("server: {host: ''}", "4: server.host: must be text, not empty"),
        ("server: {max_body_mb: 0}", "4: server.max_body_mb: must be a whole number from 1 to"),
        ("server: {drain_s: -1}", "4: server.drain_s: must be a number of seconds from 0"),
        ("server: {metrics: none}", "4: server.metrics: must be `loopback` or `all`"),
        ("server: {trusted_proxies: x}", "4: server.trusted_proxies: must be a list"),
        ("server: {tls: {cert: a}}", "4: server.tls: the key `key` is missing"),
        ("server: {tls: {key: a}}", "4: server.tls: the key `cert` is missing"),
        ("server:", "4: server: is empty; it must be a mapping (`key: value` lines), or the key"),
        ("server: [1]", "4: server: must be a mapping"),
        ("log: {level: loud}", "4: log.level: must be `debug` or `info` or `warning` or `error`"),
        ("database: 5", "4: database: must be text, not empty; a number needs quotes"),
        ("aliases: {a: 1}", f"4: aliases.a: {TEXT}"),
        ("aliases: [a]", "4: aliases: must be a mapping"),
        (
            "auto:\n  rules:\n    - {when: {tool: vim}, use: smart}",
            "6: auto.rules[0].when.tool: must be `claudecode` or `cline` or `cursor` or `roocode`",
        ),
        ("auto: {rules: [{use: smart}]}", "4: auto.rules[0]: the key `when` is missing"),
        (
            "auto: {rules: [{when: {max_input_tokens: 0}, use: smart}]}",
            "4: auto.rules[0].when.max_input_tokens: must be a whole number above 0",
        ),
        ("tiers: {a: {name: A, price_cents: -1}}", "4: tiers.a.price_cents: must be a whole"),
        ("tiers: {a: {name: A}}", "4: tiers.a: the key `price_cents` is missing"),
        ("billing: {hold: none}", "4: billing.hold: must be `incremental` or `strict`"),
        ("billing: {on_disconnect: x}", "4: billing.on_disconnect: must be `cancel` or `drain`"),
        ("quota_weights: {input: 1}", f"4: quota_weights.input: {DECIMAL}"),
        ("stripe: {webhook_secrets: [1]}", f"4: stripe.webhook_secrets[0]: {TEXT}"),
        ("stripe: {secret_key: 5}", f"4: stripe.secret_key: {TEXT}"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named_by_path_and_line(refusal, text, error):
    assert refusal(text, after_minimal=True).startswith(f"config.yaml:{error}")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("models: {}", "config.yaml:1: the key `upstreams` is missing"),
        ("upstreams: {}", "config.yaml:1: the key `models` is missing"),
        ("hello", "config.yaml:1: must be a mapping (`key: value` lines)"),
        ("- a", "config.yaml:1: must be a mapping (`key: value` lines)"),
        (
            "~",
            "config.yaml:1: is empty; it must be a mapping (`key: value` lines), or the key left",
        ),
        ("upstream: {}\nmodels: {}", "config.yaml:1: upstream: unknown key; did you mean `upst"),
        ("upstreams:\n  a: {}\nmodels: {}", "config.yaml:2: upstreams.a: the key `protocol` is mi"),
        (
            "upstreams:\n  a.b: {protocol: x}\nmodels: {}",
            'config.yaml:2: upstreams."a.b".protocol: must be `anthropic` or `openai` or `demo`',
        ),
        (
            "upstreams:\n  a:\n    protocol: demo\n    timeouts:\n      idle_s: 0\nmodels: {}",
            "config.yaml:5: upstreams.a.timeouts.idle_s: must be a number of seconds above 0",
        ),
        (
            "upstreams: {}\nmodels:\n  m:\n    targets: []",
            "config.yaml:4: models.m.targets: must be a list of at least one target",
        ),
        (
            "upstreams: {}\nmodels:\n  m:\n    targets:\n    - {upstream: a, model: b}\n    - {}",
            "config.yaml:6: models.m.targets[1]: the key `upstream` is missing",
        ),
    ],
)
def test_a_part_that_does_not_fit_is_named_by_path_and_line(refusal, text, error):
    assert refusal(text).startswith(error)


@pytest.mark.parametrize(
    "price",
    [
        "4.00",
        "4",
        '"4.0000001"',
        '"-1"',
        '"1e3"',
        '".5"',
        '"5."',
        '"04"',
        '"1000000"',
        '"1,5"',
        '"$4"',
        '""',
        '" 4"',
        '"4\\n"',
        '"٤"',
        "nan",
        "true",
        "[4]",
    ],
)
def test_a_price_that_is_not_a_quoted_decimal_is_refused(refusal, price):
    """Money is never a float: what is not text in quotes is not guessed at."""
    text = (
        "upstreams: {d: {protocol: demo}}\nmodels:\n  smart:\n"
        "    targets: [{upstream: d, model: m}]\n"
        f'    price:\n      output: "1"\n      input: {price}\n'
    )

    assert refusal(text) == f"config.yaml:7: models.smart.price.input: {DECIMAL}"


@pytest.mark.parametrize(
    ("extra", "error"),
    [
        (
            "long_context: {input: '1', output: '1'}",
            "long_context: the key `above_input_tokens` is",
        ),
        ("long_context: {above_input_tokens: 5}", "long_context: the key `input` is missing"),
        (
            "long_context: {above_input_tokens: 0, input: '1', output: '1'}",
            "long_context.above_input_tokens: must be a whole number above 0",
        ),
        ("per_request: {web_searches: '1'}", "per_request.web_searches: unknown key; did you mean"),
        ("per_request: {web_search: 0.01}", f"per_request.web_search: {PER_USE}"),
        ("per_request: {web_search: '1000'}", f"per_request.web_search: {PER_USE}"),
        ("per_request: {speed: '6'}", "per_request.speed: must be a mapping"),
        ("per_request: {speed: {fast: 6}}", f"per_request.speed.fast: {FACTOR}"),
        ("per_request: {speed: {fast: '0'}}", f"per_request.speed.fast: {FACTOR}"),
        ("per_request: {speed: {fast: '0.000000'}}", f"per_request.speed.fast: {FACTOR}"),
        ("per_request: {speed: {fast: '-1'}}", f"per_request.speed.fast: {FACTOR}"),
        ("per_request: {inference_geo: {us: '1000'}}", f"per_request.inference_geo.us: {FACTOR}"),
    ],
)
def test_what_else_a_provider_bills_is_named_where_it_is_wrong(refusal, extra, error):
    text = (
        "upstreams: {d: {protocol: demo}}\nmodels:\n  smart:\n"
        "    targets: [{upstream: d, model: m}]\n"
        f'    price:\n      input: "1"\n      output: "1"\n      {extra}\n'
    )

    assert refusal(text).startswith(f"config.yaml:8: models.smart.price.{error}")


@pytest.mark.parametrize("secret", ["sk-fake-number: 1", "[sk-fake]", "12345678"])
def test_a_value_in_the_wrong_place_is_never_repeated(refusal, secret):
    message = refusal(
        f"upstreams: {{a: {{protocol: demo, api_key: {{{secret}}}}}}}\nmodels: {{}}"
        if ":" in secret
        else f"upstreams: {{a: {{protocol: demo, api_key: {secret}}}}}\nmodels: {{}}"
    )

    assert message == f"config.yaml:1: upstreams.a.api_key: {TEXT}"
