"""Python snippets of the README and the tutorial, run as they stand: only the address of Kafka is another."""

from __future__ import annotations

import re
from typing import Any

import pytest

from streams import AgentRejected
from streams.testing import Pipeline
from tests.support.rig import ROOT

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(120)]


TUTORIAL = "docs/tutorial.md"


def snippets(file: str) -> list[str]:
    """The Python blocks of a file."""
    return re.findall(r"```python\n(.*?)```", (ROOT / file).read_text("utf-8"), re.DOTALL)


def snippet(holds: str, file: str = "README.md") -> str:
    """The one Python block of a file that holds this."""
    found = [block for block in snippets(file) if holds in block]
    assert len(found) == 1, holds
    return found[0]


def ran(code: str) -> dict[str, Any]:
    """What a snippet defines."""
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(code, "a snippet", "exec"), names)  # noqa: S102 - our own text
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
    await ran(snippet("def test_a_busy", "docs/howto/test.md"))["test_a_busy_agent_is_tried_again"]()


def test_the_tests_in_virtual_time() -> None:
    ran(snippet("def test_an_agent_that_hangs", "docs/howto/test.md"))["test_an_agent_that_hangs_is_given_up"]()
    ran(snippet("def test_the_first_answer", "docs/howto/test.md"))["test_the_first_answer_wins"]()


async def test_the_tutorial(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its agent, its questions, its agent with a model, its test."""
    first, ask, second, test = snippets(TUTORIAL)
    async with Pipeline(agents=[ran(first)["headline"]]) as p:
        monkeypatch.setenv("PARALLAX_BOOTSTRAP_SERVERS", p.bootstrap_servers)
        result = await p.client.run("headline", {"text": "a long story about a small town by the sea"})
        assert (result.value, result.confidence) == ("a long story about a", 0.9)
        capsys.readouterr()
        await ran(ask)["main"]()
        assert capsys.readouterr().out.splitlines() == ["rain is expected in the 0.9", "http_5xx"]
    async with Pipeline(agents=[ran(second)["headline"]]) as p:
        with pytest.raises(AgentRejected, match="text"):
            await p.client.run("headline", {"words": "no text here"})
        assert (await p.client.run("headline", {"text": "one two"})).confidence == 0.6
    await ran(test)["test_a_busy_agent_is_called_again"]()
