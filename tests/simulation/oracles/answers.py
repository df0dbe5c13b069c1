"""Oracles about what users read: results of tasks and plans, their number, content and time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from tests.simulation.faults import MOVES
from tests.simulation.kinds import Scope, is_by, may_be_cached, scope_of
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
OF_A_TASK = "task:"
"""The beginning of ids of plans that answer a task."""
WAITING_CODES = frozenset({"rate_limited", "circuit_open", "expired"})


def _name(row: dict[str, Any]) -> str:
    return str((row.get("error") or {}).get("code", row["status"]))


def _expected(scenario: Scenario, sent: Sent, answered_at: Sequence[float]) -> range:
    """How often it may be answered: ids sent again once they may be forgotten may be new ones, and are once they must be.

    They are remembered from their answer on, which may come long after they were sent.
    """
    window_s = scenario.settings.dispatch.idempotency_window / 1000
    if not scenario.options.late_duplicates:
        return range(1, 2 + sum(at - sent.sent_at[0] > window_s for at in answered_at[1:]))
    forgotten_s = FORGOTTEN * window_s
    earlier = [max((answer for answer in answered_at if answer <= at), default=None) for at in sent.sent_at]
    anew = sum(
        at - answer > forgotten_s for at, answer in zip(sent.sent_at, earlier, strict=True) if answer is not None
    )
    return range(1 + anew, len(sent.sent_at) + 1)


def one_result(scenario: Scenario) -> Iterator[Violation]:
    """Exactly one result for each task id; for an id of several tasks, one for each of them."""
    for name, sent in scenario.traffic.tasks.items():
        rows = scenario.results.get(name, [])
        by_scope: dict[Scope, list[float]] = defaultdict(list)
        for at, row in rows:
            by_scope[scope_of(sent.body_of(row))].append(at)
        expected = _expected(scenario, sent, [at for at, _ in rows])
        lost = not sent.lost and (len(by_scope) < sent.fewest or len(rows) < expected.start)
        doubled = any(len(times) >= _expected(scenario, sent, times).stop for times in by_scope.values())
        if not lost and not doubled:
            continue
        codes = [(round(at, 2), _name(row), row.get("agentId"), row["metadata"].get("copy", 0)) for at, row in rows]
        wanted = [{key: body[key] for key in ("target", "capabilities") if key in body} for body in sent.bodies]
        detail = f"{len(rows)} results of {expected.start} {codes}; {wanted}; sent at {[round(at, 2) for at in sent.sent_at]}"
        yield Violation("lost task" if lost else "doubled task", name, detail)


def one_plan_result(scenario: Scenario) -> Iterator[Violation]:
    """Exactly one result for each plan id."""
    for name, sent in scenario.traffic.plans.items():
        rows = scenario.plan_results.get(name, [])
        expected = _expected(scenario, sent, [at for at, _ in rows])
        if len(rows) not in expected:
            which = "lost plan" if len(rows) < expected.start else "doubled plan"
            yield Violation(
                which, name, f"{len(rows)} results of {expected.start}: {[row['status'] for _, row in rows]}"
            )


def one_step_result(scenario: Scenario) -> Iterator[Violation]:
    """At most one result for each step, of plans and of tasks that run a template."""
    for step, rows in scenario.results.items():
        plan, is_step, _ = step.partition("#")
        if not is_step:
            continue
        sent = scenario.traffic.plans.get(plan) or scenario.traffic.tasks[plan.removeprefix(OF_A_TASK)]
        runs = [
            at for at, _ in scenario.plan_results.get(plan) or scenario.results.get(plan.removeprefix(OF_A_TASK), [])
        ]
        if len(rows) >= _expected(scenario, sent, runs).stop:
            yield Violation("doubled step", step, str([_name(row) for _, row in rows]))


def _asked(scenario: Scenario, name: str, row: dict[str, Any]) -> set[str]:
    """What the agent may have been asked for this result, as it repeats it."""
    traffic, (plan, _, path) = scenario.traffic, name.partition("#")
    if (sent := traffic.tasks.get(name)) is not None:
        return {str(sent.body_of(row)["payload"]["q"])}
    if (schedule := traffic.schedules.get(name.partition("@")[0])) is not None:
        return {schedule.body["task"]["payload"]["q"]}
    if plan.startswith(OF_A_TASK):
        return {str(body["payload"]["q"]) for body in traffic.tasks[plan.removeprefix(OF_A_TASK)].bodies}
    return {f"{plan}/{path.partition('.')[0]}"}


def own_answer(scenario: Scenario) -> Iterator[Violation]:
    """An answer, cached or not, is an answer to this input, by an agent that may answer it."""
    for name, rows in scenario.results.items():
        sent = scenario.traffic.tasks.get(name)
        for _, row in rows:
            if row["status"] != "success":
                continue
            value, asked = row["result"], _asked(scenario, name, row)
            if value["asked"] not in asked:
                yield Violation("foreign answer", name, f"asked {asked}, was answered {value['asked']}")
            if sent is None:
                continue
            body = sent.body_of(row)
            if not is_by(body, row):
                detail = f"for {body.get('target')}, by {row['agentId']}, answered {value['agent']}"
                yield Violation("foreign agent", name, detail)
            if row["cached"] and not may_be_cached(body):
                yield Violation("unwanted cache", name, "a cached answer, which the task does not want")


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
            if sent.body_of(row)["type"] == "pattern":
                continue  # its steps have the time that the pattern may take for their deadline
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


def _of_first_task(rows: Sequence[tuple[float, dict[str, Any]]]) -> list[tuple[float, dict[str, Any]]]:
    """Without the results of others of its id, which may have been sent after the request to cancel."""
    return [(at, row) for at, row in rows if not row.get("metadata", {}).get("copy", 0)]


def cancels(scenario: Scenario) -> Iterator[Violation]:
    """A request to cancel is heard: what goes on long after it was not cut off."""
    within_s = FAULTY_CANCEL_S if {fault.kind for fault in scenario.faults} & (MOVES | {"grow"}) else CANCEL_S
    for what, sent_ones, found in (
        ("task", scenario.traffic.tasks, scenario.results),
        ("plan", scenario.traffic.plans, scenario.plan_results),
    ):
        for name, sent in sent_ones.items():
            for at, row in _of_first_task(found.get(name, []))[:1]:
                if sent.cancelled_at is None or row["status"] == "cancelled":
                    continue
                heard_at = sent.cancelled_at
                if scenario.grown_at is not None:
                    heard_at = max(heard_at, scenario.grown_at + GROWTH_S)
                if at <= heard_at + within_s + _away_s(scenario, at):
                    continue
                if _name(row) == "expired" and (sent.deadline is None or sent.deadline <= heard_at + within_s):
                    continue  # its time, or that of its pattern, was over before; see `deadlines`
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


ORACLES = (one_result, one_plan_result, one_step_result, own_answer, deadlines, cancels, heard_steps)
