"""Holes the simulation has found, each with seeds that find it while it is open. A seed that found a bug stays.

`python -m tests.simulation --holes` runs them all and says which are open; `--holes F7,F9` some. Taking a fix out must open its
row again: `mutants.py` does that for those that are easily taken out (`--without all`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hole:
    """One hole. `oracles`: what it breaks in `profile`; each of `seeds` found it when the row was written."""

    name: str
    what: str
    profile: str
    oracles: frozenset[str]
    seeds: tuple[int, ...]


def _hole(name: str, what: str, profile: str, oracles: str, *seeds: int) -> Hole:
    return Hole(name, what, profile, frozenset(oracles.split(",")), seeds)


HOLES = (
    _hole("F1", "a task by capability whose agent goes away while it is delayed ends without a result", "agents",
          "lost task", 2, 10, 11),
    _hole("F2", "equal tasks wait for a leader that waits itself; the flight is never forgotten", "quiet", "leftover", 5),
    _hole("F4", "one id has two results when its agent comes or goes between two sends", "agents", "doubled task", 2, 3, 4, 12),
    _hole("F5", "an id sent again after the idempotency window is not answered", "nightly", "lost task,lost plan", 1, 3, 5),
    _hole("F7", "a worker that wakes from a freeze calls agents that are another's", "freeze", "owner,rate limit", 1, 4, 6),
    _hole("F8", "a late EndTxn commits half of the next transaction", "late-commits", "lost task,doubled task", 4, 5),
    _hole("F9", "a clean move forgets calls that were cut off", "rolling", "rate limit", 1, 2, 7),
    _hole("F11", "workers miss cancels on partitions that were added", "growth",
          "unheard cancel of a task,unheard cancel of a plan", 1, 2, 3),
    _hole("F16", "integers beyond 64 bits become floats and share answers", "big-numbers", "foreign answer", 1, 2),
    _hole("D3", "a log that becomes shorter swallows as many new tasks as it lost", "short-logs", "lost task", 1, 3, 6),
    _hole("N1", "a worker that stops while the group rebalances gives its partitions away before they are drained", "stops",
          "concurrency", 1, 4, 5),
    _hole("N2", "a task that was forwarded five times is done in a partition that does not own its agent", "agents", "owner", 5),
    _hole("N3", "a call that was cut off counts from that moment, though its request arrives at the agent later", "keyless",
          "rate limit", 265),
    _hole("O1", "tasks of one ordering key are called beside each other and out of order", "conversations",
          "one at a time,order of calls,order of answers", 1),
    _hole("O2", "a new owner begins a task of a key before one that was relocated", "conversations",
          "order of calls,order of answers", 1),
    _hole("O3", "relocated again, a task of a key comes after later ones", "conversations",
          "order of calls,order of answers", 1),
    _hole("O4", "tasks of a key that wait on one topic are forgotten when the last one on another ends without a call", "agents",
          "lost task,leftover", 1491),
    _hole("O5", "a new owner begins a task of a key before one that was relocated by a transaction whose end is late",
          "late-markers", "order of calls,order of answers", 8, 9, 10),
    _hole("P1", "a plan whose time came while its partition had no owner does not hear of steps that had ended", "plans",
          "unheard step", 5),
    _hole("P2", "a plan whose owner cancelled its steps, and was lost before it committed the end, fails by those cancels",
          "plans", "unheard cancel of a plan", 31),
    _hole("S1", "a record on `scheduled` that no owner has accepted is its own duplicate", "scheduled", "lost task", 1),
    _hole("S2", "a waiting task is released by the next owner again", "scheduled", "released twice", 1),
    _hole("S3", "a new owner makes the tasks of a schedule again", "scheduled", "firings", 1),
    _hole("S4", "a time of a schedule between two owners makes no task", "scheduled", "firings", 1),
    _hole("S5", "a time shortly before a schedule is changed makes no task if its owner's clock is behind", "scheduled",
          "firings", 12, 13, 28),
    _hole("S6", "a cancelled task that is forwarded is called before its time by a worker that has not heard of it", "scheduled",
          "called too early", 71),
    _hole("S7", "a forwarded task that waits for its time is its own duplicate once it is released", "scheduled", "lost task",
          84, 97, 122),
    _hole("G1", "a partition that was added knows no ids, limits, circuits or plans of those that belong to it now", "growths",
          "doubled task,doubled plan,lost plan,rate limit", 1, 2, 3),
    _hole("G2", "workers that have not seen added partitions yet take other partitions for owners", "growths",
          "doubled task,rate limit,unheard step", 1),
    _hole("G3", "the result of a step reaches no plan if it lies where the plan was before partitions were added", "growths",
          "unheard step", 1, 2),
    _hole("G4", "a new partition takes over from another new one, which has not what belongs to it", "growths",
          "doubled task,lost plan,rate limit", 1, 2),
    _hole("G5", "a schedule that goes to an added partition misses its times on the way", "growths", "firings", 1),
    _hole("K1", "an http task sent again has a second result once its host is allowed in another way", "settings",
          "doubled task", 1),
    _hole("K2", "a pattern sent again has a second result once it is a template, or none any more", "settings",
          "doubled task", 1),
    _hole("K3", "a host is called that is not on the worker's allow-list", "settings", "forbidden call", 1),
    _hole("K4", "hosts, functions and patterns are called beyond their limits", "settings", "rate limit,concurrency", 1),
    _hole("K5", "an http task has the answer to another content", "settings", "foreign answer", 1),
    _hole("K6", "an http task that changes something has an earlier answer", "settings", "unwanted cache", 2),
    _hole("I1", "the newest ids are overwritten first once another number of them is kept", "ids", "doubled task", 1),
    _hole("I2", "each move of a partition overwrites the oldest ids, however few there are", "ids", "doubled task", 2),
    _hole("T1", "a worker that wakes from a freeze commits for partitions that are another's", "freeze", "doubled task", 8),
    _hole("T2", "a transaction that was committed is run again when the answer to its end is lost", "late-commits",
          "doubled task", 8),
    _hole("T3", "a transaction that a dead worker left open holds up other topics for a minute, if its partitions open at once",
          "agents", "late result", 344),
    _hole("T4", "a partition whose poll met a broken connection is set aside for 30 s", "late-commits", "late result", 6, 12, 13),
)  # fmt: skip
