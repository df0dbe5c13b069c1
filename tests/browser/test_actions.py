"""The live page's actions: cancel, retry and replay, for the holder of an operate token alone, each after a second question."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Page, expect

from schemas.times import format_time
from streams.live.access import WebAccess
from streams.settings_parts import WebAuthSettings
from tests.browser.conftest import NO_FRAMES, SHOTS, Look, agent
from tests.browser.test_page import HOSTILE, serious
from tests.support.fake_worker import FakeWorker, Refusal, event

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]
VIEW, OPERATE = "view-token-0123456789", "operate-token-0123456789"
WIDTHS = pytest.mark.parametrize("width", [1280, 390])
ORIGIN = "parallax.tasks/0/7"
ASK = """
async (token) => {
  const headers = { "Content-Type": "application/json", ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  return (await fetch("/api/v1/tasks/t1/cancel", { method: "POST", body: "{}", headers })).status;
}
"""


def task(status: str, **more: Any) -> dict[str, Any]:
    """As `/api/v1/tasks/{id}` shows it."""
    return {"taskId": "t1", "status": status, "result": None, "events": [event(1, "task:started", taskId="t1")]} | more


def failure() -> dict[str, Any]:
    error = {"code": "http_5xx", "message": "answered 500", "retryable": True, "agentId": "alpha"}
    return {"taskId": "t1", "status": "failure", "agentId": "alpha", "error": error, "executionTime": 3.0, "retries": 2}


@pytest.fixture
async def worker(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeWorker]:
    """A worker that asks for tokens."""
    monkeypatch.setenv("VIEW", VIEW)
    monkeypatch.setenv("OPERATE", OPERATE)
    made = FakeWorker()
    made.access = WebAccess(
        WebAuthSettings.model_validate({"view_tokens": "env:VIEW", "operate_tokens": "env:OPERATE"})
    )
    async with made:
        made.agents = [agent("alpha")]
        yield made


async def logged_in(look: Look, worker: FakeWorker, where: str, token: str = OPERATE, **options: Any) -> Page:
    page = await look(f"{worker.url}/#{where}", **options)
    field = page.get_by_label("Token", exact=True)
    await field.fill(token)
    await field.press("Enter")
    await expect(page.locator("aside.detail")).to_be_visible()
    return page


def button(page: Page, name: str) -> Any:
    return page.locator("aside.detail").get_by_role("button", name=name, exact=True)


@WIDTHS
async def test_a_task_that_waits_is_cancelled_after_a_second_question(
    worker: FakeWorker, look: Look, width: int
) -> None:
    """The keyboard alone is enough; Escape takes the question back and leaves the detail open; what it waits for is shown."""
    now = format_time(1_795_354_620_123)
    waiting = {
        "reason": "circuit_open",
        "agentId": "alpha",
        "since": now,
        "until": now,
        "attempts": 1,
        "maxAttempts": 3,
    }
    worker.tasks["t1"] = task("running", waiting=waiting)
    worker.action = {"taskId": "t1", "asked": True}
    page = await logged_in(look, worker, "task=t1", width=width)
    detail = page.locator("aside.detail")
    await expect(detail).to_contain_text("circuit open")
    await expect(detail).to_contain_text("1 of 3")
    await button(page, "Cancel").press("Enter")
    await expect(button(page, "Yes, cancel")).to_be_focused()
    assert await serious(page) == []
    await page.screenshot(path=SHOTS / f"cancel-{width}.png")
    await page.keyboard.press("Escape")
    await expect(button(page, "Cancel")).to_be_focused()
    await button(page, "Cancel").click()
    await button(page, "No").click()
    assert worker.acted == []
    await button(page, "Cancel").click()
    await button(page, "Yes, cancel").click()
    await expect(detail.get_by_text("Asked. The result shows")).to_be_focused()
    assert worker.acted == [("/api/v1/tasks/t1/cancel", {"reason": "cancelled on the live page"})]
    assert dict(worker.asked[-1][1]).get("Authorization") == f"Bearer {OPERATE}"
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@WIDTHS
async def test_a_task_that_failed_is_retried_and_the_new_one_linked(worker: FakeWorker, look: Look, width: int) -> None:
    """A refusal is shown in place; the second try carries the same new id, for the first may have come through."""
    worker.tasks["t1"] = task("failure", result=failure())
    worker.action = Refusal(504, "not done within 30 s")
    page = await logged_in(look, worker, "task=t1", width=width)
    await button(page, "Retry").click()
    await button(page, "Yes, retry").click()
    await expect(page.locator("aside.detail")).to_contain_text("Not done within 30 s.")
    worker.action = {"taskId": "t1-again", "retryOf": "t1"}
    await button(page, "Retry").click()
    await button(page, "Yes, retry").click()
    await expect(page.locator("aside.detail .notice").filter(has_text="Not done")).to_have_count(0)
    (path, first), (_, second) = worker.acted
    assert (path, first) == ("/api/v1/tasks/t1/retry", second)
    assert len(first["id"]) == 32
    assert first["since"] == "24h"
    assert await serious(page) == []
    await page.screenshot(path=SHOTS / f"retry-{width}.png")
    await page.get_by_role("link", name="t1-again").click()
    await expect(page.locator("#detail-title")).to_contain_text("t1-again")


@WIDTHS
async def test_a_dead_letter_is_shown_and_replayed(worker: FakeWorker, look: Look, width: int) -> None:
    place = "dlq.parallax.tasks/0/3"
    worker.letters[ORIGIN] = {
        "place": place, "from": ORIGIN, "reason": "id: missing", "stage": "validate", "bytes": 9, "replayed": 0,
        "valueIs": "json", "value": {"id": ""},
    }  # fmt: skip
    worker.action = {"place": place, "to": "parallax.tasks", "count": 1}
    page = await logged_in(look, worker, "letter=" + ORIGIN.replace("/", "%2F"), width=width)
    detail = page.locator("aside.detail")
    await expect(detail).to_contain_text(place)
    await expect(detail).to_contain_text("id: missing")
    await expect(detail.get_by_label("Value of the dead letter")).to_contain_text('"id": ""')
    await button(page, "Replay").click()
    assert await serious(page) == []
    await page.screenshot(path=SHOTS / f"replay-{width}.png")
    await button(page, "Yes, replay").click()
    await expect(detail).to_contain_text("Sent to parallax.tasks.")
    assert worker.acted == [(f"/api/v1/dead-letters/{ORIGIN}/replay", {})]
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@WIDTHS
async def test_dead_letters_are_listed_newest_first_and_lead_to_each(
    worker: FakeWorker, look: Look, width: int
) -> None:
    """Also one that nobody watched arrive; a reason is text, however it looks."""
    places = [f"dlq.parallax.tasks/0/{n}" for n in (9, 8)]
    worker.letter_list = [
        {"place": places[0], "from": ORIGIN, "reason": HOSTILE, "time": "2026-11-30T01:02:03.000Z"},
        {"place": places[1], "from": None, "reason": None, "time": "2026-11-30T01:02:02.000Z"},
    ]
    worker.letters[places[0]] = {
        "place": places[0], "from": ORIGIN, "reason": HOSTILE, "stage": "validate", "bytes": 9, "replayed": 0,
        "valueIs": "json", "value": 1,
    }  # fmt: skip
    worker.action = {"place": places[0], "to": "parallax.tasks", "count": 1}
    page = await logged_in(look, worker, "letters=recent", width=width)
    detail = page.locator("aside.detail")
    await page.keyboard.press("Escape")
    await expect(detail).to_have_count(0)
    await page.get_by_role("link", name="Dead letters").click()
    rows = detail.get_by_role("row")
    await expect(rows).to_have_count(3)
    await expect(rows.nth(1)).to_contain_text(HOSTILE)
    await expect(rows.nth(2)).to_contain_text(places[1])
    assert await serious(page) == []
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.screenshot(path=SHOTS / f"letters-{width}.png")
    await rows.nth(1).get_by_role("link").click()
    await button(page, "Replay").click()
    await expect(detail).to_contain_text(f"back to {ORIGIN.split('/')[0]}?")
    await button(page, "Yes, replay").click()
    await expect(detail).to_contain_text("Sent to parallax.tasks.")
    assert worker.acted == [(f"/api/v1/dead-letters/{places[0]}/replay", {})]


async def test_the_keyboard_is_heard_from_the_moment_something_is_seen(worker: FakeWorker, look: Look) -> None:
    """However late the next frame is: Escape first takes back the question, then closes the detail; never both at once."""
    worker.tasks["t1"] = task("running")
    page = await logged_in(look, worker, "task=t1", before=NO_FRAMES)
    await expect(page.locator("#detail-title")).to_be_focused()
    await button(page, "Cancel").click()
    await expect(button(page, "Yes, cancel")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(button(page, "Cancel")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator("aside.detail")).to_have_count(0)


@WIDTHS
async def test_a_plan_under_way_is_cancelled_and_one_that_is_over_is_not_offered(
    worker: FakeWorker, look: Look, width: int
) -> None:
    worker.plan = {"planId": "p/1", "kind": "all", "status": "running", "steps": [{"taskId": "a", "status": "running"}]}
    worker.action = {"planId": "p/1", "asked": True}
    page = await logged_in(look, worker, "plan=p%2F1", width=width)
    await button(page, "Cancel").click()
    worker.plan = worker.plan | {"status": "cancelled"}
    await button(page, "Yes, cancel").click()
    await expect(page.locator("aside.detail").get_by_text("cancelled").first).to_be_visible()
    await expect(button(page, "Cancel")).to_have_count(0)
    assert await serious(page) == []
    assert worker.acted == [("/api/v1/plans/p/1/cancel", {"reason": "cancelled on the live page"})]


async def test_whoever_may_only_view_sees_no_buttons_and_is_refused(worker: FakeWorker, look: Look) -> None:
    """Also where the page is made to ask all the same; without a token likewise."""
    worker.tasks["t1"] = task("running")
    worker.letters[ORIGIN] = {"place": "dlq.parallax.tasks/0/3", "reason": "id: missing", "replayed": 0}
    page = await logged_in(look, worker, "task=t1", VIEW)
    await expect(page.locator("aside.detail")).to_contain_text("log in with an operate token")
    await expect(button(page, "Cancel")).to_have_count(0)
    await page.evaluate(f"location.hash = '#letter={ORIGIN}'")
    await expect(page.locator("aside.detail")).to_contain_text("Lies at")
    await expect(button(page, "Replay")).to_have_count(0)
    assert await page.evaluate(ASK, VIEW) == 403
    assert await page.evaluate(ASK, "") == 401
    assert worker.acted == []


async def test_a_task_that_succeeded_offers_nothing(worker: FakeWorker, look: Look) -> None:
    done = {"taskId": "t1", "status": "success", "result": 1, "confidence": 0.9, "executionTime": 3.0, "retries": 0}
    worker.tasks["t1"] = task("success", result=done)
    page = await logged_in(look, worker, "task=t1")
    await expect(page.locator("aside.detail")).to_contain_text("Result")
    for name in ("Cancel", "Retry"):
        await expect(button(page, name)).to_have_count(0)


async def test_a_task_the_page_does_not_hold_is_looked_for_on_the_topics(worker: FakeWorker, look: Look) -> None:
    """From the field that filters; further back by steps; the address is a link to it."""
    worker.first = [event(1, "task:started", taskId="other", type="agent", target="alpha")]
    page = await logged_in(look, worker, "task=other")
    await page.get_by_role("button", name="Close the detail").click()
    await page.get_by_label("Find").fill("t1")
    await page.get_by_role("link", name="Look for the task “t1” on the topics").click()
    assert page.url.endswith("#task=t1")
    await button(page, "Look back 24 hours").click()
    await expect(button(page, "Look back 7 days")).to_be_visible()
    worker.tasks["t1"] = task("running")
    await button(page, "Look back 7 days").click()
    await expect(button(page, "Cancel")).to_be_visible()
    await expect(button(page, "Copy link")).to_be_visible()
