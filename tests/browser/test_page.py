"""The live page in a real browser, on a played worker: what it shows of events, how it is used, and what it must never do."""

from __future__ import annotations

import time
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from schemas.exact_json import ExactFloat
from schemas.times import format_time, parse_time
from streams.rules.windows.ranges import tiles
from tests.browser.conftest import SHOTS, Look, agent
from tests.support.fake_worker import FakeWorker, Refusal, event

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]
HOSTILE = "<img src=x onerror=\"document.title='owned'\">'`${1}"


def done(number: int, task: str, target: str = "alpha") -> list[dict[str, Any]]:
    """A task that went well."""
    return [
        event(number, "task:started", taskId=task, type="agent", target=target),
        event(number + 1, "task:completed", taskId=task, result=1, confidence=0.9, executionTime=3.0),
    ]


def failed(number: int, task: str, agent_id: str = "alpha", message: str = "answered 500") -> dict[str, Any]:
    """A task that did not."""
    error = {"code": "http_5xx", "message": message, "retryable": True, "agentId": agent_id}
    return event(number, "task:failed", taskId=task, error=error, retries=2)


def row(page: Page, task: str) -> Any:
    """A task's row."""
    return page.locator("tr[data-task]").filter(has=page.get_by_role("link", name=task, exact=True))


async def serious(page: Page) -> list[str]:
    """What axe finds that is serious or critical."""
    found = (await Axe().run(page)).response["violations"]
    return [
        f"{one['id']}: {node['html'][:120]} {node.get('failureSummary', '')[:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"][:3]
    ]


async def test_tasks_appear_and_their_status_follows_the_events(worker: FakeWorker, look: Look) -> None:
    """Recent ones at once, new ones as they come; a late start does not undo an end; a failure shows its reason."""
    worker.first = done(1, "t1")
    page = await look(worker.url)
    await expect(row(page, "t1")).to_contain_text("success")
    await expect(row(page, "t1")).to_contain_text("alpha")
    now = time.time_ns() // 1_000_000
    worker.send("events", [event(10, "task:started", now, taskId="t2", type="agent", target="alpha")])
    await expect(row(page, "t2")).to_contain_text("running")
    late = event(13, "task:retrying", now - 5, taskId="t2", attempt=1, delay=100)
    worker.send("events", [failed(12, "t2"), late])
    await expect(row(page, "t2")).to_contain_text("http_5xx: answered 500")
    await expect(row(page, "t2")).to_contain_text("failure")
    letter = {"topic": "parallax.tasks", "partition": 2, "offset": 7, "reason": "not JSON"}
    worker.send("events", [event(14, "task:dead-lettered", **letter)])
    await expect(row(page, "parallax.tasks/2/7")).to_contain_text("not JSON")
    await expect(page.locator("[data-figure=rate]")).to_have_text("12")
    await expect(page.locator("[data-figure=p95]")).to_have_text("9.0 ms")


async def test_the_table_keeps_five_hundred_tasks(worker: FakeWorker, look: Look) -> None:
    """The newest of 1,200."""
    page = await look(worker.url)
    await worker.watched()
    for begin in range(0, 1200, 200):
        worker.send("events", [one for n in range(begin, begin + 200) for one in done(10 * n, f"t{n}")])
    await expect(row(page, "t1199")).to_be_visible()
    rows = page.locator("tr[data-task]")
    assert await rows.count() == 500
    assert await rows.last.get_attribute("data-task") == "t700"


async def test_filter_by_status_and_text(worker: FakeWorker, look: Look) -> None:
    """Each alone, both together, and a word when nothing is left."""
    worker.first = [*done(1, "good-1"), *done(3, "good-2", "beta"), failed(5, "bad-1"), failed(6, "bad-2", "beta")]
    page = await look(worker.url)
    rows = page.locator("tr[data-task]")
    await expect(rows).to_have_count(4)
    await page.get_by_label("Status").select_option("Failed")
    await expect(rows).to_have_count(2)
    await page.get_by_label("Find").fill("BETA")
    await expect(rows).to_have_count(1)
    await expect(row(page, "bad-2")).to_be_visible()
    await page.get_by_label("Status").select_option("All")
    await expect(rows).to_have_count(2)
    await page.get_by_label("Find").fill("nowhere")
    await expect(page.get_by_text("None of the last 4 tasks is like that")).to_be_visible()


async def test_pause_holds_the_table_still_and_counts_what_it_missed(worker: FakeWorker, look: Look) -> None:
    """Then goes on with what came meanwhile."""
    worker.first = done(1, "t1")
    page = await look(worker.url)
    await expect(row(page, "t1")).to_be_visible()
    await page.get_by_role("button", name="Pause").click()
    worker.send("events", done(3, "t2"))
    on = page.get_by_role("button", name="Go on (2 new events)")
    await expect(on).to_be_visible()
    await expect(row(page, "t2")).to_have_count(0)
    await on.click()
    await expect(row(page, "t2")).to_be_visible()


async def test_a_circuit_that_opens_shows_at_once_and_the_agents_errors_in_its_detail(
    worker: FakeWorker, look: Look
) -> None:
    """The event is newer than what the list says; the detail has chart, figures and errors; Escape closes it."""
    minute = time.time_ns() // 1_000_000 // 60_000 * 60_000
    worker.windows = [
        {"interval": "minute", "windowStart": format_time(minute - k * 60_000), "count": 30, "avgConfidence": 0.9 - k / 50,
         "variance": 0.01, "successRate": 0.95, "final": True, "avgExecutionTime": 5.0}
        for k in range(9, -1, -1)
    ]  # fmt: skip
    worker.stats = {
        "agentId": "alpha",
        "totalExecutions": 4211,
        "successRate": 0.973,
        "avgConfidence": 0.87,
        "waitTime": {"count": 4211, "sum": 4211000.0, "mean": 1000.0, "p95": 2500.0},
        "totalTokens": {"count": 4000, "sum": 4321000, "mean": 1080.25, "p95": 2000.0},
        "cost": {"count": 4000, "sum": 12.3456, "mean": 0.00308, "p95": 0.006},
        "calibration": None,
    }
    page = await look(worker.url)
    await expect(page.locator("tr[data-agent=alpha]")).to_contain_text("closed")
    await expect(page.locator("tr[data-agent=alpha]")).to_contain_text("98.0 %")
    await worker.watched()
    worker.send(
        "events", [failed(1, "t1", message="out of memory"), event(2, "circuit:open", agentId="alpha", failures=5)]
    )
    await expect(page.locator("tr[data-agent=alpha]")).to_contain_text("open")
    await expect(page.locator("[data-figure=circuits]")).to_have_text("1")
    await page.locator("tr[data-agent=alpha]").get_by_role("link").click()
    detail = page.get_by_role("complementary")
    await expect(detail.get_by_role("heading", name="Agent alpha")).to_be_focused()
    await expect(detail).to_contain_text("out of memory")
    await expect(detail).to_contain_text("4,211")
    await expect(detail).to_contain_text("4,321,000")
    await expect(detail).to_contain_text("2.5 s")
    await expect(detail).to_contain_text("12.3")
    assert await detail.locator("circle").count() == 10
    floors = {"minute": minute - 59 * 60_000, "hour": 0, "day": 0}  # of an agent that answered a moment ago
    asked = tiles(parse_time(worker.stats_from), minute + 60_000, floors)
    assert {interval for interval, _ in asked} == {"minute"}, "a whole hour would answer for its first minute"
    assert len(asked) >= 58
    await expect(detail.locator(".mark.circuit-open")).to_have_count(1)
    assert page.url.endswith("#agent=alpha")
    await page.keyboard.press("Escape")
    await expect(detail).to_have_count(0)
    await expect(page.locator("tr[data-agent=alpha]").get_by_role("link")).to_be_focused()


async def test_a_tasks_detail_by_its_address(worker: FakeWorker, look: Look) -> None:
    """A deep link: result, events with gaps, the command; one that is not known says so and offers to look further back."""
    now = time.time_ns() // 1_000_000
    events = [
        event(1, "task:started", now - 3200, taskId="a/b c", type="agent", target="alpha"),
        event(2, "task:retrying", now - 2000, taskId="a/b c", attempt=1, delay=1000),
        event(3, "task:completed", now, taskId="a/b c", confidence=0.9, executionTime=3.0),
    ]
    result = {"taskId": "a/b c", "status": "success", "result": {"sum": 7}, "confidence": 0.9, "agentId": "alpha",
              "executionTime": 3200, "retries": 1, "cached": False}  # fmt: skip
    worker.tasks["a/b c"] = {"taskId": "a/b c", "status": "success", "result": result, "events": events}
    page = await look(f"{worker.url}/#task=a%2Fb%20c")
    detail = page.get_by_role("complementary")
    await expect(detail.get_by_label("Result as JSON")).to_contain_text('"sum": 7')
    await expect(detail.locator("ol li").nth(1)).to_contain_text("+1.2 s")
    await expect(detail.get_by_text("parallax task 'a/b c' --bootstrap-servers 10.0.0.7:9092")).to_be_visible()
    await page.goto(f"{worker.url}/#task=nobody")
    await expect(detail).to_contain_text("Nothing is known of task 'nobody'.")
    await detail.get_by_role("button", name="Look back 24 hours").click()
    await expect(detail).to_contain_text("Nothing is known of task 'nobody'.")


async def test_numbers_keep_their_digits(worker: FakeWorker, look: Look) -> None:
    """In a task's detail and in the table; others are numbers as ever."""
    long = 123456789012345678901234567890
    value = {"wei": long, "safe": 9007199254740991, "pi": ExactFloat("3.141592653589793238462643"), "third": 1 / 3}
    worker.first = [
        event(1, "task:started", taskId="big", type="agent", target="alpha"),
        event(2, "task:completed", taskId="big", result=value, confidence=0.3333333333333333, executionTime=3.0),
    ]
    result = {"taskId": "big", "status": "success", "result": value, "confidence": 0.3333333333333333, "agentId": "alpha",
              "executionTime": 3.0, "retries": 0, "cached": False}  # fmt: skip
    worker.tasks["big"] = {"taskId": "big", "status": "success", "result": result, "events": worker.first}
    page = await look(f"{worker.url}/#task=big")
    shown = page.get_by_role("complementary").get_by_label("Result as JSON")
    for text in (
        f'"wei": {long},',
        '"safe": 9007199254740991',
        '"pi": 3.141592653589793238462643',
        '"third": 0.333333',
    ):
        await expect(shown).to_contain_text(text)
    await expect(page.get_by_role("complementary")).to_contain_text("0.33")


async def test_a_plan_a_dead_letter_and_a_copied_id(worker: FakeWorker, look: Look) -> None:
    """Each kind of row has its own detail; what is copied is the id as it is."""
    letter = {"topic": "parallax.tasks", "partition": 2, "offset": 7, "reason": "not JSON"}
    worker.plan = {"planId": "p 1", "status": "running", "steps": [{"id": "p 1#a", "state": "done"}]}
    worker.first = [
        event(1, "plan:started", planId="p 1", tasks=2),
        event(2, "task:dead-lettered", **letter),
    ]
    page = await look(worker.url, permissions=["clipboard-read", "clipboard-write"])
    await row(page, "p 1").get_by_role("link").click()
    detail = page.get_by_role("complementary")
    await detail.get_by_text("The whole plan").click()
    await expect(detail.get_by_label("Plan as JSON")).to_contain_text("p 1#a")
    await expect(detail.get_by_text("parallax plan 'p 1'")).to_be_visible()
    await detail.get_by_role("button", name="Copy id").click()
    await expect(detail.get_by_role("button", name="Copied")).to_be_visible()
    assert await page.evaluate("navigator.clipboard.readText()") == "p 1"
    await row(page, "parallax.tasks/2/7").get_by_role("link").click()
    await expect(detail).to_contain_text("not JSON")
    await expect(detail.get_by_text("parallax dlq ls")).to_be_visible()


async def test_hostile_text_stays_text(worker: FakeWorker, look: Look) -> None:
    """In every place that shows others' words: ids, errors, results, agents, anomalies, partitions, refusals."""
    worker.agents = [agent(HOSTILE) | {"endpoint": "javascript:alert(1)", "capabilities": [HOSTILE]}]
    worker.partitions = [
        {
            "topic": HOSTILE,
            "partition": 0,
            "committable": 1,
            "next": 2,
            "inFlight": 1,
            "lag": 4,
            "blocking": {"reason": HOSTILE},
        }
    ]
    worker.anomalies = Refusal(503, f"no role {HOSTILE}")
    worker.windows = Refusal(500, HOSTILE)
    result = {"taskId": HOSTILE, "status": "failure", "result": {"html": HOSTILE}, "error": {"code": HOSTILE, "message": HOSTILE},
              "agentId": HOSTILE}  # fmt: skip
    started = event(1, "task:started", taskId=HOSTILE, type="agent", target=HOSTILE)
    worker.tasks[HOSTILE] = {"taskId": HOSTILE, "status": HOSTILE, "result": result, "events": [started]}
    worker.first = [
        started,
        failed(2, HOSTILE, HOSTILE, HOSTILE),
        event(3, "circuit:open", agentId=HOSTILE, failures=HOSTILE),
    ]
    page = await look(worker.url)
    await row(page, HOSTILE).get_by_role("link").click()
    detail = page.get_by_role("complementary")
    await expect(detail.get_by_label("Result as JSON")).to_contain_text('"html": "<img src=x')
    await expect(detail.get_by_role("heading", name=HOSTILE)).to_be_visible()
    await detail.get_by_role("link", name=HOSTILE).click()
    await expect(detail.get_by_role("heading", name=f"Agent {HOSTILE}")).to_be_visible()
    await expect(detail).to_contain_text("javascript:alert(1)")
    await expect(page.locator("main")).to_contain_text("role <img src=x")
    assert await page.locator("img").count() == 0
    assert await page.locator("a[href^='javascript']").count() == 0
    assert await page.title() == "Parallax Streams"


async def test_the_browser_itself_refuses_markup_and_scripts_from_elsewhere(
    worker: FakeWorker, look: Look, chromium: Any
) -> None:
    """The policy works: innerHTML throws, an inline handler cannot be set, nothing is fetched from elsewhere."""
    page = await chromium.new_page()
    await page.goto(worker.url)
    told = await page.evaluate(
        """() => { const told = [];
          try { document.body.innerHTML += '<b>x</b>'; told.push('markup') } catch { told.push('refused') }
          const box = document.createElement('div');
          try { box.setAttribute('onclick', 'window.ran = 1') } catch { told.push('refused') }
          document.body.append(box); box.click();
          const far = document.createElement('img'); far.src = 'http://127.0.0.2:9/x.png'; document.body.append(far);
          return new Promise((done) => document.addEventListener('securitypolicyviolation', (event) =>
            event.blockedURI.includes('127.0.0.2') && done([...told, event.effectiveDirective, window.ran ?? 'not run'])))
        }"""
    )
    assert told == ["refused", "refused", "img-src", "not run"]


async def test_a_lost_connection_is_told_and_mended_from_where_it_was(worker: FakeWorker, look: Look) -> None:
    """It reconnects with the last message's id; events that come twice are counted once."""
    worker.first = done(1, "t1")
    page = await look(worker.url)
    await expect(page.locator("#connection")).to_have_text("live")
    worker.refusal = Refusal(503, "20 pages watch this worker already")
    worker.hang_up()
    await expect(page.locator("#connection")).to_have_text("reconnecting")
    await expect(page.get_by_text("20 pages watch this worker already")).to_be_visible()
    worker.refusal = None
    worker.first = [*done(1, "t1"), *done(3, "t2")]
    await expect(page.locator("#connection")).to_have_text("live")
    await expect(row(page, "t2")).to_be_visible()
    assert await page.locator("tr[data-task]").count() == 2
    streams = [headers for path, headers in worker.asked if path == "/api/v1/stream" and "Last-Event-ID" in headers]
    assert streams[-1]["Last-Event-ID"] == "1"
    worker.send("dropped", {"count": 1234})
    await expect(page.get_by_text("1,234 events not shown")).to_be_visible()


async def test_a_newcomer_is_told_what_to_do_and_a_missing_role_is_a_sentence(worker: FakeWorker, look: Look) -> None:
    """No agent, no task, no statistics here."""
    worker.agents = []
    worker.anomalies = Refusal(503, "this worker has no statistics role, or they have not started; ask one that has")
    worker.ready = {"ready": False, "checks": {"broker": False}}
    page = await look(worker.url)
    await expect(page.get_by_text("parallax agents add summarizer")).to_be_visible()
    await expect(page.get_by_text("parallax submit - --wait")).to_be_visible()
    await expect(page.get_by_text("Not on this worker: this worker has no statistics role")).to_be_visible()
    await expect(page.get_by_text("the worker does not reach the broker")).to_be_visible()


async def test_an_alarm_names_what_was_normal_if_that_is_a_confidence(worker: FakeWorker, look: Look) -> None:
    """The event with the words came before the page was opened."""
    worker.anomalies = [
        {"id": kind, "type": kind, "agentId": "beta", "severity": "low", "baseline": baseline, "points": 3}
        for kind, baseline in (("drift", 0.9), ("slow", None))
    ]
    page = await look(worker.url)
    await expect(page.locator("[data-anomaly=drift]")).to_contain_text("0.90 was normal; fires for 3 points")
    await expect(page.locator("[data-anomaly=slow]")).to_contain_text("fires for 3 points")
    await expect(page.locator("[data-anomaly=slow]")).not_to_contain_text("normal")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")])
async def test_nothing_serious_for_axe_and_nothing_wider_than_the_window(
    worker: FakeWorker, look: Look, width: int, scheme: str
) -> None:
    """With rows of every status, with the detail open, in both colour schemes and at both widths."""
    worker.agents = [agent("alpha"), agent("beta", circuit="open", healthy=False), agent("gamma", circuit="half_open")]
    worker.anomalies = [
        {"id": "x", "type": "drift", "agentId": "beta", "severity": s, "baseline": 0.9, "points": 3, "detectedAt": at}
        for s, at in (("high", format_time(time.time_ns() // 1_000_000)), ("medium", None))
    ]
    worker.partitions = [
        {
            "topic": "parallax.tasks",
            "partition": 0,
            "committable": 1,
            "next": 2,
            "inFlight": 1,
            "lag": 4321,
            "blocking": {"reason": "calling"},
        }
    ]
    worker.first = [*done(1, "t1"), failed(3, "t2", "beta"), event(4, "task:started", taskId="t3", type="http", target="x"),
                    event(5, "task:parked", taskId="t4", agentId="beta", reason="circuit_open"),
                    event(6, "task:cancelled", taskId="t5-" + "long" * 40)]  # fmt: skip
    page = await look(worker.url, width=width, scheme=scheme)
    await expect(row(page, "t4")).to_be_visible()
    await expect(page.locator("tr[data-agent]")).to_have_count(3)
    await expect(page.get_by_role("heading", name="Pipeline")).to_contain_text("1 record in flight, lag 4,321")
    await expect(page.locator("[data-anomaly]").nth(0)).to_contain_text("since ")
    await expect(page.locator("[data-anomaly]").nth(1)).to_contain_text("before its time was kept")
    assert await serious(page) == []
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    SHOTS.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=SHOTS / f"page-{width}-{scheme}.png", full_page=True)
    await page.goto(f"{worker.url}/#agent=beta")
    await expect(page.get_by_role("heading", name="Agent beta")).to_be_visible()
    assert await serious(page) == []
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    await page.screenshot(path=SHOTS / f"detail-{width}-{scheme}.png")


async def test_all_of_it_with_the_keyboard(worker: FakeWorker, look: Look) -> None:
    """Tab reaches an agent's row, Enter opens it, the next Tab is on Close, Enter closes."""
    page = await look(worker.url)
    await expect(page.locator("tr[data-agent=alpha]")).to_be_visible()
    for _ in range(10):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.getAttribute('href')") == "#agent=alpha":
            break
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Agent alpha")).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Close")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("complementary")).to_have_count(0)
