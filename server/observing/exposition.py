"""Prometheus' text format, version 0.0.4: families of samples, and histograms.

Source: prometheus.io/docs/instrumenting/exposition_formats, read 2026-11.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """How often a value was up to each bound, and the sum of all; cheap to add to."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self, labels: str) -> Iterator["Sample"]:
        """Give its samples: cumulated buckets, their sum, their count."""
        so_far = 0
        for bound, count in zip((*self._bounds, "+Inf"), tuple(self._counts), strict=True):
            so_far += count
            le = f'le="{bound}"'
            yield Sample(f"{labels},{le}" if labels else le, so_far, "_bucket")
        yield Sample(labels, self._sum, "_sum")
        yield Sample(labels, so_far, "_count")


@dataclass(frozen=True, slots=True)
class Sample:
    """A value, under labels as `labels_of` writes them."""

    labels: str
    value: float
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: all samples of one name."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: Iterable[Sample]


def alone(
    name: str, kind: Literal["counter", "gauge"], text: str, value: float, labels: str = ""
) -> Family:
    """Give a metric of one sample."""
    return Family(name, kind, text, (Sample(labels, value),))


def labels_of(labels: Mapping[str, str]) -> str:
    """Write labels as they stand between the braces."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def render(families: Iterable[Family]) -> bytes:
    """Write the families; one that has no samples yet is left out."""
    return "".join(line for family in families for line in _lines(family)).encode()


def _lines(family: Family) -> Iterator[str]:
    name = family.name
    is_first = True
    for sample in family.samples:
        if is_first:
            is_first = False
            yield f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}\n"
        labels = f"{{{sample.labels}}}" if sample.labels else ""
        yield f"{name}{sample.suffix}{labels} {sample.value}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
