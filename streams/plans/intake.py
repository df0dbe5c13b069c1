"""From a record on `plans` to a plan that can begin, or the reason why it cannot.

In: the bytes and headers of a record. Out: an `Active` plan; `PlanRefused` if it has an id to answer to, `Rejected` if not;
or the partition to forward it to. It writes nothing and begins nothing.
"""

from __future__ import annotations

from typing import Any

from schemas.codec import Rejected, dumps, header
from schemas.messages import MAX_DURATION_MS, ErrorCode, shown
from schemas.times import format_time, parse_time
from streams.plans.memory import Active
from streams.plans.parts import PlanParts
from streams.rules.plans.blueprint import InvalidPlan
from streams.rules.plans.run import PlanRun
from streams.rules.plans.task_plans import OriginTask, timed
from streams.rules.plans.templates import read_plan, used
from streams.rules.source_record import MAX_DIGITS, STEP_HEADER, SourceRecord
from streams.rules.tracing.trace import trace_of


class PlanRefused(Exception):
    """A plan that cannot run, and the error it is answered with."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code: ErrorCode = code
        self.reason = reason


def id_of(data: Any) -> str:
    """A plan's id. Raises `Rejected` without one: no result could be addressed."""
    if not isinstance(data, dict):
        raise Rejected("validate", f"value: must be a JSON object, not {shown(data)}")
    name = data.get("id")
    if not isinstance(name, str) or not 1 <= len(name) <= 256:
        raise Rejected("validate", f"id: must be a string of 1 to 256 characters, not {shown(name)}")
    return name


def place_of_step(record: SourceRecord) -> tuple[int, int] | None:
    """For a record that carries a step's result from another partition: where that result is. None: the record is a
    plan.

    >>> place_of_step(SourceRecord("plans", 0, 2, None, b"", (("parallax-step", b"3/17"),)))
    (3, 17)
    """
    partition, _, offset = (header(record.headers, STEP_HEADER) or "").partition("/")
    if not (partition.isdecimal() and offset.isdecimal()) or max(len(partition), len(offset)) > MAX_DIGITS:
        return None
    return int(partition), int(offset)


def opened(
    data: dict[str, Any], origin: OriginTask | None, record: SourceRecord, parts: PlanParts, now_ms: int
) -> Active:
    """The plan of a record, not begun; `origin`: the task it answers. Raises `PlanRefused`."""
    if origin is not None:
        data = _in_time(data, origin, parts, now_ms)
    data = _with_deadline(data, record, now_ms)
    try:
        plan_json = dumps(data)
        _check_size(len(plan_json), parts.max_plan_bytes)
        plan = read_plan(data)
        templates = used(plan, parts.templates, parts.settings.plans.max_depth)
        if templates:  # they are kept with it, in one record
            _check_size(len(plan_json) + len(dumps(templates)), parts.max_plan_bytes, " with the templates it uses")
    except (InvalidPlan, Rejected) as error:
        raise PlanRefused("invalid_plan", str(error)) from None
    if plan.deadline_ms is not None and plan.deadline_ms <= now_ms:
        raise PlanRefused("expired", "metadata.deadline: it passed before the plan could begin")
    run = PlanRun(plan=plan, accepted_ms=now_ms, templates=templates, trace=trace_of(record.headers))
    place = (record.partition, record.offset)
    return Active(run, place, plan_json, templates, plan_bytes=len(plan_json), origin=origin)


def _check_size(size: int, limit: int, what: str = "") -> None:
    if size > limit:
        raise PlanRefused("too_large", f"the plan has {size} bytes{what}; at most {limit} are accepted")


def _with_deadline(data: dict[str, Any], record: SourceRecord, now_ms: int) -> dict[str, Any]:
    """The plan with `metadata.expiresIn` turned into a deadline: a restart must not begin it again."""
    metadata = data.get("metadata")
    given = metadata.get("expiresIn") if isinstance(metadata, dict) else None
    if given is None or not isinstance(metadata, dict):
        return data
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MAX_DURATION_MS:
        raise PlanRefused("invalid_plan", f"metadata.expiresIn: must be an integer of 1 to {MAX_DURATION_MS} (ms)")
    began_ms = min(record.timestamp_ms, now_ms) if record.timestamp_ms > 0 else now_ms
    own = metadata.get("deadline")
    try:
        ends_ms = began_ms + given if own is None else min(began_ms + given, parse_time(own))
    except ValueError as error:
        raise PlanRefused("invalid_plan", f"metadata.deadline: {error}") from None
    kept = {name: value for name, value in metadata.items() if name != "expiresIn"}
    return {**data, "metadata": kept | {"deadline": format_time(ends_ms)}}


def _in_time(data: dict[str, Any], origin: OriginTask, parts: PlanParts, now_ms: int) -> dict[str, Any]:
    name = origin.task.target
    if name not in parts.templates:
        raise PlanRefused(
            "unsupported", f"target: the worker that runs plans knows no template {name!r} (plans.templates)"
        )
    if origin.expires_ms <= now_ms:
        raise PlanRefused("expired", "the deadline passed before a worker with the role plans took the task")
    return timed(data, origin, now_ms)
