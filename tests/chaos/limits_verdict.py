"""What a run of `limits.py` showed, and whether it is as promised.

In: calls, kills, results and circuit events of one run. Out: a line per predicate. The tolerances are the constants below.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from agents_io.calling.rules.breaker import BreakerConfig
from tests.chaos.limits_plan import (
    AGENTS,
    ATTEMPT_S,
    FROZEN_S,
    FULL_LIMIT,
    RETRIES,
    RETRY_AFTER_S,
    SESSION_S,
    WINDOW_S,
)
from tests.support import predicates
from tests.support.breaker_log import breaker
from tests.support.predicates import Call, Kill, Verdict, by_agent

COMMIT_S = 1.0
"""What a worker did this long before it was killed may be forgotten."""
JITTER_S = 0.5
"""Agent and worker may see one moment this far apart, on a busy machine."""
RESTART_S = 8.0
"""A worker killed and restarted at once serves its partitions again after this long at the latest."""
REBALANCE_S = 20.0
"""After a kill partitions may move, and move back when the worker is there again: who waits there meanwhile ends this much
later."""
LATE_S = 2.0
"""An agent sees a call, and a result is written, this much later at most, on a busy machine."""
SERVED_S = 33.0
"""30 s of hold, then the probes."""
BREAKER = BreakerConfig(probe_lease_s=35.0)


@dataclass(slots=True)
class Evidence:
    """All that was seen. `tasks`: id to (agent, produced at, expires_s); `results`: (id, committed at, status, error code).

    `circuits`: (agent, event type, timestamp); `keys`: Idempotency-Keys that are not the task's id. Times are epoch seconds.
    """

    calls: list[Call] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    freezes: list[Kill] = field(default_factory=list)
    tasks: dict[str, tuple[str, float, float]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    results: list[tuple[str, float, str, str]] = field(default_factory=list)
    circuits: list[tuple[str, str, str]] = field(default_factory=list)
    healed: list[float] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)), "utf-8")

    @classmethod
    def load(cls, path: Path) -> Evidence:
        """What `save` wrote."""
        kept = json.loads(path.read_text("utf-8"))
        kept["calls"] = [Call(**call) for call in kept["calls"]]
        for name in ("kills", "freezes"):
            kept[name] = [Kill(**kill) for kill in kept[name]]
        for name in ("results", "circuits"):
            kept[name] = [tuple(row) for row in kept[name]]
        return cls(**kept)

    @property
    def losses(self) -> list[Kill]:
        """Whatever took a worker its partitions without a word."""
        return sorted([*self.kills, *self.freezes], key=lambda kill: kill.at)

    @property
    def rebalances(self) -> list[tuple[float, float]]:
        """When the group may have dealt out its partitions anew: without a frozen worker, and with it again.

        One that is killed comes back within its session, under its static name.
        """
        return [
            (freeze.at + after_s, freeze.at + after_s + SESSION_S)
            for freeze in self.freezes
            for after_s in (SESSION_S, FROZEN_S)
        ]

    def changes(self, agent: str) -> list[tuple[float, str]]:
        """When it was told that the agent's circuit changed, and how."""
        return [(datetime.fromisoformat(at).timestamp(), kind) for name, kind, at in self.circuits if name == agent]

    def opened(self, agent: str) -> list[float]:
        """When it was told that the agent's circuit opened."""
        return [at for at, kind in self.changes(agent) if kind == "circuit:open"]

    def deadlines(self) -> dict[str, float]:
        """Epoch seconds by task id: counted from the record's own timestamp, whatever happens to workers."""
        return {task: produced_at + expires_s for task, (_, produced_at, expires_s) in self.tasks.items()}


def owner(calls: Sequence[Call], at: float) -> str:
    """The worker that made the last call before that time; empty if there was none."""
    return next((call.worker for call in reversed(calls) if call.at <= at), "")


def _merge(name: str, found: Mapping[str, Verdict]) -> Verdict:
    figures = "; ".join(f"{agent} {verdict.figures}" for agent, verdict in found.items())
    return Verdict(name, figures, [f"{agent}: {text}" for agent, verdict in found.items() for text in verdict.breaches])


def _of(kind: str) -> tuple[str, ...]:
    return tuple(agent for agent in AGENTS if agent.startswith(kind))


def _breakers(evidence: Evidence, calls: Mapping[str, list[Call]]) -> tuple[list[Verdict], int]:
    judged = {
        agent: breaker(
            calls[agent], BREAKER, evidence.losses, evidence.opened(agent), jitter_s=JITTER_S, commit_s=COMMIT_S
        )
        for agent in calls
    }
    sick = {agent: verdict for agent, (verdict, _) in judged.items() if agent[:-1] in ("ill", "half")}
    sound = Verdict("circuits of sound agents stay closed")
    for agent, (verdict, _) in judged.items():
        if agent not in sick:
            sound.breaches += [f"{agent}: {text}" for text in verdict.breaches]
            sound.breaches += [f"{agent}: opened at {at:.3f}" for at in evidence.opened(agent)]
    sound.figures = f"{len(judged) - len(sick)} agents, {sum(len(calls[a]) for a in judged if a not in sick)} calls"
    return [_merge("breaker", sick), sound], sum(trips for _, trips in judged.values())


def _served(evidence: Evidence, calls: Mapping[str, list[Call]]) -> Verdict:
    found = {}
    for agent in _of("ill"):
        for number, healed_at in enumerate(evidence.healed, 1):
            found[f"{agent}#{number}"] = predicates.served_again(
                calls.get(agent, []), healed_at, SERVED_S, evidence.losses, restart_s=RESTART_S
            )
    return _merge("healed agents are served again", found)


def verdicts(evidence: Evidence, wanted_kills: int, wanted_freezes: int = 0) -> list[Verdict]:
    """Every predicate over this evidence."""
    calls = by_agent(evidence.calls)
    everything = [call for found in calls.values() for call in found]
    kills, results = evidence.losses, evidence.results
    ended = {task: at for task, at, _, _ in results}
    rates = {a: predicates.rate(calls.get(a, []), FULL_LIMIT, WINDOW_S, kills, commit_s=COMMIT_S) for a in _of("full")}
    told = {
        a: predicates.pauses(calls.get(a, []), RETRY_AFTER_S, kills, commit_s=COMMIT_S, jitter_s=JITTER_S)
        for a in _of("busy")
    }
    again = predicates.redelivered(everything, kills, ended, commit_s=COMMIT_S, rebalances=evidence.rebalances)
    probing = {agent: predicates.half_open(evidence.changes(agent), BREAKER.reset_timeout_s) for agent in calls}
    free = predicates.without_attempt(everything, probing, jitter_s=JITTER_S)
    deadlines = evidence.deadlines()
    breakers, trips = _breakers(evidence, calls)
    return [
        _merge("rate", rates),
        *breakers,
        _served(evidence, calls),
        _merge("retry-after", told),
        predicates.calls_per_task(everything, dict.fromkeys(evidence.tasks, RETRIES + 1), again, free),
        predicates.one_key(everything, evidence.keys),
        predicates.deadlines(everything, deadlines, dict.fromkeys(deadlines, ATTEMPT_S), slack_s=LATE_S),
        predicates.ended_in_time(ended, deadlines, kills, slack_s=LATE_S, restart_s=REBALANCE_S),
        predicates.one_result(evidence.tasks, (task for task, _, _, _ in results)),
        predicates.not_called_again(everything, ended, slack_s=COMMIT_S),
        _well(evidence),
        _felt(evidence, calls, trips, wanted_kills, wanted_freezes),
    ]


def _well(evidence: Evidence) -> Verdict:
    """Tasks of agents that always answer succeed: limits and circuits of others, and kills, cost them nothing."""
    verdict = Verdict("well agents' tasks succeed")
    statuses: Counter[str] = Counter()
    for task, _, status, code in evidence.results:
        if evidence.tasks[task][0].startswith("well"):
            statuses[status] += 1
            if status != "success":
                verdict.breaches.append(f"{task}: {status} {code}")
    verdict.figures = ", ".join(f"{status} {count}" for status, count in statuses.items())
    return verdict


def _felt(
    evidence: Evidence, calls: Mapping[str, list[Call]], trips: int, wanted_kills: int, wanted_freezes: int
) -> Verdict:
    """The faults were felt: limits reached, circuits opened, calls cut off, and workers killed while state was in them; agents of
    a frozen worker were called by another."""
    verdict = Verdict("faults were felt")
    kills = evidence.kills
    cut = [sum(predicates.cut_off(found, kill) for found in calls.values()) for kill in kills]
    hit = sum(count > 0 for count in cut)
    full = open_ = 0
    for kill in evidence.losses:
        owned = {agent: found for agent, found in calls.items() if owner(found, kill.at) == kill.worker}
        full += any(
            sum(kill.at - WINDOW_S < call.at <= kill.at for call in owned.get(agent, [])) >= FULL_LIMIT
            for agent in _of("full")
        )
        open_ += any(any(at <= kill.at < at + 30 for at in evidence.opened(agent)) for agent in owned)
    taken_over = sum(any(_taken_over(found, freeze) for found in calls.values()) for freeze in evidence.freezes)
    full_tasks = {task for task, (agent, _, _) in evidence.tasks.items() if agent.startswith("full")}
    limited = sum(code == "expired" and task in full_tasks for task, _, _, code in evidence.results)
    for wrong, text in (
        (len(kills) < wanted_kills, f"{len(kills)} kills of {wanted_kills}"),
        (2 * hit < wanted_kills, f"only {hit} kills cut off calls"),
        (taken_over < wanted_freezes, f"{taken_over} freezes of {wanted_freezes} let another worker take over"),
        (trips < 2, f"{trips} trips"),
        (limited == 0, "no task expired while it waited for the rate limit"),
        (not any(call.code == 429 for call in evidence.calls), "no agent said 429"),
        (wanted_kills > 1 and full == 0, "no kill or freeze while a limit was reached"),
        (wanted_kills > 1 and open_ == 0, "no kill or freeze while a circuit was open"),
    ):
        if wrong:
            verdict.breaches.append(text)
    verdict.figures = (
        f"{len(kills)} kills, {hit} cut off calls ({sum(cut)}), {full} at a limit, {open_} with a circuit open; "
        f"{taken_over} freezes after which another took over; "
        f"trips {trips}; {limited} tasks expired while they waited for the rate limit"
    )
    return verdict


def _taken_over(calls: Sequence[Call], freeze: Kill) -> bool:
    """Whether an agent of the frozen worker was called by another before that one went on."""
    if owner(calls, freeze.at) != freeze.worker:
        return False
    return any(freeze.at < call.at < freeze.at + REBALANCE_S and call.worker != freeze.worker for call in calls)


def judge(evidence: Evidence, wanted_kills: int, wanted_freezes: int) -> bool:
    """Print a line per predicate; whether all held."""
    found = verdicts(evidence, wanted_kills, wanted_freezes)
    for verdict in found:
        print(verdict.line(), flush=True)
    statuses = Counter(code or status for _, _, status, code in evidence.results)
    print(f"       results: {dict(statuses.most_common())}", flush=True)
    return all(verdict.held for verdict in found)
