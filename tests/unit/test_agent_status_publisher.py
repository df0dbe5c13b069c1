"""What is told of agents, and when: at changes, sparingly, and news of health exactly once."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry

from agents_io.calling.caller import Caller
from agents_io.errors import ServerError
from schemas.codec import decode
from schemas.messages import AgentRegistration, AgentStanding
from streams.agents.agent_status_publisher import REPEAT_MS, AgentStatusPublisher, is_news
from streams.metrics import DispatchMetrics
from streams.rules.records import Output
from tests.support.dispatching import Dispatching
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time


class Rig(Dispatching):
    """A handler with one agent that can be asked by capability, and a keeper whose records come back to its table."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.records: list[AgentStanding] = []
        self.removed: list[bytes | None] = []
        self.news: list[tuple[str, dict[str, Any]]] = []
        self.dialled: dict[str, AgentRegistration] = {}
        self.keeper = self.another()

    def another(self) -> AgentStatusPublisher:
        """A keeper that knows nothing but the topic."""
        return AgentStatusPublisher(
            callers=lambda: [self.handler.callers],
            lookup=self.agents.get,
            dialled=lambda: self.dialled,
            agent_statuses=self.agent_statuses,
            settings=self.settings,
            recorder=self.recorder,
            emit=self.keep,
            metrics=DispatchMetrics(CollectorRegistry()),
            wall_ms=self.wall_ms,
        )

    def keep(self, output: Output) -> None:
        """As the broker would."""
        if output.topic == "standings" and output.value is None:
            self.removed.append(output.key)
        elif output.topic == "standings":
            agent_status = decode(AgentStanding, output.value or b"", output.headers)
            self.records.append(agent_status)
            self.agent_statuses.note(agent_status)
        else:
            event = orjson.loads(output.value or b"")
            self.news.append((event["type"], event["data"]))

    def gateway(self, status: str, why: str = "") -> None:
        """The gateway's record of `a1`, as the worker that holds it, or swept up after it, wrote it."""
        where = {"address": "h:1", "node": "n1", "key": "k", "status": status, "why": why}
        self.register(id="a1", endpoint="gateway://a1", metadata={"gateway": where})
        self.dialled = {"a1": self.agents.known["a1"]}

    def dial(self, status: str, why: str = "") -> None:
        """The same, seen by the keeper as the table tells it."""
        self.gateway(status, why)
        self.keeper.publish("a1", self.handler.callers.get("a1"))

    async def failed(self, *offsets: int) -> None:
        """Calls that fail."""
        for offset in offsets:
            self.transport.script.append(ServerError("500"))
            self.take(offset, metadata={"cache": False})
            await self.result(offset)
            self.keeper.publish_changes()

    @property
    def told(self) -> list[tuple[str, str | None]]:
        """The news in short."""
        return [(kind.removeprefix("agent:"), data.get("reason")) for kind, data in self.news]

    @property
    def caller(self) -> Caller:
        """Of `a1`."""
        return self.handler.callers["a1"]


async def test_told_when_something_moved_and_not_otherwise() -> None:
    """One record for what is new; none for a look that finds the same; again after a while if it goes on working."""
    rig = Rig()
    rig.take(0, metadata={"cache": False})
    await rig.result(0)
    for _ in range(5):
        rig.keeper.publish_changes()
    [told] = rig.records
    assert (told.agent_id, told.circuit, told.healthy, told.load, told.confidence) == ("a1", "closed", True, 0, 0.9)
    assert told.concurrency == 10
    rig.transport.gate.clear()
    for offset in range(1, 6):
        rig.take(offset, metadata={"cache": False})
    await until(lambda: len(rig.transport.calls) == 6)
    rig.keeper.publish_changes()
    assert [agent_status.load for agent_status in rig.records] == [0, 5]
    rig.skew_ms += REPEAT_MS
    rig.keeper.publish_changes()
    assert len(rig.records) == 2, "it did nothing since"
    rig.transport.gate.set()
    await rig.result(5)
    rig.keeper.publish_changes()
    assert rig.records[-1].load == 0
    assert rig.news == []
    rig.handler.close()


async def test_what_its_confidence_is_worth_is_told_once_it_is_known_and_when_it_moves() -> None:
    """Beside what the agent says, which stays the same."""
    rig = Rig()
    for offset, worth in enumerate((None, 0.8, 0.2, 0.2)):
        rig.worth = lambda confidence, worth=worth: worth  # type: ignore[misc]
        rig.take(offset, metadata={"cache": False})
        await rig.result(offset)
        rig.keeper.publish_changes()
    told = [(agent_status.confidence, agent_status.calibrated_confidence) for agent_status in rig.records]
    assert told == [(0.9, None), (0.9, 0.8), (0.9, 0.584)]
    first = rig.records[1]
    assert not is_news(first, first.model_copy(update={"calibrated_confidence": 0.68})), "not worth a record"
    assert is_news(first, first.model_copy(update={"calibrated_confidence": 0.584}))
    rig.handler.close()


async def test_a_circuit_is_told_with_its_end() -> None:
    """Open until then; half open when the wait is over, without any call."""
    rig = Rig(breaker={"failure_threshold": 1, "reset_timeout": 200}, health={"eject_after": 0})
    rig.transport.script.append(ServerError("500"))
    rig.take(0, metadata={"retries": 0})
    await rig.result(0)
    rig.keeper.publish("a1", rig.caller)
    assert rig.records[-1].circuit == "open"
    assert 0 < (rig.records[-1].open_until or 0) - rig.records[-1].at <= 200
    await asyncio.sleep(0.25)
    rig.keeper.publish_changes()
    assert (rig.records[-1].circuit, rig.records[-1].open_until) == ("half_open", None)
    rig.handler.close()


async def test_an_ejection_is_news_twice() -> None:
    """Unhealthy when calls failed in a row, healthy when its time is over; each told once."""
    rig = Rig(breaker={"failure_threshold": 99}, health={"eject_after": 2, "eject_time": 150}, retry={"max_retries": 0})
    rig.transport.script.extend([ServerError("500"), ServerError("500")])
    for offset in range(2):
        rig.take(offset)
        await rig.result(offset)
    for _ in range(3):
        rig.keeper.publish_changes()
    [(kind, data)] = rig.news
    assert (kind, data["agentId"], data["reason"]) == ("agent:unhealthy", "a1", "calls")
    assert rig.records[-1].ejected_until is not None
    await asyncio.sleep(0.2)
    for _ in range(3):
        rig.keeper.publish_changes()
    assert [kind for kind, _ in rig.news] == ["agent:unhealthy", "agent:healthy"]
    rig.handler.close()


async def test_an_agent_that_is_busy_is_not_sick() -> None:
    """One that handles one request at a time: its health page waits behind the calls. What it says itself counts always."""
    rig = Rig()

    def check(well: bool | None, times: int = 5) -> None:
        for _ in range(times):
            rig.keeper.checked("a1", rig.caller, well)

    rig.take(0, metadata={"cache": False})
    await rig.result(0)
    check(None)
    assert rig.news == [], "it has answered a call lately"
    await asyncio.sleep(600)
    rig.transport.gate.clear()
    rig.take(1, metadata={"cache": False, "timeout": 100_000})
    await until(lambda: len(rig.transport.calls) == 2)
    check(None)
    assert rig.news == [], "a call is under way"
    check(False, 3)
    assert [kind for kind, _ in rig.news] == ["agent:unhealthy"]
    rig.transport.gate.set()
    await rig.result(1)
    check(None, 2)
    assert [kind for kind, _ in rig.news] == ["agent:unhealthy", "agent:healthy"]
    await asyncio.sleep(600)
    check(None, 3)
    assert [kind for kind, _ in rig.news][2:] == ["agent:unhealthy"], "it does nothing, and says nothing"
    rig.handler.close()


async def test_checks_are_news_at_the_change_also_after_a_move() -> None:
    """Three failed checks, then the partition moves: the next owner says nothing until two have passed."""
    rig = Rig()
    for well in (True, False, False, False, False):
        rig.keeper.checked("a1", None, well)
    assert rig.news == [("agent:unhealthy", {"agentId": "a1", "reason": "checks"})]
    rig.keeper = rig.another()
    for well in (False, True):
        rig.keeper.checked("a1", None, well)
    assert len(rig.news) == 1
    assert not rig.agent_statuses.get("a1").healthy  # type: ignore[union-attr]
    rig.keeper.checked("a1", None, True)
    assert [kind for kind, _ in rig.news] == ["agent:unhealthy", "agent:healthy"]
    assert rig.agent_statuses.get("a1").healthy  # type: ignore[union-attr]
    rig.handler.close()


EJECTING = {
    "breaker": {"failure_threshold": 99},
    "health": {"eject_after": 2, "eject_time": 200},
    "retry": {"max_retries": 0},
}


async def test_one_incident_of_an_agent_that_dials_in_is_told_once() -> None:
    """Its calls fail and then its connection is lost, or the other way round: ill once, well once, when all of it is over."""
    rig = Rig(**EJECTING)
    rig.dial("healthy")
    assert rig.told == [("healthy", "connected")]
    rig.news.clear()
    await rig.failed(0, 1)
    rig.dial("away", "its heartbeats stopped")
    assert rig.records[-1].reason == "connection"
    await asyncio.sleep(0.25)
    rig.keeper.publish_changes()
    assert rig.told == [("unhealthy", "calls")]
    rig.dial("healthy")
    rig.keeper.publish_changes()
    assert rig.told == [("unhealthy", "calls"), ("healthy", "connected")]
    rig.news.clear()
    rig.dial("away", "it hung up")
    await rig.failed(2, 3)
    rig.dial("healthy")
    assert rig.caller.stats.ejection.out(asyncio.get_running_loop().time()), "still out when it was back"
    assert rig.told == [("unhealthy", "it hung up")]
    await asyncio.sleep(0.45)
    rig.keeper.publish_changes()
    assert rig.told == [("unhealthy", "it hung up"), ("healthy", None)]
    assert {data["node"] for _, data in rig.news} == {"n1"}
    rig.handler.close()


async def test_who_came_or_went_while_the_partition_was_elsewhere_is_published_once() -> None:
    """Also of agents that were never called; one that an operator registered and that never came is no news."""
    rig = Rig()
    rig.register(id="a1", endpoint="gateway://a1")
    rig.dialled = {"a1": rig.agents.known["a1"]}
    rig.keeper.publish_changes()
    assert rig.news == []
    for status, news in (("healthy", ("healthy", "connected")), ("away", ("unhealthy", "its worker is gone"))):
        rig.gateway(status, "its worker is gone" if status == "away" else "")
        for _ in range(2):
            rig.keeper = rig.another()
            for _ in range(2):
                rig.keeper.publish_changes()
        assert rig.told == [news]
        rig.news.clear()
    rig.handler.close()


async def test_an_agent_that_is_gone_is_forgotten() -> None:
    """A tombstone; and what is known of partitions that moved away is dropped."""
    rig = Rig()
    rig.take(0)
    await rig.result(0)
    rig.keeper.publish_changes()
    rig.keeper.gone("a1")
    assert rig.removed == [b"a1"]
    rig.keeper.publish_changes()
    assert "a1" in rig.keeper.published
    rig.handler.callers.clear()
    rig.keeper.publish_changes()
    assert rig.keeper.published == {}


async def test_limits_of_a_registration_are_kept_by_the_caller() -> None:
    """Options of a registration reach the guards, at first and when they change."""
    rig = Rig()
    rig.register(
        id="a1",
        endpoint="http://h",
        limits={"adaptive": True, "maxConcurrency": 4},
        breaker={"failureRate": 0.5, "minimumCalls": 3, "slowRate": 0.5, "slowCallDuration": 100},
    )
    rig.take(0)
    await rig.result(0)
    config = rig.caller.queue.breaker.config
    assert (config.failure_rate, config.minimum_calls, config.slow_rate, config.slow_call_s) == (0.5, 3, 0.5, 0.1)
    assert rig.caller.queue.adaptive is not None
    assert rig.caller.queue.adaptive.ceiling == 4
    forced = AgentRegistration.model_validate({"id": "a1", "endpoint": "http://h", "breaker": {"mode": "open"}})
    rig.agents.known["a1"] = forced
    rig.handler.agent_changed("a1", forced)
    assert rig.caller.queue.adaptive is None
    rig.take(1, metadata={"cache": False})
    await settle()
    assert rig.handler.explain("tasks", 1)["reason"] == "circuit_open"  # type: ignore[index]
    assert len(rig.transport.calls) == 1
    rig.keeper.publish_changes()
    assert rig.records[-1].circuit == "open"
    freed = AgentRegistration.model_validate({"id": "a1", "endpoint": "http://h", "breaker": {"mode": "auto"}})
    rig.agents.known["a1"] = freed
    rig.handler.agent_changed("a1", freed)
    rig.take(2, metadata={"cache": False})
    for offset in (1, 2):
        assert (await rig.result(offset))["status"] == "success"
    rig.keeper.publish_changes()
    assert rig.records[-1].circuit == "closed"
    rig.handler.close()


async def test_guards_move_with_their_partition() -> None:
    """Ejection, adaptive concurrency and the shares of calls are read back; an old snapshot without them still is."""
    fields = {"breaker": {"failure_threshold": 99, "failure_rate": 0.9}, "health": {"eject_after": 2}}
    rig = Rig(retry={"max_retries": 0}, **fields)
    agent = {"id": "a1", "endpoint": "http://h", "limits": {"adaptive": True, "maxConcurrency": 10}}
    rig.register(**agent)
    rig.transport.script.extend([ServerError("500"), ServerError("500")])
    for offset in range(2):
        rig.take(offset)
        await rig.result(offset)
    kept = [output.value or b"" for output in rig.handler.changes()]
    rig.handler.close()
    old = []
    for value in kept:
        state = orjson.loads(value)
        if "guard" in state:
            assert state["guard"]["concurrency"] < 10
            state["guard"].pop("concurrency")
            state["guard"].pop("health")
            state["guard"]["breaker"].pop("rates")
        old.append(orjson.dumps(state))
    for values, moved in ((kept, True), (old, False)):
        other = Dispatching(0, 1, values, **fields)
        other.register(**agent)
        other.take(0, id="fresh")
        await other.result(0)
        caller = other.handler.callers["a1"]
        now = asyncio.get_running_loop().time()
        assert caller.stats.ejection.out(now) is moved
        rates = caller.queue.breaker.snapshot(now)["rates"]
        assert sum(failures for _, _, failures, _ in rates) == (2 if moved else 0)
        assert caller.queue.adaptive is not None
        assert (caller.queue.adaptive.exact < 10) is moved
        other.handler.close()
