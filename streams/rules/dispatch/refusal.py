"""Says why dispatch makes a dead letter of a record on `tasks`, for readers outside the worker. Pure.

It calls what `read_task` calls: decode, validate, a reserved id, the deadline.
"""

from __future__ import annotations

from schemas.codec import Headers, Rejected, decode_json, validate
from schemas.messages import Task
from streams.rules.dispatch.deadlines import deadline_ms
from streams.rules.plans.task_plans import refuse_step
from streams.rules.source_record import from_coordinator


def refusal(value: bytes | None, headers: Headers = ()) -> str | None:
    """The reason; None: the record is a task.

    >>> refusal(b'{"id":"t","type":"agnt","target":"a","payload":1}')
    "type: input should be 'agent', 'pattern', 'http' or 'function', not 'agnt'"
    >>> refusal(b'{"id":"t","type":"agent","target":"a","payload":1}')
    """
    try:
        decoded = decode_json(value, headers)
        task = validate(Task, decoded.data)
        if not from_coordinator(headers):
            refuse_step(task)
        deadline_ms(task.metadata, decoded.attributes, 0, 0)
    except Rejected as error:
        return error.reason
    return None
