"""config.yaml, key for key: what each setting may be, and what it is when left out.

Times are seconds, prices US dollars per million tokens as quoted decimals: no number that
becomes money is ever a float. A `Meta.description` completes the sentence "must be …".
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from server.secret import Secret

PRICE_PATTERN = r"^(0|[1-9][0-9]{0,5})(\.[0-9]{1,6})?\Z"

Decimal = Annotated[
    str,
    Meta(
        pattern=PRICE_PATTERN,
        description='a decimal of at most 6 places below a million, in quotes: "4.00"',
    ),
]
PerUse = Annotated[
    str,
    Meta(
        pattern=r"^(0|[1-9][0-9]{0,2})(\.[0-9]{1,6})?\Z",
        description='a decimal of at most 6 places below a thousand, in quotes: "0.01"',
    ),
]
Factor = Annotated[
    str,
    Meta(
        pattern=r"^(?=.*[1-9])(0|[1-9][0-9]{0,2})(\.[0-9]{1,6})?\Z",
        description='a decimal of at most 6 places above 0 and below a thousand, in quotes: "1.1"',
    ),
]
Text = Annotated[str, Meta(min_length=1, description="text, not empty; a number needs quotes")]
Count = Annotated[int, Meta(ge=1, description="a whole number above 0")]
Weight = Annotated[
    int, Meta(ge=0, le=1000, description="a whole number from 0 to 1000; 0: only where no other is")
]
Cents = Annotated[int, Meta(ge=0, description="a whole number of cents, 0 or more")]
Megabytes = Annotated[int, Meta(ge=1, le=1024, description="a whole number from 1 to 1024")]
Port = Annotated[
    int, Meta(ge=0, le=65535, description="a port from 1 to 65535, or 0 for any free one")
]
_ABOVE_0 = Meta(gt=0, le=86_400, description="a number of seconds above 0, at most 86400")
_FROM_0 = Meta(ge=0, le=86_400, description="a number of seconds from 0 to 86400")
_RATIO = Meta(ge=0, le=1, description="a number from 0 to 1")
Ratio = Annotated[int, _RATIO] | Annotated[float, _RATIO]
Timeout = Annotated[int, _ABOVE_0] | Annotated[float, _ABOVE_0]
Delay = Annotated[int, _FROM_0] | Annotated[float, _FROM_0]
Tool = Literal["claudecode", "cline", "cursor", "roocode", "codex"]
CompatServer = Literal["openai", "vllm", "sglang", "ollama", "deepseek", "openrouter", "generic"]


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapping of config.yaml: immutable, and closed to unknown keys."""


class Tls(Section, frozen=True):
    """The certificate chain and its private key, PEM files relative to the config."""

    cert: Text
    key: Text


class Server(Section, frozen=True):
    """Where the gateway listens. Without `public_url`, clients are told host and port."""

    host: Text = "127.0.0.1"
    port: Port = 8080
    public_url: str | None = None
    max_body_mb: Megabytes = 32
    max_connections: Count = 5_000  # two files each, and macOS allows 10,240
    max_stream_s: Timeout = 7_200
    max_stream_mb: Megabytes = 256
    drain_s: Delay = 30
    trusted_proxies: tuple[str, ...] = ()
    cors_origins: tuple[Text, ...] = ()
    tls: Tls | None = None
    metrics: Literal["loopback", "all"] = "loopback"


class Log(Section, frozen=True):
    """The rotated log files, relative to the config: the server's own, and one of requests."""

    file: Text = "gateway.log"
    access: Text | None = "access.log"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Traces(Section, frozen=True):
    """Where spans are sent, with which headers (secrets or references), and how many of them.

    `sample_ratio` is for requests that are part of no trace; callers decide over their own.
    """

    endpoint: str | None = None
    headers: dict[str, Secret] = field(default_factory=dict)
    sample_ratio: Ratio = 1


class Timeouts(Section, frozen=True):
    """How long an upstream may take, in seconds."""

    connect_s: Timeout = 5
    first_byte_s: Timeout = 600
    idle_s: Timeout = 300
    write_s: Timeout = 30


class Compat(Section, frozen=True):
    """How a compatible server differs from OpenAI: a ready set by name, and flags over it."""

    server: CompatServer | None = None
    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] | None = None
    reasoning_field: Text | None = None
    reasoning_required: bool | None = None
    reasoning_as_sent: bool | None = None
    reasoning_effort: bool | None = None
    max_effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    effort_with_tools: Text | None = None
    reasoning_off: Literal["reasoning_effort", "thinking"] | None = None
    supports_top_k: bool | None = None
    late_system: Literal["system", "user"] | None = None
    text_parts: bool | None = None
    json_schema: bool | None = None
    cache_control: bool | None = None
    stream_usage: bool | None = None
    server_tools: Literal["drop", "refuse"] | None = None
    drop_params: tuple[Text, ...] | None = None


class Upstream(Section, frozen=True):
    """A provider endpoint; whatever is a `Secret` here may be a reference to one."""

    protocol: Literal["anthropic", "openai", "demo"]
    base_url: str | None = None
    api_key: Secret | None = None
    api_keys: tuple[Secret, ...] = ()  # more of them; conversations are spread over all
    max_concurrent: Count | None = None
    max_wait_s: Delay = 30
    headers: dict[str, Secret] = field(default_factory=dict)
    proxy: Secret | None = None
    timeouts: Timeouts = Timeouts()
    compat: Compat = Compat()

    @property
    def keys(self) -> tuple[Secret, ...]:
        """Give all keys, in the order in which they are counted."""
        first = () if self.api_key is None else (self.api_key,)
        return (*first, *self.api_keys)


class Target(Section, frozen=True):
    """One upstream, and what it calls the model.

    Targets of a lower `order` come first; those of the same share conversations by weight.
    """

    upstream: Text
    model: Text
    weight: Weight = 1
    order: Count = 1


class Rates(Section, frozen=True):
    """US dollars per million tokens; a cache class left out is billed by a stated rule."""

    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write_5m: Decimal | None = None
    cache_write_1h: Decimal | None = None


class LongContext(Rates, frozen=True, kw_only=True):
    """What all tokens cost of a request whose input, caches included, is above the limit."""

    above_input_tokens: Count


class PerRequest(Section, frozen=True):
    """What changes a request's bill: US dollars for each use of a tool, factors by setting."""

    web_search: PerUse | None = None
    code_execution: PerUse | None = None
    speed: dict[str, Factor] = field(default_factory=dict)
    service_tier: dict[str, Factor] = field(default_factory=dict)
    inference_geo: dict[str, Factor] = field(default_factory=dict)


class Price(Rates, frozen=True):
    """A model's rates, and what else changes the provider's bill."""

    long_context: LongContext | None = None
    per_request: PerRequest = PerRequest()


class Model(Section, frozen=True):
    """A logical name that clients ask for; `max_output_tokens` is held where none is asked."""

    targets: Annotated[
        tuple[Target, ...], Meta(min_length=1, description="a list of at least one target")
    ]
    price: Price | None = None
    free: bool = False
    fallback: str | None = None
    max_output_tokens: Count = 32_000


class When(Section, frozen=True):
    """What a request must be for a rule to apply; all that is given must hold."""

    tool: Tool | None = None
    max_input_tokens: Count | None = None


class Rule(Section, frozen=True):
    """The model that serves `auto` when `when` holds; the first match wins."""

    when: When
    use: Text


class Auto(Section, frozen=True):
    """What the model name `auto` means."""

    default: str | None = None
    rules: tuple[Rule, ...] = ()


class UsageLimits(Section, frozen=True):
    """What a key, or all subscription keys of a tenant together, may use; null is no limit.

    `concurrent_requests` counts streams and whole answers alike; `models` are logical names or
    globs of them; `networks` are the addresses that clients may call from; `monthly_usd` is what
    may be charged in a calendar month, UTC, to a key that pays per token; a tier has none.
    """

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent_requests: Count | None = None
    models: tuple[Text, ...] | None = None
    monthly_usd: Decimal | None = None
    networks: tuple[Text, ...] | None = None


class Tier(Section, frozen=True):
    """What a subscription buys; a quota of null is no limit."""

    name: Text
    price_cents: Cents
    interval: Literal["month", "year"] = "month"
    quota_tokens: Count | None = None
    quota_requests: Count | None = None
    limits: UsageLimits = UsageLimits()
    stripe_lookup_key: str | None = None


class Limits(Section, frozen=True):
    """Whether the limits of keys and tiers are enforced, or only what they would block is told."""

    mode: Literal["enforce", "shadow"] = "enforce"


class Routing(Section, frozen=True):
    """How a request gets round what fails; times in seconds.

    It is tried again only before the first byte of content. A breaker opens after that many
    failures in a row, lets one request through when its time has passed, and stays open twice
    as long whenever that fails.
    """

    max_attempts: Count = 3
    retry_within_s: Delay = 20
    backoff_s: Delay = 0.5
    longest_backoff_s: Delay = 8
    breaker_failures: Count | None = 5  # null: none ever opens
    breaker_open_s: Timeout = 5
    breaker_longest_s: Timeout = 120
    sticky_s: Timeout = 3_600


class Billing(Section, frozen=True):
    """How money is held while a request runs."""

    hold: Literal["incremental", "strict"] = "incremental"
    hold_slice_tokens: Count = 8192
    assumed_tokens_per_s: Count = 100
    min_output_tokens: Count = 256
    on_disconnect: Literal["cancel", "drain"] = "cancel"


class QuotaWeights(Section, frozen=True):
    """How much of a quota one token of each class uses."""

    input: Decimal = "1"
    output: Decimal = "1"
    cache_read: Decimal = "0.1"
    cache_write: Decimal = "1.25"


class Stripe(Section, frozen=True):
    """Stripe's secrets, usually references; what resolves to nothing is not configured."""

    secret_key: Secret | None = Secret("${STRIPE_SECRET_KEY}")
    webhook_secrets: tuple[Secret, ...] = (Secret("${STRIPE_WEBHOOK_SECRET}"),)
    api_base: str | None = None


class Config(Section, frozen=True, kw_only=True):
    """The whole file."""

    server: Server = Server()
    log: Log = Log()
    traces: Traces = Traces()
    database: Text = "gateway.db"
    presets: Text = "presets"
    upstreams: dict[str, Upstream]
    models: dict[str, Model]
    aliases: dict[str, str] = field(default_factory=dict)
    auto: Auto = Auto()
    routing: Routing = Routing()
    tiers: dict[str, Tier] = field(default_factory=dict)
    default_tier: str | None = None
    limits: Limits = Limits()
    billing: Billing = Billing()
    quota_weights: QuotaWeights = QuotaWeights()
    stripe: Stripe = Stripe()
