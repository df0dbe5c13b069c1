"""Records that dispatch makes no call for: unreadable, too large or forbidden ones; and what a bug of ours costs."""

from __future__ import annotations

from typing import Any

import pytest

from agents_io import errors
from tests.support.dispatching import DEEP, Make
from tests.support.dispatching import make as make

pytestmark = pytest.mark.virtual_time


BAD = {
    "not JSON": (b"hello", "decode"),
    "null": (b"null", "validate"),
    "no id": (b'{"type":"agent","target":"a1","payload":{}}', "validate"),
    "payload too deep": (b'{"id":"t","type":"agent","target":"a1","payload":' + DEEP + b"}", "validate"),
    "metadata too deep": (
        b'{"id":"t","type":"agent","target":"a1","payload":1,"metadata":{"mine":' + DEEP + b"}}",
        "validate",
    ),
}


@pytest.mark.parametrize(("value", "stage"), BAD.values(), ids=BAD)
async def test_bad_input_is_a_dead_letter(make: Make, value: bytes, stage: str) -> None:
    """Its own bytes, at once, without a call; the next record is answered."""
    one = make()
    one.take(0, value)
    one.take(1)
    end = await one.end(0)
    assert end["dlq.tasks"] == value
    assert end["events"]["type"] == "task:dead-lettered"
    assert (await one.result(1))["status"] == "success"
    assert one.transport.tasks == ["t1"]
    assert one.count("parallax_dead_letters_total", stage=stage) == 1


async def test_a_task_too_large_or_not_allowed_has_a_result(make: Make) -> None:
    """It could be read, so it is answered: no call, no data point."""
    one = make(dispatch={"max_task_bytes": 200})
    one.take(0, payload="x" * 200)
    one.take(1, type="http", target="http://elsewhere")
    codes = []
    for offset in (0, 1):
        end = await one.end(offset)
        codes.append(end["results"]["error"]["code"])
        assert set(end) == {"results", "events"}
    assert codes == ["too_large", "forbidden_target"]
    assert one.transport.calls == []


def broken(*arguments: Any, **named: Any) -> Any:
    """A bug of ours."""
    raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("place", ["agents.get", "recorder.succeeded", "recorder.failed", "looked up"])
async def test_a_bug_of_our_own_costs_one_task_its_answer(
    make: Make, monkeypatch: pytest.MonkeyPatch, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While taking, after the call, or after a look-up: the task ends as failed; as a dead letter where telling is what broke."""
    one = make()
    fields: dict[str, Any] = {}
    with monkeypatch.context() as patch:
        if place == "looked up":
            fields["target"] = "nobody"
            patch.setattr("streams.dispatch.router.absence", broken)
        elif place == "agents.get":
            patch.setattr(one.agents, "get", broken)
        else:
            patch.setattr(one.recorder, place.partition(".")[2], broken)
            if place == "recorder.failed":
                one.transport.script.append(errors.ClientError("400"))
        one.take(0, **fields)
        end = await one.end(0)
    if place == "recorder.failed":
        assert set(end) == {"dlq.tasks", "events"}
        assert end["events"]["data"]["reason"] == "internal error: ZeroDivisionError"
    else:
        assert set(end) == {"results", "events"}
        assert (end["results"]["status"], end["results"]["error"]["code"]) == ("failure", "internal")
        assert end["results"]["error"]["message"] == "internal error: ZeroDivisionError"
    one.take(1, payload=1)
    assert (await one.result(1))["status"] == "success"
    assert one.handler.explain("tasks", 0) is None
