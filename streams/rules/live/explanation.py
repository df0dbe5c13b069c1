"""Why a task waits, or how it ended, in sentences. Pure.

In: what the topics and the workers have about the task. Out: an `Explanation`: reason, since and until when, what lets
it continue, and what to do. Five cases: 1 it has a result; 2 a worker holds it in memory; 3 it became a dead letter;
4 it is on its topic; 5 it ended, or is unknown, and the reason is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.times import format_time, parse_time
from streams.rules.live.remedies import REMEDIES, WAITS, Wait
from streams.rules.live.task_status import status_of

NO_WORKER = "no worker answered"
UNSEEN = "it is on the topic tasks: no worker has read it, or it waits there for its turn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The explanation of one task. Times are RFC 3339 text; unknown or inapplicable fields are None.

    `code`: why it waits (a key of `WAITS`, or `on_topic`), or the error's code. `since`: when it began to wait, or
    ended.
    """

    task_id: str
    status: str
    code: str | None = None
    agent_id: str | None = None
    reason: str
    since: str | None = None
    until: str | None = None
    deadline: str | None = None
    goes_on: str | None = None
    remedy: str | None = None
    failure: str | None = None
    """How its last attempt failed."""

    def document(self) -> dict[str, Any]:
        return {
            "taskId": self.task_id,
            "status": self.status,
            "code": self.code,
            "agentId": self.agent_id,
            "reason": self.reason,
            "since": self.since,
            "until": self.until,
            "deadline": self.deadline,
            "goesOn": self.goes_on,
            "remedy": self.remedy,
            "lastFailure": self.failure,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of one task. `events` in order of time.

    `sent`: its record on `tasks`, as `{at_ms, target, capabilities, refused}`, `refused`: why it became a dead letter, if it did;
    `waiting`: the report of the worker that holds it; `agent`: the registration of its target with its `standing`, None:
    not registered; `workers`: how many answered.
    """

    task_id: str
    result: Mapping[str, Any] | None = None
    events: Sequence[Mapping[str, Any]] = ()
    sent: Mapping[str, Any] | None = None
    waiting: Mapping[str, Any] | None = None
    agent: Mapping[str, Any] | None = None
    workers: int = 0


def explain(found: Evidence, meanings: Mapping[str, str]) -> Explanation | None:
    """The explanation; None: the task is unknown. `meanings`: a sentence for each error code.

    >>> explain(Evidence(task_id="t"), {})
    >>> explain(Evidence(task_id="t", waiting={"reason": "turn", "agentId": "a"}), {}).reason
    'other tasks for agent a come before it'
    """
    if found.result is not None:
        return _ended(found.task_id, found.result, meanings)
    if found.waiting is not None:
        return _held(found.task_id, found.waiting, _last_failure(found.events))
    if found.sent is None and not found.events:
        return None
    if found.sent is not None and found.sent.get("refused") and not found.events:
        return Explanation(
            task_id=found.task_id, status="dead-lettered", reason=f"it is no valid task: {found.sent['refused']}",
            since=format_time(found.sent["at_ms"]), remedy="correct what the reason names and submit it again; "
            "`parallax dlq ls tasks` lists the dead letter",
        )  # fmt: skip
    return _unheld(found)


def _ended(task_id: str, result: Mapping[str, Any], meanings: Mapping[str, str]) -> Explanation:
    error, agent_id = result.get("error"), result.get("agentId")
    times = {"since": result.get("timestamp"), "agent_id": agent_id}
    took = f"after {_span(result.get('waitTime'))} of waiting and {_span(result.get('executionTime'))} of work"
    retries = result.get("retries") or 0
    if error is None:
        source = "from the cache" if result.get("cached") else f"by agent {agent_id}" if agent_id else "by the worker"
        again = f", with {retries} retries" if retries else ""
        return Explanation(
            task_id=task_id, status=str(result.get("status")), reason=f"it was answered {source} {took}{again}", **times
        )
    code = str(error.get("code"))
    meaning = meanings.get(code, "The task failed.").removesuffix(".")
    return Explanation(
        task_id=task_id,
        status=str(result.get("status")),
        code=code,
        reason=f"{meaning}: {error.get('message')} ({took}, {retries} retries)",
        remedy=REMEDIES.get(code),  # type: ignore[call-overload]  # a later version's code has no remedy here
        goes_on=f"a task that ended stays ended; `parallax retry {task_id}` sends it again under a new id",
        **times,
    )


def _held(task_id: str, waiting: Mapping[str, Any], failed: str | None) -> Explanation:
    code = str(waiting.get("reason"))
    agent = waiting.get("agentId")
    wait, failure = _wait_of(waiting), waiting.get("failure")
    named = {"agent": agent or "(none yet)"}
    last = f"{failure['code']}: {failure['message']}" if failure else failed
    used, most = waiting.get("attempts"), waiting.get("maxAttempts")
    if last is not None and used:
        last = f"attempt {used} of {most}: {last}"
    return Explanation(
        task_id=task_id,
        status="calling" if code == "calling" else "waiting",
        code=code,
        agent_id=agent,
        reason=reason_of(waiting),
        since=waiting.get("since"),
        until=waiting.get("until"),
        deadline=waiting.get("deadline"),
        goes_on=wait.goes_on.format(**named) if wait else None,
        remedy=wait.remedy.format(**named) if wait else None,
        failure=last,
    )


def reason_of(waiting: Mapping[str, Any]) -> str:
    """Why a task waits, from the report of the worker that holds it.

    >>> reason_of({"reason": "turn", "agentId": "a"})
    'other tasks for agent a come before it'
    """
    wait, circuit = _wait_of(waiting), waiting.get("circuit") or {}
    if wait is None:
        return str(waiting.get("reason")).replace("_", " ")
    reason = wait.reason.format(agent=waiting.get("agentId") or "(none yet)")
    if circuit.get("failure") and circuit.get("mode") == "auto":
        reason += f"; the last one with {circuit['failure']['code']}: {circuit['failure']['message']}"
    return reason


def _wait_of(waiting: Mapping[str, Any]) -> Wait | None:
    by_hand = (waiting.get("circuit") or {}).get("mode") == "open"
    return WAITS.get("circuit_opened_by_hand" if by_hand else str(waiting.get("reason")))


def _unheld(found: Evidence) -> Explanation:
    """No worker that answered holds the task: it is on its topic, or the worker that holds it did not answer."""
    sent = found.sent or {}
    target, status = sent.get("target"), status_of(None, found.events)
    since = format_time(sent["at_ms"]) if "at_ms" in sent else str(found.events[0].get("timestamp"))
    state = (found.agent or {}).get("standing") or {}
    common: dict[str, Any] = {"task_id": found.task_id, "since": since, "failure": _last_failure(found.events)}
    common |= {"agent_id": target, "status": "waiting" if status == "unknown" else status}
    if status not in ("unknown", "running", "parked"):
        return Explanation(
            **common, reason="it ended, but its result is no longer on the topic results, or not yet readable",
            remedy="`parallax tail events` shows what happens now",
        )  # fmt: skip
    if not found.workers:
        return Explanation(
            **common, code="no_worker", reason=f"{NO_WORKER}, so what it waits for is not known",
            goes_on="when a worker of this topic prefix runs",
            remedy="`parallax workers ls` lists the workers; start one with `parallax worker`, or name one with --web URL",
        )  # fmt: skip
    parked = _parked(found.events)
    if parked is not None and (wait := WAITS.get(str(parked.get("reason")))) is not None:
        named = {"agent": common.pop("agent_id") or parked.get("agentId") or "(none yet)"}
        return Explanation(
            **common, code=str(parked["reason"]), agent_id=named["agent"], reason=wait.reason.format(**named),
            until=parked.get("until"), goes_on=wait.goes_on.format(**named), remedy=wait.remedy.format(**named),
        )  # fmt: skip
    if state.get("circuit") == "open":
        wait = WAITS["circuit_open"]
        return Explanation(
            **common, code="circuit_open", reason=wait.reason.format(agent=target), until=state.get("openUntil"),
            goes_on=wait.goes_on.format(agent=target), remedy=wait.remedy.format(agent=target),
        )  # fmt: skip
    if target is not None and found.agent is None and sent.get("type") == "agent":
        return Explanation(
            **common, code="no_agent", reason=f"agent {target} is not registered at the worker that was asked",
            goes_on="when the agent is registered", remedy=f"`parallax agents add {target} ENDPOINT`",
        )  # fmt: skip
    ahead = f"; {state['load']} tasks are with agent {target}" if state.get("load") else ""
    return Explanation(
        **common, code="on_topic", reason=UNSEEN + ahead,
        goes_on="when a worker has room for it: those before it on the topic come first",
        remedy="`parallax workers ls` shows whether workers are ready and how many tasks wait",
    )  # fmt: skip


def _parked(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Data of `task:parked`, if it is the task's last event."""
    last = events[-1] if events else None
    data = last.get("data") if last is not None and last.get("type") == "task:parked" else None
    return data if isinstance(data, Mapping) else None


def _last_failure(events: Sequence[Mapping[str, Any]]) -> str | None:
    """The error in the newest `task:retrying`, with the time at which the next attempt was due."""
    for event in reversed(events):
        data = event.get("data")
        if event.get("type") == "task:retrying" and isinstance(data, Mapping):
            due = ""
            if isinstance(data.get("delay"), (int, float)):
                due = f"; the next was due at {format_time(parse_time(event['timestamp']) + round(data['delay']))}"
            return f"attempt {data.get('attempt')} failed{due}"
    return None


def _span(ms: Any) -> str:
    """Milliseconds as text.

    >>> _span(5), _span(1500), _span(90_000), _span(None)
    ('5 ms', '1.5 s', '1.5 min', 'an unknown time')
    """
    if not isinstance(ms, (int, float)):
        return "an unknown time"
    if ms < 1000:
        return f"{ms:.0f} ms"
    return f"{ms / 1000:.1f} s" if ms < 60_000 else f"{ms / 60_000:.1f} min"
