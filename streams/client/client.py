"""The asynchronous client: submit tasks and plans, wait for their results, follow the pipeline's output."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar, overload

from schemas.codec import decode
from schemas.messages import Plan, PlanResult
from streams.broker.noise import quiet_logs
from streams.client.connection import connect, kafka_errors, partitions_of, settings_for, usable
from streams.client.directory import AgentDirectory
from streams.client.errors import ClientClosed, ClientError, failure_of
from streams.client.handle import Handle, still_waiting
from streams.client.history import EarlierResults, feedback_request, find_task, sent_again
from streams.client.mapping import OpenWindows, Payloads, cancel_open, run_all
from streams.client.parsing import parse_value
from streams.client.plans import NewId, plan_request
from streams.client.producer import TaskProducer
from streams.client.requests import Request, TaskKind, cancel_requests, task_request
from streams.client.result import TaskResult, read_result
from streams.client.schedules import ScheduleDirectory
from streams.client.subscriptions import Subscriptions
from streams.client.times import Duration, Moment, Since, seconds
from streams.client.waiting import ResultReader, WaitingCall, wait_error
from streams.client.watch import WaitWatch
from streams.client.web import WorkerApi
from streams.settings import Settings
from streams.tokens import token_to_show

T = TypeVar("T")

CONNECT_TIMEOUT_S = 8.0
LOOK_BACK = "24h"
"""How far back earlier records of an id are searched: as long as the pipeline remembers ids by default."""


class Client(Subscriptions):
    """`async with Client("localhost:9092") as client:`. One event loop, one connection, any number of waiting calls.

    Settings that are not given come from `PARALLAX_*` and `parallax.toml`. `web`: a worker's address, for `stats`
    alone, with its `token` (default: the setting `web_auth.token`). `give_up_after`: how long a call waits while Kafka
    is unreachable, or while no worker reads tasks, before it raises; None: forever. `kafka`: `security_protocol`,
    `sasl_username` and the other settings of Kafka. `settings`: all settings, loaded already.
    """

    def __init__(
        self,
        bootstrap_servers: str | None = None,
        *,
        topic_prefix: str | None = None,
        app_id: str | None = None,
        web: str | None = None,
        token: str | None = None,
        give_up_after: Duration | None = 30.0,
        settings: Settings | None = None,
        **kafka: Any,
    ) -> None:
        self.settings = usable(settings or settings_for(bootstrap_servers, topic_prefix, app_id, kafka))
        self.agents = AgentDirectory(self.settings, self.send)
        self.schedules = ScheduleDirectory(self.settings, self.send)
        self._api = WorkerApi(web, token, token_to_show(self.settings))
        self._results = ResultReader(self.settings, "results", read_result)
        self._plan_results = ResultReader(self.settings, "plan-results", partial(decode, PlanResult))
        give_up_after_s = None if give_up_after is None else seconds(give_up_after, "give_up_after")
        self._producer = TaskProducer(self.settings, self._lost, give_up_after_s)
        self._watch = WaitWatch(self.settings, [self._results, self._plan_results], give_up_after_s)
        self._earlier: EarlierResults | None = None
        self._earlier_plans: EarlierResults | None = None
        self._open = False
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()
        self._windows: OpenWindows = {}

    async def __aenter__(self) -> Client:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Connect, unless connected. Raises `KafkaUnreachable`, `TopicsMissing`, `ClientError`; `ClientClosed` after `close`."""
        if self._closed:
            raise ClientClosed("a closed client cannot be started again; create a new one")
        if self._open:
            return
        quiet_logs()
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        await connect(self.settings, CONNECT_TIMEOUT_S)
        self._producer.partitions |= await partitions_of(self.settings, ["tasks", "results", "controls"])
        async with kafka_errors(self.settings):
            await self._producer.start()
        count = self._producer.partitions["results"]
        self._earlier = EarlierResults(self.settings, "results", self._results, count)
        self._earlier_plans = EarlierResults(self.settings, "plan-results", self._plan_results, count)
        self._open = True

    async def close(self) -> None:
        """Disconnect. Waiting calls raise `ClientClosed`. Submitted tasks go on, except those of an unfinished `map`."""
        if self._open:
            if self._process != os.getpid() or (self._loop is not None and self._loop.is_closed()):
                # Nothing of it runs here: its loop is over, or the process this one was forked from has it.
                self._open, self._closed = False, True
                return
            self._require_its_loop()
        await cancel_open(self._windows)
        self._closed = self._closed or self._open
        self._open = False
        error = ClientClosed("the client is closed")
        await self._watch.close()
        for earlier in (self._earlier, self._earlier_plans):
            if earlier is not None:
                await earlier.close()
        await asyncio.gather(
            self._results.close(error), self._plan_results.close(error), self._producer.close(), self._api.close()
        )

    # Tasks

    @overload
    async def run(
        self,
        target: str | None,
        payload: Any = None,
        *,
        timeout: Duration | None = None,
        deadline: Moment | None = None,
        expires_in: Duration | None = None,
        not_before: Moment | None = None,
        id: str | None = None,
        capabilities: Sequence[str] | None = None,
        into: None = None,
        wait: Duration | None = None,
        type: TaskKind | None = None,
        **metadata: Any,
    ) -> TaskResult[Any]: ...

    @overload
    async def run(
        self,
        target: str | None,
        payload: Any = None,
        *,
        timeout: Duration | None = None,
        deadline: Moment | None = None,
        expires_in: Duration | None = None,
        not_before: Moment | None = None,
        id: str | None = None,
        capabilities: Sequence[str] | None = None,
        into: type[T],
        wait: Duration | None = None,
        type: TaskKind | None = None,
        **metadata: Any,
    ) -> TaskResult[T]: ...

    async def run(
        self,
        target: str | None,
        payload: Any = None,
        *,
        timeout: Duration | None = None,
        deadline: Moment | None = None,
        expires_in: Duration | None = None,
        not_before: Moment | None = None,
        id: str | None = None,
        capabilities: Sequence[str] | None = None,
        into: Any = None,
        wait: Duration | None = None,
        type: TaskKind | None = None,
        **metadata: Any,
    ) -> TaskResult[Any]:
        """Submit a task and return its result. Cancelling the call stops waiting; the task continues.

        `target`: an agent's id; a URL, `function:NAME` and `pattern:NAME` name the other types. None with
        `capabilities`: any agent that has them. `timeout`: one attempt. `deadline` or `expires_in`: the whole task.
        `not_before`: no agent is called before this time. `wait`: this call. Raises `TaskFailed`, `WaitTimeout`,
        `NoWorker`, `KafkaUnreachable`, `InvalidTask`, `InvalidValue`.
        """
        request = task_request(
            uuid.uuid4().hex if id is None else id,
            target,
            payload,
            kind=type,
            timeout=timeout,
            deadline=deadline,
            expires_in=expires_in,
            not_before=not_before,
            capabilities=capabilities,
            metadata=metadata,
        )
        waiting = await self._submit(request, given=id is not None)
        if id is not None:  # others may wait for the same id
            result = await Handle(waiting, self._cancel_task).outcome(wait)
        elif wait is None:
            result = await waiting.future
        else:
            limit_s = seconds(wait, "wait")
            timer = wait_error(waiting, lambda: still_waiting(request.id, limit_s), limit_s)
            try:
                result = await waiting.future
            finally:
                timer.cancel()
        if result.status != "success":
            raise failure_of(result)
        return result if into is None else parse_value(result, into)

    async def submit(
        self,
        target: str | None,
        payload: Any = None,
        *,
        timeout: Duration | None = None,
        deadline: Moment | None = None,
        expires_in: Duration | None = None,
        not_before: Moment | None = None,
        id: str | None = None,
        capabilities: Sequence[str] | None = None,
        type: TaskKind | None = None,
        **metadata: Any,
    ) -> Handle:
        """Submit a task; returns when Kafka has it. An id that was sent before resolves to the first one's result."""
        request = task_request(
            uuid.uuid4().hex if id is None else id,
            target,
            payload,
            kind=type,
            timeout=timeout,
            deadline=deadline,
            expires_in=expires_in,
            not_before=not_before,
            capabilities=capabilities,
            metadata=metadata,
        )
        return Handle(await self._submit(request, given=id is not None, acknowledged=True), self._cancel_task)

    @overload
    def map(
        self,
        target: str | None,
        payloads: Payloads,
        *,
        concurrency: int = 100,
        ordered: bool = False,
        tolerate: float = 0.0,
        into: None = None,
        **options: Any,
    ) -> AsyncGenerator[TaskResult[Any]]: ...

    @overload
    def map(
        self,
        target: str | None,
        payloads: Payloads,
        *,
        concurrency: int = 100,
        ordered: bool = False,
        tolerate: float = 0.0,
        into: type[T],
        **options: Any,
    ) -> AsyncGenerator[TaskResult[T]]: ...

    def map(
        self,
        target: str | None,
        payloads: Payloads,
        *,
        concurrency: int = 100,
        ordered: bool = False,
        tolerate: float = 0.0,
        into: Any = None,
        **options: Any,
    ) -> AsyncGenerator[TaskResult[Any]]:
        """Submit one task per payload and yield their results, as they end or in order; `concurrency` tasks under way
        at once. `options`: those of `run`.

        `payloads`: an iterable, also an asynchronous or endless one. A failed task raises `TaskFailed` once more than
        the share `tolerate` has failed; before that, its result is yielded. Leaving the loop early cancels the tasks
        under way: wrap the iterator in `contextlib.aclosing` if you may break out of it.
        """

        async def submit(payload: Any) -> Handle:
            request = task_request(uuid.uuid4().hex, target, payload, **task_options)
            return Handle(await self._submit(request, given=False), self._cancel_task)

        named = {
            name: options.pop(name, None)
            for name in ("timeout", "deadline", "expires_in", "not_before", "capabilities")
        }
        task_options = named | {"kind": options.pop("type", None), "metadata": options}
        return run_all(
            submit,
            payloads,
            concurrency=concurrency,
            ordered=ordered,
            tolerate=tolerate,
            into=into,
            open_windows=self._windows,
        )

    async def handle(self, id: str, *, since: Since = LOOK_BACK) -> Handle:
        """A handle for a task that was sent before, by this or another process. Its result is searched from `since`
        on.
        """
        await self._ready(self._results)
        waiting = self._results.wait_for(id)
        if self._earlier is not None:
            self._earlier.search(waiting, since, at_once=True)
        return Handle(waiting, self._cancel_task)

    async def retry(self, id: str, *, since: Since = LOOK_BACK) -> Handle:
        """Submit a task again under a new id; `metadata.retryOf` of its result is the first one's.

        Raises `NotFound`; `InvalidTask` if its `metadata.deadline` has passed.
        """
        task = await find_task(self.settings, id, since)
        request = sent_again(task, uuid.uuid4().hex, round(time.time() * 1000))
        return Handle(await self._submit(request, given=False, acknowledged=True), self._cancel_task)

    async def cancel(self, id: str, *, reason: str | None = None) -> None:
        """Request that the task or plan of this id be cancelled, waiting or running."""
        for request in cancel_requests(id, reason):
            await self.send("controls", request)

    async def feedback(self, id: str, *, success: bool, since: Since = LOOK_BACK) -> None:
        """Report the true outcome of an answered task. Raises `NotFound`."""
        await self.send("data-points", await feedback_request(self.settings, id, success, since))

    # Plans

    async def plan(self, plan: Mapping[str, Any] | Plan, *, wait: Duration | None = None) -> PlanResult:
        """Submit a plan (see `parallel`, `sequence`, `dag`) and return its result, with any status. An id that was sent
        before resolves to the first one's result.

        Raises `WaitTimeout`, `NoWorker`, `KafkaUnreachable`, `InvalidTask`.
        """
        request = plan_request(plan)
        await self._ready(self._plan_results, "plans")
        waiting = self._plan_results.wait_for(request.id)
        await self._producer.send("plans", request)
        if isinstance(request.id, NewId) and not request.id.sent:
            request.id.sent = True
        elif self._earlier_plans is not None:
            self._earlier_plans.search(waiting, LOOK_BACK, at_once=False)
        limit_s = None if wait is None else seconds(wait, "wait")
        future = waiting.future
        await asyncio.wait((future,), timeout=limit_s)
        if not future.done():
            raise still_waiting(request.id, limit_s, "plan")
        return future.result()

    async def stats(self, agent: str, *, last: Duration = "1h", pattern: str | None = None) -> dict[str, Any]:
        """An agent's statistics from a worker: totalExecutions, avgConfidence, successRate and more. Needs `web`.

        Raises `NotFound` if the agent had no execution in that time, `ClientError`.
        """
        return await self._api.stats(agent, last, pattern)

    # Parts

    async def send(self, topic: str, request: Request) -> None:
        """Write one record to a topic and wait until Kafka has it. Raises `ClientError`."""
        self._require_open()
        await self._know(topic)
        await self._producer.send(topic, request)

    async def _submit(
        self, request: Request, *, given: bool, acknowledged: bool = False
    ) -> WaitingCall[TaskResult[Any]]:
        await self._ready(self._results)
        waiting = self._results.wait_for(request.id)
        if acknowledged:
            await self._producer.send("tasks", request)
        else:
            await self._producer.post("tasks", request)
        if given and self._earlier is not None:
            self._earlier.search(waiting, LOOK_BACK, at_once=False)
        return waiting

    async def _ready(self, reader: ResultReader[Any], *topics: str) -> None:
        """Position the reader at the end of its topic before anything is sent."""
        self._require_open()
        await self._know(*topics)
        if not reader.started:
            await reader.start()
            self._watch.start()

    def _require_open(self) -> None:
        """Raises `ClientClosed`, and `ClientError` on another event loop."""
        if not self._open:
            raise ClientClosed(
                "the client is not started, or is closed: use `async with Client(...)`, `with` for streams.sync"
            )
        self._require_its_loop()

    def _require_its_loop(self) -> None:
        if self._process != os.getpid():
            raise ClientError("the client was started before this process was forked; create a new one in this process")
        if asyncio.get_running_loop() is not self._loop:
            raise ClientError(
                "the client was started on another event loop: use one client for each loop, or streams.sync"
            )

    async def _know(self, *topics: str) -> None:
        """Ask for the number of partitions of a topic that the producer writes to. Raises `TopicsMissing`,
        `KafkaUnreachable`.
        """
        missing = [name for name in topics if name not in self._producer.partitions]
        if missing:
            self._producer.partitions |= await partitions_of(self.settings, missing)

    def _lost(self, request: Request, error: ClientError) -> None:
        waiting = self._results.find(request.id)
        if waiting is not None:
            waiting.fail(error, final=True)

    async def _cancel_task(self, task_id: str, reason: str | None) -> None:
        for request in cancel_requests(task_id, reason, ["taskId"]):
            await self.send("controls", request)
