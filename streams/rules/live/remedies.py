"""What a person can do about a task that waits or failed, by wait reason and by error code. Pure.

In: a reason of `Explainer`, or a code of the closed list. Out: sentences; `{agent}` stands for the agent's id.
"""

from __future__ import annotations

from typing import NamedTuple

from schemas.messages import ErrorCode


class Wait(NamedTuple):
    """Why a task waits, what lets it continue, and what a person can do."""

    reason: str
    goes_on: str
    remedy: str


WAITS: dict[str, Wait] = {
    "calling": Wait(
        "agent {agent} is being called now",
        "when the agent answers, or its attempt takes longer than metadata.timeout",
        "wait; `parallax cancel` cuts the call off",
    ),
    "circuit_open": Wait(
        "the circuit of agent {agent} is open: too many of its recent calls failed",
        "when a probe call succeeds after the circuit has been open for breaker.resetTimeout",
        "`parallax agents probe {agent}` checks the agent; repair it. If the circuit was opened by hand: "
        "`parallax agents circuit {agent} auto`",
    ),
    "circuit_opened_by_hand": Wait(
        "the circuit of agent {agent} was opened by hand",
        "when its circuit is set to auto again",
        "`parallax agents circuit {agent} auto`",
    ),
    "rate_limited": Wait(
        "agent {agent} has had all the calls that its rate limit allows in this window",
        "when the window has room for another call; the task then has its turn",
        "wait, or raise limits.maxRequests of the agent: `parallax agents add {agent} ... --max-requests N`",
    ),
    "retry_after": Wait(
        "agent {agent} asked for a pause (429 or 503 with Retry-After)",
        "when the pause that the agent asked for is over",
        "wait; if it happens often, lower limits.maxConcurrency or limits.maxRequests of the agent to what it takes: "
        "`parallax agents add {agent} ... --max-concurrency N --max-requests N`",
    ),
    "concurrency": Wait(
        "as many calls to agent {agent} are under way as limits.maxConcurrency allows",
        "when one of these calls ends",
        "wait, make the agent faster, or raise limits.maxConcurrency: `parallax agents add {agent} ... --max-concurrency N`",
    ),
    "backoff": Wait(
        "the last attempt failed and the next one begins after a pause",
        "when the pause is over (retry.initial_delay, doubled with each attempt)",
        "wait; the last failure says what is wrong with agent {agent}",
    ),
    "turn": Wait(
        "other tasks for agent {agent} come before it",
        "when it is at the head of the agent's queue",
        "wait, or give urgent tasks a higher metadata.priority",
    ),
    "no_agent": Wait(
        "no agent that could take it is available",
        "when such an agent is registered and healthy and its circuit is closed",
        "`parallax agents ls` lists the agents, `parallax agents probe` checks them",
    ),
    "equal_task_under_way": Wait(
        "an equal task is under way, and its answer will serve this one too",
        "when the equal task ends",
        "wait; metadata.cache false makes a task stand alone",
    ),
    "ordering": Wait(
        "it waits behind an earlier task of its conversation (metadata.orderingKey)",
        "when the earlier tasks with its ordering key have ended",
        "wait, or cancel the task that holds it up; a deadline (metadata.expiresIn) bounds how long each may take",
    ),
    "not_before": Wait(
        "its time has not come (metadata.notBefore)",
        "when its time comes; a worker with the role schedules then hands it to dispatch",
        "wait, or cancel it and send it again with another time",
    ),
    "looking_for_agent": Wait(
        "the worker is choosing an agent for it",
        "within moments",
        "wait; if it stays, look at the worker's log",
    ),
}

REMEDIES: dict[ErrorCode, str] = {
    "timeout": "Give the agent longer with `metadata.timeout`, or make it faster.",
    "connection": "Check the agent with `parallax agents probe`, then retry.",
    "http_5xx": "Read the agent's log for the time of the call; retry once it is repaired.",
    "http_4xx": "Correct the task, or the agent's `auth`; the same task would be rejected again.",
    "rate_limited": "Lower `limits.maxRequests` of the agent to what it allows, or let the agent send `Retry-After` with a 429.",
    "circuit_open": "Repair the agent, then retry; or give the task a later deadline.",
    "bad_response": "Correct the agent's answer (JSON with `confidence` in [0, 1]), or set `confidence` of its registration.",
    "refused": "Ask another agent, or change the task.",
    "no_agent": "Register an agent (`parallax agents add`), or correct `target` or `capabilities`.",
    "cancelled": "Retry it if it was cancelled by mistake.",
    "expired": "Give it a later deadline (`metadata.expiresIn`), or find out what it waited for.",
    "forbidden_target": "Add the host to `http_tasks.allow`, or correct the URL.",
    "unknown_function": "Load the function's module with `functions.modules` on every worker that dispatches.",
    "execution_failed": "Read the function's error in the message; correct the function or the payload.",
    "too_large": "Send a reference in place of the data, or raise `dispatch.max_task_bytes` or `dispatch.max_answer_bytes`.",
    "unsupported": "Send the task to an agent of another protocol, or without the part that the message names.",
    "invalid_plan": "Correct what the message names and send the plan under a new id.",
    "internal": "Retry it; the worker's log has the details of the fault.",
}
"""What to do about a failure."""
