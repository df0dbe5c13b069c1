"""What must hold over the agents' call logs and the results, whatever was killed meanwhile. Pure.

In: `Call`s (one per call an agent saw), `Kill`s, results; times are epoch seconds. Out: a `Verdict` per predicate: its figures,
and a line for each breach. Every tolerance is a parameter; none is hidden. The breaker's predicate is in `breaker_log.py`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from agents_io.fakes.http import Received

Outcome = Literal["success", "failure", "neutral", "cut", "unsure"]
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Call:
    """One call as its agent saw it. `outcome`: what the breaker has to make of it (`read_call` tells how).

    `left_s`: what the caller granted this attempt. `worker`: who called, if that is known.
    """

    agent: str
    task: str
    at: float
    ended_at: float
    outcome: Outcome = "success"
    key: str = ""
    worker: str = ""
    left_s: float = 60.0
    code: int = 200


@dataclass(frozen=True, slots=True)
class Kill:
    """A worker was killed with SIGKILL at that time."""

    at: float
    worker: str = ""


@dataclass(slots=True)
class Verdict:
    """One predicate: whether it held, and the figures that say how near to its limit it came."""

    name: str
    figures: str = ""
    breaches: list[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        return not self.breaches

    def line(self) -> str:
        """One line for people; the first breaches follow, indented."""
        head = f"{'ok    ' if self.held else 'BROKEN'} {self.name}: {self.figures}"
        more = [] if len(self.breaches) <= SHOWN else [f"and {len(self.breaches) - SHOWN} more"]
        return "\n         ".join([head, *self.breaches[:SHOWN], *more])


def read_call(agent: str, received: Received, *, fair_s: float = 1.0, jitter_s: float = 0.1) -> Call:
    """A call from a fake agent's log.

    `task` is the payload's `taskId` if it has one (else the key), `worker` what follows `Bearer` in Authorization.
    Cut: the caller closed the connection before its own timeout: it died, or gave the call up. A timeout is the agent's failure,
    but neutral if the attempt was granted less than `fair_s`: the task's deadline cut it short. Unsure: it ended as the time did.
    """
    headers = {name.lower(): value for name, value in received.headers.items()}
    left_s = int(headers.get("x-request-timeout-ms", "60000")) / 1000
    payload = received.payload
    task = payload.get("taskId", received.key) if isinstance(payload, dict) else received.key
    timed_out = received.ended_at >= received.at + left_s - jitter_s
    outcome: Outcome = "neutral"
    if received.ended == "closed":
        outcome = ("failure" if left_s >= fair_s else "neutral") if timed_out else "cut"
    elif timed_out and (left_s >= fair_s or received.code >= 500):
        outcome = "unsure"
    elif timed_out:
        outcome = "neutral"
    elif received.ended == "dropped" or received.code >= 500 or received.code == 408:
        outcome = "failure"
    elif 200 <= received.code < 300:
        outcome = "success"
    worker = headers.get("authorization", "").removeprefix("Bearer ")
    return Call(agent, str(task), received.at, received.ended_at, outcome, received.key, worker, left_s, received.code)


def by_agent(calls: Iterable[Call]) -> dict[str, list[Call]]:
    """Each agent's calls in the order they began."""
    found: defaultdict[str, list[Call]] = defaultdict(list)
    for call in sorted(calls, key=lambda call: call.at):
        found[call.agent].append(call)
    return dict(found)


def uncertain_at(calls: Sequence[Call], kill: Kill, commit_s: float) -> list[Call]:
    """The killed worker's calls that were in flight, or had ended within the last `commit_s`: it may have told nobody."""
    return [
        call
        for call in calls
        if call.worker == kill.worker and call.at <= kill.at and call.ended_at > kill.at - commit_s
    ]


def cut_off(calls: Iterable[Call], kill: Kill, within_s: float = 0.5) -> int:
    """How many calls a kill cut off: the fault was felt."""
    return sum(
        call.outcome == "cut" and call.worker == kill.worker and abs(call.ended_at - kill.at) <= within_s
        for call in calls
    )


def rate(
    calls: Sequence[Call],
    limit: int,
    window_s: float,
    kills: Sequence[Kill] = (),
    *,
    commit_s: float = 1.0,
    jitter_s: float = 0.0,
) -> Verdict:
    """P9: at most `limit` calls of one agent begin in any window, beyond what was uncertain at kills within that window.

    `jitter_s`: how late a call may be seen at the agent, where that is long beside the window.
    """
    verdict = Verdict("rate")
    window_s -= jitter_s
    times = sorted(call.at for call in calls)
    doubtful = {kill: uncertain_at(calls, kill, commit_s) for kill in kills}
    most = unexplained = 0
    for first, begin in enumerate(times):
        end = bisect_left(times, begin + window_s)
        count = end - first
        most = max(most, count)
        if count <= limit:
            continue
        within = [lost for kill, lost in doubtful.items() if begin <= kill.at < begin + window_s]
        allowed = len({call for lost in within for call in lost if call.at >= begin})
        if count > limit + allowed and count - limit - allowed > unexplained:
            unexplained = count - limit - allowed
            verdict.breaches.append(f"{count} calls in the {window_s:g} s from {begin:.3f}; {allowed} may be excused")
    verdict.figures = f"{len(times)} calls, most in any {window_s:g} s: {most} of {limit}"
    return verdict


def pauses(
    calls: Sequence[Call],
    retry_after_s: float,
    kills: Sequence[Kill] = (),
    *,
    commit_s: float = 1.0,
    jitter_s: float = 0.1,
) -> Verdict:
    """After a 429 with Retry-After no call begins until that time is over; one told just before a kill may be forgotten."""
    verdict = Verdict("retry-after")
    shortest = float("inf")
    told = [call for call in calls if call.code == 429]
    times = sorted(call.at for call in calls)
    for call in told:
        if any(k.worker == call.worker and call.ended_at <= k.at < call.ended_at + commit_s for k in kills):
            continue
        following = bisect_right(times, call.ended_at + jitter_s)
        if following < len(times):
            gap = times[following] - call.ended_at
            shortest = min(shortest, gap)
            if gap < retry_after_s:
                verdict.breaches.append(f"a call began {gap:.3f} s after the 429 of {call.task} at {call.ended_at:.3f}")
    verdict.figures = f"{len(told)} calls told to wait {retry_after_s:g} s, shortest pause {shortest:.2f} s"
    return verdict


def half_open(changes: Iterable[tuple[float, str]], reset_timeout_s: float) -> list[tuple[float, float]]:
    """When one agent's circuit let through nothing but probes. `changes`: time and type of its circuit events, in any order.

    From the end of each hold to the next `circuit:open` or `circuit:close`; each pair is begin and end.
    """
    marks = sorted(change for change in changes if change[1] in ("circuit:open", "circuit:close"))
    ends = [at for at, _ in marks[1:]] + [float("inf")]
    spans = [
        (at + reset_timeout_s, end) for (at, kind), end in zip(marks, ends, strict=False) if kind == "circuit:open"
    ]
    return [(begin, end) for begin, end in spans if begin < end]


def without_attempt(
    calls: Iterable[Call], probing: Mapping[str, Sequence[tuple[float, float]]], *, jitter_s: float = 0.1
) -> dict[str, int]:
    """How many calls of each task used up no attempt: those told to wait (429), and failed probes of a half-open circuit.

    `probing`: by agent, from `half_open`. An agent must say 429 only with Retry-After. `jitter_s`: how far an event's time may be
    from the call it came with, on either side: it is cut to milliseconds, and of several probes under way the first to fail
    opens the circuit before the agent has seen the others.
    """
    found: Counter[str] = Counter()
    for call in calls:
        failed = call.outcome in ("failure", "unsure")
        probe = any(begin - jitter_s <= call.at <= end + jitter_s for begin, end in probing.get(call.agent, ()))
        if call.code == 429 or (failed and probe):
            found[call.task] += 1
    return dict(found)


def calls_per_task(
    calls: Iterable[Call],
    attempts: Mapping[str, int],
    redeliveries: Mapping[str, int],
    free: Mapping[str, int] | None = None,
) -> Verdict:
    """P6: at most attempts x (1 + redeliveries) calls for one task, beside those that use up no attempt (`without_attempt`).

    `attempts`: by task id; who is missing was never sent.
    """
    verdict = Verdict("calls per task")
    free = free or {}
    counts = Counter(call.task for call in calls)
    for task, count in sorted(counts.items()):
        again, unpaid = redeliveries.get(task, 0), free.get(task, 0)
        allowed = attempts.get(task, 0) * (1 + again) + unpaid
        if task not in attempts or count > allowed:
            breach = f"{task}: {count} calls, {allowed} allowed ({again} redeliveries, {unpaid} that use up no attempt)"
            verdict.breaches.append(breach)
    most = max(counts.values(), default=0)
    verdict.figures = (
        f"{len(counts)} tasks called, most calls for one {most}, redelivered {len(redeliveries)}; "
        f"{sum(free.values())} calls used up no attempt"
    )
    return verdict


def redelivered(
    calls: Iterable[Call],
    kills: Sequence[Kill],
    ended: Mapping[str, float],
    *,
    commit_s: float = 1.0,
    rebalances: Sequence[tuple[float, float]] = (),
) -> dict[str, int]:
    """How often a task may have been taken anew, from its first call to its result's time + `commit_s`.

    Kills of its worker, and `rebalances` of its group (the earliest and the latest time of each): all partitions open anew then.
    """
    first: dict[str, Call] = {}
    workers: defaultdict[str, set[str]] = defaultdict(set)
    for call in calls:
        workers[call.task].add(call.worker)
        if call.task not in first or call.at < first[call.task].at:
            first[call.task] = call
    found: dict[str, int] = {}
    for task, call in first.items():
        end = ended.get(task, float("inf")) + commit_s
        count = sum(kill.worker in workers[task] and call.at <= kill.at <= end for kill in kills)
        count += sum(call.at <= latest and earliest <= end for earliest, latest in rebalances)
        if count:
            found[task] = count
    return found


def one_key(calls: Iterable[Call], keys: Mapping[str, str]) -> Verdict:
    """All calls of a task carry its one Idempotency-Key. `keys`: the key by task id; a task that is missing has its id."""
    verdict = Verdict("idempotency key")
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for call in calls:
        seen[call.task].add(call.key)
    for task, found in sorted(seen.items()):
        if found != {keys.get(task, task)}:
            verdict.breaches.append(f"{task}: {sorted(found)} instead of {keys.get(task, task)!r}")
    verdict.figures = f"{len(seen)} tasks, {sum(task in keys for task in seen)} with a key of their own"
    return verdict


def deadlines(
    calls: Iterable[Call], deadline: Mapping[str, float], timeouts: Mapping[str, float], *, slack_s: float = 1.0
) -> Verdict:
    """P10: each call is granted its task's timeout, or what is left until the deadline if that is less, and lasts no longer.

    So none begins after the deadline, no retry has less time than the first attempt, and no crash moves a deadline.
    `deadline`: by task id; `timeouts`: of one attempt, seconds. `slack_s`: how late an agent may see that a call begins or ends.
    """
    verdict = Verdict("deadline")
    spare, cut, tasks = float("inf"), 0, set()
    for call in calls:
        last, timeout_s = deadline[call.task], timeouts[call.task]
        left_s = min(timeout_s, last - call.at)
        tasks.add(call.task)
        spare = min(spare, last - call.at)
        cut += left_s < timeout_s
        if call.at > last + slack_s:
            verdict.breaches.append(f"{call.task}: a call began {call.at - last:.3f} s after the deadline")
        elif abs(call.left_s - left_s) > slack_s:
            verdict.breaches.append(f"{call.task}: granted {call.left_s:.3f} s instead of {left_s:.3f} s")
        elif call.ended_at - call.at > call.left_s + slack_s:
            verdict.breaches.append(f"{call.task}: lasted {call.ended_at - call.at:.3f} s, granted {call.left_s:.3f} s")
    verdict.figures = f"{len(tasks)} tasks called, the latest {spare:.2f} s in time; {cut} calls cut short by deadlines"
    return verdict


def ended_in_time(ended: Mapping[str, float], deadline: Mapping[str, float], kills: Sequence[Kill] = (), *,
                  slack_s: float = 1.0, restart_s: float = 0.0) -> Verdict:  # fmt: skip
    """Each task has its result by its deadline, by task id. `restart_s`: what a kill within that time of the end may add."""
    verdict = Verdict("results by the deadline")
    latest = 0.0
    for task, at in ended.items():
        late_s = at - deadline[task]
        latest = max(latest, late_s)
        hit = any(deadline[task] - restart_s <= kill.at <= at for kill in kills)
        if late_s > slack_s + (restart_s if hit else 0.0):
            verdict.breaches.append(f"{task}: ended {late_s:.3f} s after its deadline")
    verdict.figures = f"{len(ended)} results, the latest {latest:.2f} s after its deadline"
    return verdict


def one_result(tasks: Iterable[str], results: Iterable[str]) -> Verdict:
    """P1, P3: each task sent has exactly one result, and there is none of a task that was not sent. In: ids."""
    verdict = Verdict("one result per task")
    sent = set(tasks)
    counts = Counter(results)
    lost = sorted(sent - set(counts))
    doubled = sorted(task for task, count in counts.items() if count > 1)
    foreign = sorted(set(counts) - sent)
    for word, which in (("lost", lost), ("doubled", doubled), ("never sent", foreign)):
        verdict.breaches += [f"{word}: {task}" for task in which]
    verdict.figures = f"{len(sent)} tasks, lost {len(lost)}, doubled {len(doubled)}, phantoms {len(foreign)}"
    return verdict


def not_called_again(calls: Iterable[Call], committed: Mapping[str, float], *, slack_s: float = 1.0) -> Verdict:
    """No call of a task begins once its result is committed. `committed`: time of the result's record by task id."""
    verdict = Verdict("no call after the result")
    late = [call for call in calls if call.at > committed.get(call.task, float("inf")) + slack_s]
    verdict.breaches = [f"{call.task}: called {call.at - committed[call.task]:.3f} s after its result" for call in late]
    verdict.figures = f"{len(committed)} results, {len(late)} late calls"
    return verdict


def served_again(
    calls: Sequence[Call],
    healed_at: float,
    within_s: float,
    kills: Sequence[Kill] = (),
    *,
    successes: int = 4,
    restart_s: float = 0.0,
) -> Verdict:
    """P8: an agent that healed has answered `successes` calls (the probes and one more) within `within_s`.

    `restart_s`: what each kill of its worker in that time may add. Tasks must be waiting for it, or nothing calls it.
    """
    verdict = Verdict("served again")
    good = sorted(call.ended_at for call in calls if call.at >= healed_at and call.outcome == "success")
    workers = {call.worker for call in calls}
    hit = sum(kill.worker in workers and healed_at <= kill.at <= healed_at + within_s for kill in kills)
    took = good[successes - 1] - healed_at if len(good) >= successes else float("inf")
    if took > within_s + hit * restart_s:
        verdict.breaches.append(f"healed at {healed_at:.3f}, served after {took:.2f} s ({hit} kills meanwhile)")
    verdict.figures = f"healed -> served {took:.2f} s"
    return verdict
