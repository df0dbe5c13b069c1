"""The Agent2Agent protocol, 1.0 and 0.3, its JSON-RPC binding: cards, messages, tasks and their states, as data. Pure.

In: an agent card; a payload; a task or message that came back. Out: where and in which version to call; parameters; an `Answer`,
"not done yet", or the `AgentError` it means. Source: the A2A specification 1.0 (a2a.proto: AgentCard.supportedInterfaces,
SendMessage, GetTask, CancelTask, TaskState, Part; 5.4 error codes) and 0.3 (message/send, tasks/get, tasks/cancel, `kind`).

  completed                    the answer            submitted, working          asked again until the deadline
  failed                       http_5xx              rejected, canceled          refused
  input-required               refused               auth-required               http_4xx
  any other state              bad_response
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from agents_io.errors import AgentError, BadResponse, ClientError, Refused, ServerError, Unsupported
from agents_io.rules.answer import Reading, answer_within, excerpt, load_json
from agents_io.rules.wire import jsonrpc
from agents_io.rules.wire.prompts import as_text
from agents_io.transport import Answer

Version = Literal["1.0", "0.3"]
VERSIONS: tuple[Version, ...] = ("1.0", "0.3")
CARD_PATHS = (".well-known/agent-card.json", ".well-known/agent.json")
"""1.0 and 0.3; and what came before."""
METHODS: dict[Version, dict[str, str]] = {
    "1.0": {"send": "SendMessage", "get": "GetTask", "cancel": "CancelTask"},
    "0.3": {"send": "message/send", "get": "tasks/get", "cancel": "tasks/cancel"},
}
_OUR_FAULT = frozenset({-32003, -32004, -32005, -32007, -32008, -32009})
_MAX_PARTS = 1000


@dataclass(frozen=True, slots=True)
class Card:
    """What is needed of an agent card. `path`: of the JSON-RPC interface, with its query."""

    version: Version
    path: str
    name: str | None
    skills: tuple[str, ...]


def read_card(body: bytes) -> Card:
    """The card's JSON-RPC interface of the newest version we speak. Raises `BadResponse`, `Unsupported`.

    >>> read_card(b'{"name":"n","url":"http://h/rpc","protocolVersion":"0.3.0","skills":[{"id":"sum"}]}')
    Card(version='0.3', path='/rpc', name='n', skills=('sum',))
    """
    card = load_json(body)
    if not isinstance(card, dict) or not ("supportedInterfaces" in card or "url" in card):
        raise BadResponse(f"the agent card is none: {excerpt(body)}")
    found = {version: url for version, url in reversed(_interfaces(card)) if version is not None}
    version = next((version for version in VERSIONS if version in found), None)
    if version is None:
        raise Unsupported("the agent card names no JSON-RPC interface of A2A 1.0 or 0.3")
    return Card(version, _path(found[version]), _name(card.get("name")), tuple(_skills(card.get("skills"))))


def _interfaces(card: dict[str, Any]) -> list[tuple[Version | None, str]]:
    """Version and URL of each JSON-RPC interface, in the card's order."""
    listed = card.get("supportedInterfaces")
    if isinstance(listed, list):
        rows = [(row.get("protocolBinding"), row.get("protocolVersion"), row.get("url")) for row in _dicts(listed)]
    else:
        version = card.get("protocolVersion", "0.3")
        rows = [(card.get("preferredTransport", "JSONRPC"), version, card.get("url"))]
        rows += [
            (row.get("transport"), version, row.get("url")) for row in _dicts(card.get("additionalInterfaces") or [])
        ]
    return [(_spoken(version), url) for binding, version, url in rows if binding == "JSONRPC" and isinstance(url, str)]


def _dicts(rows: Any) -> list[dict[str, Any]]:
    return [row for row in rows[:_MAX_PARTS] if isinstance(row, dict)] if isinstance(rows, list) else []


def _spoken(version: Any) -> Version | None:
    if not isinstance(version, str):
        return None
    if version.startswith("1."):
        return "1.0"
    return "0.3" if version.startswith("0.") else None


def _path(url: str) -> str:
    """Only the path is taken from a card: where we send our token is said by the registration alone."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise BadResponse(f"the agent card's URL is none: {excerpt(url.encode())}") from None
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _name(name: Any) -> str | None:
    return name[:256] if isinstance(name, str) and name else None


def _skills(skills: Any) -> list[str]:
    """Ids and tags, each once, in order."""
    found: dict[str, None] = {}
    for skill in _dicts(skills):
        tags = skill.get("tags")
        for name in (skill.get("id"), *(tags if isinstance(tags, list) else ())):
            if isinstance(name, str) and 0 < len(name) <= 256:
                found[name] = None
    return list(found)[:_MAX_PARTS]


def send_params(version: Version, message_id: str, payload: Any, *, blocking: bool, text_only: bool) -> dict[str, Any]:
    """Parameters of a send. An object goes as a data part, and its words as a text part before it; all else as text.

    >>> send_params("0.3", "t1", "hi", blocking=True, text_only=False)["message"]["parts"]
    [{'kind': 'text', 'text': 'hi'}]
    """
    new = version == "1.0"
    parts: list[dict[str, Any]] = []
    if isinstance(payload, dict) and not text_only:
        words = next((payload[name] for name in ("task", "description") if isinstance(payload.get(name), str)), None)
        if words:
            parts.append({"text": words} if new else {"kind": "text", "text": words})
        parts.append({"data": payload} if new else {"kind": "data", "data": payload})
    else:
        text = as_text(payload)
        parts.append({"text": text} if new else {"kind": "text", "text": text})
    message = {"messageId": message_id, "role": "ROLE_USER" if new else "user", "parts": parts}
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
    """What the JSON-RPC response to a send or a get says. Raises `AgentError`; one about a task may say `Stuck`."""
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


def meaning(error: dict[str, Any]) -> AgentError:
    """What a JSON-RPC error means; a task the agent no longer knows (-32001) is its failure."""
    return jsonrpc.meaning(error, _OUR_FAULT)


def state_of(task: dict[str, Any]) -> str:
    """A state without the dress of its version.

    >>> state_of({"status": {"state": "TASK_STATE_INPUT_REQUIRED"}}), state_of({"status": {"state": "input-required"}})
    ('input-required', 'input-required')
    """
    status = task.get("status")
    state = status.get("state") if isinstance(status, dict) else None
    return state.removeprefix("TASK_STATE_").lower().replace("_", "-") if isinstance(state, str) else ""


class Stuck(Refused):
    """The task waits at the agent for something nobody here can give; the agent should be told to forget `task_id`."""

    task_id: str | None = None


def _task(task: dict[str, Any], reading: Reading) -> Answer | Pending:
    state = state_of(task)
    if state == "completed":
        sources = _dicts(task.get("artifacts"))
        if not sources and isinstance(task["status"].get("message"), dict):
            sources = [task["status"]["message"]]
        return _answer(task, sources, reading)
    if state in ("submitted", "working"):
        if (task_id := _id(task)) is None:
            raise BadResponse("the agent's task has no id to ask for it by")
        return Pending(task_id)
    why = _why(task)
    if state == "failed":
        raise ServerError(f"the agent says its task failed: {why}")
    if state in ("rejected", "canceled"):
        raise Refused(f"the agent {state} the task: {why}")
    if state == "input-required":
        stuck = Stuck(f"the agent needs more input than the task holds: {why}")
        stuck.task_id = _id(task)
        raise stuck
    if state == "auth-required":
        raise ClientError(f"the agent needs an authorization that the registration does not give: {why}")
    raise BadResponse(f"the agent's task is in no state we know: {excerpt(state.encode())}")


def _id(task: dict[str, Any]) -> str | None:
    task_id = task.get("id")
    return task_id if isinstance(task_id, str) and 0 < len(task_id) <= 1024 else None


def _why(task: dict[str, Any]) -> str:
    status = task.get("status")
    message = status.get("message") if isinstance(status, dict) else None
    texts = [part["text"] for part in _parts([message] if isinstance(message, dict) else []) if _is_text(part)]
    return excerpt(" ".join(texts).encode("utf-8", "replace")) if texts else "no reason given"


def _is_text(part: dict[str, Any]) -> bool:
    return isinstance(part.get("text"), str)


def _parts(sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [part for source in sources for part in _dicts(source.get("parts"))][:_MAX_PARTS]


def _answer(whole: dict[str, Any], sources: list[dict[str, Any]], reading: Reading) -> Answer:
    """Paths of the registration look into the whole task or message; else the parts are the answer."""
    content = _content(_parts(sources))
    if content is None and reading.value is None:
        raise BadResponse("the agent's answer has no parts")
    return answer_within(whole, content, _told_beside([whole, *sources, *_parts(sources)]), reading)


def _told_beside(holders: list[dict[str, Any]]) -> Any:
    """A confidence in metadata: plain, or in the object of an extension (A2A 1.0, 4.6.2: keyed by the extension's URI)."""
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


def _content(parts: list[dict[str, Any]]) -> Any:
    """One data part, or text that is JSON, is the answer as it is; several parts are a list; nothing is None."""
    data = [part["data"] for part in parts if "data" in part]
    texts = [part["text"] for part in parts if _is_text(part)]
    files = [_file(part) for part in parts if "data" not in part and not _is_text(part)]
    if len(data) == 1 and not files:
        return data[0]
    if data or files:
        return [*texts, *data, *files]
    if not texts:
        return None
    text = "".join(texts)
    if text.lstrip()[:1] in ("{", "["):
        try:
            return load_json(text.encode("utf-8", "replace"))
        except BadResponse:
            if '"confidence"' in text:
                raise  # meant as an answer, and none
    return text


def _file(part: dict[str, Any]) -> dict[str, Any]:
    """A file as it was given, without its dress."""
    file = part.get("file")
    return file if isinstance(file, dict) else {key: value for key, value in part.items() if key != "kind"}
