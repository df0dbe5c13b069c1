"""Naive models of the rules around an agent: no cleverness, every decision recomputed from the whole history."""

from __future__ import annotations

from dataclasses import dataclass, field

from agents_io.calling.rules.breaker import BreakerConfig


@dataclass(eq=False)
class Probe:
    """A permit of the model; `lease` is infinite for one given while closed."""

    era: int
    lease: float
    settled: bool = False


@dataclass
class NaiveBreaker:
    """The breaker's rules in the fewest words."""

    config: BreakerConfig
    mode: str = "closed"
    era: int = 0
    since: float = 0.0
    failures: list[float] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    successes: int = 0
    log: list[tuple[str, float]] = field(default_factory=list)
    ends: list[tuple[float, bool, bool]] = field(default_factory=list)
    """Of calls made while closed: when, failed, slow."""

    def turn(self, mode: str, now: float) -> None:
        """Enter a state."""
        self.mode, self.era, self.since, self.probes, self.successes = mode, self.era + 1, now, [], 0
        self.ends = []
        if mode == "closed":
            self.failures = []
        self.log.append((mode, now))

    def permits(self, now: float) -> bool:
        """Whether a call would be let through now."""
        if self.config.mode != "auto":
            return self.config.mode == "disabled"
        if self.mode == "closed":
            return True
        if self.mode == "open":
            return now >= self.since + self.config.reset_timeout_s
        out = [probe for probe in self.probes if not probe.settled and probe.lease > now]
        return len(out) < self.config.probes

    def acquire(self, now: float, lease_s: float | None = None) -> Probe | None:
        """A permit, or None. `lease_s`: how long a probe keeps its place, if not as configured."""
        if not self.permits(now):
            return None
        if self.config.mode == "disabled":
            return Probe(-1, float("inf"))
        if self.mode == "open":
            self.turn("half_open", now)
        probe = Probe(self.era, now + (lease_s or self.config.probe_lease_s))
        if self.mode == "half_open":
            self.probes.append(probe)
        return probe

    def shares_trip(self, now: float) -> bool:
        """Whether the calls of the window are failed or slow too often. A bucket leaves as a whole, with its first call."""
        config, window_s = self.config, self.config.monitoring_period_s
        buckets: list[tuple[float, list[tuple[bool, bool]]]] = []
        for at, failed, slow in self.ends:
            if not buckets or at - buckets[-1][0] >= window_s / 30:
                buckets.append((at, []))
            buckets[-1][1].append((failed, slow))
        calls = [call for begin, some in buckets if begin + window_s > now for call in some]
        if len(calls) < config.minimum_calls:
            return False
        failures, slows = sum(failed for failed, _ in calls), sum(slow for _, slow in calls)
        by_failures = config.failure_rate is not None and failures >= config.failure_rate * len(calls)
        return by_failures or (config.slow_rate is not None and slows >= config.slow_rate * len(calls))

    def record(self, probe: Probe, outcome: str, now: float, took_s: float = 0.0) -> None:
        """What came of a permit."""
        slow_s = self.config.slow_call_s
        slow = slow_s is not None and outcome != "neutral" and took_s >= slow_s
        if probe.era != self.era or (self.mode == "half_open" and probe.settled):
            return
        probe.settled = True
        if self.mode == "closed" and outcome != "neutral":
            self.ends.append((now, outcome == "failure", slow))
        if outcome == "failure" or (slow and self.mode == "half_open"):
            self.failures.append(now)
            recent = [at for at in self.failures if now - at < self.config.monitoring_period_s]
            counted = self.config.failure_rate is None and len(recent) >= self.config.failure_threshold
            if self.mode == "half_open" or counted:
                self.turn("open", now)
        elif outcome == "success" and self.mode == "half_open":
            self.successes += 1
            if self.successes >= self.config.successes_to_close:
                self.turn("closed", now)
        if self.mode == "closed" and outcome != "neutral" and self.ends and self.shares_trip(now):
            self.turn("open", now)

    def shut_until(self, now: float) -> float:
        """No call before this time, whatever happens."""
        if self.config.mode != "auto":
            return now if self.config.mode == "disabled" else float("inf")
        return max(now, self.since + self.config.reset_timeout_s) if self.mode == "open" else now


@dataclass
class NaiveWindow:
    """All calls ever begun, each with the time from which it counts: its end, or `late_s` after its begin."""

    limit: int
    window_s: float
    late_s: float = 0.0
    begun: list[float] = field(default_factory=list)
    pause: float = float("-inf")

    def begin(self, now: float) -> None:
        """A call."""
        self.begun.append(now + self.late_s)

    def end(self, began: float, now: float) -> None:
        """Its end."""
        if now < began + self.late_s:
            self.begun[self.begun.index(began + self.late_s)] = now

    def free(self, now: float) -> bool:
        """Whether a call may begin at that time, if none begins before."""
        return now >= self.pause and sum(1 for at in self.begun if at + self.window_s > now) < self.limit

    def next_free(self, now: float) -> float:
        """The first moment of those that could matter at which a call may begin."""
        moments = [now, max(now, self.pause), *(at + self.window_s for at in self.begun)]
        return min(moment for moment in moments if moment >= now and self.free(moment))


def most_in_any_window(times: list[float], window_s: float) -> int:
    """The largest number of these times within any half-open window."""
    return max((sum(1 for at in times if start <= at < start + window_s) for start in times), default=0)
