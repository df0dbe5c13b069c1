"""The test kit as its users see it: fixtures, and a user's project under mypy --strict."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from streams import AgentServerError
from streams.testing import FakeAgent, Pipeline, answer, status
from tests.support.rig import ROOT

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(180)]


async def test_the_fixtures(pipeline: Pipeline, fake_agent: FakeAgent) -> None:
    known = asyncio.create_task(pipeline.wait_for_agents("outside"))
    await asyncio.sleep(0.3)
    assert not known.done()
    await pipeline.client.agents.add("outside", fake_agent.endpoint)
    await known
    assert (await pipeline.client.run("outside", {})).value == "ok"
    scripted = FakeAgent([status(503, times=1), answer("well", 0.8)], id="scripted")
    await pipeline.add(scripted)
    result = await pipeline.client.run("scripted", {})
    assert (result.value, result.confidence, result.retries) == ("well", 0.8, 1)
    scripted.script(status(500))
    with pytest.raises(AgentServerError):
        await pipeline.client.run("scripted", {"another": 1}, retries=0)


async def test_two_agents_of_one_id_are_refused(pipeline: Pipeline) -> None:
    """One of them would get all calls, and the other none."""
    with pytest.raises(ValueError, match="two of them have the id 'twin'"):
        await pipeline.add(FakeAgent([answer(1)], id="twin"), FakeAgent([answer(2)], id="twin"))


def test_the_fixtures_are_found_without_being_imported(tmp_path: Path) -> None:
    """In a project of somebody else's; and the plugin loads nothing of the pipeline."""
    (tmp_path / "test_it.py").write_text(
        "import sys\n\n"
        "def test_lazy():\n"
        "    assert not [name for name in sys.modules if name.split('.')[0] in ('aiokafka', 'grpc', 'aiohttp')]\n\n"
        "async def test_fake(fake_agent):\n    assert fake_agent.endpoint.startswith('http://127.0.0.1:')\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


USER = """
import asyncio

from pydantic import BaseModel

from agents_io import Answer, agent, function
from streams import Client, RateLimited, TaskFailed, dag, parallel, sequence, step
from streams.sync import Client as BlockingClient
from streams.testing import FakeAgent, Pipeline, answer


class Summary(BaseModel):
    text: str


@agent("summarizer", capabilities=["summarize"])
async def summarize(payload: Summary) -> tuple[str, float]:
    return payload.text[:10], 0.9


@agent("plain")
def plain(payload: dict[str, str]) -> Answer:
    return Answer(payload, 0.5, reasoning="so")


@function("double")
def double(payload: int) -> int:
    return 2 * payload


async def use() -> None:
    async with Client("localhost:9092") as client:
        result = await client.run("summarizer", {"text": "x"}, into=Summary, timeout=2, expires_in="1m")
        reveal_type(result.value)
        text: str = result.value.text
        handle = await client.submit("summarizer", {"text": text}, id="t1")
        reveal_type(handle)
        try:
            typed = await handle.result(wait=5, into=Summary)
            reveal_type(typed.value)
        except RateLimited as error:
            print(error.result.metadata)
        except TaskFailed as error:
            print(error.code)
        async for one in client.map("summarizer", [{"text": "a"}], ordered=True, into=Summary):
            reveal_type(one.value)
        async for event in client.events("task:"):
            print(event.data)
        done = await client.plan(parallel([step("a", 1)], strategy="race"))
        print(done.status, sequence([step("a")]), dag({"a": step("a"), "b": step("b", after=["a"])}))


def block() -> None:
    with BlockingClient() as client:
        result = client.run("summarizer", {"text": "x"}, into=Summary)
        reveal_type(result.value)
        for event in client.events():
            print(event.type)


async def test_it() -> None:
    async with Pipeline(agents=[FakeAgent([answer("x")], id="a"), summarize]) as p:
        print((await p.client.run("a", {})).value)
    print(await summarize(Summary(text="x")), plain({"a": "b"}).confidence, double(2))


asyncio.run(use())
"""


def test_a_users_project_passes_mypy_strict(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(USER)
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = True\nplugins = pydantic.mypy\n")
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(ROOT / ".mypy_cache/user"), "mine.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=170, check=False)
    notes = [line.partition("note: ")[2] for line in done.stdout.splitlines() if "Revealed type" in line]
    assert done.returncode == 0, done.stdout
    assert [note.count("mine.Summary") for note in notes] == [1, 0, 1, 1, 1], notes


def test_importing_streams_is_quick_and_loads_nothing() -> None:
    code = (
        "import sys; import streams, agents_io; "
        "print([n for n in sys.modules if n.split('.')[0] in ('aiokafka', 'pydantic', 'aiohttp', 'grpc', 'structlog')]); "
        "from streams import Client; "
        "features = ('streams.worker', 'streams.engine', 'streams.dispatch', 'grpc', 'river'); "
        "print([n for n in sys.modules if n.startswith(features)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == ["[]", "[]"]
