"""When to try again: exponential backoff with jitter, and a bounded Retry-After. Pure.

In: the number of the attempt that failed, a random source, the wait that an agent asked for. Out: seconds.

Jitter is "equal": half of the delay is fixed, half is random. Few retries are allowed (two by default); full jitter
would often spend them all within the first moments of an outage. The fixed half spreads them over the outage, the
random half keeps tasks that failed together apart. The agent queue decides how many calls reach an agent at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class RandomSource(Protocol):
    """Satisfied by `random.Random`."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """Delays in seconds. `max_retry_after_s` bounds an agent's own `Retry-After`."""

    initial_delay_s: float = 1.0
    multiplier: float = 2.0
    max_delay_s: float = 30.0
    jitter: bool = True
    max_retry_after_s: float = 300.0

    def __post_init__(self) -> None:
        if not self.multiplier >= 1:
            raise ValueError("multiplier must be at least 1")
        if not (self.initial_delay_s >= 0 and self.max_delay_s >= 0 and self.max_retry_after_s >= 0):
            raise ValueError("delays must be at least 0")


def delay_s(attempt: int, config: RetryConfig, rng: RandomSource, retry_after_s: float | None = None) -> float:
    """Seconds to wait after attempt number `attempt` (the first is 0) failed.

    >>> import random
    >>> exact, rng = RetryConfig(jitter=False), random.Random(1)
    >>> [delay_s(attempt, exact, rng) for attempt in range(3)], delay_s(0, exact, rng, retry_after_s=7.0)
    ([1.0, 2.0, 4.0], 7.0)
    """
    delay = config.max_delay_s
    # 1024 doublings leave the range of a float, and the cap was reached long before.
    if attempt < 1000 and (power := _power(config.multiplier, attempt)) is not None:
        delay = min(config.initial_delay_s * power, config.max_delay_s)
    if config.jitter:
        delay = delay / 2 + rng.random() * delay / 2
    asked_s = clamp_retry_after(retry_after_s, config)
    return delay if asked_s is None else max(delay, asked_s)


def _power(base: float, exponent: int) -> float | None:
    try:
        return float(base**exponent)
    except OverflowError:
        return None


def clamp_retry_after(retry_after_s: float | None, config: RetryConfig) -> float | None:
    """An agent's `Retry-After`, at most `max_retry_after_s`; None if it is negative or not a number.

    >>> clamp_retry_after(1e9, RetryConfig()), clamp_retry_after(-1.0, RetryConfig())
    (300.0, None)
    """
    if retry_after_s is None or not retry_after_s >= 0:
        return None
    return min(retry_after_s, config.max_retry_after_s)
