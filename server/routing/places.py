"""Where each model can be served: every target with every key of its upstream, in groups."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from server.config.schema import Config, Model, Target
from server.protocols import UPSTREAM_PROTOCOLS, Protocol
from server.routing.breaker import Breaker, Permit
from server.routing.verdict import Blame, Verdict


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A target with one of its upstream's keys; `key` counts from 0.

    Conversations are spread over the places of a group by weight, and stay where they are.
    """

    model: str
    target: Target
    key: int
    ident: str
    weight: int
    group: int
    of_target: Breaker
    of_key: Breaker

    def may_try(self, now: float) -> bool:
        """Tell whether neither the target nor the key has been failing."""
        of_target, of_key = self.of_target, self.of_key
        if of_target.opened_at is None and of_key.opened_at is None:
            return True
        return of_target.may_try(now) and of_key.may_try(now)

    def retry_at(self, now: float) -> float:
        """Tell when it may be tried next."""
        times = (self.of_target.retry_at(now), self.of_key.retry_at(now))
        return max(now if each is None else each for each in times)

    def begin(self, now: float) -> "Leave | None":
        """Take leave to send a request there, or None; it must be given back."""
        target = self.of_target.begin(now)
        if target is None:
            return None
        key = self.of_key.begin(now)
        if key is None:
            self.of_target.abandoned(target, now)
            return None
        return Leave(self, target, key)


class Leave:
    """Leave to send one request to a place; given back with what became of it."""

    __slots__ = ("_key", "_place", "_target")

    def __init__(self, place: Place, target: Permit, key: Permit) -> None:
        self._place, self._target, self._key = place, target, key

    def answers(self) -> None:
        """Note that content has come."""
        self._place.of_target.answers(self._target)
        self._place.of_key.answers(self._key)

    def served(self, now: float) -> None:
        """Note that the place works: its answer came to an end."""
        self._place.of_target.succeeded(self._target, now)
        self._place.of_key.succeeded(self._key, now)

    def abandoned(self, now: float) -> None:
        """Note that nobody waited for an answer."""
        self._place.of_target.abandoned(self._target, now)
        self._place.of_key.abandoned(self._key, now)

    def failed(self, verdict: Verdict, now: float, *, reason: str, retry_after_s: float) -> None:
        """Note a failure at whose fault it is; what answered at all is not failing."""
        place, blame = self._place, verdict.blame
        if blame is Blame.TARGET:
            place.of_target.failed(self._target, now, reason=reason)
            place.of_key.abandoned(self._key, now)
            return
        place.of_target.succeeded(self._target, now)
        if blame is Blame.KEY:
            place.of_key.failed(self._key, now, at_once=True, reason=reason)
            return
        place.of_key.succeeded(self._key, now)
        if blame is Blame.RATE:
            place.of_key.rest(now + retry_after_s)


class Places:
    """The places of each model for callers of each protocol, the first group first."""

    def __init__(self, of_models: Mapping[tuple[Protocol, str], tuple[Place, ...]]) -> None:
        self._of_models = of_models

    def of(self, model: str, protocol: Protocol) -> tuple[Place, ...]:
        """List where `model` can be served, its fallbacks included."""
        return self._of_models[protocol, model]


class Part(NamedTuple):
    """What has a breaker: an upstream with a model, or one of its keys, counted from 1."""

    upstream: str
    model: str | None
    key: int | None

    def __str__(self) -> str:
        return f"{self.upstream}/{self.model}" if self.model else f"{self.upstream} key {self.key}"


class Breakers:
    """The breakers of all targets and keys, by name; they outlive a reload of the config.

    `on_change` is called after each change of a state, and of what there is.
    """

    def __init__(self) -> None:
        self._known: dict[str, Breaker] = {}
        self._parts: Mapping[str, Part] = {}
        self.on_change: Callable[[], None] | None = None

    def of(self, name: str, config: Config) -> Breaker:
        """Give the breaker of a target or key, with the bounds of `config`."""
        routing = config.routing
        bounds = routing.breaker_failures, routing.breaker_open_s, routing.breaker_longest_s
        breaker = self._known.get(name)
        if breaker is None:
            failures, open_s, longest_s = bounds
            breaker = Breaker(
                failures=failures, open_s=open_s, longest_s=longest_s, on_change=self._changed
            )
            self._known[name] = breaker
        else:
            breaker.adopt(*bounds)
        return breaker

    def keep_only(self, parts: Mapping[str, Part]) -> None:
        """Forget what the config does not name any more; `parts` says what the names stand for."""
        self._known = {name: each for name, each in self._known.items() if name in parts}
        self._parts = parts
        self._changed()

    def items(self) -> Iterator[tuple[Part, Breaker]]:
        """Give each breaker with what it is for."""
        for name, breaker in self._known.items():
            yield self._parts[name], breaker

    def _changed(self, _breaker: Breaker | None = None) -> None:
        if self.on_change is not None:
            self.on_change()


def places_of(config: Config, keys: Mapping[str, Sequence[str]], breakers: Breakers) -> Places:
    """Lay out the places of a config; `keys` names the keys of each upstream, none as one.

    Groups go by the targets' `order`; within one, targets that speak the caller's protocol come
    first: nothing is translated that need not be. Behind a model's own stand its fallback's.
    """
    parts: dict[str, Part] = {}

    def places(protocol: Protocol, name: str) -> Iterator[Place]:
        before, model = 0, name
        for model in _with_fallbacks(name, config):
            groups = _groups(config.models[model], protocol, config)
            for at, targets in enumerate(groups, before):
                for target in targets:
                    yield from _of_target(model, target, at)
            before += len(groups)

    def _of_target(model: str, target: Target, group: int) -> Iterator[Place]:
        named = f"{target.upstream}/{target.model}"
        of_target = breakers.of(named, config)
        parts[named] = Part(target.upstream, target.model, None)
        idents = keys[target.upstream]
        for at, ident in enumerate(idents):
            of_key = breakers.of(ident, config)
            parts.setdefault(ident, Part(target.upstream, None, at + 1))
            # All of a target's keys together have its weight.
            share = target.weight * (_SHARES // len(idents))
            yield Place(model, target, at, f"{named} {ident}", share, group, of_target, of_key)

    found = Places(
        {
            (protocol, name): tuple(places(protocol, name))
            for protocol in UPSTREAM_PROTOCOLS
            for name in config.models
        }
    )
    breakers.keep_only(parts)
    return found


def _with_fallbacks(name: str, config: Config) -> Iterator[str]:
    """Follow a model's fallbacks; the config was checked for circles."""
    following: str | None = name
    while following is not None:
        yield following
        following = config.models[following].fallback


def _groups(model: Model, protocol: Protocol, config: Config) -> list[list[Target]]:
    ranks = {(each.order, not speaks(each, protocol, config)) for each in model.targets}
    return [
        [
            target
            for target in model.targets
            if (target.order, not speaks(target, protocol, config)) == rank
        ]
        for rank in sorted(ranks)
    ]


def speaks(target: Target, protocol: Protocol, config: Config) -> bool:
    """Tell whether a target speaks `protocol`; the demo speaks both."""
    return config.upstreams[target.upstream].protocol in (protocol.value, "demo")


_SHARES = 5040  # divisible by 1 to 10: keys share a target's weight alike
