"""The result cache of one partition: from a task's content to the answer given before.

In: tasks and their answers. Out: an earlier answer with the agent that gave it, or None; and changes for the state
topic. The settings or a task can switch it off. `rules/dispatch/caching.py` decides what is kept, and for how long.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from streams.dispatch.task_run import TaskRun, asked
from streams.rules.dispatch.builtins import asked_of, cacheable
from streams.rules.dispatch.caching import ResultCache, cache_key
from streams.rules.records import LARGE_BYTES
from streams.rules.task_records import Success
from streams.settings import CacheSettings

MAX_CLEARED = 10_000
_NEVER = float("-inf")


class CachedAnswer(NamedTuple):
    """An answer in its slot of the cache. `expires`: monotonic seconds."""

    slot: int
    key: str
    agent_id: str
    answer: Success
    expires: float


class AnswerCache:
    """Answers by the content of their task. Times in monotonic seconds."""

    def __init__(self, settings: CacheSettings) -> None:
        self._cache: ResultCache[tuple[str, Success]] | None = None
        self._ttl_s = settings.ttl / 1000
        self._news: dict[int, CachedAnswer | None] = {}
        self._cleared: dict[str | None, float] = {}
        if settings.enabled:
            self._cache = ResultCache(
                ttl_s=self._ttl_s,
                min_confidence=settings.min_confidence,
                max_entries=settings.max_entries,
                max_bytes=settings.max_bytes,
            )

    def find(self, run: TaskRun, now: float) -> tuple[str, Success] | None:
        """The agent and its answer, if the same was asked before; else the run remembers its key for `keep`."""
        task = run.task
        if self._cache is None or not cacheable(task):
            return None
        run.cache_key = cache_key(
            kind=task.type,
            pattern=task.metadata.pattern_name,
            input=asked_of(task, asked(task)),
            capabilities=task.capabilities or (),
            target=task.target,
            context_id=task.metadata.context_id,
        )
        return self._cache.get(run.cache_key, now)

    def keep(self, run: TaskRun, agent_id: str, answer: Success, now: float) -> None:
        """Keep an answer if allowed; answers to tasks from before the cache was cleared are not."""
        if self._cache is None or run.cache_key is None:
            return
        if run.admitted_at <= max(self._cleared.get(agent_id, _NEVER), self._cleared.get(None, _NEVER)):
            return
        slot = self._cache.put(run.cache_key, (agent_id, answer), answer.size, answer.confidence, now)
        if slot is not None:
            # A large answer is kept in memory only: reading state back must be quick.
            small = answer.size <= LARGE_BYTES
            kept = CachedAnswer(slot, run.cache_key, agent_id, answer, now + self._ttl_s) if small else None
            self._news[slot] = kept

    def clear(self, agent_id: str | None, now: float) -> None:
        """Drop the answers of this agent, or of all (None)."""
        if self._cache is None:
            return
        if agent_id is None:
            self._cleared.clear()
        self._cleared[agent_id] = now
        if len(self._cleared) > MAX_CLEARED:  # drops too much rather than too little
            self._cleared = {None: now}
        for slot in self._cache.remove(lambda kept: agent_id in (None, kept[0])):
            self._news[slot] = None

    def news(self) -> dict[int, CachedAnswer | None]:
        """By slot, answers kept or dropped (None) since the last call; bounded by the size of the cache."""
        found, self._news = self._news, {}
        return found

    def restore(self, answers: Iterable[CachedAnswer], now: float) -> None:
        """Take over an earlier owner's answers that are still valid, into an empty cache.

        Without a cache drop them: which of them a changed agent would give no more could not be seen here.
        """
        if self._cache is None:
            self._news = {answer.slot: None for answer in answers}
        else:
            live = sorted((a for a in answers if now < a.expires <= now + self._ttl_s + 1), key=lambda a: a.expires)
            self._cache.restore((a.slot, a.key, (a.agent_id, a.answer), a.answer.size, a.expires) for a in live)
