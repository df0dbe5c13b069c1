"""Why a record on `tasks` is no task: the same to those that look from outside as to the worker that makes the dead letter."""

from __future__ import annotations

import pytest

from schemas.codec import Rejected
from streams.dispatch.task_run import read_task
from streams.rules.dispatch.refusal import refusal
from streams.rules.source_record import SourceRecord
from streams.settings import Settings

GOOD = b'{"id":"t","type":"agent","target":"a","payload":1}'
CLOUD_EVENT = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/me"), ("ce_type", b"t")]


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (GOOD, []),
        (GOOD, [*CLOUD_EVENT, ("ce_expirytime", b"2026-12-01T00:00:00Z")]),
        (GOOD, [*CLOUD_EVENT, ("ce_expirytime", b"soon")]),
        (b"{", []),
        (None, []),
        (b"[]", []),
        (b'{"id":"t"}', []),
        (b'{"id":"p#0","planId":"p","type":"agent","target":"a","payload":1}', []),
        (b'{"id":"p#0","planId":"p","type":"agent","target":"a","payload":1}', [("ce_source", b"/parallax/x/plans")]),
        (b'{"id":"t","type":"agent","target":"a","payload":1,"metadata":{"retries":-1}}', []),
    ],
)
def test_both_say_the_same(value: bytes | None, headers: list[tuple[str, bytes]]) -> None:
    record = SourceRecord(
        topic="tasks", partition=0, offset=0, timestamp_ms=1000, key=None, value=value, headers=tuple(headers)
    )
    found = None
    try:
        read_task(record, 0.0, 1000, Settings())
    except Rejected as error:
        found = error.reason
    assert refusal(value, headers) == found
