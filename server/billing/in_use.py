"""What of a config somebody uses just now, so that it cannot be taken away."""

from collections.abc import Iterator

from peewee import SQL

from server.billing.subscriptions import ENDED
from server.config.document import KeyPath
from server.config.schema import Config
from server.counts import counted
from server.store.models import Checkout, Request, Subscription

_UNPAID_STATES = ("open", "processing", "paid")  # a checkout that may become a subscription yet


def removed(old: Config, new: Config, instance_id: int) -> Iterator[tuple[KeyPath, str]]:
    """Tell what `old` has, `new` has not, and a tenant or a running request needs.

    Runs in a transaction; `instance_id` is the process whose requests run.
    """
    for tier in old.tiers.keys() - new.tiers.keys():
        on_it = Subscription.select().where(
            Subscription.tier == tier, Subscription.status.not_in(ENDED)
        )
        if count := on_it.count():
            yield ("tiers", tier), f"is gone, but {_are(count, 'tenant')} subscribed to it"
        to_it = Checkout.select().where(Checkout.tier == tier, Checkout.state.in_(_UNPAID_STATES))
        if count := to_it.count():
            yield ("tiers", tier), f"is gone, but {_are(count, 'tenant')} about to buy it"
    for name, model in old.models.items():
        kept = new.models.get(name)
        if kept is not None and (kept.price is not None or model.price is None):
            continue
        running = Request.select().where(
            Request.instance == instance_id, SQL("state = 'open'"), Request.model == name
        )
        if count := running.count():
            what: KeyPath = ("models", name) if kept is None else ("models", name, "price")
            yield what, f"is gone, but {_are(count, 'request')} running on it"


def _are(count: int, thing: str) -> str:
    return f"{counted(count, thing)} {'is' if count == 1 else 'are'}"
