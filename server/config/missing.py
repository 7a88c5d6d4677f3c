"""The keys of upstreams that a config refers to, and that are not there."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from server.config.document import KeyPath
from server.config.load import Settings
from server.config.references import is_reference, resolve_reference, variables
from server.config.schema import Upstream
from server.secret import Secret


@dataclass(frozen=True, slots=True)
class MissingKey:
    """A key that resolves to nothing: whose it is, where it stands, and what it refers to."""

    upstream: str
    place: KeyPath
    reference: str


def missing_keys(settings: Settings, environ: Mapping[str, str]) -> tuple[MissingKey, ...]:
    """Find the configured keys of upstreams that some model uses which resolve to nothing.

    An upstream without a key needs none (a model server of one's own).

    Raises:
        ConfigError: a key's file is there but cannot be used.
    """
    config = settings.config
    used = {target.upstream for model in config.models.values() for target in model.targets}
    return tuple(
        MissingKey(name, place, _shown(key))
        for name, upstream in config.upstreams.items()
        if name in used
        for place, key in _keys(name, upstream)
        if resolve_reference(key, environ=environ, folder=settings.folder) is None
    )


def needs(missing: Iterable[MissingKey]) -> str:
    """Say which upstream needs which variables and files."""
    references: dict[str, dict[str, None]] = {}
    for each in missing:
        references.setdefault(each.upstream, {})[each.reference] = None
    return "; ".join(f"{name} needs {', '.join(those)}" for name, those in references.items())


def _keys(name: str, upstream: Upstream) -> Iterator[tuple[KeyPath, Secret]]:
    if upstream.api_key is not None:
        yield ("upstreams", name, "api_key"), upstream.api_key
    for at, key in enumerate(upstream.api_keys):
        yield ("upstreams", name, "api_keys", at), key


def _shown(key: Secret) -> str:
    """Tell what `key` refers to; a secret beside a reference is not told."""
    text = key.reveal()
    told = text if is_reference(text) else ", ".join(f"${{{name}}}" for name in variables(text))
    return told or "a key that is not empty"
