"""What a tier allows in one window, and how much of it a request takes."""

from collections.abc import Mapping
from dataclasses import dataclass

from server.billing.money import MICROS, micros
from server.billing.pricing import Tokens
from server.config.schema import QuotaWeights, Tier


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tier allows in one window: weighted tokens and requests; None is no limit."""

    tokens: int | None
    requests: int | None


Tiers = Mapping[str, Limits]


def limits_of(tiers: Mapping[str, Tier]) -> dict[str, Limits]:
    """Read what each tier of the config allows."""
    return {name: Limits(tier.quota_tokens, tier.quota_requests) for name, tier in tiers.items()}


@dataclass(frozen=True, slots=True)
class Weights:
    """What one token of each class counts, in millionths."""

    input: int
    output: int
    cache_read: int
    cache_write: int

    @classmethod
    def of(cls, config: QuotaWeights) -> "Weights":
        """Read the config's decimals."""
        return cls(
            input=micros(config.input),
            output=micros(config.output),
            cache_read=micros(config.cache_read),
            cache_write=micros(config.cache_write),
        )

    def weigh(self, tokens: Tokens) -> int:
        """Give the weighted tokens of a request, rounded up once."""
        writes = tokens.cache_write_5m + tokens.cache_write_1h
        exact = (
            tokens.input * self.input
            + tokens.output * self.output
            + tokens.cache_read * self.cache_read
            + writes * self.cache_write
        )
        return -(-exact // MICROS)

    def worst(self, *, input_tokens: int, output_tokens: int) -> int:
        """Give the most that so much input and output can weigh, however it was cached."""
        dearest = max(self.input, self.cache_read, self.cache_write)
        return -(-(input_tokens * dearest + output_tokens * self.output) // MICROS)
