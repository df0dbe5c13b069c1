"""The state that moves with a partition to another worker: answered ids, its agents' circuits and limits, cached
answers.

In: the state topic's records of this partition; then changes in the partition. Out: what changed since the last commit,
as records of the state topic for the same transaction. An unreadable record is skipped: only its content is lost.
"""

from __future__ import annotations

import asyncio
from binascii import Error as NotBase64
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import orjson
import structlog

from agents_io.calling.caller import Caller
from schemas.codec import Rejected, decode, pack
from schemas.messages import AgentGuard, HomeState
from schemas.times import format_time
from streams.dispatch.answer_cache import AnswerCache, CachedAnswer
from streams.dispatch.callers import GuardSnapshot
from streams.dispatch.task_run import TaskRun
from streams.rules.dedup_window import Chunk, DedupWindow
from streams.rules.records import Output
from streams.rules.task_records import Success
from streams.settings import Settings

log = structlog.get_logger(__name__)

CLOCKS_AGREE_MS = 2_000
"""The corrected clocks of two workers agree to this, see `BrokerClock`; after a move, limits and pauses hold that much
too long.
"""


class _KeptGuard(NamedTuple):
    """`taken_at`: when it was written, on this process's monotonic clock, seconds; `value`: its row."""

    guard: AgentGuard
    taken_at: float
    value: bytes


class PartitionState:
    """`seen`: digests of answered ids. `answers`: the result cache. Breakers and limiters live in the callers."""

    def __init__(
        self,
        *,
        number: int,
        settings: Settings,
        wall_ms: Callable[[], int],
        values: Iterable[bytes] = (),
        cleared: Callable[[str], int] = lambda _: 0,
        answer_source: Callable[[str], str] = lambda _: "",
    ) -> None:
        """`values`: the newest value of each key of the state topic's partition `number`; then what this worker knew of agents
        when it lost the partition, see `guards`.

        `cleared`: returns when an agent's cached answers were last cleared, epoch ms. `answer_source`: returns the source of
        an agent's answers by its present registration; empty without one.
        """
        self.seen = DedupWindow(settings.dispatch.idempotency_window, settings.dispatch.idempotency_ids)
        self.answers = AnswerCache(settings.cache)
        self._number = number
        self._app = settings.app_id
        self._wall_ms = wall_ms
        self._loop = asyncio.get_running_loop()
        self._guards: dict[str, _KeptGuard] = {}
        self._answer_source = answer_source
        self._restore(values, cleared)

    def guard(self, agent_id: str) -> GuardSnapshot | None:
        """The state of this agent's breaker and limiter from an earlier owner; returned once."""
        if agent_id not in self._guards:
            return None
        found, taken_at, _ = self._guards.pop(agent_id)
        ejection = None if found.health is None else found.health.wire()
        return GuardSnapshot(found.breaker.wire(), found.limiter.wire(), taken_at, found.concurrency, ejection)

    def changes(self, callers: Iterable[Caller[TaskRun]]) -> list[Output]:
        """What changed since the last call."""
        now_ms, now = self._wall_ms(), self._loop.time()
        outputs = []
        if (chunk := self.seen.flush()) is not None:
            outputs.append(self._output(f"seen/{chunk.slot}", "seen", chunk.row(), now_ms))
        for caller in callers:
            if caller.changed:
                caller.changed = False
                outputs.append(self._guard(caller, now, now_ms))
        for slot, answer in self.answers.news().items():
            if answer is None:
                outputs.append(Output("state", self._key(f"answer/{slot}"), None, partition=self._number))
                continue
            content = {
                "slot": answer.slot,
                "key": answer.key,
                "agentId": answer.agent_id,
                "confidence": answer.answer.confidence,
                "value": orjson.Fragment(answer.answer.value_json),
                **({"metadata": orjson.Fragment(answer.answer.metadata_json)} if answer.answer.metadata_json else {}),
                "expires": format_time(now_ms + round((answer.expires - now) * 1000)),
                "source": self._answer_source(answer.agent_id),
            }
            outputs.append(self._output(f"answer/{answer.slot}", "answer", content, now_ms))
        return outputs

    def guards(self, callers: Iterable[Caller[TaskRun]]) -> list[bytes]:
        """What is known of all agents by now, committed or not, as values of the state topic."""
        now, now_ms = self._loop.time(), self._wall_ms()
        rows = [self._guard(caller, now, now_ms).value or b"" for caller in callers]
        return [*(kept.value for kept in self._guards.values()), *rows]

    def _guard(self, caller: Caller[TaskRun], now: float, now_ms: int) -> Output:
        guard: dict[str, object] = {
            "agentId": caller.agent.id,
            "breaker": caller.queue.breaker.snapshot(now),
            "limiter": caller.queue.limiter.snapshot(now),
        }
        if (ejection := caller.stats.ejection.snapshot(now)) is not None:
            guard["health"] = ejection
        if caller.queue.adaptive is not None:
            guard["concurrency"] = caller.queue.adaptive.exact
        return self._output(f"agent/{caller.agent.id}", "guard", guard, now_ms)

    def _output(self, key: str, kind: str, content: Mapping[str, object], now_ms: int) -> Output:
        value = pack({"app": self._app, "at": format_time(now_ms), kind: content})
        return Output("state", self._key(key), value, partition=self._number)

    def _key(self, key: str) -> bytes:
        return f"{self._app}/{key}".encode()

    def _restore(self, values: Iterable[bytes], cleared: Callable[[str], int]) -> None:
        chunks: list[tuple[Chunk, int]] = []
        answers: list[CachedAnswer] = []
        now, now_ms = self._loop.time(), self._wall_ms()
        for value in values:
            try:
                state = decode(HomeState, value, ())
                if state.app != self._app:
                    continue
                if state.seen is not None:
                    chunks.append((Chunk.of(state.seen), state.at))
            except (Rejected, NotBase64) as error:
                log.warning("a record of the state topic is not understood", partition=self._number, error=str(error))
                continue
            if state.guard is not None:
                age_s = max(0, now_ms - state.at - CLOCKS_AGREE_MS) / 1000
                self._guards[state.guard.agent_id] = _KeptGuard(state.guard, now - age_s, value)
            if (kept := state.answer) is not None and state.at > cleared(kept.agent_id):
                source = self._answer_source(kept.agent_id)
                if kept.source and source not in ("", kept.source):
                    continue  # the agent was registered anew while the partition had no owner
                expires = now + (kept.expires - now_ms) / 1000
                answer = Success(pack(kept.value), kept.confidence, pack(kept.metadata) if kept.metadata else b"")
                answers.append(CachedAnswer(kept.slot, kept.key, kept.agent_id, answer, expires))
        self.seen.restore(chunks)
        self.answers.restore(answers, now)
