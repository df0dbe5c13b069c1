"""The Agent2Agent protocol, 1.0 and 0.3: messages, tasks and their states, as data. Pure.

In: a payload; a task or message that came back, in the form of JSON-RPC (`bindings.py` gives it that form). Out:
parameters; an `Answer`, "not done yet", or the `AgentError` it means. Source: the A2A specification 1.0 (a2a.proto: SendMessage,
GetTask, CancelTask, TaskState, Part; 5.4 error codes) and 0.3 (message/send, tasks/get, tasks/cancel, `kind`).

  completed                    the answer            submitted, working          asked again until the deadline
  failed                       http_5xx              rejected, canceled          refused
  input-required               refused               auth-required               http_4xx (both: the task is cancelled there)
  any other state              bad_response
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agents_io.errors import AgentError, BadResponse, ClientError, Refused, ServerError
from agents_io.protocols.a2a.rules.card import Version, dicts
from agents_io.rules import jsonrpc
from agents_io.rules.answer import Reading, answer_within, excerpt, leaf_name
from agents_io.rules.prompts import as_text
from agents_io.rules.text_answer import content_of
from agents_io.transport import Answer

OTHER_VERSION = frozenset({-32009, -32601})
"""Errors of an agent for a method of a version it does not support."""
UNKNOWN_TASK = -32001
WRONG_PARTS = -32005
NOT_OFFERED = -32004
_OUR_FAULT = frozenset({-32003, NOT_OFFERED, WRONG_PARTS, -32007, -32008, -32009})
_MAX_PARTS = 1000
_NO_STREAM = frozenset({NOT_OFFERED, -32601})
"""Errors of an agent that does not stream, although its card may offer it."""
NO_REASON = "no reason given"
_WRAPPER = "json_schema"
"""In a data part's metadata: the SDK wrapped the agent's result into `{"result": ...}` (pydantic-ai)."""


def takes_data(payload: Any, text_only: bool) -> bool:
    """Whether a send carries a data part."""
    return isinstance(payload, dict) and not text_only


def send_params(
    version: Version, message_id: str, payload: Any, *, blocking: bool, text_only: bool, context_id: str = ""
) -> dict[str, Any]:
    """Parameters of a send. An object goes as a data part, and its words as a text part before it; all else as text.

    `context_id`: the conversation; empty: the agent begins a new one.

    >>> send_params("0.3", "t1", "hi", blocking=True, text_only=False)["message"]["parts"]
    [{'kind': 'text', 'text': 'hi'}]
    """
    new = version == "1.0"
    parts: list[dict[str, Any]] = []
    if takes_data(payload, text_only):
        words = next((payload[name] for name in ("task", "description") if isinstance(payload.get(name), str)), None)
        if words:
            parts.append({"text": words} if new else {"kind": "text", "text": words})
        parts.append({"data": payload} if new else {"kind": "data", "data": payload})
    else:
        text = as_text(payload)
        parts.append({"text": text} if new else {"kind": "text", "text": text})
    message = {"messageId": message_id, "role": "ROLE_USER" if new else "user", "parts": parts}
    if context_id:
        message["contextId"] = context_id
    modes = ["application/json", "text/plain"]
    if new:
        return {"message": message, "configuration": {"acceptedOutputModes": modes, "returnImmediately": not blocking}}
    return {
        "message": message | {"kind": "message"},
        "configuration": {"acceptedOutputModes": modes, "blocking": blocking},
    }


@dataclass(frozen=True, slots=True)
class Pending:
    """A task that is not done yet."""

    task_id: str


def outcome(message: Any, reading: Reading) -> Answer | Pending:
    """What the response to a send or a get means. Raises `AgentError`; `NeedsInput` or `NeedsAuth` if the task
    waits.
    """
    if (error := jsonrpc.error_of(message)) is not None:
        raise meaning(error)
    result = jsonrpc.result_of(message)
    # 1.0 wraps what a send gives; 0.3 marks it with `kind`.
    for name in ("task", "message"):
        if isinstance(result.get(name), dict) and "parts" not in result and "status" not in result:
            result = result[name]
    if "status" not in result:
        if not isinstance(result.get("parts"), list):
            raise BadResponse("the answer is neither an A2A task nor a message")
        return _answer(result, [result], reading)
    return _task(result, reading)


class OtherVersion(ClientError):
    """The agent does not know the method or the version: it may speak another one."""


class OtherForm(OtherVersion):
    """The agent may want messages in another form, or the message is wrong."""

    def as_final(self) -> ClientError:
        """The error once no other form helped: the message is wrong."""
        final = ClientError(self.message)
        final.status = self.status
        return final


class NotOffered(ClientError):
    """The agent does not offer this operation; it may answer by streams only."""


class WrongParts(ClientError):
    """The agent accepts no parts of this kind."""


class UnknownTask(ServerError):
    """The agent no longer knows the task."""


def meaning(error: dict[str, Any]) -> AgentError:
    """The error for a JSON-RPC error object. `reason`: its name, if HTTP+JSON carried one.

    A task that the agent no longer knows is the agent's failure.
    """
    meant = jsonrpc.meaning(error, _OUR_FAULT)
    code = error.get("code")
    if type(code) is not int:  # a list, for example, cannot be in a set
        return meant
    if code == UNKNOWN_TASK:
        return UnknownTask(meant.message)
    if code in OTHER_VERSION:
        return OtherVersion(meant.message)
    if code == NOT_OFFERED:
        return NotOffered(meant.message)
    return WrongParts(meant.message) if code == WRONG_PARTS else meant


def state_of(task: dict[str, Any]) -> str:
    """A task's state, without the prefix and spelling of its version.

    >>> state_of({"status": {"state": "TASK_STATE_INPUT_REQUIRED"}}), state_of({"status": {"state": "input-required"}})
    ('input-required', 'input-required')
    """
    status = task.get("status")
    state = status.get("state") if isinstance(status, dict) else None
    return state.removeprefix("TASK_STATE_").lower().replace("_", "-") if isinstance(state, str) else ""


class NeedsInput(Refused):
    """The task waits at the agent for input; the agent should be sent a cancel for `task_id`."""

    task_id: str | None = None


class NeedsAuth(ClientError):
    """The task waits at the agent for an authorization; the agent should be sent a cancel for `task_id`."""

    task_id: str | None = None


class FailedUnsaid(ServerError):
    """The task failed and the agent gives no reason."""


def offers_no_stream(error: dict[str, Any]) -> bool:
    """Whether an error in answer to a stream request means that the agent does not stream.

    >>> offers_no_stream({"code": -32004}), offers_no_stream({"code": []})
    (True, False)
    """
    code = error.get("code")
    return type(code) is int and code in _NO_STREAM


def _task(task: dict[str, Any], reading: Reading) -> Answer | Pending:
    state = state_of(task)
    if state == "completed":
        return _answer(task, _sources(task), reading)
    if state in ("submitted", "working"):
        if (task_id := _id(task)) is None:
            raise BadResponse("the agent's task has no id to ask for it by")
        return Pending(task_id)
    why = _why(task)
    if state == "failed":
        kind = FailedUnsaid if why == NO_REASON else ServerError
        raise kind(f"the agent reports that its task failed: {why}")
    if state in ("rejected", "canceled", "cancelled"):
        raise Refused(f"the agent {state} the task: {why}")
    if state == "input-required":
        needs_input = NeedsInput(f"the agent needs more input than the task holds: {why}")
        needs_input.task_id = _id(task)
        raise needs_input
    if state == "auth-required":
        needs_auth = NeedsAuth(f"the agent needs an authorization that the registration does not give: {why}")
        needs_auth.task_id = _id(task)
        raise needs_auth
    raise BadResponse(f"the agent's task has an unknown state: {excerpt(state.encode())}")


def _sources(task: dict[str, Any]) -> list[dict[str, Any]]:
    """What holds the answer: the artifacts; else the status' message; else the last message, if it is the agent's."""
    if artifacts := dicts(task.get("artifacts")):
        return artifacts
    message, history = task["status"].get("message"), task.get("history")
    if isinstance(message, dict):
        return [message]
    last = dicts(history[-1:]) if isinstance(history, list) else []
    return [message for message in last if message.get("role") in ("agent", "ROLE_AGENT")]


def _id(task: dict[str, Any]) -> str | None:
    task_id = task.get("id")
    return task_id if isinstance(task_id, str) and 0 < len(task_id) <= 1024 else None


def _why(task: dict[str, Any]) -> str:
    status = task.get("status")
    message = status.get("message") if isinstance(status, dict) else None
    texts = [part["text"] for part in _parts([message] if isinstance(message, dict) else []) if _is_text(part)]
    return excerpt(" ".join(texts).encode("utf-8", "replace")) if texts else NO_REASON


def _is_text(part: dict[str, Any]) -> bool:
    return isinstance(part.get("text"), str)


def _parts(sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [part for source in sources for part in dicts(source.get("parts"))][:_MAX_PARTS]


def _answer(whole: dict[str, Any], sources: list[dict[str, Any]], reading: Reading) -> Answer:
    """Paths of the registration select from the whole task or message; without them the parts are the answer."""
    parts = _parts(sources)
    content, texts = _content(parts)
    if content is None and reading.value is None:
        raise BadResponse("the agent's answer has no parts")
    holders = [whole, *(source for source in sources if source is not whole), *parts]
    answer = answer_within(whole, content, _told_beside(holders), reading)
    beside = _metadata(holders, reading) | ({"text": texts} if texts else {})
    answer.metadata.update({name: value for name, value in beside.items() if name not in answer.metadata})
    return answer


def _metadata(holders: list[dict[str, Any]], reading: Reading) -> dict[str, Any]:
    """The metadata of task, artifacts and parts, without the confidence; the first value of a key counts."""
    found: dict[str, Any] = {}
    taken = ("confidence", _WRAPPER, leaf_name(reading.confidence, "confidence"))
    for holder in holders:
        metadata = holder.get("metadata")
        if isinstance(metadata, dict):
            for name, value in metadata.items():
                if name not in taken:
                    found.setdefault(name, value)
    return found


def _told_beside(holders: list[dict[str, Any]]) -> Any:
    """A confidence in metadata: plain, or in the object of an extension (A2A 1.0, 4.6.2: keyed by the extension's
    URI).
    """
    for holder in holders:
        metadata = holder.get("metadata")
        if not isinstance(metadata, dict):
            continue
        if metadata.get("confidence") is not None:
            return metadata["confidence"]
        for inner in metadata.values():
            if isinstance(inner, dict) and inner.get("confidence") is not None:
                return inner["confidence"]
    return None


def _content(parts: list[dict[str, Any]]) -> tuple[Any, str]:
    """One data part, or text that is JSON, is the answer as it is; several parts are a list; nothing is None.

    Second: the words beside one data part.
    """
    data = [_unwrapped(part) for part in parts if "data" in part]
    texts = [part["text"] for part in parts if _is_text(part)]
    files = [_file(part) for part in parts if "data" not in part and not _is_text(part)]
    if len(data) == 1 and not files:
        return data[0], "\n".join(texts)
    if data or files:
        return [*texts, *data, *files], ""
    return (content_of("".join(texts)) if texts else None), ""


def _unwrapped(part: dict[str, Any]) -> Any:
    data = part["data"]
    if not isinstance(data, dict) or data.keys() != {"result"}:
        return data
    inner, metadata = data["result"], part.get("metadata")
    if isinstance(metadata, dict) and _WRAPPER in metadata:
        return content_of(inner) if isinstance(inner, str) else inner
    return inner if isinstance(inner, dict) and "confidence" in inner else data


def _file(part: dict[str, Any]) -> dict[str, Any]:
    """A file part, reduced to the file."""
    file = part.get("file")
    return file if isinstance(file, dict) else {key: value for key, value in part.items() if key != "kind"}
