"""The secrets that a gateway was given in a test: none is ever in its logs or its database."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from server.config.load import Settings, resolve_reference
from server.secret import Secret

SHORTEST = 16  # a shorter one may be a word that is there for another reason


def configured(settings: Settings, environ: Mapping[str, str]) -> set[str]:
    """Look up every secret that a config names."""
    found = set()
    for reference in _references(settings.config):
        value = resolve_reference(reference, environ=environ, folder=settings.folder)
        if value is not None and len(value.reveal()) >= SHORTEST:
            found.add(value.reveal())
    return found


def check_secrets(settings: Settings, secrets: Collection[str]) -> None:
    """Look for `secrets` in all that a gateway has written down, now that it has ended."""
    first = [settings.log_path, settings.access_log_path, settings.database_path]
    beside = (each.parent.glob(f"{each.name}*") for each in first if each is not None)
    for path in (each for paths in beside for each in paths):
        text = path.read_bytes() if path.is_file() else b""
        found = [secret for secret in secrets if _core(secret) in text]
        assert found == [], f"a secret is in {path.name}"


def _core(secret: str) -> bytes:
    """Give what nobody may see: the gateway's own keys are listed by their ends."""
    return (secret[8:-4] if secret.startswith("gwk_") else secret).encode()


def _references(section: Any) -> Iterator[Secret]:
    if isinstance(section, Secret):
        yield section
    elif isinstance(section, Mapping):
        for each in section.values():
            yield from _references(each)
    elif isinstance(section, tuple):
        for each in section:
            yield from _references(each)
    elif hasattr(section, "__struct_fields__"):
        for name in section.__struct_fields__:
            yield from _references(getattr(section, name))
