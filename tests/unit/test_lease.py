"""How long a worker takes its partitions for its own, and that no call begins afterwards."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError

from agents_io.calling.caller import Caller
from agents_io.calling.pending_call import PendingCall
from agents_io.calling.rules.agent_queue import AgentQueue
from agents_io.calling.rules.breaker import Breaker
from agents_io.calling.rules.limiter import SlidingWindow
from agents_io.calling.rules.retry import RetryConfig
from agents_io.transport import Transport
from schemas.messages import AgentRegistration
from streams.engine.instance_name import is_taken
from streams.engine.lease import SessionLease
from tests.support.dispatching import FakeTransport
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time


class HeartbeatRequest:
    """As aiokafka calls it."""


class SyncGroupRequest:
    """As aiokafka calls it."""


class OffsetFetchRequest:
    """Says nothing of a membership."""


class Coordinator:
    """Answers with `code` after `wait_s` seconds."""

    def __init__(self) -> None:
        self.code = 0
        self.wait_s = 0.0
        self.error: Exception | None = None

    async def _send_req(self, request: Any) -> Any:
        await asyncio.sleep(self.wait_s)
        if self.error is not None:
            raise self.error
        return SimpleNamespace(error_code=self.code)


def watched(session_s: float) -> tuple[SessionLease, Coordinator]:
    """A lease that a coordinator renews."""
    lease, coordinator = SessionLease(session_s), Coordinator()
    lease.watch(cast("AIOKafkaConsumer", SimpleNamespace(_coordinator=coordinator)))
    return lease, coordinator


async def send(coordinator: Coordinator, request: Any) -> Any:
    """By the method of aiokafka's coordinators that the lease wraps."""
    return await cast("Any", coordinator)._send_req(request)


@pytest.mark.parametrize(
    ("request_type", "code", "renewed"),
    [
        (SyncGroupRequest, 0, True),
        (HeartbeatRequest, 0, True),
        (HeartbeatRequest, 27, True),  # a rebalance begins: it owns what it has until it joins
        (SyncGroupRequest, 25, False),
        (HeartbeatRequest, 25, False),  # not a member any more
        (HeartbeatRequest, 22, False),  # of an older generation
        (HeartbeatRequest, 15, False),
        (OffsetFetchRequest, 0, False),
    ],
)
async def test_only_what_is_answered_to_a_member_renews_it(request_type: type, code: int, renewed: bool) -> None:
    """Whatever else the coordinator says leaves it as it was."""
    lease, coordinator = watched(60.0)
    now = asyncio.get_running_loop().time()
    assert not lease.valid(now)
    coordinator.code = code
    answer = await send(coordinator, request_type())
    assert answer.error_code == code
    assert lease.valid(now) is renewed


async def test_it_counts_from_the_request_not_from_the_answer() -> None:
    """A worker that is frozen in between finds an old answer when it wakes."""
    lease, coordinator = watched(0.05)
    coordinator.wait_s = 0.1
    await send(coordinator, HeartbeatRequest())
    assert not lease.valid(asyncio.get_running_loop().time())


async def test_another_consumer_begins_without_one() -> None:
    """What the coordinator said to the one before is void. Without a coordinator there is nothing to wait for."""
    lease, coordinator = watched(60.0)
    await send(coordinator, HeartbeatRequest())
    now = asyncio.get_running_loop().time()
    assert lease.valid(now)
    lease.watch(cast("AIOKafkaConsumer", SimpleNamespace(_coordinator=Coordinator())))
    assert not lease.valid(now)
    alone = SessionLease(1.0)
    alone.watch(cast("AIOKafkaConsumer", SimpleNamespace(_coordinator=None)))
    assert alone.valid(now)


class Client:
    """A client whose broker answers heartbeats with an instance id. `codes`: so, or by raising it; the last one for ever."""

    def __init__(self, *codes: int | Exception) -> None:
        self.codes = list(codes)
        self.asked: list[tuple[Any, ...]] = []

    async def send(self, node_id: int, request: Any, group: int) -> Any:
        """Note it."""
        self.asked.append(request.fields)
        code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
        if isinstance(code, Exception):
            raise code
        return SimpleNamespace(error_code=code)


@pytest.mark.parametrize("code", [25, 82])
@pytest.mark.parametrize(
    ("answers", "is_replaced"),
    [
        ([82], True),
        ([25], False),
        ([0], False),
        ([KafkaConnectionError("away"), 16, 14, 82], True),
        ([16, 25], False),
        ([KafkaConnectionError("away")], False),
    ],
)
async def test_a_member_whose_name_is_anothers_does_not_join_again(
    code: int, answers: list[int | Exception], is_replaced: bool
) -> None:
    """It would push out its successor. Its session may just have ended, or a broker may have lost its data: then it joins."""

    async def replaced(consumer: Any) -> bool:
        return await is_taken(consumer)

    lease, coordinator = SessionLease(60.0, replaced), Coordinator()
    client = Client(*answers)
    named = vars(coordinator)
    named |= {"_group_instance_id": "w1", "member_id": "m", "coordinator_id": 1, "group_id": "g", "generation": 3}
    named |= {"ensure_coordinator_known": settle, "coordinator_dead": lambda: None}
    lease.watch(cast("AIOKafkaConsumer", SimpleNamespace(_coordinator=coordinator, _client=client)))
    coordinator.code = code
    asking = asyncio.create_task(send(coordinator, HeartbeatRequest()))
    await asyncio.wait([asking], timeout=60)
    assert set(client.asked) == {("g", 3, "m", "w1")}
    assert asking.done() is not is_replaced
    asking.cancel()


async def test_an_earlier_consumer_of_this_worker_is_not_replaced_by_another_worker() -> None:
    """Its successor has its name by now: no reason to end."""
    asked: list[Any] = []

    async def replaced(consumer: Any) -> bool:
        asked.append(consumer)
        return True

    lease, coordinator = SessionLease(60.0, replaced), Coordinator()
    lease.watch(cast("AIOKafkaConsumer", SimpleNamespace(_coordinator=coordinator)))
    lease.watch(cast("AIOKafkaConsumer", SimpleNamespace(_coordinator=Coordinator())))
    coordinator.code = 25
    async with asyncio.timeout(10):
        await send(coordinator, HeartbeatRequest())
    assert asked == []


class Hooks:
    """Nothing is asked."""

    def __getattr__(self, name: str) -> Any:
        return lambda *given: None


async def test_no_call_begins_while_none_may_and_all_do_afterwards() -> None:
    """They wait in their order; nothing has to come in for them to go on."""
    may = False
    transport = FakeTransport()
    queue: AgentQueue[PendingCall] = AgentQueue(max_concurrency=5, limiter=SlidingWindow(100, 60.0), breaker=Breaker())
    agent = AgentRegistration(id="a", endpoint="http://agent")
    hooks = cast("Any", Hooks())
    caller = Caller(
        agent=agent,
        queue=queue,
        transport=cast("Transport", transport),
        retry=RetryConfig(),
        events=hooks,
        rng=random.Random(1),
        may_begin=lambda: may,
    )
    for number in range(3):
        caller.submit(PendingCall(task_id=f"t{number}", idempotency_key="k", body=b"{}", timeout_s=30.0))
    await settle()
    assert transport.tasks == []
    may = True
    await until(lambda: len(transport.calls) == 3)
    assert transport.tasks == ["t0", "t1", "t2"]
    caller.close()
