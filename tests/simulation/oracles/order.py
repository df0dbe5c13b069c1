"""Ordering keys: at an agent, tasks of one key that were written to one partition are called and answered in order."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from math import inf

from tests.simulation.agents import Arrival, SimAgent
from tests.simulation.broker import Transaction
from tests.simulation.kinds import scope_of
from tests.simulation.scenario import Scenario, Violation
from tests.simulation.traffic import Sent


def _calls(agent: SimAgent) -> Iterator[Arrival]:
    """Without those that ask for another agent's answer to be judged."""
    return (arrival for arrival in agent.arrivals if "/judge" not in arrival.key)


def one_at_a_time(scenario: Scenario) -> Iterator[Violation]:
    """A worker has no calls for two tasks of one key open at an agent."""
    for agent in scenario.shared.agents.values():
        by_key: dict[tuple[str, str, str], list[tuple[float, float, str]]] = defaultdict(list)
        for arrival in _calls(agent):
            sent = scenario.traffic.tasks.get(arrival.task_id)
            if sent is not None and sent.ordered is not None and not sent.copies:
                ended = scenario.world.now if arrival.ended_at is None else arrival.ended_at
                by_key[arrival.node, sent.ordered[0], _host(sent)].append((arrival.begun_at, ended, arrival.task_id))
        for (node, key, _), calls in by_key.items():
            until, last = 0.0, ""
            for began, ended, task_id in sorted(calls):
                if began < until and task_id != last:
                    detail = f"{task_id} called by {node} at {began:.3f}, {last} was under way until {until:.3f}"
                    yield Violation("one at a time", f"{agent.name} {key}", detail)
                if ended >= until:
                    until, last = ended, task_id


def _host(sent: Sent) -> str:
    """The host of an http task: there is no order between those of several hosts, which may share a wildcard's limits."""
    return scope_of(sent.body)[1] if sent.body["type"] == "http" else ""


def _is_promised(scenario: Scenario) -> bool:
    """Not across added partitions, nor in a log that lost its end: some of what took the lost offsets is read before the rest."""
    truncated = any(fault.kind == "truncate" for fault in scenario.faults)
    return not (scenario.options.grow or scenario.options.late_duplicates or truncated)


def _is_ordered(scenario: Scenario, sent: Sent) -> bool:
    """Whether its place is known. A rollout changes the agent of a host; of tasks with one id any may come first; and a task
    that waits for its time comes when it is released.
    """
    if sent.ordered is None or sent.lost or sent.copies or sent.not_before is not None:
        return False
    return sent.body["type"] == "agent" or "configure" not in scenario.options.faults


def _absences(agent: SimAgent) -> list[tuple[float, float]]:
    """From when until when it was not registered."""
    times = [at for at, _ in agent.registered[1:]] + [inf]
    return [(at, until) for (at, limits), until in zip(agent.registered, times, strict=True) if limits is None]


def in_order(scenario: Scenario) -> Iterator[Violation]:
    """First calls come in the order of the log.

    Tasks that name no agent go to another one when agents come or go. One that an equal task's answer served, or that failed
    because its agent was not registered, is called later if that end was not committed.
    """
    if not _is_promised(scenario):
        return
    changes = sorted((at, at) for agent in scenario.shared.agents.values() for at, _ in agent.registered)
    served = scenario.shared.served
    fails_without_agent = scenario.settings.dispatch.await_agent != "always"
    place = {name: number for number, name in enumerate(scenario.traffic.tasks)}
    for agent in scenario.shared.agents.values():
        absent = _absences(agent) if fails_without_agent else []
        first: dict[str, float] = {}
        for arrival in _calls(agent):
            if arrival.task_id in place:
                first[arrival.task_id] = min(arrival.begun_at, first.get(arrival.task_id, arrival.begun_at))
        by_key: dict[tuple[str, int, bool, str], list[str]] = defaultdict(list)
        for name in sorted(first, key=place.__getitem__):
            sent = scenario.traffic.tasks[name]
            if sent.ordered is not None and _is_ordered(scenario, sent):
                by_key[*sent.ordered, "target" in sent.body, _host(sent)].append(name)
        for (key, _, named, _), names in by_key.items():
            for early, late in pairwise(names):
                since = scenario.traffic.tasks[early].sent_at[0]
                if any(since - 1.0 <= until and at <= first[early] for at, until in (absent if named else changes)):
                    continue
                if first[late] < first[early] and early not in served:
                    detail = f"{late} called at {first[late]:.3f}, before {early} at {first[early]:.3f}"
                    yield Violation("order of calls", f"{agent.name} {key}", detail)


def _written(scenario: Scenario) -> dict[str, float]:
    """When each result was written. Those of one transaction are read at once, whatever the order in which it wrote them."""
    last: dict[Transaction, int] = {}
    for record in (records := scenario.committed("results")):
        if record.transaction is not None:
            last[record.transaction] = max(record.timestamp, last.get(record.transaction, 0))
    found: dict[str, float] = {}
    for record in records:
        at = record.timestamp if record.transaction is None else last[record.transaction]
        found.setdefault(json.loads(record.value or b"{}")["taskId"], at / 1000)
    return found


def answered_in_order(scenario: Scenario) -> Iterator[Violation]:
    """Results of tasks for one agent are written in that order, but for those that end without a call, or at a judge."""
    if not _is_promised(scenario):
        return
    ended: dict[tuple[str, str, int], tuple[str, float]] = {}
    written = _written(scenario)
    judged = {
        agent.name for agent in scenario.shared.agents.values() if (agent.confidence or {}).get("from") == "judge"
    }
    for name, sent in scenario.traffic.tasks.items():
        rows = scenario.results.get(name, [])
        if sent.ordered is None or "target" not in sent.body or not rows or not _is_ordered(scenario, sent):
            continue
        if sent.body["target"] in judged or sent.body["type"] == "pattern":  # a template passes no ordering key on
            continue
        row, at = rows[0][1], written[name]
        if row["status"] == "cancelled" or (row.get("error") or {}).get("code") == "expired":
            continue
        before = ended.get(about := (sent.body["target"], *sent.ordered))
        if before is not None and at < before[1]:
            detail = f"{name} answered at {at:.3f}, before {before[0]} at {before[1]:.3f}"
            yield Violation("order of answers", f"{about[0]} {about[1]}", detail)
        ended[about] = name, at


ORACLES = (one_at_a_time, in_order, answered_in_order)
