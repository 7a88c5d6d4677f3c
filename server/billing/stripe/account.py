"""The Stripe account that this gateway sells through, and what selling there needs."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from server.billing.stripe.client import Client
from server.config.load import Settings, resolve_reference
from server.config.schema import Tier
from server.errors import BillingNotConfigured
from server.secret import Secret
from server.store.db import Store


@dataclass(slots=True, eq=False)
class Account:
    """One client, the store, the tiers; `told` is set when there is something to look at.

    `tiers` is swapped whole on a reload; read it once where its parts must agree.
    """

    client: Client
    store: Store
    tiers: Mapping[str, Tier]
    public_url: str | None
    webhook_secrets: tuple[Secret, ...]
    is_live: bool
    told: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str) -> str:
        """Give the public URL of `path`; no other source says where people are sent.

        Raises:
            BillingNotConfigured: the config has no `server.public_url`.
        """
        if self.public_url is None:
            raise BillingNotConfigured(
                "Buying needs `server.public_url` in the gateway's config: "
                "where Stripe sends people back to."
            )
        return self.public_url.rstrip("/") + path


@asynccontextmanager
async def opened(
    settings: Settings, environ: Mapping[str, str], store: Store
) -> AsyncIterator[Account | None]:
    """Have the account that `stripe` in the config names; None where its key is nothing.

    Raises:
        ConfigError: a secret's file is there but cannot be used.
    """

    def resolve(value: Secret | None) -> Secret | None:
        return resolve_reference(value, environ=environ, folder=settings.folder)

    config = settings.config
    key = resolve(config.stripe.secret_key)
    if key is None:
        yield None
        return
    secrets = (resolve(each) for each in config.stripe.webhook_secrets)
    account = Account(
        client=Client(key, config.stripe.api_base),
        store=store,
        tiers=config.tiers,
        public_url=config.server.public_url,
        webhook_secrets=tuple(each for each in secrets if each and not each.reveal().isspace()),
        is_live="_live_" in key.reveal(),
    )
    try:
        yield account
    finally:
        await account.client.close()


def require(account: Account | None) -> Account:
    """Give the account, or refuse.

    Raises:
        BillingNotConfigured: there is none.
    """
    if account is None:
        raise BillingNotConfigured(
            "Nothing can be bought here: the gateway's config has no Stripe key "
            "(`stripe.secret_key`)."
        )
    return account
