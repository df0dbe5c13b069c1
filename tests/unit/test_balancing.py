"""Who is chosen among several: spread, preference, and what is never chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.rules.dispatch.balancing import FADE_MS, SAMPLE, TRIAL_MS, Candidate, Policy, admitted, draws, pick

POLICIES: tuple[Policy, ...] = get_args(Policy)
names = st.integers(0, 9).map(lambda n: f"a{n}")
candidates = st.lists(
    st.builds(
        Candidate,
        agent_id=names,
        load=st.integers(0, 50),
        concurrency=st.integers(1, 20),
        response_ms=st.none() | st.floats(0, 1e6),
        confidence=st.none() | st.floats(0, 1),
        known_at=st.integers(0, 10_000),
        well=st.booleans(),
        open_until=st.sampled_from([0, 1.0, 4_000, 9_000, float("inf")]),
        ejected_until=st.sampled_from([0, 4_000, 9_000, 9_500]),
        trial_at=st.sampled_from([0, 4_500]),
    ),
    max_size=10,
    unique_by=lambda c: c.agent_id,
)


def run(policy: Policy, fleet: Sequence[Candidate], tasks: int, *, work: bool = False) -> Counter[str]:
    """How many of `tasks` each gets. `work`: every task taken stays."""
    got: Counter[str] = Counter()
    for number in range(tasks):
        chosen = pick(policy, fleet, [], 0, draws(number), number)
        assert chosen is not None
        got[chosen.agent_id] += 1
        chosen.load += work
    return got


@settings(deadline=None)
@given(fleet=candidates, policy=st.sampled_from(POLICIES), seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_never_one_that_is_out(fleet: list[Candidate], policy: Policy, seed: int, share: float) -> None:
    """Not one whose checks say no or whose circuit is open; ejected ones only beyond the share; None only if nobody is left."""
    now = 5_000
    ready, trials = admitted(fleet, now, share)
    chosen = pick(policy, ready, trials, now, draws(seed), seed)
    callable_now = [c for c in fleet if c.well and c.open_until <= now]
    due = [c for c in trials if c.trial_at + TRIAL_MS <= now]
    assert (chosen is None) == (not ready and not due)
    if chosen is not None:
        assert chosen in callable_now
    out = [c for c in fleet if c.ejected_until > now and c not in ready and c not in trials and c in callable_now]
    assert len(out) <= int(len(fleet) * share)
    back = [c for c in ready + trials if c.ejected_until > now]
    assert all(c.ejected_until <= o.ejected_until for c in back for o in out), "those longest out come back first"
    assert all(not c.open_until for c in ready)


@settings(deadline=None)
@given(fleet=candidates, policy=st.sampled_from(POLICIES), seed=st.integers(0, 2**32 - 1))
def test_the_same_task_is_chosen_for_alike(fleet: list[Candidate], policy: Policy, seed: int) -> None:
    """Two workers that know the same choose the same."""
    one = pick(policy, fleet, [], 7, draws(seed), 3)
    assert pick(policy, fleet, [], 7, draws(seed), 3) is one


@pytest.mark.parametrize("policy", POLICIES)
def test_equals_share_alike(policy: Policy) -> None:
    """Five agents nobody knows anything of get about a fifth each, although not even load is counted."""
    got = run(policy, [Candidate(f"a{n}") for n in range(5)], 2000)
    assert min(got.values()) > 250
    assert len(got) == 5


@pytest.mark.parametrize("policy", POLICIES)
def test_stale_knowledge_herds_nobody(policy: Policy) -> None:
    """One agent looked best a moment ago; 100 tasks chosen by that alone do not all go there."""
    fleet = [Candidate(f"a{n}", load=5, response_ms=200.0, confidence=0.7) for n in range(4)]
    fleet.append(Candidate("best", load=4, response_ms=180.0, confidence=0.75))
    got = run(policy, fleet, 100, work=True)
    assert got["best"] <= 50
    assert len(got) == 5


def test_round_robin_takes_turns() -> None:
    """In order, whatever their load."""
    fleet = [Candidate("a"), Candidate("b", load=99), Candidate("c")]
    chosen = [pick("round_robin", fleet, [], 0, draws(9), turn) for turn in range(4)]
    assert [c.agent_id for c in chosen if c is not None] == ["a", "b", "c", "a"]


@pytest.mark.parametrize("policy", ["least_connections", "power_of_two"])
def test_the_less_busy_get_more(policy: Policy) -> None:
    """Measured against what each can take: 8 of 40 is less than 4 of 5."""
    got = run(policy, [Candidate("wide", load=8, concurrency=40), Candidate("narrow", load=4, concurrency=5)], 100)
    assert got == {"wide": 100}


def test_least_connections_looks_at_all_and_fills_evenly() -> None:
    """Thirty tasks over three agents: ten each."""
    assert run("least_connections", [Candidate(n) for n in "abc"], 30, work=True) == {"a": 10, "b": 10, "c": 10}


def test_quick_agents_get_more() -> None:
    """Four times as quick, about four times the tasks; the slow one is not starved."""
    got = run("response_time", [Candidate("quick", response_ms=100), Candidate("slow", response_ms=400)], 1000)
    assert 2.5 < got["quick"] / got["slow"] < 6


def test_the_surer_agent_is_preferred_until_it_is_full() -> None:
    """Best first; once it has much more to do than the other, that one gets the rest."""
    fleet = [Candidate("sure", confidence=0.95), Candidate("unsure", confidence=0.6)]
    assert run("confidence", fleet, 3, work=True) == {"sure": 3}
    got = run("confidence", fleet, 60, work=True)
    assert got["sure"] > got["unsure"] > 5


def test_what_was_known_long_ago_fades() -> None:
    """A bad record is worth half after a minute, nearly nothing after ten: it gets another chance."""
    bad = Candidate("bad", confidence=0.0, response_ms=60_000.0)
    assert bad.trust(0) == 0.0
    assert bad.trust(FADE_MS) == pytest.approx(0.4)
    assert bad.trust(10 * FADE_MS) > 0.79
    assert bad.response(10 * FADE_MS) < 600


def test_a_trial_goes_first_and_not_too_often() -> None:
    """A circuit that may be tried gets its task, then not before a second has passed."""
    trial = Candidate("ill", open_until=10)
    well = Candidate("well")
    assert pick("confidence", [well], [trial], 5_000, draws(1)) is trial
    trial.trial_at = 5_000
    assert pick("confidence", [well], [trial], 5_999, draws(1)) is well
    assert pick("confidence", [], [trial], 5_999, draws(1)) is None
    assert pick("confidence", [well], [trial], 6_000, draws(1)) is trial


def test_a_choice_among_many_looks_at_a_few() -> None:
    """A thousand agents: the policies that compare all look at sixteen of them."""
    fleet = [Candidate(f"a{n}") for n in range(1000)]
    for policy in POLICIES:
        drawn = 0
        numbers = draws(3)

        def draw() -> float:
            nonlocal drawn
            drawn += 1
            return numbers()  # noqa: B023 - used within this turn only

        assert pick(policy, fleet, [], 0, draw, 5) is not None
        assert drawn <= SAMPLE + 1


@settings(deadline=None)
@given(st.integers(0, 2**64))
def test_draws_are_numbers_below_one(seed: int) -> None:
    """Of any seed."""
    draw = draws(seed)
    numbers = [draw() for _ in range(10)]
    assert all(0 <= number < 1 for number in numbers)
    assert len(set(numbers)) == 10
