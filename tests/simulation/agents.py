"""The agents: how they behave, and what they saw. Their own logs are what limits are judged by.

In: calls as they arrive. Out: answers, errors, silence. An answer repeats what was asked, so that a foreign answer
shows.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agents_io.errors import AgentError, RateLimited, ServerError
from agents_io.transport import Answer, Call
from tests.simulation.world import World

RETRY_AFTER_S = 2.0


@dataclass(slots=True)
class Limits:
    """What a registration allows. `window_s`: seconds."""

    max_requests: int
    window_s: float
    concurrency: int


@dataclass(slots=True)
class Arrival:
    """One call, as its agent saw it. `begun_at`: when the worker made it; `ended_at`: answered, or its connection closed."""

    at: float
    begun_at: float
    node: str
    task_id: str
    key: str
    timeout_s: float
    ended_at: float | None = None
    arrived: bool = False
    failed: bool = False
    retry_after: bool = False


@dataclass(slots=True)
class SimAgent:
    """One agent. Shares are of 1; times in seconds."""

    world: World
    name: str
    capabilities: tuple[str, ...]
    limits: Limits
    rng: random.Random
    mean_s: float = 0.02
    hangs: float = 0.0
    fails: float = 0.02
    asks_for_pause: float = 0.0
    sick_until: float = 0.0
    arrivals: list[Arrival] = field(default_factory=list)
    confidence: dict[str, Any] | None = None
    """Where the confidence of its answers comes from, if the registration says so."""
    registered: list[tuple[float, Limits | None]] = field(default_factory=list)
    """When it was registered with which limits, or (None) unregistered."""

    def registration(self) -> dict[str, Any]:
        """As it lies on the topic `agents`."""
        return {
            "id": self.name,
            "endpoint": f"http://{self.name}",
            "capabilities": list(self.capabilities),
            "limits": {
                "maxRequests": self.limits.max_requests,
                "windowMs": int(self.limits.window_s * 1000),
                "maxConcurrency": self.limits.concurrency,
            },
            **({} if self.confidence is None else {"confidence": self.confidence}),
        }

    def take(self, arrival: Arrival, call: Call, reply: Callable[[Answer | AgentError], None]) -> None:
        """One call begins here."""
        arrival.at = self.world.now
        arrival.arrived = True
        self.arrivals.append(arrival)
        rng = self.rng
        takes_s = rng.expovariate(1 / self.mean_s)
        if rng.random() < self.hangs:
            takes_s += 5 + 20 * rng.random()
        fate, confidence = rng.random(), 0.5 + 0.5 * rng.random()

        def end() -> None:
            if arrival.ended_at is not None:
                return  # the connection was closed
            arrival.ended_at = self.world.now
            if self.world.now < self.sick_until or fate < self.fails:
                arrival.failed = True
                reply(ServerError("500"))
            elif fate < self.fails + self.asks_for_pause:
                arrival.retry_after = True
                reply(RateLimited("429", retry_after_s=RETRY_AFTER_S))
            else:
                reply(Answer(0.5 if is_judged(call) else answer_to(call.body, self.name), confidence))

        self.world.at(takes_s, end)

    def hung_up(self, arrival: Arrival) -> None:
        """The worker closed the connection; a call that comes after that is over when it comes."""
        if arrival.ended_at is None:
            arrival.ended_at = self.world.now


def task_of(call: Call) -> str:
    """The task of a call, which may be a sample of it."""
    return call.task_id.partition("/sample/")[0]


def is_judged(call: Call) -> bool:
    """Whether the call asks what another agent's answer is worth."""
    return "/judge" in call.idempotency_key


def url_of(body: bytes) -> str:
    """Where the request of an http task goes."""
    return str(json.loads(body)["url"])


def answer_to(body: bytes, name: str) -> dict[str, Any]:
    """An answer says who gave it, by name or by the URL, and what it depends on: `q` of the payload, with every digit."""
    payload = json.loads(body)
    if isinstance(payload, dict) and "url" in payload:
        name, payload = payload["url"], payload["payload"]
    return {"asked": str(payload.get("q")) if isinstance(payload, dict) else None, "agent": name}
