"""The breaker against a naive model that forgets nothing."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agents_io.rules.breaker import Breaker, BreakerConfig, Permit
from tests.support.agents import NaiveBreaker, Probe

KINDS = {"open": "open", "half-open": "half_open", "close": "closed"}
quarters = st.integers(0, 30).map(lambda n: n / 4)


class BreakerMachine(RuleBasedStateMachine):
    """Permits, states and transitions must agree at every moment."""

    @initialize(threshold=st.integers(1, 3), probes=st.integers(1, 3), successes=st.integers(1, 4))
    def begin(self, threshold: int, probes: int, successes: int) -> None:
        config = BreakerConfig(
            failure_threshold=threshold,
            reset_timeout_s=3.0,
            monitoring_period_s=6.0,
            probes=probes,
            successes_to_close=successes,
            probe_lease_s=5.0,
        )
        self.now = 0.0
        self.breaker = Breaker(config)
        self.model = NaiveBreaker(config)
        self.out: list[tuple[Permit, Probe]] = []
        self.log: list[tuple[str, float]] = []

    @rule(step=quarters)
    def sleep(self, step: float) -> None:
        self.now += step

    @rule()
    def sleep_until_available(self) -> None:
        self.now = self.breaker.available_at(self.now)
        assert self.model.permits(self.now), "available_at must never name a time at which nothing is to be had"

    @rule()
    def acquire(self) -> None:
        permit, probe = self.breaker.try_acquire(self.now), self.model.acquire(self.now)
        assert (permit is None) == (probe is None)
        if permit is not None and probe is not None:
            self.out.append((permit, probe))

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 9), outcome=st.sampled_from(["success", "failure", "neutral"]), keep=st.booleans())
    def record(self, which: int, outcome: Any, keep: bool) -> None:
        """`keep`: the same permit may be handed back again later."""
        index = which % len(self.out)
        permit, probe = self.out[index] if keep else self.out.pop(index)
        self.breaker.record(permit, outcome, self.now)
        self.model.record(probe, outcome, self.now)

    @rule()
    def move(self) -> None:
        """To another worker: calls that were under way are lost with the old one."""
        snapshot = self.breaker.snapshot(self.now)
        self.log += self.taken()
        self.breaker = Breaker.restore(self.breaker.config, snapshot, self.now)
        self.out = []
        self.model.probes = []

    def taken(self) -> list[tuple[str, float]]:
        return [(KINDS[transition.kind], transition.at) for transition in self.breaker.take_transitions()]

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "breaker"):
            return
        self.log += self.taken()
        assert self.log == self.model.log
        assert (self.breaker.available_at(self.now) <= self.now) == self.model.permits(self.now)
        assert self.breaker.shut_until(self.now) == self.model.shut_until(self.now)


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
