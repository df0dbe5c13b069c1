"""Who is asked, how often, how many at once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from agents_io.errors import CallTimeout, ConnectionFailed, ServerError, Unsupported
from agents_io.transport import Answer, Call
from schemas.messages import AgentRegistration
from streams.agents.health_checks import HealthChecks
from streams.settings import HealthSettings
from tests.support.wait import until

pytestmark = pytest.mark.virtual_time


class Asked:
    """Agents that answer as told, slowly; counts how many were asked at once."""

    def __init__(self) -> None:
        self.says: dict[str, bool | BaseException] = {}
        self.asked: Counter[str] = Counter()
        self.now = self.most = 0
        self.delay_s = 0.01

    async def call(self, agent: AgentRegistration, call: Call) -> Answer:
        """Never."""
        raise AssertionError("a check is no call")

    async def check_health(self, agent: AgentRegistration, timeout_s: float) -> None:
        """As told; well by default."""
        self.asked[agent.id] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.now -= 1
        end = self.says.get(agent.id, True)
        if isinstance(end, BaseException):
            raise end
        if not end:
            raise ServerError("ill")

    async def close(self) -> None:
        """Nothing to release."""


class Rig:
    """Checks every 50 ms."""

    def __init__(self, *names: str, **fields: Any) -> None:
        self.transport = Asked()
        self.here = {name: AgentRegistration(id=name, endpoint=f"http://{name}") for name in names}
        self.told: list[tuple[str, bool | None]] = []
        self.not_checked: list[str] = []
        settings = HealthSettings.model_validate({"check_interval": 50, "check_timeout": 100} | fields)
        self.checks = HealthChecks(
            agents=lambda: self.here,
            transport=self.transport,
            settings=settings,
            rng=random.Random(1),
            on_health=lambda name, well: self.told.append((name, well)),
            on_not_checked=self.not_checked.append,
        )
        self.task = asyncio.create_task(self.checks.run())

    async def stop(self) -> None:
        """No check is left running."""
        self.task.cancel()
        await asyncio.wait([self.task])
        await asyncio.sleep(0)
        assert self.transport.now == 0


async def test_everyone_is_asked_again_and_again() -> None:
    """A wrong answer, an error and a fault of our own all mean: not well. No answer in time is said to be that."""
    rig = Rig("well", "ill", "gone", "slow", "late", "broken")
    rig.transport.says = {
        "ill": False,
        "gone": ConnectionFailed("no"),
        "broken": KeyError("bug"),
        "slow": TimeoutError(),
        "late": CallTimeout("no answer"),
    }
    await until(lambda: min(rig.transport.asked[name] for name in rig.here) >= 3, 20)
    assert {well for name, well in rig.told if name == "well"} == {True}
    for name in ("ill", "gone", "broken"):
        assert {well for told, well in rig.told if told == name} == {False}
    for name in ("slow", "late"):
        assert {well for told, well in rig.told if told == name} == {None}
    await rig.stop()


async def test_a_check_has_its_time() -> None:
    """An agent that hangs gives no answer, and keeps nobody else waiting."""
    rig = Rig("hangs")
    rig.transport.delay_s = 60.0
    await until(lambda: ("hangs", None) in rig.told, 20)
    await rig.stop()


async def test_who_cannot_be_asked_is_left_alone_until_registered_anew() -> None:
    """Nothing is said of it; another registration may know a way."""
    rig = Rig("mute")
    rig.transport.says["mute"] = Unsupported("no health here")
    await until(lambda: rig.not_checked == ["mute"])
    await asyncio.sleep(0.2)
    assert (rig.transport.asked["mute"], rig.told) == (1, [])
    rig.transport.says.clear()
    rig.here = {"mute": AgentRegistration(id="mute", endpoint="http://elsewhere")}
    await until(lambda: ("mute", True) in rig.told, 20)
    await rig.stop()


async def test_who_moved_away_is_not_asked() -> None:
    """From the next look on; what its checks had said is dropped."""
    rig = Rig("a", "b")
    await until(lambda: rig.transport.asked["b"] >= 1, 20)
    rig.here = {"a": rig.here["a"]}
    await until(lambda: rig.not_checked == ["b"], 20)
    asked, others = rig.transport.asked["b"], rig.transport.asked["a"]
    await until(lambda: rig.transport.asked["a"] >= others + 3, 20)
    assert rig.transport.asked["b"] <= asked + 1
    await rig.stop()


async def test_a_thousand_agents_are_asked_a_few_at_once() -> None:
    """Within bounds, and each gets its turn."""
    rig = Rig(*(f"a{n}" for n in range(1000)), check_concurrency=8, check_interval=1000)
    rig.transport.delay_s = 0.0
    await until(lambda: len(rig.transport.asked) == 1000, 90)
    assert rig.transport.most <= 8
    await rig.stop()


async def test_off_means_nobody_is_asked() -> None:
    """The loop ends at once."""
    rig = Rig("a", check_interval=0)
    await asyncio.wait_for(rig.task, 5)
    assert not rig.transport.asked
