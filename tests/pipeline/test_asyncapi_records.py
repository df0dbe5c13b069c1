"""The AsyncAPI document beside a run: its own examples are sent, and every record on every topic it describes fits it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import pytest
from jsonschema import Draft7Validator

from agents_io.fakes.http import FakeAgent
from agents_io.fakes.steps import answer
from schemas.asyncapi import document
from streams.broker.embedded import EmbeddedBroker
from streams.broker.topics_admin import apply
from streams.settings import Settings
from tests.support.points import fleet
from tests.support.rig import Tap, produce, start_worker, stopping

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(180)]

WAIT_S = 60


class Contract:
    """The document as a reader uses it: what may lie at an address."""

    def __init__(self, prefix: str) -> None:
        self.whole = document(prefix)

    def addresses(self, action: str) -> dict[str, list[str]]:
        """Address to the names of its messages, of all operations of a kind."""
        found = {}
        for operation in self.whole["operations"].values():
            if operation["action"] == action:
                channel = self.whole["channels"][operation["channel"]["$ref"].rpartition("/")[2]]
                found[channel["address"]] = list(channel["messages"])
        return found

    def example(self, message: str) -> Any:
        """The payload of a message's example."""
        return self.whole["components"]["messages"][message]["examples"][0]["payload"]

    def faults(self, message: str, record: Any) -> list[str]:
        """What is wrong with a record's value and headers."""
        headers = {name: value.decode() for name, value in record.headers() or ()}
        found = self._faults(message, "headers", headers)
        if message == "DeadLetter":
            return found
        return found + self._faults(message, "payload", orjson.loads(record.value()))

    def _faults(self, message: str, part: str, value: Any) -> list[str]:
        body = {"allOf": [{"$ref": f"#/components/messages/{message}/{part}"}], "components": self.whole["components"]}
        return [f"{message} {part}: {fault.message}" for fault in Draft7Validator(body).iter_errors(value)]


async def test_what_the_document_says_is_sent_is_taken_and_what_it_says_is_read_is_written(
    embedded: EmbeddedBroker, prefix: str
) -> None:
    """No record is refused but those that are wrong; each topic to read from has records."""
    await apply(Settings(bootstrap_servers=embedded.bootstrap_servers, topic_prefix=prefix), 2)
    async with FakeAgent([answer({"summary": "..."}, 0.93)]) as agent:
        await asyncio.to_thread(_run, embedded.bootstrap_servers, prefix, agent.endpoint)


def _run(broker: str, prefix: str, endpoint: str) -> None:
    contract = Contract(prefix)
    with stopping(start_worker(broker, prefix, "--instance-id", "w1", "--session-timeout", "6s")):
        for address, messages in sorted(contract.addresses("send").items()):
            example = contract.example(messages[0])
            if "endpoint" in example:
                example = {**example, "endpoint": endpoint}
            key = example["id"] if address.endswith(".schedules") else "summarizer"
            produce(broker, address, [(key.encode(), orjson.dumps(example))])
        drop = fleet(7, 4000, 2, int(time.time() * 1000) - 60_000, drops=("agent-1",))
        produce(broker, f"{prefix}data-points", [(p["agentId"].encode(), orjson.dumps(p)) for p in drop])
        for name in ("tasks", "plans", "data-points", "agents", "controls", "schedules"):
            produce(broker, f"{prefix}{name}", [(None, b"{no json")])
        for address, messages in contract.addresses("receive").items():
            _read(contract, broker, address, messages)


def _read(contract: Contract, broker: str, address: str, messages: list[str]) -> None:
    if address.endswith((".dispatch", ".parked", ".scheduled")):
        return  # nothing wrong gets there
    tap = Tap(broker, address)
    records = tap.until(1, WAIT_S, 1)
    tap.close()
    assert records, address
    for record in records:
        assert [contract.faults(message, record) for message in messages] == [[]], (address, record.value())
    if messages == ["DeadLetter"]:
        assert [record.value() for record in records] == [b"{no json"]
