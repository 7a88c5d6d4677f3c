"""What of a config is read once, at start: a running gateway keeps it whatever the file says."""

from msgspec.structs import fields, replace

from server.config.schema import Config

# Sockets, certificates, files, the collector and the account with Stripe were made from these.
_SERVER = ("host", "port", "public_url", "max_body_mb", "tls")
_LOG = ("file", "access")
_WHOLE = ("traces", "database", "presets", "stripe")


def with_fixed(old: Config, new: Config) -> tuple[Config, tuple[str, ...]]:
    """Give `new` with all that `old` fixed, and the keys of `new` that wait for a restart."""
    server = {name: getattr(old.server, name) for name in _SERVER}
    log = {name: getattr(old.log, name) for name in _LOG}
    waiting = (
        *(f"server.{name}" for name in _SERVER if getattr(new.server, name) != server[name]),
        *(f"log.{name}" for name in _LOG if getattr(new.log, name) != log[name]),
        *(name for name in _WHOLE if getattr(new, name) != getattr(old, name)),
    )
    kept = replace(
        new,
        server=replace(new.server, **server),
        log=replace(new.log, **log),
        **{name: getattr(old, name) for name in _WHOLE},
    )
    return kept, waiting


def changed_keys(old: Config, new: Config) -> tuple[str, ...]:
    """Name the top-level keys in which two configs differ."""
    names = (field.name for field in fields(Config))
    return tuple(name for name in names if getattr(old, name) != getattr(new, name))
