"""A whole pipeline in the process of your test, scripted agents of every protocol, and pytest fixtures.

    from streams.testing import FakeAgent, Pipeline

    async def test_summary():
        async with Pipeline(agents=[FakeAgent("short", id="summarizer")]) as p:
            assert (await p.client.run("summarizer", {"text": "long"})).value == "short"

`VirtualTime` runs dispatch and plans in memory, and lets a day pass in a second.

`Pipeline` needs the extra `embedded`. The fixtures `pipeline` and `fake_agent` need pytest and pytest-asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents_io.fakes.steps import answer, compute, drip, empty, garbage, hang, html, huge, nan, raw, reset, status
    from streams.testing.fakes import FakeAgent
    from streams.testing.pipeline import Pipeline
    from streams.testing.virtual_time import VirtualTime

__all__ = [
    "FakeAgent",
    "Pipeline",
    "VirtualTime",
    "answer",
    "compute",
    "drip",
    "empty",
    "garbage",
    "hang",
    "html",
    "huge",
    "nan",
    "raw",
    "reset",
    "status",
]

if not TYPE_CHECKING:  # a checker would take every name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "Pipeline":
            from streams.testing.pipeline import Pipeline as found
        elif name == "VirtualTime":
            from streams.testing.virtual_time import VirtualTime as found
        elif name == "FakeAgent":
            from streams.testing.fakes import FakeAgent as found
        else:
            from agents_io.fakes import steps

            found = getattr(steps, name)
        return found
