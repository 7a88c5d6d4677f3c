"""What the gateway knows of its providers: places, health, and who waits for a turn."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from server.config.schema import Config
from server.protocols import Protocol
from server.routing.breaker import Breaker
from server.routing.fair_queue import FairQueue
from server.routing.itinerary import Itinerary
from server.routing.places import Breakers, Part, places_of
from server.routing.spread import Pins

_ALL = 2**31  # more than ever wait


class Router:
    """Plans the ways of requests; what it has learned outlives a reload of the config.

    `keys` names the keys of each upstream by what tells them apart and gives nothing away.
    """

    def __init__(self, config: Config, keys: Mapping[str, Sequence[str]]) -> None:
        self._breakers = Breakers()
        self._queues: dict[str, FairQueue] = {}
        self._pins = Pins(keep_s=config.routing.sticky_s)
        self.adopt(config, keys)

    def adopt(self, config: Config, keys: Mapping[str, Sequence[str]]) -> None:
        """Go by another config from now on; a request keeps the way that it began with."""
        self._config = config
        self._places = places_of(config, keys, self._breakers)
        self._pins.keep_s = config.routing.sticky_s
        for name in self._queues.keys() - config.upstreams.keys():
            self._queues.pop(name).resize(_ALL, 0.0)
        for name, upstream in config.upstreams.items():
            most, known = upstream.max_concurrent, self._queues.get(name)
            if most is None:
                if known is not None:  # who waits would be overtaken by all that come
                    self._queues.pop(name).resize(_ALL, 0.0)
            elif known is None:
                self._queues[name] = FairQueue(most, upstream.max_wait_s)
            else:
                known.resize(most, upstream.max_wait_s)

    def itinerary(
        self, model: str, protocol: Protocol, conversation: Callable[[], bytes], now: float
    ) -> Itinerary:
        """Plan the way of a request for `model`; `conversation` says which it belongs to."""
        places = self._places.of(model, protocol)
        return Itinerary(places, self._config.routing, self._pins, conversation, now)

    def queue(self, upstream: str) -> FairQueue | None:
        """Give the queue before an upstream that takes only so many at once."""
        return self._queues.get(upstream)

    def breakers(self) -> Iterator[tuple[Part, Breaker]]:
        """Give the breaker of each target and key."""
        return self._breakers.items()

    def watch_breakers(self, on_change: Callable[[], None]) -> None:
        """Have `on_change` called after each change of a breaker, and of what has one."""
        self._breakers.on_change = on_change
