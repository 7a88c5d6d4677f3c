"""All that watches a running gateway, put together for as long as it runs."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from server.observing.access_log import AccessLog
from server.observing.collector import Collector
from server.observing.exposition import Family, Histogram, Sample, alone, labels_of
from server.observing.log_file import LogFile
from server.observing.loop_lag import LoopLag
from server.observing.metrics import Metrics
from server.observing.record import Feed

if TYPE_CHECKING:
    from server.observing.traces import Traces

COMMIT_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told of requests that have ended, and what is measured besides."""

    feed: Feed
    metrics: Metrics
    lag: LoopLag
    commits: Histogram
    access_log: AccessLog | None
    traces: "Traces | None" = None
    reloads: dict[str, int] = field(default_factory=lambda: {"done": 0, "refused": 0})

    def families(self) -> Iterator[Family]:
        """Give all figures that were gathered."""
        yield from self.metrics.families()
        yield Family(
            "gatewayctl_event_loop_lag_seconds",
            "histogram",
            "How late the event loop came, looked at each second.",
            self.lag.histogram.samples(""),
        )
        yield Family(
            "gatewayctl_store_commit_duration_seconds",
            "histogram",
            "How long each group of writes took, its commit included.",
            self.commits.samples(""),
        )
        yield Family(
            "gatewayctl_config_reloads_total",
            "counter",
            "Reloads of the config: those done, and those refused.",
            [Sample(labels_of({"result": result}), n) for result, n in self.reloads.items()],
        )
        if self.access_log is not None:
            yield alone(
                "gatewayctl_access_log_dropped_lines_total",
                "counter",
                "Lines that the access log could not take.",
                self.access_log.dropped,
            )
        if self.traces is not None:
            yield alone(
                "gatewayctl_traces_dropped_spans_total",
                "counter",
                "Spans that the collector did not take.",
                self.traces.dropped,
            )


@asynccontextmanager
async def watching(
    access_log: Path | None, collector: Collector | None = None
) -> AsyncIterator[Watch]:
    """Watch inside the block; at its end the access log is written out, and spans are sent.

    Raises:
        OSError: the access log cannot be opened.
    """
    metrics, feed = Metrics(), Feed()
    feed.subscribe(metrics.take)
    log = None
    if access_log is not None:
        file = LogFile(access_log)
        file.open()
        log = AccessLog(file)
        feed.subscribe(log.take)
    traces = None if collector is None else _traces_to(collector, feed)
    lag = LoopLag()
    try:
        yield Watch(feed, metrics, lag, Histogram(COMMIT_S), log, traces)
    finally:
        lag.close()
        for sink in (log, traces):
            if sink is not None:
                await sink.close()


def _traces_to(collector: Collector, feed: Feed) -> "Traces":
    from server.observing.traces import Traces  # what nobody else has to have installed

    traces = Traces.to(collector)
    feed.subscribe(traces.take)
    return traces
