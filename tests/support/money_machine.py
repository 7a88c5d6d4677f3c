"""Grants, requests, clocks and crashes in any order, with the books checked after each.

The real functions on a real database, against a model in plain Python (`support.money_model`).
"""

import shutil
from contextlib import suppress
from fractions import Fraction
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.money import HOUR, NOW, SMART, closing, config, house, run
from support.money_model import Asked, Books, Subscribed, longest

from server import clock
from server.billing import admission, ledger, orphans, prices, subscriptions, verify
from server.billing.allowance import Limits, Weights
from server.billing.holds import Demand, Money, Quota
from server.billing.ledger import Kind
from server.billing.rates import Tokens
from server.billing.scales import InMicros, InQuota
from server.config import schema
from server.errors import (
    GatewayError,
    InsufficientBalance,
    InvalidApiKey,
    KeyChanged,
    QuotaExceeded,
    SubscriptionInactive,
)
from server.protocols.extras import NONE
from server.store import instances
from server.store.db import open_database
from server.store.models import Key, Tenant, database
from server.tenants import keys, secrets
from server.tenants.caller import Billing
from server.usage.record import Outcome, Progress

ODD = schema.Price(input="1.500001", output="7.000003", cache_read="0.15", cache_write_5m="1.875")
MODELS = {"smart": SMART, "odd": ODD}
WEIGHTS = schema.QuotaWeights(output="1.5")
LIMITS = {"both": (600, 3), "tokens": (900, None), "counted": (None, 2), "team": (None, None)}
TIERS = {name: Limits(*limits) for name, limits in LIMITS.items()}
NEVER = Progress(0, 0, 0, 0, 0)

TENANT = st.sampled_from([1, 2])
COUNT = st.integers(0, 120)
TOKENS = st.builds(Tokens, COUNT, COUNT, COUNT, COUNT, COUNT)
WHICH = st.integers(0, 5)
HOUR_MS = 60 * 60 * 1000
JUMPS = st.sampled_from(
    [
        *(1, 999, 1000, HOUR_MS, 24 * HOUR_MS - 1, 24 * HOUR_MS, 24 * HOUR_MS, 30 * 24 * HOUR_MS),
        *(-1, -HOUR_MS, -400 * 24 * HOUR_MS),
    ]
)
MOMENT = st.none() | st.sampled_from([-HOUR_MS, 0, 1, HOUR_MS, 48 * HOUR_MS])
ALL = "all there is"
IS_DEAD = st.sampled_from([False] * 9 + [True])
# Which of a tenant's keys pays: one without limits, one with, or one that shares those; or the
# one with limits, looked up before they were changed.
WHOSE = st.sampled_from(["free", "free", "limited", "sharing", "limited", "sharing", "outdated"])
CAP = st.sampled_from([None, 0, 300, 800, 2000, 2000, 6000])


class MoneyMachine(RuleBasedStateMachine):
    """Two tenants of one gateway, whose clock, process and database nobody can rely on."""

    def __init__(self, template):
        super().__init__()
        self.folder = TemporaryDirectory()
        self.path = Path(shutil.copy(template, self.folder.name))
        self.database = open_database(self.path)
        self.houses = {each.tenant_id: each for each in (house("one"), house("two"))}
        self.instance = self.houses[1].instance_id
        self.now = clock.to_ms(NOW)
        self.prices = run(prices.in_force, config(MODELS), NOW)
        self.weights = Weights.of(WEIGHTS)
        self.books = Books(
            rates={name: price.rates for name, price in self.prices.items()},
            weights={name: Fraction(getattr(WEIGHTS, name)) for name in WEIGHTS.__struct_fields__},
            limits=LIMITS,
            entries={1: [], 2: []},
            last_at={1: 0, 2: 0},
            debts={1: 0, 2: 0},
            caps={1: None, 2: None},
        )
        self.pools = {}
        self.limited = {tenant: each.limited_key for tenant, each in self.houses.items()}
        self.set_a_cap(1, 2000)
        self.set_a_cap(2, 800)
        for tenant, tier in ((1, "both"), (2, "tokens")):
            self.post(tenant, Kind.GRANT, 5000, f"start_{tenant}")
            self.subscribe(tenant, tier, "active", None, None)

    @property
    def moment(self):
        return clock.from_ms(self.now)

    def teardown(self):
        self.database.close()
        self.folder.cleanup()

    # what moves a balance

    def post(self, tenant, kind, amount, ref, *, bounded=False):
        expected = self.books.post(tenant, kind, amount, ref, self.now, bounded=bounded)
        options = {"ref": ref, "at": self.moment, "created_by": "cli", "may_overdraw": not bounded}
        try:
            entry = run(ledger.post, tenant, kind, amount, **options)
        except InsufficientBalance:
            assert expected == "refused"
        else:
            assert expected == ("known" if entry is None else None)

    @rule(
        tenant=TENANT,
        kind=st.sampled_from([kind for kind in Kind if kind is not Kind.CHARGE]),
        amount=st.integers(1, 3000) | st.integers(-800, 800) | st.sampled_from([ALL, 500, 5000]),
        number=st.integers(0, 30),
    )
    def move(self, tenant, kind, amount, number):
        if amount is ALL:
            amount = -max(0, self.books.available(tenant))
        self.post(tenant, kind, amount, f"cause_{number}", bounded=kind is Kind.ADJUSTMENT)

    # requests

    @rule(
        tenant=TENANT,
        model=st.sampled_from(["smart", "odd", "odd", None]),
        estimate=COUNT,
        wanted=COUNT,
        least=st.integers(0, 60),
        sure=st.booleans(),
        is_dead=IS_DEAD,
        whose=WHOSE,
    )
    def begin_paid(self, tenant, model, estimate, wanted, least, sure, is_dead, whose):
        key, month = self.key_of(tenant, whose)
        if is_dead:
            key["key_id"] = self.houses[tenant].dead_key
        is_dead = is_dead or whose == "outdated"
        if model is None:
            free, key["price_id"] = Demand(lambda output: 0, wanted, least), None
            key["spend_month"] = None
            asked = self.begin(tenant, None, free, estimate, is_dead=is_dead, **key)
            assert is_dead if asked is None else asked.held == 0
            return
        scale = InMicros(self.prices[model], NONE, sure)
        demand = Demand(scale.upfront(estimate), wanted, least)
        units = self.books.worst_money(model, estimate, sure=sure)
        output = longest(units, wanted, self.books.spendable(tenant, month))
        if units(wanted) == 0:
            output = wanted
        may_begin = output >= least or output == wanted
        columns = {"model": model, "price_id": self.prices[model].number} | key
        asked = self.begin(tenant, Money(tenant), demand, estimate, is_dead=is_dead, **columns)
        assert (asked is not None) == (may_begin and output >= 0 and not is_dead)
        if asked is not None:
            asked.model, asked.month = model, month
            assert (asked.held, asked.covered) == (units(output), output)

    def key_of(self, tenant, whose):
        """Describe a key as a caller's is, and give the month that its requests count in."""
        if whose == "free":
            return {}, None
        month, limited = f"{self.moment:%Y-%m}", Key.get_by_id(self.limited[tenant])
        key = {
            "key_id": limited.id,
            "limits_text": limited.limits,
            "spend_month": month if limited.limits else None,
        }
        if whose == "sharing":
            shared = {"key_id": self.houses[tenant].sharing_key, "limits_key_id": limited.id}
            return key | shared, month
        if whose == "outdated":
            return key | {"limits_text": '{"monthly_usd":"9"}'}, month
        return key, month

    @rule(tenant=TENANT, micros=CAP)
    def set_a_cap(self, tenant, micros):
        self.books.caps[tenant] = micros
        usd = None if micros is None else f"0.{micros:06d}"
        public_id = Key.get_by_id(self.limited[tenant]).public_id
        run(keys.limit, public_id, {"monthly_usd": usd}, actor="cli", now=self.moment)

    @rule(tenant=TENANT)
    def rotate_the_limited_key(self, tenant):
        if self.books.caps[tenant] is None:
            return  # its successor would have nothing to take over
        public_id, now = Key.get_by_id(self.limited[tenant]).public_id, self.moment
        options = {"grace": HOUR, "created_by": "cli", "now": now, "secret": secrets.generate()}
        self.limited[tenant] = run(keys.rotate, None, public_id, **options).key.id

    @rule(tenant=TENANT, estimate=COUNT, wanted=COUNT, least=st.integers(0, 60), is_dead=IS_DEAD)
    def begin_subscribed(self, tenant, estimate, wanted, least, is_dead):
        scale = InQuota(self.weights)
        demand = Demand(scale.upfront(estimate), wanted, least)
        units, room = self.books.worst_quota(estimate), self.books.room(tenant, self.now)
        output = -1 if room is None else longest(units, wanted, room)
        may_begin = output >= least or output == wanted
        pool = Quota(tenant, TIERS, self.moment)
        key = {"key_id": self.houses[tenant].dead_key} if is_dead else {}
        billing = Billing.SUBSCRIPTION
        asked = self.begin(tenant, pool, demand, estimate, billing, is_dead=is_dead, **key)
        assert (asked is not None) == (may_begin and output >= 0 and not is_dead)
        if asked is not None:
            assert asked.window == self.books.use_window(tenant, self.now)
            assert (asked.held, asked.covered) == (units(output), output)

    def begin(
        self,
        tenant,
        pool,
        demand,
        estimate,
        billing=Billing.PAY_PER_TOKEN,
        *,
        is_dead=False,
        **more,
    ):
        """Admit a request for real, and note it; None where it was refused."""
        known = self.houses[tenant]
        request_id = f"req_{len(self.books.requests)}"
        opening = known.opening(
            billing,
            request_id=request_id,
            instance_id=self.instance,
            started_at=self.moment,
            input_estimate=estimate,
            **more,
        )
        try:
            grant = run(admission.admit, opening, pool, demand)
        except (InvalidApiKey, KeyChanged):
            assert is_dead
            return None
        except (InsufficientBalance, QuotaExceeded, SubscriptionInactive):
            assert not is_dead
            return None
        window = grant.window if billing is Billing.SUBSCRIPTION else None
        place = (tenant, None, window, self.instance)
        asked = Asked(request_id, *place, grant.held, grant.output_tokens, Tokens(estimate))
        self.books.requests.append(asked)
        self.pools[request_id] = pool, grant
        return asked

    def some(self, which):
        """Choose one of the requests that run, or the latest that has ended."""
        running = [each for each in self.books.requests if each.is_open]
        ended = [each for each in self.books.requests if not each.is_open][-1:]
        return (running + ended)[which % len(running + ended)]

    @precondition(lambda self: self.books.requests)
    @rule(which=WHICH, wanted=COUNT, tokens=TOKENS)
    def grow(self, which, wanted, tokens):
        asked = self.some(which)
        pool, grant = self.pools[asked.request_id]
        if pool is None:
            return
        scale, units = self.scales(asked, tokens)
        demand = Demand(scale.exact(tokens), wanted, wanted)
        written = (tokens.cache_write_5m, tokens.cache_write_1h, tokens.output)
        progress = Progress(tokens.input, tokens.cache_read, *written)

        made = run(admission.adjust, asked.request_id, pool, demand, grant, progress)

        if asked.is_open:
            asked.progress = tokens
            self.books.grow(asked, units, wanted)
            self.pools[asked.request_id] = pool, made
            assert (made.held, made.output_tokens) == (asked.held, asked.covered)
        else:
            assert made == grant

    def scales(self, asked, tokens):
        """Give the real scale of a request, and the model's units of it."""
        if asked.window is not None:
            return InQuota(self.weights), self.books.exact_quota(tokens)
        scale = InMicros(self.prices[asked.model], NONE)
        return scale, self.books.exact_money(asked.model, tokens)

    @precondition(lambda self: self.books.requests)
    @rule(which=WHICH, tokens=TOKENS | st.just(Tokens()), outcome=st.sampled_from(list(Outcome)))
    def settle(self, which, tokens, outcome):
        asked = self.some(which)
        was_open, ended = asked.is_open, self.closing(asked, tokens, outcome)
        if was_open:
            served = outcome is Outcome.COMPLETED
            came_to = self.books.settle(asked, tokens, self.now, served=served)
            assert (ended.cost_micros, ended.quota_tokens) == came_to

        assert run(admission.settle, asked.request_id, ended, self.moment) == was_open
        assert not run(admission.settle, asked.request_id, ended, self.moment)

    def closing(self, asked, tokens, outcome):
        bill = {}
        if self.pools[asked.request_id][0] is not None:
            found = self.scales(asked, tokens)[0].bill(tokens, {}, {})
            bill = {"cost_micros": found.cost_micros, "quota_tokens": found.quota_tokens}
        return closing(
            outcome,
            input_tokens=tokens.input,
            cache_read_input_tokens=tokens.cache_read,
            cache_write_5m_tokens=tokens.cache_write_5m,
            cache_write_1h_tokens=tokens.cache_write_1h,
            output_tokens=tokens.output,
            **bill,
        )

    # the world

    @rule(jump=JUMPS)
    def set_the_clock(self, jump):
        self.now = max(0, self.now + jump)

    @rule(
        tenant=TENANT,
        tier=st.sampled_from([*LIMITS, "both", "tokens", "gone"]),
        status=st.sampled_from(["active", "active", "active", "trialing", "past_due", "unpaid"]),
        grace=MOMENT,
        cancel=st.none() | st.none() | MOMENT,
    )
    def is_told_of(self, tenant, tier, status, grace, cancel):
        self.subscribe(tenant, tier, status, grace, cancel)

    def subscribe(self, tenant, tier, status, grace, cancel):
        grace, cancel = (None if ms is None else max(0, self.now + ms) for ms in (grace, cancel))
        last = self.books.subscribed.get(tenant)
        window = (0, None) if last is None else (last.window, last.began)
        self.books.subscribed[tenant] = Subscribed(tier, status, grace, cancel, *window)
        run(
            subscriptions.put,
            tenant,
            tier,
            status=status,
            source="stripe",
            now=self.moment,
            grace_until=None if grace is None else clock.from_ms(grace),
            cancel_at=None if cancel is None else clock.from_ms(cancel),
        )

    @rule(
        tenant=TENANT,
        what=st.sampled_from(["killed", "post", "begin", "settle", "grow", "orphans"]),
        which=WHICH,
        tokens=TOKENS,
    )
    def crash(self, tenant, what, which, tokens):
        if what == "killed":
            self.replace_the_process()
        else:
            self.lose_the_database(tenant, what, which, tokens)

    def replace_the_process(self):
        """Let another process settle what the last one left, at what was known of it."""
        dead, self.instance = self.instance, run(instances.begin, 1, "here", "0", self.moment)
        left = [each for each in self.books.requests if each.is_open and each.instance == dead]
        for asked in left:
            self.books.settle(asked, asked.progress, self.now, served=False)

        counts = [run(orphans.settle_some, [dead], self.weights, self.moment) for _ in range(2)]
        assert counts == [len(left), 0]

    def lose_the_database(self, tenant, what, which, tokens):
        """Drop the connection before COMMIT: then nothing of it has happened."""
        self.database.begin("IMMEDIATE")
        with suppress(GatewayError):
            self.do_in_vain(tenant, what, which, tokens)
        self.database.close()
        self.database = open_database(self.path)

    def do_in_vain(self, tenant, what, which, tokens):
        known, anything = self.houses[tenant], Demand(lambda output: output, 100, 0)
        asked = self.some(which) if self.books.requests else None
        if what == "post":
            options = {"ref": "lost", "at": self.moment, "created_by": "cli"}
            ledger.post(tenant, Kind.GRANT, 500, **options)
        elif what == "begin":
            opening = known.opening(request_id="req_lost", instance_id=self.instance)
            admission.admit(opening, Money(tenant), anything)
        elif what == "orphans":
            orphans.settle_some([self.instance], self.weights, self.moment)
        elif what == "settle" and asked is not None:
            ended = self.closing(asked, tokens, Outcome.COMPLETED)
            admission.settle(asked.request_id, ended, self.moment)
        elif what == "grow" and asked is not None:
            pool, grant = self.pools[asked.request_id]
            if pool is not None:
                admission.adjust(asked.request_id, pool, anything, grant, NEVER)

    # what must hold after every step

    @invariant()
    def tenants_agree(self):
        rows = database.execute_sql(
            "SELECT id, balance_micros, held_micros FROM tenant ORDER BY id"
        ).fetchall()
        books = self.books
        assert rows == [(each, books.balance(each), books.held(each)) for each in (1, 2)]
        for tenant in (1, 2):
            assert books.available(tenant) >= -books.debts[tenant]

    @invariant()
    def entries_agree(self):
        rows = database.execute_sql(
            "SELECT tenant_id, seq, kind, ref, amount_micros, balance_after_micros, at FROM entry"
            " ORDER BY tenant_id, seq"
        ).fetchall()
        told = [
            (tenant, seq, *entry)
            for tenant, entries in self.books.entries.items()
            for seq, entry in enumerate(entries, 1)
        ]
        assert [row[:-1] for row in rows] == told
        times = {tenant: [row[-1] for row in rows if row[0] == tenant] for tenant in (1, 2)}
        for tenant, each in times.items():
            assert each == sorted(each)
            assert each[-1:] == [self.books.last_at[tenant]][: len(each)]

    @invariant()
    def requests_agree(self):
        rows = database.execute_sql(
            "SELECT request_id, state, held_micros + held_tokens, quota_window, quota_tokens"
            " FROM request ORDER BY id"
        ).fetchall()
        assert rows == [
            (
                *(each.request_id, "open" if each.is_open else "settled"),
                *(each.held, each.window, each.used),
            )
            for each in self.books.requests
        ]

    @invariant()
    def windows_agree(self):
        rows = database.execute_sql(
            "SELECT tenant_id, quota_window, window_started_at, used_tokens, held_tokens,"
            " used_requests FROM subscription ORDER BY tenant_id"
        ).fetchall()
        assert rows == [
            (tenant, row.window, row.began, *self.books.of_window(tenant, row.window))
            for tenant, row in sorted(self.books.subscribed.items())
        ]

    @invariant()
    def spends_agree(self):
        rows = database.execute_sql(
            "SELECT key_id, month, charged_micros, held_micros FROM spend"
        ).fetchall()
        tenants = {key: tenant for tenant, key in self.limited.items()}
        assert {key for key, *_ in rows} == {
            key for key, tenant in tenants.items() if self.books.caps[tenant] is not None
        }
        for key, month, *kept in rows:
            assert tuple(kept) == self.books.spent(tenants[key], month)

    @invariant()
    def the_proof_agrees(self):
        verify.verify(list(Tenant.select()), {}, lambda rows: None)


def exercise(template, *, examples, steps, **options):
    """Let `examples` of `steps` each happen, beginning with the empty database `template`.

    Every step is held against the model and every rule, see `MoneyMachine`. Gives how many
    examples were begun.
    """
    begun = count()

    def machine():
        next(begun)
        return MoneyMachine(template)

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            **options,
        ),
    )
    return next(begun)
