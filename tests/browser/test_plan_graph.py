"""A plan drawn as a graph on the live page."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import SHOTS, Look
from tests.browser.test_page import HOSTILE, serious
from tests.support.fake_worker import FakeWorker

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


def step(name: str, status: str, *needs: str, **more: Any) -> dict[str, Any]:
    return {"taskId": name, "status": status} | ({"dependencies": list(needs)} if needs else {}) | more


async def columns(page: Page) -> dict[str, float]:
    """Where each box begins."""
    boxes = page.locator("g.node rect")
    names = [await node.get_attribute("data-step") for node in await page.locator("g.node").all()]
    return {
        str(name): float(await box.get_attribute("x") or 0) for name, box in zip(names, await boxes.all(), strict=True)
    }


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
async def test_steps_stand_right_of_what_they_need(worker: FakeWorker, look: Look, width: int, scheme: str) -> None:
    """A diamond under way; the table says the same; each step leads to its task."""
    failed = {"error": {"code": "timeout", "message": "late"}, "agentId": "alpha", "executionTime": 30_000.0}
    worker.plan = {
        "planId": "p1", "kind": "dag", "status": "running",
        "steps": [
            step("fetch", "success", confidence=0.9, agentId="alpha", executionTime=12.0),
            step("left", "running", "fetch"),
            step("right", "failure", "fetch", **failed),
            step("join", "waiting", "left", "right"),
        ],
    }  # fmt: skip
    page = await look(f"{worker.url}/#plan=p1", width=width, scheme=scheme)
    detail = page.locator("aside.detail")
    await expect(detail.locator("g.node")).to_have_count(4)
    await expect(detail.locator("path.edge")).to_have_count(4)
    found = await columns(page)
    assert found["fetch"] < found["left"] == found["right"] < found["join"]
    await expect(detail.get_by_role("img", name="4 steps, 4 edges")).to_be_visible()
    await expect(detail.locator("g.node.running title")).to_have_text("left: running")
    await expect(detail.get_by_role("row").filter(has_text="right")).to_contain_text("timeout: late")
    assert await serious(page) == []
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.screenshot(path=SHOTS / f"plan-{width}.png")
    worker.tasks["p1#3"] = {"taskId": "p1#3", "status": "running", "result": None, "events": []}
    await detail.get_by_role("link", name="join").click()
    await expect(page.locator("#detail-title")).to_contain_text("p1#3")


async def test_a_plan_that_is_over_and_one_too_large_to_draw(worker: FakeWorker, look: Look) -> None:
    """Of a sequence the order says what each step needed; a hostile name is text, a circle ends."""
    steps = [{"taskId": name, "status": "success", "executionTime": 1.0} for name in ("a", HOSTILE, "c")]
    worker.plan = {"planId": "p2", "kind": "sequential", "status": "success", "results": steps}
    page = await look(f"{worker.url}/#plan=p2")
    await expect(page.locator("path.edge")).to_have_count(2)
    assert await page.title() == "Parallax Streams"
    worker.plan = {
        "planId": "p3",
        "kind": "dag",
        "status": "running",
        "steps": [step("a", "waiting", "b"), step("b", "waiting", "a")],
    }
    await page.goto(f"{worker.url}/#plan=p3")
    await expect(page.locator("g.node")).to_have_count(2)
    worker.plan = {
        "planId": "p4",
        "kind": "parallel",
        "status": "running",
        "steps": [step(f"s{n}", "waiting") for n in range(80)],
    }
    await page.goto(f"{worker.url}/#plan=p4")
    await expect(page.locator("aside.detail")).to_contain_text("80 steps are too many to draw.")
    await expect(page.locator("aside.detail tbody tr")).to_have_count(80)
