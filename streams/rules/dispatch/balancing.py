"""Which of several capable agents a task goes to: five policies. Pure.

In: the status of the capable agents, a policy, the time (epoch ms), numbers drawn from [0, 1). Out: one of them, or
none. A status may be a second old, and other workers choose by it too: so policies draw two and take the better, or
draw by weight, and count what was sent since. A new agent without a status is assumed to be good, so it gets its share;
the status of a bad one fades, so it gets another chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

Policy = Literal["confidence", "round_robin", "least_connections", "response_time", "power_of_two"]
Draw = Callable[[], float]

SAMPLE = 16
"""Policies that compare all agents compare this many, drawn at random, if there are more."""
TRIAL_MS = 1000
"""An agent on trial gets a few tasks within this time from one worker."""
PRIOR_CONFIDENCE = 0.8
PRIOR_RESPONSE_MS = 500.0
FADE_MS = 60_000
"""A status of this age has half the weight of what is assumed of an agent without one."""


@dataclass(slots=True)
class Candidate:
    """One capable agent. `load`: its tasks, those sent meanwhile included; times are epoch ms, `response_ms` ms.

    `open_until`: no call before; 0 for a closed circuit. `trial_at`: when the oldest of the counted trials was made.
    `ejected_until`: ejected because of failed calls; `well`: by its health checks. `confidence`: the recent calibrated
    confidence if known (an overconfident agent gains nothing), else the stated one.
    """

    agent_id: str
    load: int = 0
    concurrency: int = 10
    response_ms: float | None = None
    confidence: float | None = None
    prior: float = PRIOR_CONFIDENCE
    known_at: int = 0
    well: bool = True
    open_until: float = 0
    ejected_until: int = 0
    trial_at: int = 0

    def pressure(self) -> float:
        """The share of its concurrency in use if it got one more task; 1.0: all of it."""
        return (self.load + 1) / self.concurrency

    def trust(self, now_ms: int) -> float:
        """Its recent confidence, moved towards the assumed one with age."""
        if self.confidence is None:
            return self.prior
        return self.prior + (self.confidence - self.prior) * self._fresh(now_ms)

    def response(self, now_ms: int) -> float:
        """Its recent response time, ms, moved towards the assumed one with age."""
        if self.response_ms is None:
            return PRIOR_RESPONSE_MS
        return max(1.0, PRIOR_RESPONSE_MS + (self.response_ms - PRIOR_RESPONSE_MS) * self._fresh(now_ms))

    def _fresh(self, now_ms: int) -> float:
        """The weight of its status: 1 at once, a half after `FADE_MS`."""
        return float(2 ** (-max(0, now_ms - self.known_at) / FADE_MS))


def admitted(
    candidates: Iterable[Candidate], now_ms: int, max_ejected: float
) -> tuple[list[Candidate], list[Candidate]]:
    """Agents that may be chosen now, and agents that one task may try, to see whether they are healthy again.

    Left out are unhealthy agents, those with an open circuit, and ejected ones. At most the share `max_ejected` of all
    agents stays ejected; those ejected longest return first.

    >>> some = [Candidate("a"), Candidate("b", open_until=900), Candidate("c", open_until=100), Candidate("d", well=False)]
    >>> [[found.agent_id for found in part] for part in admitted(some, 500, 0.5)]
    [['a'], ['c']]
    """
    everyone = list(candidates)
    ejected = sorted((c for c in everyone if c.ejected_until > now_ms), key=lambda c: (c.ejected_until, c.agent_id))
    kept_out = int(len(everyone) * max_ejected)
    out = {c.agent_id for c in ejected[len(ejected) - kept_out :]} if kept_out else set()
    ready: list[Candidate] = []
    trials: list[Candidate] = []
    for candidate in everyone:
        if not candidate.well or candidate.agent_id in out or candidate.open_until > now_ms:
            continue
        (trials if candidate.open_until else ready).append(candidate)
    return ready, trials


def pick(
    policy: Policy, ready: Sequence[Candidate], trials: Sequence[Candidate], now_ms: int, draw: Draw, turn: int = 0
) -> Candidate | None:
    """The agent for one task. `turn`: counts the tasks, for round robin. A trial that is due comes first.

    >>> quiet, busy = Candidate("quiet", load=1), Candidate("busy", load=8)
    >>> pick("power_of_two", [busy, quiet], [], 0, iter([0.1, 0.9]).__next__).agent_id
    'quiet'
    >>> pick("round_robin", [busy, quiet], [], 0, float, turn=2).agent_id, pick("confidence", [], [], 0, float)
    ('busy', None)
    """
    due = [trial for trial in trials if trial.trial_at + TRIAL_MS <= now_ms]
    if due:
        return due[_index(draw, len(due))]
    if not ready:
        return None
    if len(ready) == 1:
        return ready[0]
    if policy == "round_robin":
        return ready[turn % len(ready)]
    if policy == "power_of_two":
        return min(_two(ready, draw), key=Candidate.pressure)
    if policy == "confidence":
        return max(_two(ready, draw), key=lambda c: c.trust(now_ms) / (1 + c.pressure()))
    some = ready if len(ready) <= SAMPLE else [ready[_index(draw, len(ready))] for _ in range(SAMPLE)]
    if policy == "least_connections":
        first = _index(draw, len(some))
        return min((*some[first:], *some[:first]), key=Candidate.pressure)
    weights = [1 / (c.response(now_ms) * (1 + c.pressure())) for c in some]
    left = draw() * sum(weights)
    for candidate, weight in zip(some, weights, strict=True):
        left -= weight
        if left < 0:
            return candidate
    return some[-1]


def rendezvous(key: str, agent_ids: Iterable[str]) -> str | None:
    """The agent of a key by rendezvous hashing: when an agent leaves or joins, only its own keys move.

    >>> rendezvous("k", ["a", "b", "c"]) == rendezvous("k", ["c", "b", "a"]), rendezvous("k", [])
    (True, None)
    """

    def weight(agent_id: str) -> bytes:
        return blake2b(f"{agent_id}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()

    return max(agent_ids, key=weight, default=None)


def _two(ready: Sequence[Candidate], draw: Draw) -> tuple[Candidate, Candidate]:
    """Two different ones."""
    one = _index(draw, len(ready))
    other = _index(draw, len(ready) - 1)
    return ready[one], ready[other + (other >= one)]


def _index(draw: Draw, count: int) -> int:
    return min(int(draw() * count), count - 1)


def draws(seed: int) -> Draw:
    """Numbers in [0, 1), the same for the same seed (splitmix64): a task that is processed again gets the same choice.

    >>> draw, again = draws(7), draws(7)
    >>> [draw() == again() for _ in range(3)], 0 <= draw() < 1
    ([True, True, True], True)
    """
    state = seed & _MASK

    def draw() -> float:
        nonlocal state
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((mixed ^ (mixed >> 31)) >> 11) / (1 << 53)

    return draw


_MASK = (1 << 64) - 1
