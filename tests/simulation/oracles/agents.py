"""Oracles about what agents see, by their own logs: rates, concurrency, pauses, circuits, owners, attempts, deadlines."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator

from schemas.partitioning import owner_partition
from tests.simulation.agents import SimAgent
from tests.simulation.faults import BLIND, MOVES
from tests.simulation.scenario import Scenario, Violation

SPREAD_S = 3.0
"""How soon a changed registration must be followed."""
REQUEST_S = 30.0
"""The longest that a request may take."""


def _allowed(scenario: Scenario, agent: SimAgent, since: float, until: float) -> tuple[int, int]:
    """The most calls in a window, and at once, of all limits in force in that time.

    Those of an agent that is unregistered stay in force: tasks taken before are finished.
    """
    requests, at_once, last = 0, 0, agent.limits
    for place, (at, limits) in enumerate(agent.registered):
        ended = agent.registered[place + 1][0] if place + 1 < len(agent.registered) else float("inf")
        last = limits or last
        if at <= until and _known_at(scenario, ended) >= since:
            requests, at_once = max(requests, last.max_requests), max(at_once, last.concurrency)
    return requests, at_once


def _known_at(scenario: Scenario, changed_at: float) -> float:
    """When every worker that can read must have heard of a registration."""
    known_at = changed_at + SPREAD_S
    for fault in scenario.faults:  # in order of time
        if fault.kind in BLIND and fault.at <= known_at:
            held_s = REQUEST_S if fault.kind == "slow" else 0.0  # what was asked in it may be answered long after it
            known_at = max(known_at, fault.at + fault.amount + held_s + SPREAD_S)
    return known_at


def _owner(scenario: Scenario, agent: str, at: float) -> int:
    return owner_partition(agent, scenario.partitions_at(at))


def rate(scenario: Scenario) -> Iterator[Violation]:
    """No agent sees more calls in any window than its limit, over all workers; but for calls under way at a crash.

    Wall clocks that differ make a window shorter by as much, when a partition moves.
    """
    spread_s = scenario.clock_spread_s
    forgotten = scenario.shared.durability["dispatch"].forgotten
    for agent in scenario.shared.agents.values():
        window_s, first, worst = agent.limits.window_s - spread_s, 0, (0, 0.0, 0)
        if window_s <= 0:
            continue  # clocks that differ by more say nothing of its limit
        arrivals = [
            one
            for one in agent.arrivals
            if forgotten(one.node, _owner(scenario, agent.name, one.begun_at), one.begun_at) is None
        ]
        times = [arrival.at for arrival in arrivals]
        for place, at in enumerate(times):
            while times[first] <= at - window_s:
                first += 1
            count = place - first + 1
            if count > worst[0] and count > (allowed := _allowed(scenario, agent, at - window_s, at)[0]):
                worst = count, at, allowed
        if worst[0]:
            callers = Counter(arrival.node for arrival in arrivals if worst[1] - window_s < arrival.at <= worst[1])
            detail = f"{worst[0]} calls in {window_s:g} s, {worst[2]} allowed, until {worst[1]:.2f}; by {dict(callers)}"
            yield Violation("rate limit", agent.name, detail)


def concurrency(scenario: Scenario) -> Iterator[Violation]:
    """No worker, and in the absence of blind workers not all together, has more calls open at an agent than allowed."""
    kinds = {fault.kind for fault in scenario.faults}
    for agent in scenario.shared.agents.values():
        by_node: dict[str, list[tuple[float, int]]] = defaultdict(list)
        for arrival in agent.arrivals:
            ended = scenario.world.now if arrival.ended_at is None else arrival.ended_at
            if ended > arrival.at:
                for name in (arrival.node, "all"):
                    by_node[name] += [(arrival.at, 1), (ended, -1)]
        if kinds & BLIND:
            by_node.pop("all", None)
        for node, changes in by_node.items():
            running, worst = 0, (0, 0.0)
            for at, change in sorted(changes):
                running += change
                if running > max(worst[0], _allowed(scenario, agent, at - agent.limits.window_s - 30.0, at)[1]):
                    worst = running, at
            if worst[0]:
                allowed = _allowed(scenario, agent, worst[1] - 30.0, worst[1])[1]
                yield Violation(
                    "concurrency", agent.name, f"{worst[0]} at once by {node}, {allowed} allowed, at {worst[1]:.2f}"
                )


def pauses(scenario: Scenario) -> Iterator[Violation]:
    """After `Retry-After` a worker leaves the agent alone for that long."""
    begun, durability = _begun(scenario), scenario.shared.durability["dispatch"]
    for at, node, agent, pause_s in scenario.shared.pauses:
        times, partition = begun[node, agent], _owner(scenario, agent, at)
        later = bisect_right(times, at + 1e-6)
        if later == len(times) or times[later] >= at + pause_s - 0.001 or not durability.owns(node, partition, at):
            continue
        lost_at = durability.forgotten(node, partition, at)
        if lost_at is None or times[later] < lost_at:
            yield Violation(
                "retry-after", agent, f"told {node} at {at:.3f} to wait {pause_s:g} s, called at {times[later]:.3f}"
            )


def circuits(scenario: Scenario) -> Iterator[Violation]:
    """An open circuit lets no call through until its time is over."""
    begun, open_s = _begun(scenario), scenario.settings.breaker.reset_timeout / 1000
    durability = scenario.shared.durability["dispatch"]
    for at, node, agent in scenario.shared.opened:
        if not durability.owns(node, _owner(scenario, agent, at), at):
            continue  # that it called at all is the owner oracle's matter
        times = begun[node, agent]
        later = bisect_right(times, at + 1e-6)
        changed = any(at - SPREAD_S < when < at + open_s for when, _ in scenario.shared.agents[agent].registered)
        if later == len(times) or times[later] >= at + open_s - 0.001 or changed:
            continue
        lost_at = durability.forgotten(node, _owner(scenario, agent, at), at)
        if lost_at is None or times[later] < lost_at:
            yield Violation(
                "open circuit", agent, f"open at {node} from {at:.3f} for {open_s:g} s, called at {times[later]:.3f}"
            )


def moved_guards(scenario: Scenario) -> Iterator[Violation]:
    """What one owner of an agent knows holds at the next one too: a pause that the agent asked for, an open circuit.

    But for what was under way at a crash.
    """
    open_s, durability = scenario.settings.breaker.reset_timeout / 1000, scenario.shared.durability["dispatch"]
    known = [("pause", at, node, agent, pause_s) for at, node, agent, pause_s in scenario.shared.pauses]
    known += [("open circuit", at, node, agent, open_s) for at, node, agent in scenario.shared.opened]
    for what, at, node, name, lasts_s in known:
        agent, number = scenario.shared.agents[name], _owner(scenario, name, at)
        changed = any(at - SPREAD_S < when < at + lasts_s for when, _ in agent.registered)
        if changed or not durability.owns(node, number, at) or durability.forgotten(node, number, at) is not None:
            continue
        until = at + lasts_s - scenario.clock_spread_s - 0.001
        for arrival in agent.arrivals:
            if arrival.node == node or not at < arrival.begun_at < until:
                continue
            if durability.owns(arrival.node, _owner(scenario, name, arrival.begun_at), arrival.begun_at):
                detail = f"{node} knew at {at:.3f} for {lasts_s:g} s, {arrival.node} called at {arrival.begun_at:.3f}"
                yield Violation(f"forgotten {what}", name, detail)


def _begun(scenario: Scenario) -> dict[tuple[str, str], list[float]]:
    """When each worker made its calls to each agent."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for agent in scenario.shared.agents.values():
        for arrival in agent.arrivals:
            found[arrival.node, agent.name].append(arrival.begun_at)
    for times in found.values():
        times.sort()
    return found


def owner(scenario: Scenario) -> Iterator[Violation]:
    """Nobody calls an agent whose partition is another worker's by then."""
    seen = set()
    for at, node, agent, other in scenario.shared.strays:
        if (node, agent) not in seen:
            seen.add((node, agent))
            yield Violation("owner", agent, f"called at {at:.3f} by {node}, its owner is {other}")


def permitted(scenario: Scenario) -> Iterator[Violation]:
    """A worker calls only what its settings permit, under the limits that they give it."""
    for at, node, agent, target in scenario.shared.forbidden[:1]:
        yield Violation("forbidden call", agent, f"{target} called at {at:.3f} by {node}")


def attempts(scenario: Scenario) -> Iterator[Violation]:
    """Without a move a task is called once and once more for each retry it may have.

    Where a circuit opened its probes come on top (contracts 2a: a failed one uses up no attempt), and so do calls that the agent
    put off with 429.
    """
    if (MOVES | {"grow", "truncate"}) & {fault.kind for fault in scenario.faults} or scenario.options.late_duplicates:
        return
    probed = {agent for _, _, agent in scenario.shared.opened}
    probed_tasks = (
        {arrival.task_id for name in probed for arrival in scenario.shared.agents[name].arrivals}
        if scenario.options.time == "attempt"
        else set()
    )
    calls = Counter(
        arrival.task_id
        for agent in scenario.shared.agents.values()
        for arrival in agent.arrivals
        if scenario.options.time == "task" or not arrival.retry_after
    )
    for name, sent in scenario.traffic.tasks.items():
        allowed = len(sent.bodies) * scenario.calls_allowed(sent.body["metadata"]["retries"])
        if name not in probed_tasks and calls[name] > allowed:
            yield Violation(
                "attempts", name, f"{calls[name]} calls, {sent.body['metadata']['retries']} retries allowed"
            )


def call_times(scenario: Scenario) -> Iterator[Violation]:
    """No call begins after its task's deadline, nor is given more time than the task allows one."""
    for agent in scenario.shared.agents.values():
        for arrival in agent.arrivals:
            sent = scenario.traffic.tasks.get(arrival.task_id)
            if sent is None:
                continue
            timeout_s = sent.body["metadata"]["timeout"] / 1000
            if arrival.timeout_s > timeout_s + scenario.clock_spread_s + 0.001:
                yield Violation(
                    "call timeout", arrival.task_id, f"{arrival.timeout_s:.3f} s given, {timeout_s:g} s allowed"
                )
            if sent.deadline is not None and not scenario.options.skew and arrival.begun_at > sent.deadline + 0.05:
                yield Violation(
                    "call after deadline", arrival.task_id, f"at {arrival.begun_at:.3f}, deadline {sent.deadline:.3f}"
                )


ORACLES = (rate, concurrency, pauses, circuits, moved_guards, owner, permitted, attempts, call_times)
