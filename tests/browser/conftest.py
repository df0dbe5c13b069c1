"""Chromium for the tests of the live page: headless, from the system, without network of its own.

In: `CHROMIUM` in the environment, else the `chromium` on the path; that there is none is a failure, never a skip. Out: the
fixture `chromium`, and `look`, which opens the page and at the end fails the test if the page broke its content policy or told
of an error.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from schemas.times import format_time
from tests.support.fake_worker import FakeWorker

ARGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage")
_LISTEN = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""
NO_FRAMES = """
window.requestAnimationFrame = () => 0;
const timer = window.setTimeout;
window.setTimeout = (call, ms, ...rest) => timer(call, ms === 100 ? 1e6 : ms, ...rest);
"""
"""For `look(before=...)`: the next frame never comes, nor the timer of 100 ms with which Preact bounds its wait for one."""
SLOW_MS = 40_000
"""How long is waited for what is expected: a group, a search through topics or a busy machine may lie between."""
Look = Callable[..., Awaitable[Page]]
SHOTS = Path(os.environ.get("BROWSER_SHOTS") or tempfile.gettempdir()) / "parallax-page"
"""Where tests leave pictures of the page."""


@pytest.fixture
async def worker() -> AsyncIterator[FakeWorker]:
    """A worker with an agent that is well."""
    async with FakeWorker() as made:
        made.agents = [agent("alpha")]
        yield made


def agent(name: str, **agent_status: Any) -> dict[str, Any]:
    """As `/api/v1/agents` shows it."""
    stands = {
        "agentId": name,
        "at": format_time(0),
        "circuit": "closed",
        "healthy": True,
        "load": 2,
        "confidence": 0.91,
    }
    return {"id": name, "endpoint": "http://127.0.0.1:9000", "capabilities": ["sum"], "standing": stands | agent_status}


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    """A browser for one test."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert path is not None, "chromium is missing: apt-get install chromium (or set CHROMIUM to its path)"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(ARGS))
        yield browser
        await browser.close()


@pytest.fixture
async def look(chromium: Browser) -> AsyncIterator[Look]:
    """`await look(url, width=..., scheme=..., before=...)`: a page that is open there; the script `before` runs first."""
    expect.set_options(timeout=SLOW_MS)
    opened: list[tuple[Page, list[str]]] = []

    async def open_at(
        url: str, width: int = 1280, height: int = 900, scheme: str = "light", before: str = "", **options: Any
    ) -> Page:
        context = await chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce", **options
        )
        page = await context.new_page()
        page.set_default_timeout(SLOW_MS)
        told: list[str] = []
        page.on("pageerror", lambda error: told.append(f"uncaught: {error}"))
        page.on("console", lambda message: told.append(message.text) if _is_fault(message.type, message.text) else None)
        page.on("dialog", lambda dialog: told.append(f"dialog: {dialog.message}"))
        await page.add_init_script(_LISTEN + before)
        opened.append((page, told))
        await page.goto(url)
        return page

    yield open_at
    for page, told in opened:
        broken = await page.evaluate("window.violations")
        assert not told, f"the page's console: {told}"
        assert not broken, f"the content policy was broken: {broken}"


def _is_fault(kind: str, text: str) -> bool:
    """An answer such as 503 is also told as an error by the browser; the page shows it in place."""
    return kind in ("error", "warning") and not text.startswith("Failed to load resource")
