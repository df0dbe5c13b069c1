"""pytest fixtures, found by the entry point `parallax`: `pipeline` (a running `Pipeline`) and `fake_agent` (an HTTP `FakeAgent`).

    async def test_summary(pipeline):
        await pipeline.add(FakeAgent("short", id="summarizer"))
        assert (await pipeline.client.run("summarizer", {"text": "long"})).value == "short"

They are asynchronous and need pytest-asyncio. Nothing of the pipeline is imported before it is used.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.testing.fakes import FakeAgent
    from streams.testing.pipeline import Pipeline

with suppress(ImportError):
    import pytest_asyncio

    @pytest_asyncio.fixture
    async def pipeline() -> AsyncIterator[Pipeline]:
        """A whole pipeline without agents: add them with `await pipeline.add(...)`."""
        from streams.testing.pipeline import Pipeline

        async with Pipeline() as running:
            yield running

    @pytest_asyncio.fixture
    async def fake_agent() -> AsyncIterator[FakeAgent]:
        """A scripted agent over HTTP that answers "ok"; `fake_agent.script(...)` changes that."""
        from streams.testing.fakes import FakeAgent

        async with FakeAgent() as agent:
            yield agent
