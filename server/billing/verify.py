"""The proof: every balance, hold, charge and quota derived again from the rows.

Each tenant's chain is followed; then the rows that are kept beside the ledger have to agree with
it: requests with their charges, the balance, what open requests hold, the quota's open window,
what counts under monthly caps. All in one read transaction of the caller's, so it is right while
the server works.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from server import clock
from server.billing import history
from server.billing.chain import FIRST, STEP, Advance, Disagreement, Link, follow, link_at
from server.billing.money import dollars
from server.billing.quota import WINDOW_MS
from server.counts import counted
from server.store.models import Subscription, Tenant, database
from server.tenants import spend


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a tenant was verified: an entry, its hash in hexadecimal, and the balance there.

    Of the requests, those up to row `request` were settled and agreed.
    """

    seq: int
    hash: str
    balance_micros: int
    request: int


@dataclass(frozen=True, slots=True)
class Verified:
    """A tenant whose rows agree; `entries` is how many were read this time."""

    tenant: Tenant
    entries: int
    checkpoint: Checkpoint

    def in_words(self) -> str:
        """Sum it up in a line."""
        entries = counted(self.entries, "entry", "entries")
        balance, held = dollars(self.checkpoint.balance_micros), dollars(self.tenant.held_micros)
        return f"{self.tenant.name}: {entries}, balance {balance}, held {held}"


@dataclass(frozen=True, slots=True)
class Proof:
    """What was verified; its checkpoint is where a later run can go on.

    `overshoot_micros` is by how much requests have cost more than they held, all together.
    """

    tenants: tuple[Verified, ...]
    requests: int
    overshoot_micros: int

    def as_json(self) -> dict[str, object]:
        """Show it as `credits verify --json` does."""
        return {
            "object": "verification",
            "ok": True,
            "entries": sum(each.entries for each in self.tenants),
            "requests": self.requests,
            "overshoot_micros": self.overshoot_micros,
            "checkpoint": {each.tenant.public_id: asdict(each.checkpoint) for each in self.tenants},
        }


def row_count(tenants: Iterable[Tenant], since: Mapping[str, Checkpoint]) -> int:
    """Guess how many rows `verify` will read, from a few point reads."""
    known = [(tenant.id, since.get(tenant.public_id)) for tenant in tenants]
    entries = sum(history.last_seq(id_) - (start.seq if start else 0) for id_, start in known)
    return entries + _last_request() - _request_before(start for _, start in known)


def verify(tenants: Sequence[Tenant], since: Mapping[str, Checkpoint], advance: Advance) -> Proof:
    """Derive again all that is kept of `tenants`, each from its checkpoint if it has one.

    Raises:
        Disagreement: at the first row that contradicts another.
    """
    starts = [since.get(tenant.public_id) for tenant in tenants]
    _check_nobody_is_gone(tenants, since)
    verified = [
        _check_chain(tenant, start, advance) for tenant, start in zip(tenants, starts, strict=True)
    ]
    only = tenants[0].id if len(tenants) == 1 else None
    requests, overshoot = _check_requests(_request_before(starts), only, advance)
    for each in verified:
        _check_balance(each.tenant, each.checkpoint)
        _check_held(each.tenant)
        _check_quota(each.tenant)
        _check_spend(each.tenant)
    return Proof(tuple(verified), requests, overshoot)


def _check_nobody_is_gone(tenants: Iterable[Tenant], since: Iterable[str]) -> None:
    """Look for tenants that a checkpoint names or that have entries, and that are not there."""
    for name in set(since).difference(tenant.public_id for tenant in tenants):
        raise Disagreement(f"tenant {name}: it is gone since the checkpoint")
    owner: int | None = 0
    while (owner := database.execute_sql(_NEXT_OWNER, (owner,)).fetchone()[0]) is not None:
        if not Tenant.select().where(Tenant.id == owner).exists():
            raise Disagreement(f"tenant number {owner}: it has entries and no row of its own")


def _check_chain(tenant: Tenant, start: Checkpoint | None, advance: Advance) -> Verified:
    link = FIRST if start is None else _still_there(tenant, start)
    last = follow(tenant, link, advance)
    request = database.execute_sql(_SETTLED_UP_TO, (tenant.id,)).fetchone()[0]
    reached = Checkpoint(
        seq=last.seq,
        hash=last.hash.hex(),
        balance_micros=last.balance_micros,
        request=_last_request() if request is None else request,
    )
    return Verified(tenant, last.seq - link.seq, reached)


def _still_there(tenant: Tenant, start: Checkpoint) -> Link:
    if start.seq == 0:
        return FIRST
    link = link_at(tenant.id, start.seq)
    if link is None:
        raise Disagreement(
            f"tenant {tenant.name}, entry {start.seq}: it is gone since the checkpoint"
        )
    if (link.hash.hex(), link.balance_micros) != (start.hash, start.balance_micros):
        raise Disagreement(
            f"tenant {tenant.name}, entry {start.seq}: its hash or balance is not the checkpoint's"
        )
    return link


def _check_requests(after: int, only: int | None, advance: Advance) -> tuple[int, int]:
    """Hold every request against its charge; count them, and the micros beyond their holds."""
    counted = overshoot = 0
    last = _last_request()
    for start in range(after, last, STEP):
        values = (start, start + STEP, only, only)
        count, beyond, wrong = database.execute_sql(_REQUESTS, values).fetchone()
        if wrong is not None:
            raise _disagreement(wrong)
        counted += count
        overshoot += beyond
        advance(STEP)
    return counted, overshoot


def _disagreement(request: int) -> Disagreement:
    """Say in words how a request's row differs from its charge."""
    columns = (*_SAME, "amount_micros")
    name, request_id, state, price, is_priced, cost, seq, *values = database.execute_sql(
        _REQUEST, (request,)
    ).fetchone()
    charged = dict(zip(columns, values[len(_SAME) :], strict=True))
    spent = dict(zip(_SAME, values, strict=False))
    if not is_priced:
        problem = f"there is no price {price}"
    elif seq is None:
        problem = f"cost_micros is {cost}, and there is no charge"
    elif state != "settled":
        problem = f"it is {state}, and entry {seq} charges it"
    elif charged["amount_micros"] != -cost:
        problem = f"cost_micros is {cost}, entry {seq} charges {-charged['amount_micros']}"
    else:
        differs = next(column for column in _SAME if charged[column] != spent[column])
        problem = f"{differs} is {spent[differs]}, in its charge (entry {seq}) {charged[differs]}"
    return Disagreement(f"tenant {name}, request {request_id}: {problem}")


def _check_balance(tenant: Tenant, end: Checkpoint) -> None:
    if tenant.balance_micros != end.balance_micros:
        raise Disagreement(
            f"tenant {tenant.name}: balance_micros is {tenant.balance_micros}, "
            f"its entries make {end.balance_micros}"
        )


def _check_held(tenant: Tenant) -> None:
    held = database.execute_sql(_HELD, (tenant.id,)).fetchone()[0]
    if tenant.held_micros != held:
        raise Disagreement(
            f"tenant {tenant.name}: held_micros is {tenant.held_micros}, "
            f"its open requests hold {held}"
        )


def _check_quota(tenant: Tenant) -> None:
    row = Subscription.get_or_none(Subscription.tenant == tenant)
    if row is None:
        return
    begun = row.window_started_at
    # A request begins a moment before it is admitted to the window; a day is far beyond that.
    begun_ms = _NEVER if begun is None else clock.to_ms(begun) - WINDOW_MS
    values = (tenant.id, begun_ms, row.quota_window)
    used, held, requests = database.execute_sql(_WINDOW, values).fetchone()
    for column, kept, found in (
        ("used_tokens", row.used_tokens, used),
        ("held_tokens", row.held_tokens, held),
        ("used_requests", row.used_requests, requests),
    ):
        if kept != found:
            raise Disagreement(
                f"tenant {tenant.name}: {column} of its subscription is {kept}, "
                f"the requests of window {row.quota_window} make {found}"
            )


def _check_spend(tenant: Tenant) -> None:
    for head, name, month, *kept in database.execute_sql(_SPEND, (tenant.id,)).fetchall():
        found = spend.derive(head, month)
        for column, is_kept, made in zip(("charged", "held"), kept, found, strict=True):
            if is_kept != made:
                raise Disagreement(
                    f"tenant {tenant.name}, key {name}: {column}_micros of its spend in {month} "
                    f"is {is_kept}, its requests make {made}"
                )


def _last_request() -> int:
    return int(database.execute_sql("SELECT COALESCE(MAX(id), 0) FROM request").fetchone()[0])


def _request_before(starts: Iterable[Checkpoint | None]) -> int:
    """Give the row after which requests are still to be read: the earliest of all tenants'."""
    return min((0 if start is None else start.request for start in starts), default=0)


_NEXT_OWNER = "SELECT MIN(tenant_id) FROM entry WHERE tenant_id > ?"
# What a request's row and its charge both say.
_SAME = (
    *("tenant_id", "price_id", "input_tokens", "cache_read_input_tokens"),
    *("cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens", "extras"),
)
_DIFFERS = " OR ".join(f"entry.{column} IS NOT request.{column}" for column in _SAME)
_IS_PRICED = "(request.price_id IS NULL OR request.price_id IN (SELECT id FROM price))"
_CHARGED = "request LEFT JOIN entry ON entry.kind = 'charge' AND entry.ref = request.request_id"
_REQUESTS = f"""
SELECT COUNT(*), COALESCE(SUM(MAX(0, request.cost_micros - request.held_micros)), 0), MIN(CASE
    WHEN COALESCE(entry.amount_micros, 0) <> -request.cost_micros
        OR entry.seq IS NOT NULL AND (request.state <> 'settled' OR {_DIFFERS})
        OR NOT {_IS_PRICED}
    THEN request.id END)
FROM {_CHARGED}
WHERE request.id > ? AND request.id <= ? AND (? IS NULL OR request.tenant_id = ?)
"""  # noqa: S608 - our own fragments
_REQUEST = f"""
SELECT tenant.name, request.request_id, request.state, request.price_id, {_IS_PRICED},
    request.cost_micros, entry.seq, {", ".join(f"request.{column}" for column in _SAME)},
    {", ".join(f"entry.{column}" for column in _SAME)}, entry.amount_micros
FROM {_CHARGED} JOIN tenant ON tenant.id = request.tenant_id
WHERE request.id = ?
"""  # noqa: S608 - our own fragments
# The plus signs keep SQLite off the index over tenants, which would lead to every row a tenant
# has, and off the rows in their order: open requests have an index of their own.
_SETTLED_UP_TO = "SELECT MIN(+id) - 1 FROM request WHERE state = 'open' AND +tenant_id = ?"
_HELD = """
SELECT COALESCE(SUM(held_micros), 0) FROM request
WHERE state = 'open' AND billing = 'pay_per_token' AND +tenant_id = ?
"""
_WINDOW = """
SELECT COALESCE(SUM(CASE state WHEN 'settled' THEN quota_tokens END), 0),
    COALESCE(SUM(CASE state WHEN 'open' THEN held_tokens END), 0),
    COUNT(CASE WHEN state = 'open' OR quota_tokens > 0 OR outcome = 'completed' THEN 1 END)
FROM request WHERE tenant_id = ? AND started_at >= ? AND quota_window = ?
"""
_SPEND = """
SELECT key_id, public_id, month, charged_micros, held_micros
FROM spend JOIN "key" ON "key".id = key_id WHERE tenant_id = ? ORDER BY key_id, month
"""
_NEVER = 2**62
