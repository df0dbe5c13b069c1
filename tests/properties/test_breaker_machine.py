"""The breaker against a naive model that forgets nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agents_io.calling.rules.breaker import Breaker, BreakerConfig, Permit
from tests.support.agents import NaiveBreaker, Probe

KINDS = {"open": "open", "half-open": "half_open", "close": "closed"}
outcomes = st.sampled_from(["success", "failure", "neutral"])
quarters = st.integers(0, 30).map(lambda n: n / 4)


class BreakerMachine(RuleBasedStateMachine):
    """Permits, states and transitions must agree at every moment."""

    @initialize(
        standard=st.booleans(),
        threshold=st.integers(1, 3),
        probes=st.integers(1, 3),
        successes=st.integers(1, 4),
        failure_rate=st.none() | st.sampled_from([0.25, 0.5, 1.0]),
        slow_rate=st.none() | st.sampled_from([0.25, 0.5, 1.0]),
        minimum=st.integers(1, 5),
    )
    def begin(
        self,
        standard: bool,
        threshold: int,
        probes: int,
        successes: int,
        failure_rate: float | None,
        slow_rate: float | None,
        minimum: int,
    ) -> None:
        """`standard`: 5 failures in a rolling 60 s, open 30 s, at most 3 probes, 3 successes close."""
        config = BreakerConfig(
            failure_threshold=threshold,
            reset_timeout_s=3.0,
            monitoring_period_s=6.0,
            probes=probes,
            successes_to_close=successes,
            probe_lease_s=5.0,
            failure_rate=failure_rate,
            minimum_calls=minimum,
            slow_rate=slow_rate,
            slow_call_s=None if slow_rate is None else 2.0,
        )
        self.scale = 10.0 if standard else 1.0
        if standard:
            config = BreakerConfig()
            shown = (config.failure_threshold, config.monitoring_period_s, config.reset_timeout_s)
            assert (*shown, config.probes, config.successes_to_close) == (5, 60.0, 30.0, 3, 3)
        self.now = 0.0
        self.breaker = Breaker(config)
        self.model = NaiveBreaker(config)
        self.out: list[tuple[Permit, Probe]] = []
        self.log: list[tuple[str, float]] = []

    @rule(step=quarters)
    def sleep(self, step: float) -> None:
        self.now += step * self.scale

    @rule()
    def sleep_until_available(self) -> None:
        until = self.breaker.available_at(self.now)
        if until == float("inf"):
            assert self.model.config.mode == "open"
            return
        self.now = until
        assert self.model.permits(self.now), "available_at must never name a time at which nothing is to be had"

    @rule()
    def acquire(self) -> None:
        permit, probe = self.breaker.try_acquire(self.now), self.model.acquire(self.now)
        assert (permit is None) == (probe is None)
        if permit is not None and probe is not None:
            self.out.append((permit, probe))

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 9), outcome=outcomes, took=quarters, keep=st.booleans())
    def record(self, which: int, outcome: Any, took: float, keep: bool) -> None:
        """`keep`: the same permit may be handed back again later."""
        index = which if which < len(self.out) else which % len(self.out)
        permit, probe = self.out[index] if keep else self.out.pop(index)
        self.breaker.record(permit, outcome, self.now, took)
        self.model.record(probe, outcome, self.now, took)

    @rule(how_often=st.integers(2, 6), outcome=outcomes, took=quarters)
    def calls_in_a_row(self, how_often: int, outcome: Any, took: float) -> None:
        """Each begins and ends, as far as they are let through: enough to trip, or to close."""
        for _ in range(how_often):
            before = len(self.out)
            self.acquire()
            if len(self.out) > before:
                self.record(before, outcome, took, keep=False)

    @rule(mode=st.sampled_from(["auto", "auto", "open", "disabled"]))
    def by_hand(self, mode: Any) -> None:
        """Somebody opens the circuit, switches it off, or lets it be."""
        config = replace(self.breaker.config, mode=mode)
        self.breaker.reconfigure(config)
        self.model.config = config

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
