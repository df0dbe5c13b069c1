"""Tasks cancelled and retried and a dead letter replayed over HTTP, on a whole pipeline."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from streams.testing import FakeAgent, Pipeline, hang, status
from tests.support.wait import until

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(120)]


async def test_a_task_is_cancelled_another_retried_and_a_letter_sent_back() -> None:
    """What each leaves on the topics is what the command of the same name leaves."""
    agents = [FakeAgent(hang(), id="stuck"), FakeAgent(status(500), id="bad", breaker={"mode": "disabled"})]
    async with Pipeline(agents=agents) as p, httpx.AsyncClient(base_url=p.web, timeout=30) as http:
        handle = await p.client.submit("stuck", {}, id="s1")
        await until(lambda: bool(agents[0].calls), 30)
        answer = await http.post("/api/v1/tasks/s1/cancel", json={"reason": "not needed"})
        assert answer.status_code == 202
        outcome = await handle.outcome(wait=30)
        assert (outcome.status, outcome.error is not None) == ("cancelled", True)

        await (await p.client.submit("bad", {"n": 1}, id="b1", retries=0)).outcome(wait=30)
        await p.add(FakeAgent("well now", id="bad"))
        for _ in range(2):  # as a proxy does that repeats a request
            answer = await http.post("/api/v1/tasks/b1/retry", json={"id": "b1-again"})
            assert answer.status_code == 201
        result = await (await p.client.handle("b1-again")).result(wait=30)
        assert (result.value, result.metadata["retryOf"]) == ("well now", "b1")
        assert (await http.post("/api/v1/tasks/unheard/retry", json={})).status_code == 404

        origin = await _broken(p)
        letter = await _found(http, origin)
        assert (letter["from"], letter["valueIs"]) == (origin, "json")
        listed = (await http.get("/api/v1/dead-letters")).json()
        assert [(one["place"], one["from"]) for one in listed] == [(letter["place"], origin)]
        assert "value" not in listed[0]
        answer = await http.post(f"/api/v1/dead-letters/{origin}/replay", json={})
        assert (answer.status_code, answer.json()["to"]) == (200, "parallax.tasks")
        again = await http.post(f"/api/v1/dead-letters/{letter['place']}/replay", json={})
        assert (again.status_code, again.json()["count"]) == (200, 1)
        assert (await http.get("/api/v1/dead-letters/parallax.tasks/0/999999")).status_code == 404
        assert (await http.get("/api/v1/dead-letters/dlq.parallax.tasks/0/999999")).status_code == 404


async def _broken(p: Pipeline) -> str:
    """A record that is no task; its place."""
    producer = AIOKafkaProducer(bootstrap_servers=p.bootstrap_servers)
    await producer.start()
    try:
        sent = await producer.send_and_wait("parallax.tasks", b'{"id":""}', partition=0)
    finally:
        await producer.stop()
    return f"{sent.topic}/{sent.partition}/{sent.offset}"


async def _found(http: httpx.AsyncClient, origin: str) -> Any:
    """The dead letter, once the worker has put it aside."""

    async def letter() -> Any:
        answer = await http.get(f"/api/v1/dead-letters/{origin}")
        assert answer.status_code in (200, 404), answer.text
        return answer.json() if answer.status_code == 200 else None

    return await until(letter, 30)
