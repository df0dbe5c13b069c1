"""What a run of `limits.py` offers to its agents, and how they behave. Pure: a seed and a length give a plan.

Agents, two of each kind, on eight partitions:
  full  default limits (100 calls a minute), offered nearly twice that after a burst: tasks wait for their turn or expire
  ill   fails every call for two long whiles (503; connections cut), in between and afterwards it is well
  half  every task's first call fails
  slow  two calls at once, half a second each, offered more: near deadlines pass in the queue, or during a call
  busy  now and then answers 429 with Retry-After
  well  always answers
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agents_io.fakes.steps import ScriptStep, answer, reset, status

KINDS = ("full", "ill", "half", "slow", "busy", "well")
AGENTS = tuple(f"{kind}{number}" for kind in KINDS for number in range(2))
FULL_LIMIT, WINDOW_S = 100, 60.0
RETRY_AFTER_S = 3.0
RETRIES = 2
ATTEMPT_S = 5.0
"""What one attempt may take; every agent that answers at all is faster."""
SESSION_S = 6
FROZEN_S = SESSION_S + 4.0
TAIL_S = 15.0
"""Every task's deadline is at most this long after the last one was offered."""
_WIDE = {"maxRequests": 1_000_000, "windowMs": 60_000, "maxConcurrency": 10}
_PER_SECOND = {"full": 2.0, "ill": 3.0, "half": 2.0, "slow": 5.0, "busy": 3.0, "well": 4.0}
_BURST = {"full": 130}
_EXPIRES_S = {"full": (10, 100), "ill": (50, 80), "half": (40, 80), "slow": (2, 8), "busy": (20, 40), "well": (20, 40)}
_WELL = {"full": 0.02, "ill": 0.05, "half": 0.05, "slow": 0.5, "busy": 0.1, "well": 0.3}


@dataclass(frozen=True, slots=True)
class Offer:
    """A task to produce `at` seconds after the start. `key`: the record's; None puts it anywhere."""

    at: float
    agent: str
    task: dict[str, Any]
    key: bytes | None

    @property
    def expires_s(self) -> float:
        return float(self.task["metadata"]["expiresIn"]) / 1000


def registration(agent: str, endpoint: str) -> dict[str, Any]:
    """How an agent is registered; the secret it is called with tells it which worker calls."""
    wanted: dict[str, Any] = {"id": agent, "endpoint": endpoint, "auth": {"env": "CALLER_NAME"}}
    if agent.startswith("full"):
        return wanted
    return {**wanted, "limits": {**_WIDE, "maxConcurrency": 2} if agent.startswith("slow") else _WIDE}


def well(agent: str) -> ScriptStep:
    """A proper answer at this agent's pace."""
    return answer(delay_s=_WELL[agent[:-1]])


def first_script(agent: str) -> list[ScriptStep]:
    """How it behaves at first."""
    return [status(500, delay_s=0.05, times=1), well(agent)] if agent.startswith("half") else [well(agent)]


def illness(length_s: float) -> list[tuple[float, float]]:
    """When `ill` agents are ill, seconds from the start. Between two illnesses there is time for a hold and the probes."""
    if length_s < 120:
        return [(5.0, 25.0)]
    first = (8.0, 50.0)
    return [first, (length_s * 0.5, length_s * 0.5 + 40.0)] if length_s >= 220 else [first]


def changes(length_s: float) -> list[tuple[float, str, list[ScriptStep]]]:
    """(seconds, agent, steps), in order."""
    found: list[tuple[float, str, list[ScriptStep]]] = []
    for begin, end in illness(length_s):
        for agent, step in (("ill0", status(503, delay_s=0.03)), ("ill1", reset(delay_s=0.03))):
            found += [(begin, agent, [step]), (end, agent, [well(agent)])]
    for number in (0, 1):
        agent = f"busy{number}"
        moment = 10.0 + 7 * number
        while moment < length_s:
            told = status(429, retry_after=f"{RETRY_AFTER_S:g}", times=4)
            found.append((moment, agent, [told, well(agent)]))
            moment += 25.0
    return sorted(found, key=lambda change: change[0])


def offers(rng: random.Random, length_s: float) -> list[Offer]:
    """All tasks, in order of time; every third has an Idempotency-Key of its own, every other is keyed by its agent."""
    moments = sorted((at, agent) for agent in AGENTS for at in _moments(rng, agent, length_s))
    found = []
    for number, (at, agent) in enumerate(moments):
        task_id = f"{agent}-{number}"
        expires_s = min(rng.uniform(*_EXPIRES_S[agent[:-1]]), length_s + TAIL_S - at)
        metadata: dict[str, Any] = _metadata(expires_s)
        if number % 3 == 0:
            metadata["idempotencyKey"] = f"key-of-{task_id}"
        task = {"id": task_id, "type": "agent", "target": agent, "payload": {"taskId": task_id}, "metadata": metadata}
        found.append(Offer(at, agent, task, agent.encode() if rng.random() < 0.5 else None))
    return found


def warming(agent: str) -> Offer:
    """One task before it all begins."""
    task_id = f"{agent}-warm"
    task = {"id": task_id, "type": "agent", "target": agent, "payload": {"taskId": task_id}}
    task["metadata"] = _metadata(120.0)
    return Offer(0.0, agent, task, None)


def _metadata(expires_s: float) -> dict[str, Any]:
    return {"timeout": int(ATTEMPT_S * 1000), "expiresIn": int(expires_s * 1000), "retries": RETRIES}


def _moments(rng: random.Random, agent: str, length_s: float) -> Iterator[float]:
    yield from (0.0 for _ in range(_BURST.get(agent[:-1], 0)))
    at = rng.expovariate(_PER_SECOND[agent[:-1]])
    while at < length_s:
        yield at
        at += rng.expovariate(_PER_SECOND[agent[:-1]])


def fault_times(rng: random.Random, count: int, length_s: float) -> list[float]:
    """Random moments, each in its own share of the run, not before the first circuits are open."""
    first, last = 12.0, length_s - 15.0
    share = (last - first) / max(count, 1)
    return [first + share * (number + rng.uniform(0.1, 0.8)) for number in range(count)]
