"""The tables. Times are stored as whole milliseconds since 1970 (UTC) and read as datetimes."""

from datetime import datetime

from peewee import (
    SQL,
    AutoField,
    BigIntegerField,
    BlobField,
    BooleanField,
    CompositeKey,
    DatabaseProxy,
    ForeignKeyField,
    IntegerField,
    Model,
    TextField,
)

from server import clock

database = DatabaseProxy()


class Moment(BigIntegerField):
    """An aware UTC datetime, stored as milliseconds since 1970."""

    def db_value(self, value: datetime | int | None) -> int | None:
        return clock.to_ms(value) if isinstance(value, datetime) else value

    def python_value(self, value: int | None) -> datetime | None:
        return None if value is None else clock.from_ms(value)


class Table(Model):
    """Binds every table to the one database that `store.db` opened."""

    class Meta:
        database = database
        legacy_table_names = False


class Instance(Table):
    """A process that serves, or served; its end is unknown where it was killed."""

    id = AutoField()
    pid = IntegerField()
    host = TextField()
    version = TextField()
    started_at = Moment()
    stopped_at = Moment(null=True)


class Breaker(Table):
    """A target or key that the process which serves holds off; all others are asked."""

    upstream = TextField()
    model = TextField()  # the target's name of it; of a key: empty
    key = IntegerField()  # from 1; of a target: 0
    state = TextField()  # open | half_open
    since = Moment()
    until = Moment(null=True)  # when it is tried next, while it is open
    reason = TextField()  # our error code, or the provider's word
    instance = ForeignKeyField(Instance, index=False)
    instance_id: int

    class Meta:
        primary_key = CompositeKey("upstream", "model", "key")
        without_rowid = True


class Tenant(Table):
    """Who owns keys and money; balance and held change with the ledger and the holds alone."""

    id = AutoField()
    public_id = TextField(unique=True)  # tnt_…
    name = TextField(unique=True)
    created_at = Moment()
    balance_micros = IntegerField(default=0)  # the sum of its entries
    held_micros = IntegerField(default=0)  # the sum of what its open requests hold
    stripe_customer_id = TextField(null=True, unique=True)
    stripe_customers_gone = IntegerField(default=0)  # how many it had that were deleted there


class Key(Table):
    """A secret that acts for a tenant; only its SHA-256 is kept."""

    id = AutoField()
    public_id = TextField(unique=True)  # key_…
    tenant = ForeignKeyField(Tenant, backref="keys")
    tenant_id: int
    name = TextField()
    member = TextField(null=True)
    billing = TextField()  # pay_per_token | subscription
    scope = TextField()  # manage | inference
    secret_sha256 = TextField(unique=True)  # 64 hexadecimal digits
    prefix = TextField()
    last4 = TextField()
    created_at = Moment()
    created_by = TextField()  # "cli", or the id of the key that minted it
    expires_at = Moment(null=True)
    last_used_at = Moment(null=True)  # written at most once a minute
    revoked_at = Moment(null=True)
    limits = TextField(null=True)  # JSON of what it may use; null: all it likes, or another's
    limits_key = ForeignKeyField("self", null=True)  # whose limits and counters it shares
    limits_key_id: int | None


class Price(Table):
    """A price that was in force; its id is its number. Micros per million tokens; immutable."""

    id = AutoField()
    model = TextField(index=True)
    input = IntegerField()
    output = IntegerField()
    cache_read = IntegerField()
    cache_write_5m = IntegerField()
    cache_write_1h = IntegerField()
    long_above_tokens = IntegerField(null=True)
    long_input = IntegerField(null=True)
    long_output = IntegerField(null=True)
    long_cache_read = IntegerField(null=True)
    long_cache_write_5m = IntegerField(null=True)
    long_cache_write_1h = IntegerField(null=True)
    extras = TextField(null=True)  # JSON: micros per use, factors in millionths
    created_at = Moment()


class Entry(Table):
    """A line of a tenant's ledger: append-only, numbered without gaps, chained by its hash.

    A charge carries its token counts and its price, so that it can be recomputed for ever.
    """

    tenant = ForeignKeyField(Tenant, index=False)
    tenant_id: int
    seq = IntegerField()  # 1, 2, 3 … within the tenant
    kind = TextField()  # topup | grant | charge | refund | dispute | adjustment
    ref = TextField()  # what caused it; of each kind and cause there is one entry
    amount_micros = IntegerField()  # signed
    balance_after_micros = IntegerField()
    at = Moment()  # never earlier than the entry before
    price = ForeignKeyField(Price, null=True, index=False)
    price_id: int | None
    input_tokens = IntegerField(null=True)
    cache_read_input_tokens = IntegerField(null=True)
    cache_write_5m_tokens = IntegerField(null=True)
    cache_write_1h_tokens = IntegerField(null=True)
    output_tokens = IntegerField(null=True)
    extras = TextField(null=True)  # JSON: what else was billed
    created_by = TextField(null=True)
    reason = TextField(null=True)
    hash = BlobField()  # SHA-256 over the hash before and every column above

    class Meta:
        primary_key = CompositeKey("tenant", "seq")
        without_rowid = True
        indexes = ((("kind", "ref"), True),)


class Subscription(Table):
    """What a tenant subscribes to, and its quota window: numbered, opened by first use."""

    tenant = ForeignKeyField(Tenant, primary_key=True)
    tenant_id: int
    tier = TextField()
    status = TextField()  # Stripe's words
    source = TextField()  # cli | stripe
    stripe_id = TextField(null=True, unique=True)
    current_period_end = Moment(null=True)
    cancel_at = Moment(null=True)
    grace_until = Moment(null=True)
    quota_window = IntegerField(default=0)
    window_started_at = Moment(null=True)
    used_tokens = IntegerField(default=0)  # weighted
    held_tokens = IntegerField(default=0)  # weighted
    used_requests = IntegerField(default=0)  # those under way too
    created_at = Moment()
    updated_at = Moment()


class Request(Table):
    """One dispatched inference request, from before it leaves until it is settled.

    The row is written before a byte goes upstream (`state` open) and closed exactly once,
    however the request ends. A row that is open without a living instance was cut by a crash.
    Token classes do not overlap: `input_tokens` excludes both cache classes.
    """

    id = AutoField()
    request_id = TextField(unique=True)  # req_…, ours
    state = TextField()  # open | settled
    instance = ForeignKeyField(Instance, index=False)
    instance_id: int
    tenant = ForeignKeyField(Tenant, index=False)
    tenant_id: int
    key = ForeignKeyField(Key, index=False)
    key_id: int
    member = TextField(null=True)
    tool = TextField(null=True)  # the prefix it came by
    session = TextField(null=True)  # the tool's own session id, where it sends one
    agent = TextField(null=True)  # the tool's own agent id, where it sends one
    protocol = TextField()  # anthropic | openai
    stream = BooleanField()
    requested_model = TextField()
    model = TextField()  # the logical name that served it
    upstream = TextField()
    upstream_model = TextField()
    upstream_request_id = TextField(null=True)
    started_at = Moment()
    first_byte_ms = IntegerField(null=True)
    duration_ms = IntegerField(null=True)
    status = IntegerField(null=True)  # the HTTP status that the caller was sent
    outcome = TextField(null=True)  # completed | upstream_error | cancelled | interrupted
    error = TextField(null=True)  # our error code, where there was one
    stop_reason = TextField(null=True)
    input_tokens = IntegerField(default=0)
    cache_read_input_tokens = IntegerField(default=0)
    cache_write_5m_tokens = IntegerField(default=0)
    cache_write_1h_tokens = IntegerField(default=0)
    output_tokens = IntegerField(default=0)
    estimated = BooleanField(default=False)  # some class was missing and was estimated
    billing = TextField(default="pay_per_token")  # as the key's
    price = ForeignKeyField(Price, null=True, index=False)
    price_id: int | None
    held_micros = IntegerField(default=0)  # once settled: what was held at the end
    cost_micros = IntegerField(default=0)  # charged to the balance
    quota_window = IntegerField(null=True)  # the window that the hold belongs to
    held_tokens = IntegerField(default=0)  # weighted; once settled: what was held at the end
    quota_tokens = IntegerField(default=0)  # weighted; taken from the quota
    extras = TextField(null=True)  # JSON: what else was asked for, and once settled billed
    anomaly = TextField(null=True)  # what was odd in the provider's usage
    spend_month = TextField(null=True)  # the month whose cap it counts under, if its key has one
    attempts = TextField(null=True)  # JSON, where the row does not say as much

    class Meta:
        # Every index is paid for by each request, so the foreign keys have none of their own.
        indexes = ((("tenant", "started_at"), False), (("key", "started_at"), False))


# What a crash left open is found without reading millions of settled rows.
Request.add_index(Request.index(Request.instance, where=SQL("state = 'open'"), name="request_open"))


class Spend(Table):
    """What the keys that share a monthly cap have come to in a month; none without a cap."""

    key = ForeignKeyField(Key, index=False)  # the one that has the limits
    key_id: int
    month = TextField()  # 2026-11, UTC, by the requests' start
    charged_micros = IntegerField()
    held_micros = IntegerField()

    class Meta:
        primary_key = CompositeKey("key", "month")
        without_rowid = True


class CheckoutSession(Table):
    """A Checkout session of Stripe, written down before Stripe is asked for it.

    `params` is what Stripe is asked, and `public_id` names the row in the idempotency key, so
    that asking again, after whatever went wrong, gives the same session.
    """

    id = AutoField()
    public_id = TextField(unique=True)
    tenant = ForeignKeyField(Tenant)
    tenant_id: int
    state = TextField()  # open | processing | paid | complete | failed | expired | quarantined
    params = TextField()  # JSON
    session_id = TextField(null=True, unique=True)
    url = TextField(null=True)
    expires_at = Moment()
    checked_at = Moment(null=True)  # when it was last compared with Stripe's
    problem = TextField(null=True)  # why it failed, or is in quarantine
    created_at = Moment()


class Topup(CheckoutSession):
    """A purchase of balance (tu_…)."""

    amount_cents = IntegerField()


class Checkout(CheckoutSession):
    """A purchase of a subscription (co_…)."""

    tier = TextField()


class Payment(Table):
    """What the ledger has of one payment: the amounts that its entries so far add up to."""

    ref = TextField(primary_key=True)  # the payment intent, or the session where there is none
    topup = ForeignKeyField(Topup, unique=True)
    topup_id: int
    credited_micros = IntegerField()
    refunded_micros = IntegerField()
    disputed_micros = IntegerField()
    version = IntegerField()  # counts its changes; part of what its entries are known by
    updated_at = Moment()


class StripeEvent(Table):
    """Something that happened at Stripe, to look at: what it is about, never what it said."""

    id = TextField(primary_key=True)  # evt_…
    type = TextField()
    object = TextField(null=True)  # what to compare: checkout.session | payment_intent | customer
    object_id = TextField(null=True)
    state = TextField()  # new | done | ignored | quarantined
    reason = TextField(null=True)
    attempts = IntegerField(default=0)
    try_at = Moment()
    created_at = Moment()
    received_at = Moment()

    class Meta:
        indexes = ((("state", "try_at"), False),)


class StripeCursor(Table):
    """How far the comparison with Stripe is; one row."""

    id = AutoField()
    events_at = Moment(null=True)  # by Stripe's clock: the latest event that was listed
    customers_at = Moment(null=True)  # when all customers were last compared


class Audit(Table):
    """Something that was changed, and who did it; append-only."""

    id = AutoField()
    at = Moment()
    actor = TextField()  # cli:ada | init:ada | serve:ada | the acting key's public id | stripe
    tenant = ForeignKeyField(Tenant, null=True, index=False)
    tenant_id: int | None
    action = TextField()
    target = TextField()  # a public id, or what else it goes by
    details = TextField()  # JSON, its names in order


TABLES: tuple[type[Table], ...] = (
    *(Instance, Breaker, Tenant, Key, Price, Entry, Subscription, Request, Spend),
    *(Topup, Checkout, Payment, StripeEvent, StripeCursor, Audit),
)
