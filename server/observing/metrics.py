"""Figures of the requests that have ended, for Prometheus.

Names and buckets of `gen_ai_…` follow OpenTelemetry's conventions for generative AI (repository
open-telemetry/semantic-conventions-genai, status Development, read 2026-11-22) in Prometheus'
spelling; what they have no name for begins with `gatewayctl_`. Labels come from the config and
from closed lists, and only so many series are kept: no key, no member, nothing a client wrote.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeAlias

import msgspec

from server.errors import GatewayError
from server.observing.exposition import Family, Histogram, Sample, labels_of
from server.observing.record import Record, Refused, Served
from server.usage.record import Outcome, Tried

MOST_SERIES = 200
MOST_ATTEMPTS = 1000  # series of them: a target has one for each kind of failure
OTHER = "_OTHER"  # OpenTelemetry's word for what has none
DURATION_S = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip
FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
TOKENS = tuple(4**power for power in range(14))

# Names of a series: model, upstream, the upstream's name of the model, protocol, provider.
_Key: TypeAlias = tuple[str, str, str, str, str]
_REST: _Key = (OTHER, OTHER, OTHER, OTHER, OTHER)


class Metrics:
    """A sink of the feed; `families` gives what has come of it."""

    def __init__(self) -> None:
        self._series: dict[_Key, _Series] = {}
        self._refusals: Counter[tuple[str, str]] = Counter()
        self._attempts: Counter[tuple[str, str, str]] = Counter()
        self._codes = _codes_below(GatewayError) | {Outcome.CANCELLED.value, Outcome.CUT.value}

    def take(self, record: Record) -> None:
        """Count a request."""
        if isinstance(record, Refused):
            self._refusals[record.protocol, self._known(record.error)] += 1
            return
        opening = record.opening
        key = (
            opening.model,
            opening.upstream,
            opening.upstream_model,
            opening.protocol,
            record.provider,
        )
        series = self._series.get(key) or self._new_series(key)
        problem = self._problem(record)
        series.add(record, problem)
        if record.closing.attempts is not None:
            self._count_attempts(record.closing.attempts, problem)
        elif record.attempts:
            self._count_attempt(opening.upstream, opening.upstream_model, problem)

    def families(self) -> Iterator[Family]:
        """Give the figures by name."""
        all_series = tuple(self._series.values())
        for name, help_, samples in _HISTOGRAMS:
            yield Family(name, "histogram", help_, _of_all(all_series, samples))
        for name, help_, samples in _COUNTERS:
            yield Family(name, "counter", help_, _summed(_of_all(all_series, samples)))
        refusals = tuple(self._refusals.items())
        yield Family(
            "gatewayctl_refusals_total",
            "counter",
            "Requests that were answered with an error and never left.",
            [Sample(labels_of({"protocol": p, "error_type": e}), n) for (p, e), n in refusals],
        )
        attempts = tuple(self._attempts.items())
        yield Family(
            "gatewayctl_attempts_total",
            "counter",
            "Times that a target was asked.",
            [Sample(_labels_of_attempt(*key), n) for key, n in attempts],
        )

    def _new_series(self, key: _Key) -> "_Series":
        if len(self._series) >= MOST_SERIES:
            key = _REST
        return self._series.setdefault(key, _Series(key))

    def _count_attempts(self, text: str, problem: str) -> None:
        """Count the attempts of a request; `problem` is how the last ended, if it was cut off."""
        *failed, last = msgspec.json.decode(text, type=list[Tried])
        for each in failed:
            self._count_attempt(each.upstream, each.model, self._known(each.error or ""))
        error = problem if last.error is None else self._known(last.error)
        self._count_attempt(last.upstream, last.model, error)

    def _count_attempt(self, upstream: str, model: str, problem: str) -> None:
        key = (upstream, model, problem)
        if key not in self._attempts and len(self._attempts) >= MOST_ATTEMPTS:
            key = (OTHER, OTHER, problem)
        self._attempts[key] += 1

    def _problem(self, record: Served) -> str:
        """Give the class of error that a request ended with; none where it was completed."""
        closing = record.closing
        if closing.outcome is Outcome.COMPLETED:
            return ""
        return self._known(closing.error or closing.outcome.value)

    def _known(self, error: str) -> str:
        return error if error in self._codes else OTHER  # a provider may send any word


class _Series:
    """What is counted for requests of one kind."""

    def __init__(self, key: _Key) -> None:
        model, upstream, upstream_model, protocol, provider = key
        ours = {"model": model, "upstream": upstream, "protocol": protocol}
        self.ours = labels_of(ours)
        self.conventional = labels_of(
            {
                "gen_ai_operation_name": "chat",
                "gen_ai_provider_name": provider,
                "gen_ai_request_model": model,
                "gen_ai_response_model": upstream_model,
                "upstream": upstream,
                "protocol": protocol,
            }
        )
        self.outcomes: dict[str, int] = {}
        self.durations: dict[str, Histogram] = {}
        self.first_token = Histogram(FIRST_TOKEN_S)
        self.input, self.output = Histogram(TOKENS), Histogram(TOKENS)
        self.cost_micros = self.quota_tokens = 0
        self.has_streamed = False
        self.tokens = [0, 0, 0, 0, 0]

    def add(self, record: Served, problem: str) -> None:
        closing, tokens = record.closing, self.tokens
        outcome = closing.outcome.value
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        duration = self.durations.get(problem)
        if duration is None:
            duration = self.durations[problem] = Histogram(DURATION_S)
        duration.observe((closing.duration_ms or 0) / 1000)
        if record.opening.stream and not problem and closing.first_byte_ms is not None:
            self.has_streamed = True
            self.first_token.observe(closing.first_byte_ms / 1000)
        read, written_5m = closing.cache_read_input_tokens, closing.cache_write_5m_tokens
        written_1h = closing.cache_write_1h_tokens
        self.input.observe(closing.input_tokens + read + written_5m + written_1h)
        self.output.observe(closing.output_tokens)
        tokens[0] += closing.input_tokens
        tokens[1] += read
        tokens[2] += written_5m
        tokens[3] += written_1h
        tokens[4] += closing.output_tokens
        self.cost_micros += closing.cost_micros
        self.quota_tokens += closing.quota_tokens

    # the samples of each family

    def duration_samples(self) -> Iterator[Sample]:
        for problem, durations in tuple(self.durations.items()):
            error = f',error_type="{problem}"' if problem else ""
            yield from durations.samples(self.conventional + error)

    def first_token_samples(self) -> Iterator[Sample]:
        if self.has_streamed:
            yield from self.first_token.samples(self.conventional)

    def usage_samples(self) -> Iterator[Sample]:
        yield from self.input.samples(f'{self.conventional},gen_ai_token_type="input"')
        yield from self.output.samples(f'{self.conventional},gen_ai_token_type="output"')

    def request_samples(self) -> Iterator[Sample]:
        for outcome, count in tuple(self.outcomes.items()):
            yield Sample(f'{self.ours},outcome="{outcome}"', count)

    def token_samples(self) -> Iterator[Sample]:
        for name, count in zip(_CLASSES, self.tokens, strict=True):
            yield Sample(f'{self.ours},class="{name}"', count)

    def cost_samples(self) -> Iterator[Sample]:
        yield Sample(self.ours, self.cost_micros)

    def quota_samples(self) -> Iterator[Sample]:
        yield Sample(self.ours, self.quota_tokens)


def _labels_of_attempt(upstream: str, model: str, problem: str) -> str:
    error = {"error_type": problem} if problem else {}
    return labels_of({"upstream": upstream, "model": model} | error)


def _of_all(
    all_series: tuple[_Series, ...], samples: Callable[[_Series], Iterator[Sample]]
) -> Iterator[Sample]:
    for series in all_series:
        yield from samples(series)


def _summed(samples: Iterator[Sample]) -> Iterator[Sample]:
    """Add up what has the same labels: they do not tell the targets of one upstream apart."""
    sums: dict[str, float] = {}
    for sample in samples:
        sums[sample.labels] = sums.get(sample.labels, 0) + sample.value
    for labels, value in sums.items():
        yield Sample(labels, value)


def _codes_below(kind: type[GatewayError]) -> frozenset[str]:
    """Give the codes of an error and of all more special ones."""
    below = [_codes_below(each) for each in kind.__subclasses__()]
    return frozenset({kind.code}).union(*below)


_CLASSES = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
_HISTOGRAMS = (
    (
        "gen_ai_client_operation_duration_seconds",
        "How long requests took, from their arrival to their settlement.",
        _Series.duration_samples,
    ),
    (
        "gen_ai_server_time_to_first_token_seconds",
        "How long completed streams took to their provider's first byte.",
        _Series.first_token_samples,
    ),
    (
        "gen_ai_client_token_usage",
        "Tokens of each request; input includes what was read from and written to caches.",
        _Series.usage_samples,
    ),
)
_COUNTERS = (
    (
        "gatewayctl_requests_total",
        "Requests that left and have ended, one for each settled usage row.",
        _Series.request_samples,
    ),
    (
        "gatewayctl_tokens_total",
        "Tokens by class; the classes do not overlap.",
        _Series.token_samples,
    ),
    (
        "gatewayctl_cost_micros_total",
        "Millionths of a US dollar charged to balances.",
        _Series.cost_samples,
    ),
    (
        "gatewayctl_quota_tokens_total",
        "Weighted tokens taken from quotas.",
        _Series.quota_samples,
    ),
)
