"""The breaker's predicate: what our own breaker does is accepted, whatever is killed; what a wrong one does is not."""

from __future__ import annotations

import random
from dataclasses import replace
from heapq import heappop, heappush

import pytest

from agents_io.calling.rules.breaker import Breaker, BreakerConfig
from tests.support.breaker_log import breaker
from tests.support.predicates import Call, Kill

RULES = BreakerConfig()


def call(at: float, outcome: str = "failure", took: float = 0.1) -> Call:
    """One call to the agent."""
    return Call("a", f"t{at:g}", at, at + took, outcome, worker="w0")  # type: ignore[arg-type]


def simulate(
    config: BreakerConfig, seed: int, *, kills: int = 0, forget: bool = False, length_s: float = 400.0
) -> tuple[list[Call], list[Kill], list[float]]:
    """Calls through a breaker with `config` to an agent that is ill now and then; the worker is killed and goes on.

    What reaches the agent, and what comes back, is up to 50 ms late. A killed worker's heir has a state up to a second old,
    or, with `forget`, none at all. Out: the calls, the kills, and when the circuit opened.
    """
    rng = random.Random(seed)
    live = Breaker(config)
    killed = [Kill(rng.uniform(5, length_s), "w0") for _ in range(kills)]
    kill_times = sorted(kill.at for kill in killed)
    calls: list[Call] = []
    opened: list[float] = []
    under_way: list[tuple[float, int, object, str]] = []
    kept = [(0.0, live.snapshot(0.0))]
    now, dead_until, number = 0.0, 0.0, 0
    while now < length_s:
        now += rng.expovariate(8)
        if kill_times and kill_times[0] <= now:
            now = kill_times.pop(0)
            young = [state for state in kept if state[0] >= now - 0.9] or kept[-1:]
            taken_at, state = rng.choice(young)
            live = Breaker(config) if forget else Breaker.restore(config, state, taken_at)
            for _, index, _, _ in under_way:
                if calls[index].ended_at > now:
                    calls[index] = replace(calls[index], ended_at=now, outcome="cut")
            under_way, dead_until = [], now + 2.0
            continue
        while under_way and under_way[0][0] <= now:
            heard_at, _, permit, outcome = heappop(under_way)
            live.record(permit, outcome, heard_at)  # type: ignore[arg-type]
            opened += [transition.at for transition in live.take_transitions() if transition.kind == "open"]
            kept.append((heard_at, live.snapshot(heard_at)))
        if now < dead_until or len(under_way) > 8 or (permit := live.try_acquire(now)) is None:
            continue
        kept = [*kept[-20:], (now, live.snapshot(now))]
        ill = int(now / 50) % 2 == 1
        outcome = "failure" if rng.random() < (0.95 if ill else 0.03) else rng.choice(("success", "success", "neutral"))
        at = now + rng.uniform(0, 0.05)
        ended_at = at + rng.uniform(0.01, 0.6)
        calls.append(Call("a", f"t{number}", at, ended_at, outcome, worker="w0"))  # type: ignore[arg-type]
        heappush(under_way, (ended_at + rng.uniform(0, 0.05), number, permit, outcome))
        number += 1
    return sorted(calls, key=lambda made: made.at), killed, opened


def judged(config: BreakerConfig, seed: int, kills: int = 0, forget: bool = False) -> tuple[list[str], int]:
    """Breaches and trips of a simulated run, judged by the default rules."""
    calls, killed, opened = simulate(config, seed, kills=kills, forget=forget)
    verdict, trips = breaker(calls, RULES, killed, opened, jitter_s=0.12)
    return verdict.breaches, trips


@pytest.mark.parametrize("seed", range(12))
def test_our_breaker_is_accepted(seed: int) -> None:
    """Without kills, and with eight of them that each forget up to a second."""
    breaches, trips = judged(RULES, seed)
    assert breaches == []
    assert trips >= 4
    breaches, trips = judged(RULES, seed, kills=8)
    assert breaches == []


@pytest.mark.parametrize(
    "wrong",
    [
        BreakerConfig(failure_threshold=6),
        BreakerConfig(failure_threshold=4),
        BreakerConfig(reset_timeout_s=29.0),
        BreakerConfig(monitoring_period_s=10.0),
        BreakerConfig(probes=4),
        BreakerConfig(successes_to_close=2),
    ],
    ids=str,
)
def test_a_wrong_breaker_is_found_out(wrong: BreakerConfig) -> None:
    """Each rule broken by a little shows in some log; most logs have few failures that are far apart, hence several seeds."""
    assert any(judged(wrong, seed)[0] for seed in range(20))


def test_a_state_that_does_not_move_with_its_agent_is_found_out() -> None:
    """A new owner that begins with a closed circuit calls the agent although it must not."""
    assert sum(bool(judged(RULES, seed, kills=8, forget=True)[0]) for seed in range(12)) >= 10


def opening() -> list[Call]:
    """Five failures at 0 to 4: open from 4.1."""
    return [call(float(at)) for at in range(5)]


def test_no_call_begins_while_it_is_open() -> None:
    """Neither soon nor just before the end of its time; one that was on its way may arrive."""
    assert breaker([*opening(), call(34.2, "success")], RULES)[0].held
    assert not breaker([*opening(), call(34.0, "success")], RULES)[0].held
    assert not breaker([*opening(), call(5.0, "success")], RULES)[0].held
    assert breaker([*opening(), call(4.2, "success")], RULES)[0].held
    assert not breaker([*opening(), call(4.2, "success")], RULES, jitter_s=0.05)[0].held


def test_what_does_not_count_does_not_open() -> None:
    """4xx, 429 and calls given up are neutral; five failures over more than a minute are too few."""
    assert breaker([call(float(at), "neutral") for at in range(20)], RULES)[0].held
    assert breaker([call(at * 15.5) for at in range(20)], RULES)[0].held
    assert not breaker([call(at * 14.0) for at in range(20)], RULES)[0].held


def test_three_probes_at_once_and_three_successes() -> None:
    """A fourth probe beside three is one too many; after two successes it is still half open."""
    probes = [call(35.0 + n / 100, "success", took=2.0) for n in range(3)]
    assert breaker([*opening(), *probes], RULES)[0].held
    fourth = [*opening(), *probes, call(35.5, "success")]
    assert not breaker(fourth, RULES)[0].held
    closed = [*opening(), *probes, *(call(38.0 + n / 100, "success", took=1.0) for n in range(8))]
    assert breaker(closed, RULES)[0].held
    ended = [call(35.0, "success"), call(35.2, "success")]
    assert not breaker([*opening(), *ended, *(call(38.0 + n / 100, "success", took=1.0) for n in range(4))], RULES)[
        0
    ].held


def test_a_failed_probe_opens_it_again() -> None:
    """For the whole time."""
    assert breaker([*opening(), call(35.0), call(65.2, "success")], RULES)[0].held
    assert not breaker([*opening(), call(35.0), call(64.0, "success")], RULES)[0].held


def test_a_kill_excuses_what_it_may_have_forgotten_and_no_more() -> None:
    """The fifth failure half a second before the kill may be lost; one two seconds before may not; nor by another's death."""
    again = [*opening(), call(7.0, "success")]
    assert breaker(again, RULES, [Kill(4.6, "w0")])[0].held
    assert not breaker(again, RULES, [Kill(6.0, "w0")])[0].held
    assert not breaker(again, RULES, [Kill(4.6, "w1")])[0].held
    assert not breaker([*again, call(7.2), call(9.0)], RULES, [Kill(4.6, "w0")])[0].held


def test_an_opening_without_cause_is_found() -> None:
    """An event says open, the log shows four failures; with the fifth it is as it should be."""
    assert not breaker(opening()[:4], RULES, opened=[3.15])[0].held
    assert breaker(opening(), RULES, opened=[4.15])[0].held
