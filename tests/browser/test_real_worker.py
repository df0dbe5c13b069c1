"""The live page of a real worker, from the topics to the screen: tasks, an agent that goes bad, hostile text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import aiohttp
import orjson
import pytest
from aiokafka import AIOKafkaProducer
from playwright.async_api import Page, expect

from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import answer, status
from streams.broker.embedded import EmbeddedBroker
from streams.broker.topics_admin import apply
from streams.settings import Settings
from tests.browser.conftest import SHOTS, Look
from tests.support.rig import start_worker

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
HOSTILE = "<img src=x onerror=\"document.title='owned'\">'`${1}"
MINUTES = 600_000


class Site:
    """A worker, the broker behind it, and where its page is."""

    def __init__(self, bootstrap: str, prefix: str, url: str) -> None:
        self.bootstrap = bootstrap
        self.prefix = prefix
        self.url = url

    async def send(self, topic: str, values: Iterable[dict[str, Any]]) -> None:
        """Records as any client would write them."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap)
        await producer.start()
        try:
            for value in values:
                await producer.send(self.prefix + topic, orjson.dumps(value), key=value.get("id", "").encode())
            await producer.flush()
        finally:
            await producer.stop()

    async def tasks(self, ids: Iterable[str], agent: str, **metadata: Any) -> None:
        """One task each, all different, so that none is answered from the cache."""
        await self.send(
            "tasks",
            (
                {"id": one, "type": "agent", "target": agent, "payload": {"for": one}, "metadata": metadata}
                for one in ids
            ),
        )


@pytest.fixture
async def site(embedded: EmbeddedBroker, prefix: str) -> AsyncIterator[Site]:
    """A worker that dispatches, plans and keeps statistics."""
    settings = Settings(bootstrap_servers=embedded.bootstrap_servers, topic_prefix=prefix)
    await apply(settings, 4)
    options = ("--roles", "dispatch,plans,stats", "--instance-id", "w1", "--session-timeout", "6s", "-o", "json")
    worker = start_worker(embedded.bootstrap_servers, prefix, *options, wait=False)
    try:
        ready = orjson.loads(await asyncio.to_thread(worker.line, 90))
        yield Site(embedded.bootstrap_servers, prefix, ready["web"])
    finally:
        if worker.popen.poll() is None:
            assert await asyncio.to_thread(worker.stop) == 0


def row(page: Page, task: str) -> Any:
    """A task's row."""
    return page.locator("tr[data-task]").filter(has=page.get_by_role("link", name=task, exact=True))


def agent_row(page: Page, agent: str) -> Any:
    """An agent's row."""
    return page.locator(f"tr[data-agent='{agent}']")


async def test_from_the_topics_to_the_screen(site: Site, look: Look) -> None:
    """Tasks appear as they end; an agent breaks down and its circuit opens before one's eyes; a task is looked up."""
    async with FakeAgent(answer({"sum": 7})) as good, FakeAgent(answer()) as shaky:
        breaker = {"failureThreshold": 3, "resetTimeout": MINUTES}
        await site.send(
            "agents",
            [
                {"id": "good", "endpoint": good.endpoint},
                {"id": "shaky", "endpoint": shaky.endpoint, "breaker": breaker},
            ],
        )
        page = await look(site.url)
        await expect(page.locator("#connection")).to_have_text("live")
        await expect(agent_row(page, "shaky")).to_contain_text("closed")
        await site.tasks([f"well-{n}" for n in range(20)], "good")
        await site.tasks([f"fine-{n}" for n in range(5)], "shaky")
        await expect(page.locator("tr[data-task]")).to_have_count(25)
        await expect(row(page, "well-7")).to_contain_text("success")
        await expect(row(page, "well-7")).to_contain_text("good")
        await expect(agent_row(page, "good")).to_contain_text("100 %")
        await expect(page.locator("[data-figure=rate]")).not_to_have_text("0")

        shaky.script(status(500, body=b'{"error":"the model is gone"}'))
        await site.tasks([f"bad-{n}" for n in range(3)], "shaky", retries=0)
        await expect(agent_row(page, "shaky")).to_contain_text("open")
        await expect(page.locator("[data-figure=circuits]")).to_have_text("1")
        await page.get_by_label("Status").select_option("Failed")
        await expect(page.locator("tr[data-task]")).to_have_count(3)
        await expect(row(page, "bad-1")).to_contain_text("http_5xx")
        await page.get_by_label("Status").select_option("All")
        await page.get_by_label("Find").fill("well-1")
        await expect(page.locator("tr[data-task]")).to_have_count(11)
        await page.get_by_label("Find").fill("")

        detail = page.get_by_role("complementary")
        await row(page, "well-3").get_by_role("link").click()
        await expect(detail.get_by_label("Result as JSON")).to_contain_text('"sum": 7')
        await expect(detail.locator("ol li").last).to_contain_text("task:completed")
        await agent_row(page, "shaky").get_by_role("link").click()
        await expect(detail).to_contain_text("the model is gone")
        await expect(detail.locator("svg circle")).not_to_have_count(0)
        await expect(detail.locator(".mark.circuit-open")).to_have_count(1)
        SHOTS.mkdir(parents=True, exist_ok=True)
        await page.screenshot(path=SHOTS / "real.png")


async def test_hostile_words_go_through_the_whole_pipeline_and_stay_words(site: Site, look: Look) -> None:
    """A task id, an answer and an error that are markup; a record that is no task."""
    async with FakeAgent(answer({"html": HOSTILE})) as liar, FakeAgent(status(400, body=HOSTILE.encode())) as rude:
        await site.send(
            "agents", [{"id": "liar", "endpoint": liar.endpoint}, {"id": "rude", "endpoint": rude.endpoint}]
        )
        page = await look(site.url)
        await expect(agent_row(page, "liar")).to_be_visible()
        await site.tasks([HOSTILE], "liar")
        await site.tasks(["rude-1"], "rude")
        await site.send("tasks", [{"id": "", "type": HOSTILE}])
        await expect(row(page, "rude-1")).to_contain_text("http_4xx")
        await expect(page.locator("tr[data-task]").filter(has_text="dead letter")).to_have_count(1)
        await row(page, HOSTILE).get_by_role("link").click()
        detail = page.get_by_role("complementary")
        await expect(detail.get_by_role("heading", name=HOSTILE)).to_be_visible()
        await expect(detail.get_by_label("Result as JSON")).to_contain_text("onerror=\\\"document.title='owned'")
        assert await page.locator("img").count() == 0
        assert await page.title() == "Parallax Streams"


async def test_a_page_of_another_site_gets_nothing(site: Site) -> None:
    """A foreign name that resolves to this machine is refused, the page too."""
    async with aiohttp.ClientSession() as session:
        for path in ("/", "/page/app.js", "/api/v1/agents"):
            async with session.get(
                site.url + path, headers={"Host": "evil.example", "Accept": "text/html"}
            ) as answered:
                assert answered.status == 403
        async with session.get(site.url + "/", headers={"Accept": "text/html"}) as answered:
            assert "default-src 'self'" in answered.headers["Content-Security-Policy"]
