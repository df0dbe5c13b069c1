"""Control requests: the topic `controls`, read whole at start (it is kept for an hour) and followed live.

In: `Control` records. Out: `cancelled(task_id, submitted_ms)` for tasks that are read later, and a call for each
request as it comes; the same for plans. A request applies to what was submitted before it, however long that waits, and
for an hour after it: both may come in any order. An id used again later is another task. Bounded: the newest `MAX_KEPT`
ids of each. It never writes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import structlog
from aiokafka.structs import ConsumerRecord

from schemas.codec import Rejected, decode
from schemas.messages import Control
from schemas.topics import HOUR_MS, full_name
from streams.engine.follower import Follower

log = structlog.get_logger(__name__)

MAX_KEPT = 100_000


class _CancelRequest(NamedTuple):
    """`at_ms`: the record's timestamp, epoch ms."""

    reason: str
    at_ms: int


class ControlTable:
    """The tasks and plans to cancel. `on_cancel(task_id)` and `on_plan(plan_id)` are called for each."""

    def __init__(
        self,
        *,
        options: dict[str, Any],
        prefix: str,
        on_cancel: Callable[[str], None] | None = None,
        on_clear: Callable[[str | None], None] = lambda _: None,
        on_plan: Callable[[str], None] | None = None,
        on_rejected: Callable[[ConsumerRecord, Rejected], None] = lambda record, rejected: None,
    ) -> None:
        """`on_clear(agent_id)`: clear cached answers, of one agent or (None) of all. `on_rejected`: called for each
        invalid record that comes after the start.
        """
        self._on_rejected = on_rejected
        self._loaded = False
        self._on_cancel = on_cancel
        self._on_plan = on_plan
        self._on_clear = on_clear
        self._clears: OrderedDict[str | None, int] = OrderedDict()
        self._task_requests: OrderedDict[str, _CancelRequest] = OrderedDict()
        self._plan_requests: OrderedDict[str, _CancelRequest] = OrderedDict()
        self._follower = Follower(options, full_name("controls", prefix), self._apply)

    def cancelled(self, task_id: str, submitted_ms: int) -> str | None:
        """Why a task submitted then (epoch ms) is cancelled, in a sentence; None if it is not."""
        return _sentence("task", self._task_requests.get(task_id), submitted_ms)

    def plan_cancelled(self, plan_id: str, submitted_ms: int) -> str | None:
        """Why a plan submitted then (epoch ms) is cancelled, in a sentence; None if it is not."""
        return _sentence("plan", self._plan_requests.get(plan_id), submitted_ms)

    def task_ids(self) -> list[str]:
        """The ids of cancelled tasks that are kept."""
        return list(self._task_requests)

    def cleared(self, agent_id: str) -> int:
        """Epoch ms of the last request to clear this agent's cached answers; 0: none."""
        return max(self._clears.get(agent_id, 0), self._clears.get(None, 0))

    async def start(self) -> None:
        """Read the topic to its present end, then follow it. Raises `KafkaError`, `TimeoutError`."""
        await self._follower.start()
        self._loaded = True

    @property
    def problem(self) -> str | None:
        """Why the topic cannot be read at present; None while it is read."""
        return self._follower.problem

    async def stop(self) -> None:
        await self._follower.stop()

    def _apply(self, record: ConsumerRecord) -> None:
        try:
            control = decode(Control, record.value, record.headers)
        except Rejected as rejected:
            log.warning("invalid record on controls ignored", offset=record.offset, reason=rejected.reason)
            if self._loaded:
                self._on_rejected(record, rejected)
            return
        if control.type == "cache-clear":
            self._clear(control.agent_id, record.timestamp)
            return
        # A worker keeps only the requests that one of its roles can fulfil.
        if control.task_id is not None and self._on_cancel is not None:
            _keep(self._task_requests, control.task_id, _CancelRequest(control.reason or "", record.timestamp))
            self._on_cancel(control.task_id)
        if control.plan_id is not None and self._on_plan is not None:
            _keep(self._plan_requests, control.plan_id, _CancelRequest(control.reason or "", record.timestamp))
            self._on_plan(control.plan_id)

    def _clear(self, agent_id: str | None, at_ms: int) -> None:
        self._clears[agent_id] = max(at_ms, self._clears.pop(agent_id, 0))
        if len(self._clears) > MAX_KEPT:  # drops too much rather than too little
            self._clears = OrderedDict([(None, max(self._clears.values()))])
        self._on_clear(agent_id)


def _sentence(what: str, request: _CancelRequest | None, submitted_ms: int) -> str | None:
    if request is None or submitted_ms > request.at_ms + HOUR_MS:
        return None
    return f"the {what} was cancelled: {request.reason}" if request.reason else f"the {what} was cancelled"


def _keep(cancel_requests: OrderedDict[str, _CancelRequest], name: str, request: _CancelRequest) -> None:
    cancel_requests[name] = request
    cancel_requests.move_to_end(name)
    while len(cancel_requests) > MAX_KEPT:
        cancel_requests.popitem(last=False)
