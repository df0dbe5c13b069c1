"""Oracles about what users read: results of tasks and plans, their number, content and time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tests.simulation.faults import MOVES
from tests.simulation.scenario import Scenario, Violation
from tests.simulation.traffic import Sent

QUIET_SLACK_S = 5.0
FAULTY_SLACK_S = 60.0
"""Within this an answer must be there after its time, with faults: a partition may be without an owner for half a minute."""
FAULTY_STEP_S = 15.0
UNREAD_S = 35.0
CANCEL_S = 8.0
FAULTY_CANCEL_S = 30.0
GROWTH_S = 30.0
"""How soon added partitions of `controls` are read."""
FORGOTTEN = 2.0
"""Windows after which an id is a new one at the latest."""
WAITING_CODES = frozenset({"rate_limited", "circuit_open", "expired"})


def _name(row: dict[str, Any]) -> str:
    return str((row.get("error") or {}).get("code", row["status"]))


def _expected(scenario: Scenario, sent: Sent, answered_at: Sequence[float]) -> range:
    """How often it may be answered: ids sent again once they must be forgotten are new ones.

    They are remembered from their answer on, which may come long after they were sent.
    """
    if not scenario.options.late_duplicates:
        return range(1, 2)
    forgotten_s = FORGOTTEN * scenario.settings.dispatch.idempotency_window / 1000
    earlier = [max((answer for answer in answered_at if answer <= at), default=None) for at in sent.sent_at]
    anew = sum(
        at - answer > forgotten_s for at, answer in zip(sent.sent_at, earlier, strict=True) if answer is not None
    )
    return range(1 + anew, len(sent.sent_at) + 1)


def one_result(scenario: Scenario) -> Iterator[Violation]:
    """Exactly one result for each task id."""
    for name, sent in scenario.traffic.tasks.items():
        rows = scenario.results.get(name, [])
        expected = _expected(scenario, sent, [at for at, _ in rows])
        if len(rows) in expected or (sent.lost and len(rows) < expected.stop):
            continue
        codes = [(round(at, 2), _name(row), row.get("agentId")) for at, row in rows]
        wanted = {key: sent.body[key] for key in ("target", "capabilities") if key in sent.body}
        detail = f"{len(rows)} results of {expected.start} {codes}; {wanted}; sent at {[round(at, 2) for at in sent.sent_at]}"
        yield Violation("lost task" if len(rows) < expected.start else "doubled task", name, detail)


def one_plan_result(scenario: Scenario) -> Iterator[Violation]:
    """Exactly one result for each plan id, at most one for each of its steps."""
    for name, sent in scenario.traffic.plans.items():
        rows = scenario.plan_results.get(name, [])
        expected = _expected(scenario, sent, [at for at, _ in rows])
        if len(rows) not in expected:
            which = "lost plan" if len(rows) < expected.start else "doubled plan"
            yield Violation(
                which, name, f"{len(rows)} results of {expected.start}: {[row['status'] for _, row in rows]}"
            )
        for place in range(len(sent.body["tasks"])):
            step = f"{name}#{place}"
            if len(scenario.results.get(step, [])) >= expected.stop:
                yield Violation("doubled step", step, str([_name(row) for _, row in scenario.results[step]]))


def own_answer(scenario: Scenario) -> Iterator[Violation]:
    """An answer, cached or not, is an answer to this input, by an agent that may answer it."""
    for name, rows in scenario.results.items():
        plan, _, place = name.partition("#")
        sent = scenario.traffic.tasks.get(name)
        schedule = scenario.traffic.schedules.get(name.partition("@")[0])
        asked = f"{plan}/{place}" if sent is None else sent.asked
        asked = asked if schedule is None else schedule.body["task"]["payload"]["q"]
        for _, row in rows:
            if row["status"] != "success":
                continue
            value = row["result"]
            if value["asked"] != asked:
                yield Violation("foreign answer", name, f"asked {asked}, was answered {value['asked']}")
            if sent is None:
                continue
            target = sent.body.get("target", row["agentId"])
            if not value["agent"] == row["agentId"] == target:
                yield Violation("foreign agent", name, f"for {target}, by {row['agentId']}, answered {value['agent']}")
            if row["cached"] and sent.body["metadata"].get("cache") is False:
                yield Violation("unwanted cache", name, "cache: false, but a cached answer")


def deadlines(scenario: Scenario) -> Iterator[Violation]:
    """Who gave a deadline has a result by then; nobody else's task ends for having waited (contracts 2a)."""
    if scenario.options.time == "task" or scenario.options.skew:
        return
    slack_s = FAULTY_SLACK_S if {fault.kind for fault in scenario.faults} & (MOVES | {"grow"}) else QUIET_SLACK_S
    for name, sent in scenario.traffic.tasks.items():
        for at, row in scenario.results.get(name, [])[:1]:
            code = _name(row)
            if sent.deadline is not None and at > sent.deadline + slack_s + _away_s(scenario, at):
                yield Violation("late result", name, f"deadline {sent.deadline:.2f}, result at {at:.2f}: {code}")
            if sent.deadline is None and code in WAITING_CODES and not _refused_by_agent(scenario, name):
                yield Violation("failed for waiting", name, f"{code} without a deadline: {row['error']['message']}")


def _away_s(scenario: Scenario, at: float) -> float:
    """How long brokers were away before then: nothing is answered, and a partition that they left without an owner is not
    taken over.
    """
    return sum(fault.amount for fault in scenario.faults if fault.kind == "outage" and fault.at < at)


def _refused_by_agent(scenario: Scenario, name: str) -> bool:
    """Whether an agent itself answered 429 to the last call of a task."""
    return any(
        arrival.retry_after
        for agent in scenario.shared.agents.values()
        for arrival in agent.arrivals
        if arrival.task_id == name
    )


def cancels(scenario: Scenario) -> Iterator[Violation]:
    """A request to cancel is heard: what goes on long after it was not cut off."""
    within_s = FAULTY_CANCEL_S if {fault.kind for fault in scenario.faults} & (MOVES | {"grow"}) else CANCEL_S
    for what, sent_ones, found in (
        ("task", scenario.traffic.tasks, scenario.results),
        ("plan", scenario.traffic.plans, scenario.plan_results),
    ):
        for name, sent in sent_ones.items():
            for at, row in found.get(name, [])[:1]:
                if sent.cancelled_at is None or row["status"] == "cancelled":
                    continue
                heard_at = sent.cancelled_at
                if scenario.grown_at is not None:
                    heard_at = max(heard_at, scenario.grown_at + GROWTH_S)
                if at <= heard_at + within_s + _away_s(scenario, at):
                    continue
                detail = f"cancelled at {sent.cancelled_at:.2f}, ended as {_name(row)} at {at:.2f}"
                yield Violation(f"unheard cancel of a {what}", name, detail)


def heard_steps(scenario: Scenario) -> Iterator[Violation]:
    """A plan takes notice of its steps' results: one that was written long before the plan ended is among them."""
    slack_s = FAULTY_STEP_S if {fault.kind for fault in scenario.faults} & (MOVES | {"grow"}) else QUIET_SLACK_S
    # A partition whose fetch failed is read again half a minute later, or its plan ends first.
    unread = [(fault.at, fault.at + UNREAD_S) for fault in scenario.faults if fault.kind in ("loss", "outage", "slow")]
    for name in scenario.traffic.plans:
        for ended_at, plan in scenario.plan_results.get(name, [])[:1]:
            told = {f"{name}#{step['taskId'].removeprefix('s')}": step["status"] for step in plan.get("results", ())}
            for step, status in told.items():
                for at, row in scenario.results.get(step, [])[:1]:
                    if any(since < ended_at and at < until for since, until in unread):
                        continue
                    if plan["status"] == "success":
                        continue  # it had its answer without this one
                    if row["status"] == "success" != status and at < ended_at - slack_s:
                        detail = f"{step} succeeded at {at:.2f}, is {status} in the plan's result at {ended_at:.2f}"
                        yield Violation("unheard step", name, detail)


ORACLES = (one_result, one_plan_result, own_answer, deadlines, cancels, heard_steps)
