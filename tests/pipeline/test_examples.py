"""The files of docs/examples, run with fake models on a whole pipeline."""

from __future__ import annotations

import asyncio
import importlib
import itertools
from math import exp
from typing import Any

import httpx
import orjson
import pytest
from aiohttp import web

from agents_io.fakes.steps import answer
from agents_io.protocols.openai.fake import FakeChat
from streams import AgentRejected
from streams.broker.client import sending
from streams.testing import FakeAgent, Pipeline, status
from tests.support.foreign import ANOMALY
from tests.support.rig import ROOT
from tests.support.wait import until

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(120)]


def example(name: str) -> Any:
    return importlib.import_module(f"docs.examples.{name}")


class FakeModel(FakeChat):
    """A model that gives log-probabilities."""

    choices = [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Paris."},
            "logprobs": {"content": [{"token": "Paris", "logprob": -0.1}, {"token": ".", "logprob": -0.3}]},
        }
    ]


async def test_agents_over_models(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    chat, agreed, spam = example("openai_chat"), example("self_consistency"), example("sklearn_spam")
    said = itertools.cycle(["blue", "Blue", "green", "blue ", "red"])
    async with (
        FakeModel(answer()) as model,
        FakeAgent(lambda _: next(said)) as sampled,
        Pipeline(agents=[chat.ask, agreed.agreed, spam.spam]) as p,
    ):
        monkeypatch.setenv("OPENAI_BASE_URL", model.endpoint)
        monkeypatch.setenv("MODEL_URL", f"{sampled.endpoint}/analyze")
        client = p.client
        result = await client.run("assistant", {"task": "the capital of France?"})
        assert (result.value, result.confidence) == ("Paris.", pytest.approx(exp(-0.2)))
        with pytest.raises(AgentRejected, match="payload: task: field required"):
            await client.run("assistant", {})
        result = await client.run("agreed", {"task": "the colour of the sky?"})
        assert (result.value, result.confidence) == ("blue", pytest.approx(4 / 7))
        assert len(sampled.calls) == 5
        mails = [{"text": "a free prize, click now"}, {"text": "minutes of the meeting"}]
        judged = [one async for one in client.map("spam", mails, ordered=True)]
        assert [one.value for one in judged] == ["spam", "ham"]
        assert all(0.5 < (one.confidence or 0) < 1 for one in judged)


async def test_sql_over_results_and_escalation() -> None:
    duckdb = pytest.importorskip("duckdb")
    module, decide = example("duckdb_results"), example("approve_or_escalate").decide
    agents = [
        FakeAgent(lambda payload: ("maybe", 0.9 if "easy" in payload["task"] else 0.3), id="quick"),
        FakeAgent("surely", id="strong", confidence=0.95),
        FakeAgent(status(500), id="broken"),
    ]
    async with Pipeline(agents=agents) as p:
        assert await decide(p.client, "an easy one") == ("maybe", "quick")
        assert await decide(p.client, "a hard one") == ("surely", "strong")
        handle = await p.client.submit("broken", {}, retries=0)
        assert not (await handle.outcome(wait=30)).ok
        database = duckdb.connect()
        assert await module.load(p.client, database) == 4
        rows = database.sql(module.QUERY).fetchall()
        assert [(row[0], row[1], row[3]) for row in rows] == [("quick", 2, 0), ("broken", 1, 1), ("strong", 1, 0)]
        assert rows[0][2] == pytest.approx(0.6)
        assert all(row[4] > 0 for row in rows)


class Receiver:
    """Alertmanager and a chat's webhook: keeps what it is sent; answers 503 as often as told."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.away = 0

    async def take(self, request: web.Request) -> web.Response:
        if self.away:
            self.away -= 1
            return web.Response(status=503)
        self.sent.append((request.path, await request.json()))
        return web.Response(status=400 if request.path == "/refuses" else 200)

    async def serve(self) -> tuple[web.AppRunner, str]:
        app = web.Application()
        app.router.add_post("/{path:.*}", self.take)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


async def test_anomalies_reach_alertmanager_and_a_chat() -> None:
    """One that fires and resolves is one alert: the labels are the same; low ones stay; a receiver that was away gets them."""
    module = example("anomaly_webhooks")
    receiver = Receiver()
    receiver.away = 1
    runner, url = await receiver.serve()
    try:
        async with Pipeline() as p:
            low, resolved = ANOMALY | {"id": "a0", "severity": "low"}, ANOMALY | {"state": "resolved"}
            figures = {"details": {"detector": "deviation", "currentConfidence": 0.4, "historicalAverage": 0.9}}
            async with sending(p.settings) as sender:
                for one in (low, ANOMALY | figures, resolved):
                    await sender.send("anomalies", b"summarizer", orjson.dumps(one))
            forwarding = asyncio.create_task(module.forward(p.client, url, f"{url}/hook", since="10m"))
            await until(lambda: len(receiver.sent) == 4, 30)
            forwarding.cancel()
    finally:
        await runner.cleanup()
    alerts = [body[0] for path, body in receiver.sent if path == "/api/v2/alerts"]
    assert alerts[0]["labels"] == alerts[1]["labels"]
    assert alerts[0]["labels"]["alertname"] == "parallax_sudden_drop"
    assert [("startsAt" in one) for one in alerts] == [True, False]
    words = [body["text"] for path, body in receiver.sent if path == "/hook"]
    assert words == [
        "summarizer: sudden_drop firing (high): confidence 0.40, usually 0.90",
        "summarizer: sudden_drop resolved (high)",
    ]


async def test_a_receiver_that_refuses_is_not_asked_again() -> None:
    module, receiver = example("anomaly_webhooks"), Receiver()
    runner, url = await receiver.serve()
    try:
        async with httpx.AsyncClient() as http:
            await module.post(http, f"{url}/refuses", {}, pause_s=0)
            receiver.away = 9
            await module.post(http, f"{url}/hook", {}, pause_s=0)
    finally:
        await runner.cleanup()
    assert receiver.sent == [("/refuses", {})]
    assert receiver.away == 4


TRIED_IN = (
    "pipeline/test_examples.py",
    "interop/test_consumers.py",
    "interop/test_frameworks.py",
    "system/test_jvm_example.py",
)


def test_every_example_is_listed_and_tried() -> None:
    """Python files by `example(...)`, others by their path."""
    files = {path.name for path in (ROOT / "docs" / "examples").iterdir() if path.is_file()} - {"README.md"}
    text = (ROOT / "docs" / "examples" / "README.md").read_text("utf-8")
    tried = "".join((ROOT / "tests" / file).read_text("utf-8") for file in TRIED_IN)
    assert files == {name for name in files if f"({name})" in text and f'"{name.removesuffix(".py")}"' in tried}
