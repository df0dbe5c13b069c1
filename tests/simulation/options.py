"""What a run is made of, as values: the command line's options, and named profiles that look for one kind of hole each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from streams.settings import Settings

MIX = "kill,kill,kill,freeze,stop,outage,loss,slow,sick,sick,churn,relimit"
Time = Literal["task", "attempt"]


def product_time() -> Time:
    """What `metadata.timeout` bounds in the product as it is: the whole task, or (contracts 2a) one attempt."""
    return "attempt" if "max_wait" in type(Settings().dispatch).model_fields else "task"


@dataclass(frozen=True, slots=True)
class Options:
    """Times in seconds, shares of 1."""

    seconds: float = 40.0
    """How long there is traffic, and faults."""
    faults: tuple[str, ...] = tuple(MIX.split(","))
    every: float = 2.0
    """Mean time between faults."""
    time: Time = "task"
    workers: int = 3
    rate: float | None = None
    """Mean tasks a second; None: the seed decides."""
    duplicates: float = 0.05
    again_s: float = 20.0
    """Ids are sent again within this time."""
    late_duplicates: bool = False
    """Ids are also sent again after the idempotency window, and must be answered again."""
    cancels: float = 0.02
    plans: float = 0.05
    questions: int = 50
    """How many different payloads there are."""
    ordered: float = 0.25
    """Share of tasks with an ordering key."""
    keys: int = 6
    """How many different ordering keys there are."""
    later: float = 0.0
    """Share of tasks with `metadata.notBefore`; 0: no worker has the role `schedules`."""
    schedules: int = 0
    """How many schedules there are; they end with the traffic. Only with `later`."""
    relocated: bool = False
    """Records that hold a commit back are relocated early."""
    big_numbers: bool = False
    """Payloads hold integers that a double cannot."""
    late_requests: bool = False
    """Transactional requests that seem lost arrive later."""
    late_markers_s: float = 0.0
    """How late, at most, topics show the end of a transaction whose offsets are committed."""
    in_place: bool = False
    """They are sent again in the same epoch, whatever the product does."""
    static: bool = False
    """Workers have static names, which their successors take over."""
    unpromised: tuple[str, ...] = ()
    """Oracles whose findings do not count: what is not promised under these faults."""
    grow: bool = False
    """Partitions are added in the middle."""
    growths: int = 1
    """How often, if `grow`."""
    truncate: bool = False
    """Logs lose their newest records."""
    skew: float = 0.0
    """Standard deviation of the workers' wall clocks, ms."""
    agent_s: float | None = None
    """Mean time of an answer; None: the seed decides for each agent."""
    agent_limits: tuple[int, float, int] | None = None
    """Requests, window, concurrency of every agent; None: the seed decides."""
    samples: int = 1
    """How often two of the agents are asked for one task, whose confidence is that of agreement."""
    judged: bool = False
    """Two more agents are judged by a third."""
    cached: bool = True
    kinds: float = 0.0
    """Share of tasks, and of steps of plans, of other types than `agent`."""
    ids: tuple[int, ...] = (20_000, 250_000)
    """What a rollout sets `dispatch.idempotency_ids` to. Only with `kinds`."""
    settings: tuple[tuple[str, object], ...] = ()
    """Dotted settings that hold whatever the seed says."""


PROFILES: dict[str, Options] = {
    "mix": Options(kinds=0.2, faults=(*MIX.split(","), "configure")),
    "agents": Options(),  # the mix without tasks of other types, whose workers keep their settings
    "settings": Options(  # ids of tasks of every type are sent again after a rollout of other settings, also for another type
        kinds=0.8, faults=("configure", "configure", "kill", "freeze", "sick"), every=4.0, duplicates=0.5, plans=0.1, rate=15.0,
        cancels=0.1, later=0.05, agent_s=0.05,
    ),
    "ids": Options(  # as few ids are kept as may be, in rings of rows that go round, while partitions move all the time
        kinds=0.3, ids=(64, 128, 200), faults=("configure", "stop"), every=3.0, seconds=120.0, rate=1.5, cancels=0.0,
        duplicates=0.7, again_s=25.0, agent_s=0.05, agent_limits=(1000, 10.0, 10),
        settings=(("dispatch.idempotency_window", 25_000), ("dispatch.drain_timeout", 500), ("dispatch.stop_timeout", 500)),
    ),
    "late-commits": Options(late_requests=True, faults=("loss",), every=3.0),
    "growth": Options(
        seconds=70.0, grow=True, faults=(), duplicates=0.0, cancels=0.3, plans=0.3, rate=10.0, agent_s=1.0,
        agent_limits=(20, 10.0, 1),
    ),
    "growths": Options(  # ids, limits, circuits and delays move with their partitions, through kills and a second growth
        seconds=60.0, grow=True, growths=2, faults=("kill", "kill", "stop", "freeze", "outage", "loss", "sick"), every=4.0,
        duplicates=0.4, plans=0.15, cancels=0.0, later=0.15, schedules=3, rate=8.0, agent_s=0.1, agent_limits=(20, 10.0, 3),
    ),
    "plans": Options(  # partitions move so often that plans end, or are cancelled, while nobody owns them
        plans=0.6, cancels=0.6, rate=4.0, duplicates=0.0, agent_s=1.0, faults=("kill", "kill", "freeze", "stop"), every=2.0,
        settings=(("dispatch.await_agent", "unavailable"),),
    ),
    "skewed-clocks": Options(skew=500.0),
    "freeze": Options(faults=("freeze",), every=6.0, duplicates=0.0),
    "rolling": Options(
        faults=("stop",), every=5.0, duplicates=0.0, cancels=0.0, agent_s=0.5, agent_limits=(20, 10.0, 10),
        settings=(("dispatch.drain_timeout", 100), ("dispatch.stop_timeout", 100)),
    ),
    "short-logs": Options(truncate=True, faults=(), duplicates=0.0, plans=0.0),
    "big-numbers": Options(big_numbers=True, faults=(), questions=20, seconds=15.0),
    "nightly": Options(
        late_duplicates=True, faults=("kill", "stop"), every=15.0, rate=2.0, plans=0.3, cancels=0.0, duplicates=0.2,
        settings=(("dispatch.idempotency_window", 20_000),),
    ),
    "stops": Options(
        faults=("stop",), every=1.5, duplicates=0.0, agent_s=0.5, agent_limits=(1000, 10.0, 3),
        settings=(("dispatch.drain_timeout", 1000), ("dispatch.stop_timeout", 2000)),
    ),
    "conversations": Options(
        ordered=0.8, keys=4, relocated=True, faults=("kill", "kill", "stop", "freeze", "sick", "outage"), every=2.5, rate=20.0,
        plans=0.0, agent_s=0.1, settings=(("dispatch.max_held_bytes", 50_000),),
    ),
    "late-markers": Options(
        late_markers_s=3.0, ordered=0.8, keys=4, relocated=True, faults=("kill", "stop", "stop"), every=2.5, rate=20.0,
        plans=0.1, agent_s=0.1, settings=(("dispatch.max_held_bytes", 50_000),),
    ),
    "scheduled": Options(
        later=0.6, schedules=6, ordered=0.0, skew=100.0, faults=("kill", "kill", "stop", "freeze", "outage", "loss"), every=2.5,
        rate=20.0, cancels=0.15, duplicates=0.15, plans=0.0, agent_s=0.05,
    ),
    "static": Options(static=True, faults=("kill", "kill", "stop", "freeze", "outage", "loss"), ordered=0.5),
    "twins": Options(  # an instance id belongs to one worker; with two, results are exact all the same
        static=True, faults=("kill", "replace", "replace", "outage", "loss"), unpromised=("owner", "rate limit", "concurrency"),
    ),
    "keyless": Options(ordered=0.0),
    "confidence": Options(samples=3, judged=True, rate=10.0),  # more would wait for longer than a run lasts
    "quiet": Options(faults=()),
}  # fmt: skip


def profile(name: str, **changes: object) -> Options:
    """A profile with some options changed. Raises `KeyError`."""
    return replace(PROFILES[name], **changes)  # type: ignore[arg-type]
