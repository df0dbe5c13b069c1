"""The README's Python snippets, run as they stand: only the address of Kafka is another."""

from __future__ import annotations

import re
from typing import Any

import pytest

from streams.testing import Pipeline
from tests.support.rig import ROOT

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(120)]


def snippet(holds: str) -> str:
    """The one Python block of the README that holds this."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    found = [block for block in blocks if holds in block]
    assert len(found) == 1, holds
    return str(found[0])


def ran(code: str) -> dict[str, Any]:
    """What a snippet defines."""
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102 - our own text
    return names


async def test_an_agent_in_five_lines_and_a_thousand_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    agent = ran(snippet("@agent("))["summarize"]
    assert await agent({"text": "x" * 50}) == ("x" * 40, 0.9)
    async with Pipeline(agents=[agent]) as p:
        capsys.readouterr()
        await ran(snippet("client.map(").replace("localhost:9092", p.bootstrap_servers))["main"]()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a long story 0.9"
    assert sorted(line for line in lines if line.startswith("story ")) == sorted(f"story {n}" for n in range(1000))


async def test_the_test_of_a_busy_agent() -> None:
    await ran(snippet("def test_a_busy"))["test_a_busy_agent_is_tried_again"]()
