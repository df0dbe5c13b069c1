"""How long a worker takes its partitions for its own, and that no call begins afterwards."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer

from agents_io.caller import Caller
from agents_io.pending_call import PendingCall
from agents_io.rules.agent_queue import AgentQueue
from agents_io.rules.breaker import Breaker
from agents_io.rules.limiter import SlidingWindow
from agents_io.rules.retry import RetryConfig
from agents_io.transport import Transport
from schemas.messages import AgentRegistration
from streams.engine.lease import Lease
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


def watched(session_s: float) -> tuple[Lease, Coordinator]:
    """A lease that a coordinator renews."""
    lease, coordinator = Lease(session_s), Coordinator()
    lease.watch(cast("AIOKafkaConsumer", SimpleNamespace(_coordinator=coordinator)))
    return lease, coordinator


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
    answer = await cast("Any", coordinator)._send_req(request_type())
    assert answer.error_code == code
    assert lease.valid(now) is renewed


async def test_it_counts_from_the_request_not_from_the_answer() -> None:
    """A worker that is frozen in between finds an old answer when it wakes."""
    lease, coordinator = watched(0.05)
    coordinator.wait_s = 0.1
    await cast("Any", coordinator)._send_req(HeartbeatRequest())
    assert not lease.valid(asyncio.get_running_loop().time())


async def test_another_consumer_begins_without_one() -> None:
    """What the coordinator said to the one before is void. Without a coordinator there is nothing to wait for."""
    lease, coordinator = watched(60.0)
    await cast("Any", coordinator)._send_req(HeartbeatRequest())
    now = asyncio.get_running_loop().time()
    assert lease.valid(now)
    lease.watch(cast("AIOKafkaConsumer", SimpleNamespace(_coordinator=Coordinator())))
    assert not lease.valid(now)
    alone = Lease(1.0)
    alone.watch(cast("AIOKafkaConsumer", SimpleNamespace(_coordinator=None)))
    assert alone.valid(now)


@pytest.mark.parametrize("code", [25, 82])
async def test_a_member_that_is_pushed_out_twice_is_told(code: int) -> None:
    """Each time its session had not ended. Once may be a broker that lost its data."""
    told: list[int] = []
    lease, coordinator = Lease(60.0, lambda: bool(told.append(1))), Coordinator()
    lease.watch(cast("AIOKafkaConsumer", SimpleNamespace(_coordinator=coordinator)))
    ask = cast("Any", coordinator)._send_req
    coordinator.code = code
    await ask(HeartbeatRequest())
    await ask(HeartbeatRequest())
    assert told == [], "it was none yet"
    for times in (0, 1):
        coordinator.code = 0
        await ask(SyncGroupRequest())
        coordinator.code = code
        await ask(HeartbeatRequest())
        assert len(told) == times


class Hooks:
    """Nothing is asked."""

    def __getattr__(self, name: str) -> Any:
        return lambda *given: None


async def test_no_call_begins_while_none_may_and_all_do_afterwards() -> None:
    """They wait in their order; nothing has to come in for them to go on."""
    may = False
    transport = FakeTransport()
    queue: AgentQueue[PendingCall] = AgentQueue(5, SlidingWindow(100, 60.0), Breaker())
    agent = AgentRegistration(id="a", endpoint="http://agent")
    hooks = cast("Any", Hooks())
    caller = Caller(
        agent, queue, cast("Transport", transport), RetryConfig(), hooks, random.Random(1), may_begin=lambda: may
    )
    for number in range(3):
        caller.submit(PendingCall(task_id=f"t{number}", idempotency_key="k", body=b"{}", timeout_s=30.0))
    await settle()
    assert transport.tasks == []
    may = True
    await until(lambda: len(transport.calls) == 3)
    assert transport.tasks == ["t0", "t1", "t2"]
    caller.close()
