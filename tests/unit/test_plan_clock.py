"""Deadlines ring once, in their order, and a fault in one harms no other."""

from __future__ import annotations

import asyncio

import pytest

from streams.plans.clock import PlanClock
from tests.support.memory import held
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time


def wall_ms() -> int:
    """Now, by the loop: its time is not the machine's."""
    return 1_800_000_000_000 + int(asyncio.get_running_loop().time() * 1000)


async def test_the_earliest_that_was_set_rings_and_says_when_again() -> None:
    """Later requests change nothing; what is over is silent."""
    rung: list[str] = []
    now = wall_ms()

    def ring(name: str, at_ms: int) -> int | None:
        assert at_ms >= now
        rung.append(name)
        return now + 60 if rung.count("a") == 1 and name == "a" else None

    clock = PlanClock(wall_ms, ring)
    for name, after in (("c", 100), ("a", 30), ("b", 90_000), ("a", 10), ("a", 50), ("gone", 20)):
        clock.set(name, now + after)
    clock.forget("gone")
    clock.set("b", now + 20)
    await until(lambda: len(rung) == 4)
    assert rung == ["a", "b", "a", "c"]
    clock.stop()
    clock.set("d", now)
    await settle()
    assert len(rung) == 4


async def test_a_fault_costs_one_plan_its_deadline() -> None:
    """The others ring."""
    rung: list[str] = []

    def ring(name: str, at_ms: int) -> int | None:
        if name == "ill":
            raise KeyError(name)
        rung.append(name)
        return None

    clock = PlanClock(wall_ms, ring)
    for number, name in enumerate(("ill", "well")):
        clock.set(name, wall_ms() + number)
    await until(lambda: rung == ["well"])


async def test_deadlines_of_plans_that_are_over_do_not_pile_up() -> None:
    """Ten thousand that end early leave a thousand."""
    clock = PlanClock(wall_ms, lambda name, at_ms: None)
    for number in range(10_000):
        clock.set(f"p{number}", wall_ms() + 10**9)
        clock.forget(f"p{number}")
    assert len(held(clock, tuple)) <= 1001 + 10
    clock.stop()
