"""The judge of `tests/chaos/limits.py`: a run that showed nothing is not a good run, and a plan is what it says."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.limits_plan import AGENTS, ATTEMPT_S, RETRIES, TAIL_S, changes, fault_times, offers
from tests.chaos.limits_verdict import Evidence, verdicts
from tests.support.predicates import Call, Kill


def calm() -> Evidence:
    """Every agent was called a few times and answered; nobody was killed, nothing failed."""
    evidence = Evidence()
    for agent in AGENTS:
        for number in range(5):
            task = f"{agent}-{number}"
            evidence.tasks[task] = (agent, 100.0 + number, 30.0)
            evidence.calls.append(
                Call(agent, task, 100.2 + number, 100.3 + number, key=task, worker="w0", left_s=ATTEMPT_S)
            )
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


def broken_by(evidence: Evidence) -> set[str]:
    """The predicates that do not hold, but for the faults that a short run does not show."""
    return {verdict.name for verdict in verdicts(evidence, 0) if not verdict.held} - {"faults were felt"}


def failing(evidence: Evidence, times: list[float]) -> None:
    """A task of `ill0` is called at these times, and each call fails."""
    evidence.tasks["ill0-x"] = ("ill0", 100.0, 500.0)
    for at in times:
        evidence.calls.append(Call("ill0", "ill0-x", at, at + 0.05, "failure", "ill0-x", "w0", ATTEMPT_S, 503))
    evidence.results.append(("ill0-x", times[-1] + 0.1, "failure", "http_5xx"))


def test_more_calls_than_attempts_break_a_run() -> None:
    """Whoever was told to wait may be called once more for it, nobody else."""
    evidence = calm()
    failing(evidence, [110.0 + at for at in range(RETRIES + 1)])
    assert broken_by(evidence) == set()
    told = Call("busy0", "busy0-0", 101.0, 101.1, "neutral", "busy0-0", "w0", ATTEMPT_S, 429)
    evidence.calls = [call for call in evidence.calls if call.agent != "busy0"] + [told]
    for number in range(RETRIES + 1):
        again = Call("busy0", "busy0-0", 110.0 + number, 110.1 + number, "neutral", "busy0-0", "w0", ATTEMPT_S, 404)
        evidence.calls.append(again)
    evidence.results = [row for row in evidence.results if row[0] != "busy0-0"] + [("busy0-0", 113.0, "success", "")]
    assert broken_by(evidence) == set()
    evidence = calm()
    failing(evidence, [110.0 + at for at in range(RETRIES + 2)])
    assert broken_by(evidence) == {"calls per task"}


def test_failed_probes_are_told_by_the_events_of_the_circuit() -> None:
    """Five failures open it; one task probes it after each hold as often as it needs, and then has its attempts."""
    evidence = calm()
    for number in range(5):
        evidence.calls.append(
            Call("ill0", f"ill0-{number}", 110.0, 110.05, "failure", f"ill0-{number}", "w0", ATTEMPT_S, 503)
        )
    evidence.results = [(task, 110.2, status, code) for task, _, status, code in evidence.results]
    times = [110.05 + 31.0 * hold for hold in range(5)]
    evidence.circuits = [
        ("ill0", "circuit:open", datetime.fromtimestamp(at + 0.01 * (at > 111), UTC).isoformat())
        for at in (times[0], *(at + 0.05 for at in times[1:]))
    ]
    failing(evidence, times[1:])
    assert broken_by(evidence) == set()
    evidence.circuits = []
    assert broken_by(evidence) == {"calls per task"}


def test_time_beyond_what_was_promised_breaks_a_run() -> None:
    """An attempt with more than its timeout or the deadline allows, and a result long after the deadline."""
    evidence = calm()
    evidence.calls[0] = replace(evidence.calls[0], left_s=ATTEMPT_S + 3)
    evidence.results[-1] = (evidence.results[-1][0], 140.0, "success", "")
    assert broken_by(evidence) == {"deadline", "results by the deadline"}


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
    assert max(offer.at + offer.expires_s for offer in plan) <= 240.0 + TAIL_S + 0.001
    assert len({offer.task["id"] for offer in plan}) == len(plan)
    times = fault_times(random.Random(7), 10, 240.0)
    assert times == sorted(times)
    assert all(12 <= at <= 225 for at in times)
    assert [at for at, _, _ in changes(240.0)] == sorted(at for at, _, _ in changes(240.0))
