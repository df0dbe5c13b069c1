"""The live page of a worker that asks for tokens: logging in and out, and what is shown before."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import expect

from streams.live.access import WebAccess
from streams.settings_parts import WebAuthSettings
from tests.browser.conftest import SHOTS, Look, agent
from tests.browser.test_page import serious
from tests.support.fake_worker import FakeWorker

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

VIEW = "view-token-0123456789"
LATE_EFFECTS = """
window.requestAnimationFrame = (call) => setTimeout(() => call(performance.now()), 1500);
const timeout = window.setTimeout.bind(window);
window.setTimeout = (call, ms, ...rest) => timeout(call, ms > 20 && ms <= 100 ? 1500 : ms, ...rest);
"""
"""A browser that paints late, as a busy machine's does: what hooks do after the paint is a second late."""


async def test_a_person_logs_in_with_a_token(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is shown or asked before; the tab keeps the token over a reload, and forgets it on the way out."""
    monkeypatch.setenv("VIEW", VIEW)
    guarded = FakeWorker()
    guarded.access = WebAccess(WebAuthSettings.model_validate({"view_tokens": "env:VIEW"}))
    async with guarded as worker:
        worker.agents = [agent("alpha")]
        page = await look(worker.url + "/#agent=alpha")
        token = page.get_by_label("Token", exact=True)
        await expect(token).to_be_focused()
        await expect(page.locator("tr[data-agent]")).to_have_count(0)
        assert worker.asked == []
        assert await page.evaluate("sessionStorage.length") == 0
        assert await serious(page) == []
        await page.screenshot(path=SHOTS / "login.png")
        for wrong, said in (("wrong-token-0123456789", "does not accept"), ("two words", "no spaces")):
            await token.fill(wrong)
            await page.get_by_role("button", name="Log in").click()
            await expect(page.get_by_role("alert")).to_contain_text(said)
        await token.fill(f" {VIEW} ")
        await token.press("Enter")
        await expect(page.locator("tr[data-agent='alpha']")).to_be_visible()
        await expect(page.locator("#connection")).to_have_text("live")
        await expect(page.locator("#whoami")).to_have_text("token: view")
        await expect(page.get_by_role("link", name="Metrics")).to_have_count(0)
        await expect(page.locator("aside.detail")).to_contain_text("alpha")
        assert VIEW not in await page.content()
        await page.reload()
        await expect(page.locator("#connection")).to_have_text("live")
        await page.get_by_role("button", name="Log out").click()
        await expect(token).to_be_visible()
        await page.reload()
        await expect(token).to_be_visible()
        assert {headers.get("Authorization") for _, headers in worker.asked} == {f"Bearer {VIEW}"}


async def test_a_token_that_is_withdrawn_brings_the_login_back(look: Look, tmp_path: Path) -> None:
    """While the page is open; it stops asking, and goes on with the next token."""
    file = tmp_path / "token"
    file.write_text(VIEW, "utf-8")
    guarded = FakeWorker()
    guarded.access = WebAccess(WebAuthSettings.model_validate({"view_tokens": f"file:{file}"}))
    async with guarded as worker:
        worker.agents = [agent("alpha")]
        page = await look(worker.url)
        token = page.get_by_label("Token", exact=True)
        await token.fill(VIEW)
        await token.press("Enter")
        await expect(page.locator("#connection")).to_have_text("live")
        file.write_text("next-token-0123456789", "utf-8")
        await expect(token).to_be_visible()
        await token.fill("next-token-0123456789")
        await token.press("Enter")
        await expect(page.locator("#connection")).to_have_text("live")


async def test_a_refusal_before_the_first_paint_asks_for_the_token(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker answers 401 faster than the browser paints: the page must not stand at "connecting"."""
    monkeypatch.setenv("VIEW", VIEW)
    guarded = FakeWorker()
    guarded.access = WebAccess(WebAuthSettings.model_validate({"view_tokens": "env:VIEW"}))
    async with guarded as worker:
        page = await look("about:blank")
        await page.add_init_script(LATE_EFFECTS)
        await page.goto(worker.url + "/#agent=alpha")
        await expect(page.get_by_label("Token", exact=True)).to_be_visible()


async def test_a_user_of_a_proxy_sees_who_they_are(look: Look) -> None:
    """And needs no token; there is nothing to log out of here."""
    guarded = FakeWorker()
    given = {"proxy_header": "X-User", "proxy_networks": "127.0.0.1/32"}
    guarded.access = WebAccess(WebAuthSettings.model_validate(given))
    async with guarded as worker:
        worker.agents = [agent("alpha")]
        page = await look(worker.url, extra_http_headers={"X-User": "ann@example.com"})
        await expect(page.locator("#whoami")).to_have_text("ann@example.com, view")
        await expect(page.locator("tr[data-agent='alpha']")).to_be_visible()
        await expect(page.get_by_role("button", name="Log out")).to_have_count(0)
