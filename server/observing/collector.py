"""Where spans go: a collector that speaks OTLP over HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass

from server.secret import Secret


@dataclass(frozen=True, slots=True)
class Collector:
    """The URL that takes spans, what it wants to be told, and how much of all it is sent."""

    url: str
    headers: Mapping[str, Secret]
    sample_ratio: float
