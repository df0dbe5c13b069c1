"""The result cache of one home: what a task asks, as a key, and the answer that was given to it before.

In: jobs and their answers. Out: an earlier answer with the agent that gave it, or None. It is off when the settings say so,
and for tasks that say so; what is kept, and for how long, is decided in `rules/caching.py`.
"""

from __future__ import annotations

from streams.jobs import Job, asked
from streams.rules.caching import ResultCache, cache_key
from streams.rules.records import Success
from streams.settings import CacheSettings


class AnswerCache:
    """Answers by what was asked. Times in monotonic seconds."""

    def __init__(self, settings: CacheSettings) -> None:
        self._cache: ResultCache[tuple[str, Success]] | None = None
        if settings.enabled:
            self._cache = ResultCache(
                ttl_s=settings.ttl / 1000,
                min_confidence=settings.min_confidence,
                max_entries=settings.max_entries,
                max_bytes=settings.max_bytes,
            )

    def find(self, job: Job, now: float) -> tuple[str, Success] | None:
        """The agent and its answer, if this was asked before; else the job remembers its key for `keep`."""
        task = job.task
        if self._cache is None or not task.metadata.cache:
            return None
        job.key = cache_key(
            pattern=task.metadata.pattern_name,
            input=asked(task),
            capabilities=task.capabilities or (),
            target=task.target,
        )
        return self._cache.get(job.key, now)

    def keep(self, job: Job, agent_id: str, answer: Success, now: float) -> None:
        """Keep an answer, if it is one to keep."""
        if self._cache is not None and job.key is not None:
            self._cache.put(job.key, (agent_id, answer), len(answer.value_json), answer.confidence, now)
