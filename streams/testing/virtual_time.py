"""Dispatch and plans in memory and in virtual time: a day of timeouts in a second.

    def test_a_slow_agent_is_given_up():
        with VirtualTime(agents=[FakeAgent(hang(), id="slow")]) as v:
            outcome = v.submit("slow", {}, timeout="10m", retries=2).outcome()
            assert (outcome.status, v.elapsed >= 30 * 60) == ("timeout", True)

The rules, queues, circuits, limits, retries, the cache and the plan coordinator are the worker's own, with its defaults; there is
no broker and no network. Time passes only while nothing else can happen. Agents are `FakeAgent`s of any protocol, called
directly, and functions marked with `@agent`. Tasks of type `agent` only; no statistics.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from schemas.codec import decode
from schemas.exact_json import loads
from schemas.messages import AgentRegistration, Plan, PlanResult
from schemas.topics import INTAKE, PLAN_INTAKE
from streams.client.errors import failure_of
from streams.client.handle import still_waiting
from streams.client.plans import plan_request
from streams.client.requests import Request, cancel_requests, task_request
from streams.client.result import TaskResult, read_result
from streams.client.times import Duration, Moment, seconds
from streams.rules.records import Output
from streams.settings import load
from streams.testing.direct_calls import DirectCall, DirectCalls
from streams.testing.virtual_dispatch import DispatchPartition, VirtualAgents
from streams.testing.virtual_loop import VirtualTimeLoop
from streams.testing.virtual_partition import BEGIN_MS, VirtualControls, VirtualPartition, VirtualWorker
from streams.testing.virtual_plans import PlanPartition

T = TypeVar("T")

WAIT = "7d"


class Submitted:
    """A submitted task; `id` is its id."""

    def __init__(self, owner: VirtualTime, task_id: str) -> None:
        self.id = task_id
        self._owner = owner

    def outcome(self, wait: Duration = WAIT) -> TaskResult[Any]:
        """Let time pass until it has ended. Raises `WaitTimeout` after `wait` of virtual time."""
        return self._owner._outcome(self.id, wait)

    def result(self, wait: Duration = WAIT) -> TaskResult[Any]:
        """As `outcome`; raises `TaskFailed` for a task that failed."""
        found = self.outcome(wait)
        if not found.ok:
            raise failure_of(found)
        return found

    @property
    def done(self) -> bool:
        """Whether it has ended by now."""
        return self.id in self._owner._results


class SubmittedPlan:
    """A submitted plan; `id` is its id."""

    def __init__(self, owner: VirtualTime, plan_id: str) -> None:
        self.id = plan_id
        self._owner = owner

    def outcome(self, wait: Duration = WAIT) -> PlanResult:
        """Let time pass until it has ended, with any status. Raises `WaitTimeout` after `wait` of virtual time."""
        return self._owner._plan_outcome(self.id, wait)

    @property
    def done(self) -> bool:
        """Whether it has ended by now."""
        return self.id in self._owner._plan_results


class VirtualTime:
    """`with VirtualTime(agents=[...]) as v:`, in a test that is not a coroutine.

    `settings`: dotted names and values, as in `Pipeline`. `seed`: of everything random, which makes a test the same each time.
    """

    def __init__(self, agents: Iterable[Any] = (), *, settings: Mapping[str, Any] | None = None, seed: int = 1) -> None:
        self._agents = list(agents)
        self.settings = load(dict(settings or {}), environ={}, directory=Path(__file__).parent)
        self._random = random.Random(seed)
        self._loop: VirtualTimeLoop | None = None
        self._begun = 0.0
        self._known = VirtualAgents()
        self._transport = DirectCalls(lambda: self.elapsed)
        self._results: dict[str, TaskResult[Any]] = {}
        self._plan_results: dict[str, PlanResult] = {}
        self._arrived = asyncio.Event()
        self._partitions: tuple[DispatchPartition, PlanPartition] | None = None
        self.events: list[dict[str, Any]] = []
        """All events so far, in order."""

    @property
    def elapsed(self) -> float:
        """Virtual seconds since the beginning."""
        return 0.0 if self._loop is None else self._loop.time() - self._begun

    @property
    def calls(self) -> list[DirectCall]:
        """Every call of an agent so far: `agent_id`, `task_id`, `payload`, `at` (virtual seconds), `attempt`."""
        return self._transport.calls

    def run(self, target: str | None, payload: Any = None, *, wait: Duration = WAIT, **options: Any) -> TaskResult[Any]:
        """Submit a task and let time pass until it has ended. Takes what `submit` takes. Raises `TaskFailed`, `WaitTimeout`."""
        return self.submit(target, payload, **options).result(wait)

    def submit(
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
        **metadata: Any,
    ) -> Submitted:
        """Submit a task; no time passes. Arguments as of `Client.submit`. Raises `InvalidTask`."""
        request = task_request(
            id or uuid.UUID(int=self._random.getrandbits(128)).hex,
            target,
            payload,
            timeout=timeout,
            deadline=deadline,
            expires_in=expires_in,
            not_before=not_before,
            capabilities=capabilities,
            metadata=metadata,
        )
        self._do(self._send("tasks", request.key, request.value))
        return Submitted(self, request.id)

    def plan(self, plan: Mapping[str, Any] | Plan, *, wait: Duration = WAIT) -> PlanResult:
        """Submit a plan and let time pass until it has ended; its result, whatever its status. Takes what `Client.plan` takes.

        Raises `InvalidTask`, `WaitTimeout`.
        """
        return self.submit_plan(plan).outcome(wait)

    def submit_plan(self, plan: Mapping[str, Any] | Plan) -> SubmittedPlan:
        """Submit a plan (see `streams.parallel`, `sequence`, `dag`); no time passes. Raises `InvalidTask`."""
        request = plan_request(plan)
        self._do(self._send("plans", request.key, request.value))
        return SubmittedPlan(self, request.id)

    def advance(self, duration: Duration) -> None:
        """Let so much time pass."""
        self._do(asyncio.sleep(seconds(duration, "duration")))

    def cancel(self, id: str, *, reason: str | None = None) -> None:
        """Request that the task or plan of this id be cancelled, as `Client.cancel` does."""
        self._do(self._cancel(cancel_requests(id, reason)))

    def add(self, *agents: Any) -> None:
        """Register agents, or register them anew."""
        self._do(self._register(agents))

    def remove(self, agent_id: str) -> None:
        """Unregister an agent."""
        self._do(self._unregister(agent_id))

    def __enter__(self) -> VirtualTime:
        if _within_a_loop():
            raise RuntimeError(
                "VirtualTime runs its own event loop: the test must be a plain function, not a coroutine"
            )
        self._loop = VirtualTimeLoop()
        self._begun = self._loop.time()
        try:
            self._do(self._open())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop, self._loop = self._loop, None
        if loop is None:
            return
        try:
            loop.run_until_complete(self._close())
        finally:
            loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise RuntimeError("use it within `with VirtualTime(...) as v:`")
        try:
            return self._loop.run_until_complete(work)
        except BaseException:
            work.close()
            raise

    async def _open(self) -> None:
        controls = VirtualControls(
            options={}, prefix=self.settings.topic_prefix, on_cancel=self._stop_task, on_plan=self._stop_plan
        )
        worker = VirtualWorker(self.settings, self._wall_ms, self._written, controls)
        dispatch = DispatchPartition(worker=worker, agents=self._known, transport=self._transport, rng=self._random)
        self._partitions = dispatch, PlanPartition(worker)
        await self._register(self._agents)

    async def _close(self) -> None:
        for partition in self._partitions or ():
            partition.handler.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _register(self, agents: Iterable[Any]) -> None:
        for one in agents:
            agent = AgentRegistration.model_validate(self._transport.add(one))
            self._known.agents[agent.id] = agent
            self._dispatch.handler.agent_changed(agent.id, agent)
            self._dispatch.handler.agent_available(agent)

    async def _unregister(self, agent_id: str) -> None:
        if self._known.agents.pop(agent_id, None) is None:
            raise KeyError(f"agent {agent_id}: not registered")
        self._dispatch.handler.agent_changed(agent_id, None)

    async def _cancel(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self._dispatch.worker.controls.take(request.value, self._wall_ms())

    def _stop_task(self, task_id: str) -> None:
        self._dispatch.release(task_id)
        self._dispatch.handler.cancel(task_id)
        self._plans.handler.cancel_task(task_id)

    def _stop_plan(self, plan_id: str) -> None:
        self._plans.handler.cancel(plan_id)

    async def _send(self, topic: str, key: bytes | None, value: bytes) -> None:
        partition: VirtualPartition = self._plans if topic == "plans" else self._dispatch
        partition.take(topic, key, value, ())
        await asyncio.sleep(0)

    def _outcome(self, task_id: str, wait: Duration) -> TaskResult[Any]:
        return self._wait_for(self._results, task_id, wait, "task")

    def _plan_outcome(self, plan_id: str, wait: Duration) -> PlanResult:
        return self._wait_for(self._plan_results, plan_id, wait, "plan")

    def _wait_for(self, found: Mapping[str, T], name: str, wait: Duration, noun: str) -> T:
        limit_s = seconds(wait, "wait")

        async def until() -> None:
            async with asyncio.timeout(limit_s):
                while name not in found:
                    self._arrived.clear()
                    await self._arrived.wait()

        try:
            self._do(until())
        except TimeoutError:
            raise still_waiting(name, limit_s, noun) from None
        return found[name]

    @property
    def _dispatch(self) -> DispatchPartition:
        return self._opened()[0]

    @property
    def _plans(self) -> PlanPartition:
        return self._opened()[1]

    def _opened(self) -> tuple[DispatchPartition, PlanPartition]:
        if self._partitions is None:
            raise RuntimeError("use it within `with VirtualTime(...) as v:`")
        return self._partitions

    def _written(self, output: Output) -> None:
        """Deliver a record that a worker would have written to the readers of its topic."""
        topic = output.topic
        if topic == "results":
            result = read_result(output.value)
            self._results.setdefault(result.task_id, result)
            self._arrived.set()
        elif topic == "plan-results":
            plan_result = decode(PlanResult, output.value, output.headers)
            self._plan_results.setdefault(plan_result.plan_id, plan_result)
            self._arrived.set()
        elif topic == "events":
            self.events.append(loads(output.value or b"null"))
        elif topic == "controls":
            self._dispatch.worker.controls.take(output.value, self._wall_ms())
        elif topic == "scheduled":
            self._dispatch.schedule(output)
        if topic in PLAN_INTAKE:
            self._plans.take(topic, output.key, output.value, output.headers)
        elif topic in INTAKE:
            self._dispatch.take(topic, output.key, output.value, output.headers)

    def _wall_ms(self) -> int:
        return BEGIN_MS + round(self.elapsed * 1000)


def _within_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
