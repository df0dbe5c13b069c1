"""Chooses the agent of a task that names none: from the capable agents, their published statuses, and what was sent to
them since.

In: a task, the registered agents, their statuses. Out: a registration, or None if no capable agent can be called now.
The rule is in `rules/dispatch/balancing.py`; this module keeps the candidate lists, rebuilt when availability changes
and at most every 100 ms otherwise. A choice among a thousand agents costs no more than one among ten. Bounded: 256
lists. It never writes.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from schemas.messages import AgentRegistration, AgentStanding, Task
from schemas.partitioning import murmur2
from streams.agents.agent_statuses import AgentStatuses
from streams.rules.agents.gateway_claim import takes_tasks
from streams.rules.dispatch.balancing import PRIOR_CONFIDENCE, Candidate, admitted, draws, pick, rendezvous
from streams.rules.dispatch.routing import capable
from streams.settings import Settings

MAX_POOLS = 256
MAX_KEYS = 1000
"""Ordering keys whose agent a candidate list remembers."""
FRESH_MS = 100
PER_MS = 10
"""A list of a thousand is rebuilt every second, and 100 ms after availability changed: that costs a hundredth of a
core.
"""
ON_THE_WAY_MS = 300
"""A task sent shortly before its agent's status was written may not be counted in it."""
SENT_MS = 30_000
LOAD_MS = 30_000
"""A busy agent's status is written every ten seconds: an older one is from a partition whose owner died."""
MAX_SENT = 1000
TRIALS = 3
"""As many as a half-open circuit lets through."""


class Agents(Protocol):
    """The registered agents; `version` changes with them."""

    @property
    def version(self) -> object:
        """Equal while nothing changes."""
        ...

    def get(self, agent_id: str) -> AgentRegistration | None:
        """The agent of that id, or None."""
        ...

    def all(self) -> Iterable[AgentRegistration]:
        """Every agent."""
        ...


class _Pool:
    """The agents that have certain capabilities."""

    __slots__ = ("agents", "by_key", "made_at", "ready", "trials", "turn", "turns", "version")

    def __init__(self, agents: list[AgentRegistration], version: object) -> None:
        self.agents = agents
        self.version = version
        self.ready: list[Candidate] = []
        self.trials: list[Candidate] = []
        self.turn = 0
        self.turns = -1
        self.made_at = 0
        self.by_key: dict[str, str | None] = {}


class Balancer:
    """Chooses for all partitions of a worker. `wall_ms`: epoch ms."""

    def __init__(
        self, *, agents: Agents, agent_statuses: AgentStatuses, settings: Settings, wall_ms: Callable[[], int]
    ) -> None:
        self._agents = agents
        self._agent_statuses = agent_statuses
        self._policy = settings.dispatch.balancer
        self._max_ejected = settings.health.eject_share
        self._concurrency = settings.limits.max_concurrency
        self._wall_ms = wall_ms
        self._pools: OrderedDict[frozenset[str], _Pool] = OrderedDict()
        self._sent: dict[str, deque[int]] = {}
        self._trials: dict[str, deque[int]] = {}
        self._version: object = None

    def choose(self, task: Task, without: Collection[str] = ()) -> AgentRegistration | None:
        """An agent that can be called now and is not one of `without`; None: there is none."""
        now_ms = self._wall_ms()
        pool = self._pool(task, now_ms)
        ready, trials = pool.ready, pool.trials
        if without:
            ready = [candidate for candidate in ready if candidate.agent_id not in without]
            trials = [candidate for candidate in trials if candidate.agent_id not in without]
        chosen = pick(self._policy, ready, trials, now_ms, draws(murmur2(task.id.encode())), pool.turn)
        if chosen is None:
            return None
        pool.turn += 1
        chosen.load += 1
        if chosen.open_until:
            trials_of = self._trials.setdefault(chosen.agent_id, deque(maxlen=TRIALS))
            trials_of.append(now_ms)
            chosen.trial_at = _oldest(trials_of)
        self._sent.setdefault(chosen.agent_id, deque(maxlen=MAX_SENT)).append(now_ms)
        return self._agents.get(chosen.agent_id)

    def choose_for_key(self, task: Task, key: str) -> AgentRegistration | None:
        """The agent of an ordering key, healthy or not: the same one while it is registered and connected."""
        pool = self._pool(task, self._wall_ms())
        if key not in pool.by_key:
            if len(pool.by_key) >= MAX_KEYS:
                pool.by_key.clear()
            pool.by_key[key] = rendezvous(key, [agent.id for agent in pool.agents if takes_tasks(agent)])
        chosen = pool.by_key[key]
        return None if chosen is None else self._agents.get(chosen)

    def capable(self, task: Task) -> bool:
        """Whether any registered agent has the capabilities, healthy or not."""
        return bool(self._pool(task, self._wall_ms()).agents)

    def _pool(self, task: Task, now_ms: int) -> _Pool:
        wanted = frozenset(task.capabilities or ())
        version = self._agents.version
        if version != self._version:
            self._version = version
            self._forget_gone()
        pool = self._pools.get(wanted)
        if pool is None or pool.version != version:
            turn = 0 if pool is None else pool.turn
            pool = self._pools[wanted] = _Pool(capable(self._agents.all(), wanted), version)
            pool.turn = turn
        self._pools.move_to_end(wanted)
        if len(self._pools) > MAX_POOLS:
            self._pools.popitem(last=False)
        age_ms, count = now_ms - pool.made_at, len(pool.agents)
        turned = pool.turns != self._agent_statuses.turns and (age_ms + 1) * PER_MS >= count
        if turned or not 0 <= age_ms < max(FRESH_MS, count):
            pool.turns, pool.made_at = self._agent_statuses.turns, now_ms
            found = [self._candidate(agent, now_ms) for agent in pool.agents]
            pool.ready, pool.trials = admitted(found, now_ms, self._max_ejected)
        return pool

    def _candidate(self, agent: AgentRegistration, now_ms: int) -> Candidate:
        limits = agent.limits
        prior = (agent.metadata or {}).get("defaultConfidence")
        found = Candidate(
            agent.id,
            concurrency=self._concurrency if limits is None else limits.max_concurrency,
            prior=float(prior) if isinstance(prior, int | float) and 0 <= prior <= 1 else PRIOR_CONFIDENCE,
            trial_at=_oldest(self._trials.get(agent.id)),
        )
        if agent.breaker is not None and agent.breaker.mode == "open":
            found.open_until = float("inf")
        agent_status = self._agent_statuses.get(agent.id)
        if agent_status is not None:
            _known(found, agent_status, now_ms)
        found.well = found.well and takes_tasks(agent)
        found.load += self._since(agent.id, now_ms, found.known_at)
        return found

    def _since(self, agent_id: str, now_ms: int, known_at: int) -> int:
        """Tasks this worker sent to the agent that its published status may not include."""
        sent = self._sent.get(agent_id)
        if not sent:
            return 0
        since = max(known_at - ON_THE_WAY_MS, now_ms - SENT_MS)
        while sent and sent[0] <= since:
            sent.popleft()
        return len(sent)

    def _forget_gone(self) -> None:
        for times in (self._sent, self._trials):
            for agent_id in [agent_id for agent_id in times if self._agents.get(agent_id) is None]:
                del times[agent_id]


def _oldest(trials: deque[int] | None) -> int:
    """When the first of the last few trials was; 0 if there were fewer."""
    return trials[0] if trials is not None and len(trials) == TRIALS else 0


def _known(found: Candidate, agent_status: AgentStanding, now_ms: int) -> None:
    found.known_at = agent_status.at
    if now_ms - agent_status.at < LOAD_MS:
        found.load = agent_status.load
    found.concurrency = agent_status.concurrency or found.concurrency
    found.response_ms = agent_status.response_time
    worth = agent_status.calibrated_confidence
    found.confidence = agent_status.confidence if worth is None else worth
    found.well = found.well and (agent_status.healthy or agent_status.reason != "checks")
    if agent_status.reason == "calls":
        found.ejected_until = agent_status.ejected_until or 0
    if found.open_until:
        return
    if agent_status.circuit == "open":
        found.open_until = float("inf") if agent_status.open_until is None else agent_status.open_until
    elif agent_status.circuit == "half_open":
        found.open_until = 1.0
