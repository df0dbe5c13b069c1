"""The judge of `tests/chaos/limits.py`: a run that showed nothing is not a good run, and a plan is what it says."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from tests.chaos.limits_plan import AGENTS, TAIL_S, changes, kill_times, offers
from tests.chaos.limits_verdict import Evidence, verdicts
from tests.support.predicates import Call, Kill


def calm() -> Evidence:
    """Every agent was called a few times and answered; nobody was killed, nothing failed."""
    evidence = Evidence()
    for agent in AGENTS:
        for number in range(5):
            task = f"{agent}-{number}"
            evidence.tasks[task] = (agent, 100.0 + number, 30.0)
            evidence.calls.append(Call(agent, task, 100.2 + number, 100.3 + number, key=task, worker="w0", left_s=29.9))
            evidence.results.append((task, 100.4 + number, "success", ""))
    return evidence


def test_faults_that_were_not_felt_fail_a_run() -> None:
    """All else holds."""
    broken = [verdict for verdict in verdicts(calm(), 2) if not verdict.held]
    assert [verdict.name for verdict in broken] == ["faults were felt"]
    assert "2 trips" not in " ".join(broken[0].breaches)
    assert {"0 kills of 2", "0 trips", "no agent said 429"} <= set(broken[0].breaches)


def test_each_fault_in_the_evidence_is_told_by_its_own_line() -> None:
    """A lost result, a foreign key, a circuit that opened without cause, a well agent's failure."""
    evidence = calm()
    evidence.results.pop()
    evidence.results[-1] = (evidence.results[-1][0], 104.0, "failure", "timeout")
    evidence.keys["full0-0"] = "mine"
    evidence.circuits.append(("slow0", "circuit:open", "1970-01-01T00:01:43.000Z"))
    broken = {verdict.name for verdict in verdicts(evidence, 0) if not verdict.held}
    assert broken == {
        "one result per task",
        "idempotency key",
        "circuits of sound agents stay closed",
        "well agents' tasks succeed",
        "faults were felt",
    }


def test_evidence_survives_a_file(tmp_path: Path) -> None:
    """So that a run can be judged again."""
    evidence = calm()
    evidence.kills.append(Kill(101.0, "w0"))
    evidence.circuits.append(("ill0", "circuit:open", "2026-11-22T13:37:00.123Z"))
    evidence.save(tmp_path / "run.json")
    again = Evidence.load(tmp_path / "run.json")
    assert again.calls == evidence.calls
    assert again.kills == evidence.kills
    assert again.opened("ill0") == evidence.opened("ill0") != []


def test_a_plan_offers_limited_agents_more_than_they_may_take_and_ends_in_time() -> None:
    """The same for the same seed."""
    plan = offers(random.Random(7), 240.0)
    assert plan == offers(random.Random(7), 240.0)
    counts = Counter(offer.agent for offer in plan)
    assert min(counts["full0"], counts["full1"]) > 500
    assert set(counts) == set(AGENTS)
    assert max(offer.at + offer.timeout_s for offer in plan) <= 240.0 + TAIL_S + 0.001
    assert len({offer.task["id"] for offer in plan}) == len(plan)
    times = kill_times(random.Random(7), 10, 240.0)
    assert times == sorted(times)
    assert all(12 <= at <= 225 for at in times)
    assert [at for at, _, _ in changes(240.0)] == sorted(at for at, _, _ in changes(240.0))
