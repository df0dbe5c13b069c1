"""Two agents compared on the live page, and what their confidence is worth as a curve."""

from __future__ import annotations

import time
from typing import Any

import pytest
from playwright.async_api import expect

from schemas.times import format_time
from tests.browser.conftest import SHOTS, Look, agent
from tests.browser.test_page import HOSTILE, serious
from tests.support.fake_worker import FakeWorker, Refusal

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]
MINUTE_MS = 60_000
NONE = "\N{EN DASH}"


def figures(name: str, executions: int, **more: Any) -> dict[str, Any]:
    return {"agentId": name, "totalExecutions": executions, "successRate": 0.973, "avgConfidence": 0.87} | more


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
async def test_two_agents_are_compared_and_the_address_says_so(
    worker: FakeWorker, look: Look, width: int, scheme: str
) -> None:
    """Chosen from a list; figures of only one have a dash for the other; a link to it shows the same; none ends it."""
    minute = time.time_ns() // 1_000_000 // MINUTE_MS * MINUTE_MS
    worker.agents = [agent("alpha"), agent(HOSTILE), agent("a&with=b,c")]
    worker.windows = [
        {"interval": "minute", "windowStart": format_time(minute - k * MINUTE_MS), "count": 30, "avgConfidence": 0.8,
         "variance": 0.01, "successRate": 0.95, "final": True, "avgExecutionTime": 5.0}
        for k in range(5, -1, -1)
    ]  # fmt: skip
    bins = [
        {"confidence": said, "successRate": true, "interval": [true - 0.1, min(1.0, true + 0.1)], "count": count}
        for said, true, count in ((0.35, 0.5, 10), (0.75, 0.6, 0), (0.95, 0.8, 30))
    ]
    calibration = {"count": 40, "gap": 0.12, "calibrationError": 0.13, "bins": bins}
    worker.stats_of["alpha"] = figures("alpha", 4211, calibration=calibration)
    worker.stats_of["a&with=b,c"] = figures("a&with=b,c", 17, cost={"count": 17, "sum": 1.5, "mean": 0.09, "p95": 0.1})
    page = await look(f"{worker.url}/#agent=alpha", width=width, scheme=scheme)
    detail = page.get_by_role("complementary")
    await detail.get_by_label("Compare with").select_option("a&with=b,c")
    table = detail.get_by_role("group", name="Figures of alpha and a&with=b,c")
    await expect(table.get_by_role("row", name="Executions 4,211 17")).to_be_visible()
    await expect(table.get_by_role("row", name=f"Cost {NONE} 1.5")).to_be_visible()
    await expect(table.get_by_role("row", name=f"Outcomes known 40 {NONE}")).to_be_visible()
    await expect(detail.locator("figure.chart")).to_have_count(3)
    curve = detail.get_by_role("img", name="What came true by what was said")
    await expect(curve.locator("circle")).to_have_count(2)  # nobody said 0.75
    await expect(detail.get_by_role("row", name="0.95 80.0 %")).to_be_visible()
    assert await serious(page) == []
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.screenshot(path=SHOTS / f"comparison-{width}.png")
    link = page.url
    await detail.get_by_label("Compare with").select_option(HOSTILE)
    worker.stats_of[HOSTILE] = Refusal(503, "no worker of the role stats answers")
    await expect(detail.get_by_role("heading", name="Confidence of <img")).to_be_visible()
    await detail.get_by_label("Compare with").select_option("no other agent")
    await expect(detail.locator("figure.chart")).to_have_count(2)
    assert page.url.endswith("#agent=alpha")
    again = await look(link, width=width)
    await expect(again.get_by_role("row", name="Executions 4,211 17")).to_be_visible()


async def test_an_agent_without_executions_and_one_that_is_gone(worker: FakeWorker, look: Look) -> None:
    """Dashes, not an error; a link to an agent that is no longer registered still compares what its figures say."""
    worker.agents = [agent("alpha"), agent("beta")]
    worker.stats_of["alpha"] = figures("alpha", 5)
    page = await look(f"{worker.url}/#agent=alpha&with=gone")
    detail = page.get_by_role("complementary")
    await expect(detail.get_by_role("row", name=f"Executions 5 {NONE}")).to_be_visible()
    await expect(detail.get_by_label("Compare with")).to_have_value("gone")
    await expect(detail.get_by_text("no execution")).to_have_count(0)
