"""The users: tasks and plans, ids sent again, requests to cancel. What they sent is what the oracles ask for.

In: options and a seed. Out: records on `tasks`, `plans`, `controls`; and of each, when it was sent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from schemas.partitioning import partition_for
from schemas.topics import full_name
from tests.simulation.broker import Broker
from tests.simulation.kinds import copy_of, fewest, make_other, scope_of
from tests.simulation.options import Options
from tests.simulation.world import EPOCH_MS, World

BEGIN_S = 2.0
BIG = 2**64
STRATEGIES = ("all", "race", "allSettled", "sequential", "dag")


@dataclass(slots=True)
class Sent:
    """A task or plan. Times are simulated seconds; `expires_s`: how long after it was sent the whole task must have ended."""

    body: dict[str, Any]
    sent_at: list[float] = field(default_factory=list)
    cancelled_at: float | None = None
    expires_s: float | None = None
    ordered: tuple[str, int] | None = None
    """Ordering key, and the partition that all of its records are written to; None: it has no key."""
    not_before: float | None = None
    """No agent may be called before this time."""
    lost: bool = False
    """A log lost a record of it: it need not be answered."""
    copies: list[dict[str, Any]] = field(default_factory=list)
    """Tasks of another content or type that were sent under the same id."""

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """All tasks of the id."""
        return [self.body, *self.copies]

    @property
    def fewest(self) -> int:
        """How many results it has at least. While a task waits for its time, any other with its id is a duplicate."""
        return fewest({scope_of(body) for body in self.bodies}) if self.not_before is None else 1

    def body_of(self, row: dict[str, Any]) -> dict[str, Any]:
        """The task that a result answers."""
        return self.bodies[row["metadata"].get("copy", 0)]

    @property
    def deadline(self) -> float | None:
        """When it must have ended; of an id sent again any of its records may be the one that is answered."""
        return None if self.expires_s is None else max(self.sent_at) + self.expires_s


class Traffic:
    """`window_s`: how long an id is remembered, seconds."""

    def __init__(self, world: World, broker: Broker, options: Options, prefix: str, window_s: float) -> None:
        self.tasks: dict[str, Sent] = {}
        self.plans: dict[str, Sent] = {}
        self.schedules: dict[str, Sent] = {}
        self._world, self._broker, self._options, self._prefix = world, broker, options, prefix
        self._window_s = window_s
        self._rng = world.rng("traffic")
        self._key_rng = world.rng("ordering keys")
        self._later_rng = world.rng("later")
        self._kinds_rng = world.rng("kinds")
        self._rate = options.rate or self._rng.choice((10.0, 40.0, 120.0))

    def begin(self) -> None:
        """Send for as long as the options say."""
        self._world.at(BEGIN_S, self._burst)
        for _ in range(self._options.schedules):
            self._schedule()

    def _schedule(self) -> None:
        """One that makes tasks until the traffic ends. It is written again in between, which must change nothing."""
        rng, name = self._later_rng, f"s{len(self.schedules)}"
        task = {
            "type": "agent",
            "target": f"ag{rng.randrange(5)}",
            "payload": {"q": name},
            "metadata": {"cache": False},
        }
        end_ms = EPOCH_MS + round(self._options.seconds * 1000)
        every_ms = rng.choice((1000, 2000, 5000))
        body = {"id": name, "everyMs": every_ms, "task": task, "endAt": end_ms, "catchUp": "all"}
        self.schedules[name] = sent = Sent(body)
        partitions = self._broker.counts[full_name("schedules", self._prefix)]
        number = rng.randrange(partitions) if rng.random() < 0.3 else partition_for(name.encode(), partitions)
        for at_s in (rng.random() * 5, *(rng.random() * self._options.seconds for _ in range(rng.randrange(3)))):
            self._world.at(at_s, lambda: self._write("schedules", number, name.encode(), sent))

    def _burst(self) -> None:
        if self._world.now > self._options.seconds:
            return
        for _ in range(self._rng.randrange(1, 4)):
            self._task()
        if self._rng.random() < self._options.plans:
            self._plan()
        self._world.at(self._rng.expovariate(self._rate / 2), self._burst)

    def _body(self, name: str) -> dict[str, Any]:
        rng, options = self._rng, self._options
        question = rng.randrange(options.questions)
        metadata: dict[str, Any] = {"timeout": rng.choice((3000, 10_000, 30_000)), "retries": rng.choice((0, 1, 2))}
        body: dict[str, Any] = {
            "id": name,
            "type": "agent",
            "payload": {"q": BIG + question if options.big_numbers else question},
            "metadata": metadata,
        }
        kind = rng.random()
        if kind < 0.6:
            body["target"] = f"ag{rng.randrange(5)}"
        elif kind < 0.8:
            body["capabilities"] = ["sum"]
        elif kind < 0.95:
            body["capabilities"] = ["fly"]
        elif kind < 0.97:
            body["target"] = "nobody"
        else:
            body["capabilities"] = ["none"]
        if rng.random() < 0.3 or not options.cached:
            metadata["cache"] = False
        if rng.random() < 0.1:
            metadata["priority"] = 5
        if self._kinds_rng.random() < options.kinds:
            make_other(body, self._kinds_rng)
        return body

    def _task(self) -> None:
        rng, options = self._rng, self._options
        name = f"t{len(self.tasks)}"
        body = self._body(name)
        metadata, sent = body["metadata"], Sent(body)
        self.tasks[name] = sent
        hopeless = body.get("target") == "nobody" or body.get("capabilities") == ["none"]
        if options.time == "attempt" and (rng.random() < 0.8 or hopeless):  # else it waits for its agent for a day
            metadata["expiresIn"] = rng.choice((2000, 10_000, 30_000))
            sent.expires_s = metadata["expiresIn"] / 1000
        if self._later_rng.random() < options.later:
            self._later(sent, metadata)
        number = rng.randrange(self._partitions) if rng.random() < 0.3 else None
        if self._key_rng.random() < options.ordered:
            key = self._key_rng.randrange(options.keys)
            metadata["orderingKey"] = f"k{key}"
            # As users do: the record's key is the agent (only for some, others have it forwarded), or the ordering key.
            written_by = body.get("target") if key % 2 else None
            number = partition_for((written_by or f"k{key}").encode(), self._partitions)
            sent.ordered = f"k{key}", number
        self._produce(body, number, sent)
        if rng.random() < options.duplicates:
            again = rng.randrange(self._partitions) if sent.ordered is None else number
            copied = self._copy(sent) if options.kinds else None
            self._again(sent, lambda: self._produce(copied or body, again, sent))
        if rng.random() < options.cancels:
            self._world.at(rng.random() * 3, lambda: self._cancel(sent, taskId=name))

    def _copy(self, sent: Sent) -> dict[str, Any] | None:
        """What is sent under the id in place of the task itself. Ordering is then between more than these tasks."""
        copied = copy_of(sent.body, 1 + len(sent.copies), self._kinds_rng)
        if copied is not None:
            sent.copies.append(copied)
        return copied

    def _later(self, sent: Sent, metadata: dict[str, Any]) -> None:
        """Its time is soon, or after some faults; its deadline counts from then on."""
        delay_s = self._later_rng.choice((0.2, 2.0, 10.0, 20.0)) * (1 + self._later_rng.random())
        sent.not_before = self._world.now + delay_s
        metadata["notBefore"] = EPOCH_MS + round(sent.not_before * 1000)
        if sent.expires_s is not None:
            metadata["expiresIn"] += round(delay_s * 1000)
            sent.expires_s += delay_s

    def _again(self, sent: Sent, send: Any) -> None:
        """Send an id again: soon, or (`late_duplicates`) also once it must be forgotten."""
        if not self._options.late_duplicates:
            self._world.at(self._rng.random() * self._options.again_s, send)
            return
        for night in (1, 2):
            self._world.at(night * 2.5 * self._window_s, send)

    @property
    def _partitions(self) -> int:
        return self._broker.counts[full_name("tasks", self._prefix)]

    def _produce(self, body: dict[str, Any], number: int | None, sent: Sent) -> None:
        key = (body.get("target") or body["id"]).encode()
        number = partition_for(key, self._partitions) if number is None else number
        self._write("tasks", number, key, sent, body)

    def _write(self, topic: str, number: int, key: bytes, sent: Sent, body: dict[str, Any] | None = None) -> None:
        sent.sent_at.append(self._world.now)
        value = json.dumps(body or sent.body).encode()
        self._broker.append((full_name(topic, self._prefix), number), [(key, value, ())])

    def _plan(self) -> None:
        rng = self._rng
        name, size = f"plan{len(self.plans)}", rng.randrange(1, 5)
        steps: list[dict[str, Any]] = [
            {
                "id": f"s{place}",
                "type": "agent",
                "target": f"ag{rng.randrange(5)}",
                "payload": {"q": f"{name}/{place}"},
                "metadata": {"timeout": 10_000, "cache": False},
            }
            for place in range(size)
        ]
        for step in steps:
            if self._kinds_rng.random() < self._options.kinds:
                make_other(step, self._kinds_rng)
        body: dict[str, Any] = {"id": name, "tasks": steps, "timeout": 20_000}
        kind = rng.choice(STRATEGIES)
        if kind == "sequential":
            body |= {"kind": "sequential", "continueOnError": True}
        elif kind == "dag":
            body["kind"] = "dag"
            for place in range(1, size):
                steps[place]["metadata"]["dependencies"] = [f"s{rng.randrange(place)}"]
        else:
            body["strategy"] = kind
        sent = self.plans[name] = Sent(body)

        def send() -> None:
            self._write("plans", rng.randrange(self._partitions), name.encode(), sent)

        send()
        if rng.random() < 2 * self._options.duplicates:
            self._again(sent, send)
        if rng.random() < 5 * self._options.cancels:
            self._world.at(rng.random() * 3, lambda: self._cancel(sent, planId=name))

    def _cancel(self, sent: Sent, **what: str) -> None:
        sent.cancelled_at = self._world.now
        topic, (name,) = full_name("controls", self._prefix), what.values()
        number = partition_for(name.encode(), self._broker.counts[topic])
        body = json.dumps({"type": "cancel", **what}).encode()
        self._broker.append((topic, number), [(name.encode(), body, ())])
