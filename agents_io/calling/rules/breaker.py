"""A circuit breaker for one agent: failures counted in a rolling time window, a bounded number of probes when half
open. Pure.

In: the time (monotonic seconds) and the outcome of each call. Out: a permit for a call or None, and the transitions.

A permit belongs to the generation of the circuit in which it was given. Reports of older generations are ignored: a
late answer can neither close nor open a later circuit. A probe without an outcome frees its place when its lease ends,
so a circuit cannot stay half open forever.

The circuit opens by a count of failures, by their share and by the share of slow calls (if configured), or by hand
(`mode`). It never calls an agent, reads a clock or publishes an event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from agents_io.calling.rules.call_rates import CallRates

State = Literal["closed", "open", "half_open"]
Outcome = Literal["success", "failure", "neutral"]
TransitionKind = Literal["open", "half-open", "close"]
Mode = Literal["auto", "open", "disabled"]

MAX_TRANSITIONS = 256
_NEVER = float("inf")
_NO_GENERATION = -1
"""Generation of calls let through while disabled: their outcomes do not count."""
_STATES: tuple[State, ...] = ("closed", "open", "half_open")


@dataclass(frozen=True, slots=True)
class BreakerConfig:
    """Opens at `failure_threshold` failures within `monitoring_period_s`; half open after `reset_timeout_s`. All times
    in seconds.

    `failure_rate`: open at that share of failures instead. `slow_rate`: open also at that share of calls that took
    `slow_call_s` or longer. Both need at least `minimum_calls` within the period; a slow probe then counts as failed.

    `mode`: `open` lets no call through, `disabled` lets all. The automatic state is kept for the return to `auto`.

    Half open admits `probes` at once; `successes_to_close` successes close the circuit, the first failure opens it
    again. `probe_lease_s`: how long a probe may stay without an outcome, unless `try_acquire` is given another time.
    Raises ValueError.
    """

    failure_threshold: int = 5
    reset_timeout_s: float = 30.0
    monitoring_period_s: float = 60.0
    probes: int = 3
    successes_to_close: int = 3
    probe_lease_s: float = 35.0
    failure_rate: float | None = None
    minimum_calls: int = 10
    slow_call_s: float | None = None
    slow_rate: float | None = None
    mode: Mode = "auto"

    def __post_init__(self) -> None:
        if min(self.failure_threshold, self.probes, self.successes_to_close, self.minimum_calls) < 1:
            raise ValueError("failure_threshold, probes, successes_to_close and minimum_calls must be at least 1")
        if not (self.reset_timeout_s > 0 and self.monitoring_period_s > 0 and self.probe_lease_s > 0):
            raise ValueError("reset_timeout_s, monitoring_period_s and probe_lease_s must be above 0")
        if any(rate is not None and not 0 < rate <= 1 for rate in (self.failure_rate, self.slow_rate)):
            raise ValueError("failure_rate and slow_rate must be above 0 and at most 1")
        if (self.slow_rate is None) != (self.slow_call_s is None) or (self.slow_call_s or 1.0) <= 0:
            raise ValueError("slow_rate and slow_call_s belong together; slow_call_s must be above 0")

    @property
    def by_rate(self) -> bool:
        """Whether shares of calls are used."""
        return self.failure_rate is not None or self.slow_rate is not None


class Permit:
    """Permission for one call. Hand it back with `Breaker.record`. `probe`: the call tests a half-open circuit."""

    __slots__ = ("expires_at", "generation", "probe", "settled")

    def __init__(self, generation: int, expires_at: float, probe: bool = False) -> None:
        self.generation = generation
        self.expires_at = expires_at
        self.probe = probe
        self.settled = False


class Transition(NamedTuple):
    """A change of state. `failures`: those within the rolling window at that moment; `at`: monotonic seconds."""

    kind: TransitionKind
    failures: int
    at: float


class Breaker:
    """The circuit of one agent.

    >>> breaker = Breaker(BreakerConfig(failure_threshold=2))
    >>> for now in (0.0, 1.0):
    ...     transition = breaker.record(breaker.try_acquire(now), "failure", now)
    >>> transition.kind, breaker.try_acquire(2.0), breaker.available_at(2.0)
    ('open', None, 31.0)
    """

    __slots__ = (
        "_closed_permit",
        "_config",
        "_failures",
        "_generation",
        "_opened_at",
        "_probes",
        "_rates",
        "_state",
        "_successes",
        "_transitions",
    )

    def __init__(self, config: BreakerConfig | None = None) -> None:
        self._config = config or BreakerConfig()
        self._state: State = "closed"
        self._generation = 0
        self._closed_permit = Permit(0, float("inf"))
        self._failures: deque[float] = deque(maxlen=self._config.failure_threshold)
        self._opened_at = 0.0
        self._probes: list[Permit] = []
        self._rates = CallRates(self._config.monitoring_period_s)
        self._successes = 0
        self._transitions: deque[Transition] = deque(maxlen=MAX_TRANSITIONS)

    @property
    def config(self) -> BreakerConfig:
        return self._config

    def reconfigure(self, config: BreakerConfig) -> None:
        """Takes effect at once. State and failures so far are kept; a window of another length starts empty."""
        if config.monitoring_period_s != self._config.monitoring_period_s or not config.by_rate:
            self._rates = CallRates(config.monitoring_period_s)
        self._config = config
        self._failures = deque(self._failures, maxlen=config.failure_threshold)

    def state(self, now: float) -> State:
        """The state now. An open circuit counts as half open once its wait is over, before the next `try_acquire` makes
        it so.
        """
        if self._config.mode != "auto":
            return "open" if self._config.mode == "open" else "closed"
        if self._state == "open" and now >= self._opened_at + self._config.reset_timeout_s:
            return "half_open"
        return self._state

    def failures(self, now: float) -> int:
        """Failures within the rolling window; at most the threshold are remembered."""
        since = self._config.monitoring_period_s
        return sum(1 for at in self._failures if at + since > now)

    def try_acquire(self, now: float, lease_s: float | None = None) -> Permit | None:
        """A permit for one call now, or None. Open turns to half open here once its wait is over.

        `lease_s`: how long a probe may stay without an outcome; longer than the attempt may take.
        """
        if self._config.mode != "auto":
            return None if self._config.mode == "open" else Permit(_NO_GENERATION, _NEVER)
        if self._state == "closed":
            return self._closed_permit
        if self._state == "open":
            if now < self._opened_at + self._config.reset_timeout_s:
                return None
            self._enter("half_open", now)
        if len(self._probes) >= self._config.probes:
            self._probes = [probe for probe in self._probes if probe.expires_at > now]
            if len(self._probes) >= self._config.probes:
                return None
        permit = Permit(self._generation, now + (lease_s or self._config.probe_lease_s), probe=True)
        self._probes.append(permit)
        return permit

    def available_at(self, now: float) -> float:
        """The earliest time at which a permit is available if nothing else happens; `now` if one is available now.

        Half open with all probes given out, this is the end of the first lease; an outcome usually comes sooner.
        """
        if self._config.mode != "auto":
            return _NEVER if self._config.mode == "open" else now
        if self._state == "closed":
            return now
        if self._state == "open":
            return max(now, self._opened_at + self._config.reset_timeout_s)
        leases = [probe.expires_at for probe in self._probes if probe.expires_at > now]
        surplus = len(leases) - self._config.probes
        return now if surplus < 0 else sorted(leases)[surplus]

    def shut_until(self, now: float) -> float:
        """The earliest time at which a call may begin; `now` if one may begin now, or if a probe under way may close
        the circuit.
        """
        if self._config.mode != "auto" or self._state == "open":
            return self.available_at(now)
        return now

    def record(self, permit: Permit, outcome: Outcome, now: float, took_s: float = 0.0) -> Transition | None:
        """Take a permit back with the outcome of its call. A neutral outcome (cancelled, 4xx, 429) only frees the
        permit.

        A permit of an older generation, or a probe's second outcome, changes nothing. The outcome of a probe that
        outlived its lease still counts, although its place was given away. `took_s`: how long the call lasted.
        """
        if permit.generation != self._generation:
            return None
        slow_s = self._config.slow_call_s
        slow = slow_s is not None and outcome != "neutral" and took_s >= slow_s
        if self._state == "closed":
            if self._config.by_rate and outcome != "neutral":
                return self._ended_closed(outcome == "failure", slow, now)
            return self._failed_closed(now) if outcome == "failure" else None
        if permit.settled:
            return None
        permit.settled = True
        if permit in self._probes:
            self._probes.remove(permit)
        if outcome == "failure" or slow:
            self._failures.append(now)
            return self._enter("open", now)
        if outcome == "success":
            self._successes += 1
            if self._successes >= self._config.successes_to_close:
                return self._enter("closed", now)
        return None

    def take_transitions(self) -> list[Transition]:
        """Every transition since the last call, in order; at most the last 256 are kept."""
        if not self._transitions:
            return []
        taken = list(self._transitions)
        self._transitions.clear()
        return taken

    def snapshot(self, now: float) -> dict[str, Any]:
        """The state as JSON: ages in whole ms, rounded such that a restored circuit never lets more through."""
        state = self._state
        kept: dict[str, Any] = {"state": state}
        if ages := [_age_ms(now, at) for at in self._failures if at + self._config.monitoring_period_s > now]:
            kept["failures"] = ages
        if state == "closed" and (rates := self._rates.snapshot(now)):
            kept["rates"] = rates
        if state == "open":
            kept["openFor"] = _age_ms(now, self._opened_at)
        elif state == "half_open":
            kept["successes"] = self._successes
        return kept

    @classmethod
    def restore(cls, config: BreakerConfig, snapshot: Mapping[str, Any], taken_at: float) -> Breaker:
        """The breaker of a snapshot. `taken_at`: when it was taken, on this process's monotonic clock.

        Probes under way are forgotten: their calls ended with their worker. Raises ValueError for an unknown form.
        """
        breaker = cls(config)
        state = snapshot.get("state")
        if state not in _STATES:
            raise ValueError(f"not a breaker's snapshot: state {state!r}")
        breaker._state = state
        breaker._failures.extend(sorted(taken_at - age / 1000 for age in snapshot.get("failures", ())))
        if config.by_rate:
            breaker._rates.restore(snapshot.get("rates", ()), taken_at)
        breaker._opened_at = taken_at - snapshot.get("openFor", 0) / 1000
        breaker._successes = int(snapshot.get("successes", 0))
        return breaker

    def _failed_closed(self, now: float) -> Transition | None:
        failures = self._failures
        failures.append(now)
        full = len(failures) == self._config.failure_threshold
        if full and failures[0] + self._config.monitoring_period_s > now:
            return self._enter("open", now)
        return None

    def _ended_closed(self, failed: bool, slow: bool, now: float) -> Transition | None:
        config = self._config
        self._rates.add(now, failed, slow)
        calls, failures, slow_calls = self._rates.totals(now)
        if failed:
            if config.failure_rate is None:
                opened = self._failed_closed(now)
                if opened is not None:
                    return opened
            else:
                self._failures.append(now)
        if calls < config.minimum_calls:
            return None
        failing = config.failure_rate is not None and failures >= config.failure_rate * calls
        slowing = config.slow_rate is not None and slow_calls >= config.slow_rate * calls
        return self._enter("open", now) if failing or slowing else None

    def _enter(self, state: State, now: float) -> Transition:
        self._state = state
        self._generation += 1
        self._probes = []
        self._rates.clear()
        self._successes = 0
        failures = self.failures(now)
        kind: TransitionKind = "half-open"
        if state == "open":
            self._opened_at = now
            kind = "open"
        elif state == "closed":
            self._failures.clear()
            self._closed_permit = Permit(self._generation, float("inf"))
            kind = "close"
        transition = Transition(kind, failures, now)
        self._transitions.append(transition)
        return transition


def _age_ms(now: float, at: float) -> int:
    return max(0, int((now - at) * 1000))
