"""A2A's two bindings over HTTP: what goes over the wire for one operation, and what came back in one form for both. Pure.

In: an interface of the card, an operation and its parameters as `tasks.py` has them; JSON or an error status that came back.
Out: a request; the response as JSON-RPC has it (`{"result": ...}` or `{"error": ...}`), whatever carried it.
Source: the A2A specification 1.0 (chapter 11, HTTP+JSON/REST) and its a2a.proto; for 0.3 the official SDKs for Python and
JavaScript, which send and expect the JSON of a2a.proto 0.3: `content` for `parts`, `{"data": {"data": ...}}`, no `kind`, names of
enums in capitals. Its specification can also be read as the objects of JSON-RPC; that form is tried second.

  operation   JSON-RPC 1.0           JSON-RPC 0.3     HTTP+JSON (0.3: below /v1)
  send        SendMessage            message/send     POST /message:send
  stream      SendStreamingMessage   message/stream   POST /message:stream
  get         GetTask                tasks/get        GET  /tasks/{id}
  cancel      CancelTask             tasks/cancel     POST /tasks/{id}:cancel
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from agents_io.errors import AgentError, ServerError
from agents_io.protocols.a2a.rules.card import Interface, Version
from agents_io.protocols.a2a.rules.tasks import (
    NOT_OFFERED,
    UNKNOWN_TASK,
    WRONG_PARTS,
    NotOffered,
    OtherForm,
    OtherVersion,
    UnknownTask,
    WrongParts,
    meaning,
)
from agents_io.rules import jsonrpc
from agents_io.rules.answer import body_excerpt, excerpt
from schemas.exact_json import dumps, loads

Operation = Literal["send", "stream", "get", "cancel"]
METHODS: dict[Version, dict[Operation, str]] = {
    "1.0": {"send": "SendMessage", "stream": "SendStreamingMessage", "get": "GetTask", "cancel": "CancelTask"},
    "0.3": {"send": "message/send", "stream": "message/stream", "get": "tasks/get", "cancel": "tasks/cancel"},
}
_CODES = {
    "TASK_NOT_FOUND": UNKNOWN_TASK,
    "TASK_NOT_CANCELABLE": -32002,
    "PUSH_NOTIFICATION_NOT_SUPPORTED": -32003,
    "UNSUPPORTED_OPERATION": NOT_OFFERED,
    "CONTENT_TYPE_NOT_SUPPORTED": WRONG_PARTS,
    "INVALID_AGENT_RESPONSE": -32006,
    "EXTENDED_AGENT_CARD_NOT_CONFIGURED": -32007,
    "EXTENSION_SUPPORT_REQUIRED": -32008,
    "VERSION_NOT_SUPPORTED": -32009,
    "INVALID_PARAMS": -32602,
    "INVALID_REQUEST": -32600,
    "METHOD_NOT_FOUND": -32601,
    "INTERNAL_ERROR": -32603,
}
"""From the `reason` of google.rpc.ErrorInfo, which every A2A error of HTTP+JSON carries, to JSON-RPC's code."""
_MEANT = frozenset({400, 404, 405, 406, 409, 415, 422, 501})
"""Statuses of A2A's errors, without those that are clear by themselves."""
_KINDS = {"task": "task", "message": "message", "statusUpdate": "status-update", "artifactUpdate": "artifact-update"}
"""The member that holds what was sent, and its `kind` in 0.3's JSON-RPC."""


@dataclass(frozen=True, slots=True)
class Wire:
    """A request. `leaf`: its path below the interface's, escaped; `body`: None for a GET."""

    leaf: str
    body: bytes | None


def request(interface: Interface, what: Operation, params: dict[str, Any], tenant: str | None, number: int) -> Wire:
    """The request of an operation. `params`: as JSON-RPC has them; `tenant`: 1.0 knows it; `number`: JSON-RPC's id.

    >>> rest = Interface("1.0", "HTTP+JSON", "/")
    >>> request(rest, "get", {"id": "a/b"}, "t1", 1), request(rest, "cancel", {"id": "a"}, None, 1)
    (Wire(leaf='/t1/tasks/a%2Fb', body=None), Wire(leaf='/tasks/a:cancel', body=b'{}'))
    """
    if interface.version != "1.0":
        tenant = None
    if interface.binding == "JSONRPC":
        params = params if tenant is None else {"tenant": tenant, **params}
        return Wire("", jsonrpc.request(number, METHODS[interface.version][what], params))
    below = ("/v1" if interface.version == "0.3" else "") + ("" if tenant is None else f"/{quote(tenant, safe='')}")
    if what in ("send", "stream"):
        if interface.version == "0.3":
            params = params if interface.plain else _as_proto(params)
        elif tenant is not None:
            params = {"tenant": tenant, **params}
        return Wire(f"{below}/message:{what}", dumps(params))
    task = f"{below}/tasks/{quote(params['id'], safe='')}"
    return Wire(task, None) if what == "get" else Wire(task + ":cancel", b"{}")


def response(interface: Interface, data: Any) -> Any:
    """The JSON of a 2xx, or of one event of a stream, in JSON-RPC's form.

    >>> response(Interface("0.3", "HTTP+JSON", "/"), {"message": {"content": [{"data": {"data": {"a": 1}}}]}})
    {'result': {'parts': [{'data': {'a': 1}}], 'kind': 'message'}}
    >>> response(Interface("1.0", "HTTP+JSON", "/"), {"id": "t", "status": {}})
    {'result': {'id': 't', 'status': {}}}
    """
    if interface.binding == "JSONRPC" or not isinstance(data, dict):
        return data
    error = data.get("error")
    if isinstance(error, dict):  # a stream that fails after it began
        return {"error": {"code": -32603, "reason": excerpt(str(error.get("status")).encode())} | _error(error)}
    return {"result": _from_proto(data) if interface.version == "0.3" else data}


def refusal(interface: Interface, what: Operation, status: int, body: bytes) -> AgentError | None:
    """What a response other than 2xx means in A2A. None: its status alone counts, as also for 401, 429 and 5xx.

    Four cases: 1 JSON-RPC has its errors in a 2xx. 2 The body names A2A's reason. 3 It does not, as in 0.3, and the
    status stands for one. 4 The path does not exist: the agent speaks another version or binding, or the task is gone.

    >>> refusal(Interface("1.0", "HTTP+JSON", "/"), "send", 404, b"Not Found")
    OtherVersion("the agent answered 404: 'Not Found'")
    """
    if interface.binding == "JSONRPC":
        is_absent = status in (404, 405) and what in ("send", "stream")
        return _with_status(OtherVersion(_answered(status, body)), status) if is_absent else None
    if status not in _MEANT:
        return None
    error = _error_in(body)
    if error is not None and "code" in error:
        found: AgentError = meaning(error)
    else:
        text = _answered(status, body)
        if status == 415:
            found = WrongParts(text)
        elif status == 501:
            found = NotOffered(text)
        elif what in ("send", "stream") and interface.version == "0.3" and status in (400, 422):
            found = OtherForm(text)
        elif status not in (404, 405):
            return None
        elif what in ("send", "stream"):
            found = OtherVersion(text)
        else:
            found = UnknownTask(text) if error is not None else ServerError(text)
    return _with_status(found, status)


def _answered(status: int, body: bytes) -> str:
    return f"the agent answered {status}: {body_excerpt(body)}"


def _with_status(error: AgentError, status: int) -> AgentError:
    error.status = status
    return error


def _error_in(body: bytes) -> dict[str, Any] | None:
    """The error in the body of a refused request, in JSON-RPC's form; None: the body is not an A2A error."""
    try:
        data = loads(body)
    except ValueError:
        return None
    if not isinstance(data, dict):
        return None
    if isinstance(data.get("error"), dict):
        return _error(data["error"])
    return _error(data) if isinstance(data.get("message"), str) else None


def _error(error: dict[str, Any]) -> dict[str, Any]:
    """An error of HTTP+JSON in JSON-RPC's form; without `code` if its reason is unknown.

    Agents of 0.3 also send JSON-RPC's own code (a2a-js); in 1.0 `code` is the status.
    """
    found = {"message": error.get("message", "")}
    if type(code := error.get("code")) is int and code < 0:
        return found | {"code": code}
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        reason = detail.get("reason") if isinstance(detail, dict) else None
        if isinstance(reason, str) and reason in _CODES:
            return found | {"code": _CODES[reason], "reason": reason}
    return found


def _as_proto(params: dict[str, Any]) -> dict[str, Any]:
    """0.3's parameters of a send, as the JSON of its a2a.proto."""
    message = {name: value for name, value in params["message"].items() if name not in ("kind", "parts")}
    parts = [
        {"data": {"data": part["data"]}} if "data" in part else {"text": part["text"]}
        for part in params["message"]["parts"]
    ]
    return params | {"message": message | {"role": "ROLE_USER", "content": parts}}


def _from_proto(data: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a2a.proto 0.3 in the form of 0.3's JSON-RPC; JSON in that form already stays as it is."""
    for member, kind in _KINDS.items():
        inner = data.get(member)
        if isinstance(inner, dict) and "kind" not in data and "id" not in data:
            return _plain(inner) | {"kind": kind}
    return _plain(data)


def _plain(holder: dict[str, Any], levels: int = 2) -> dict[str, Any]:
    """A task, message or event with its messages and parts in the form of JSON-RPC. `levels`: how deep they may lie in it."""
    found = dict(holder)
    if isinstance(found.get("content"), list):
        found["parts"] = found.pop("content")
    if isinstance(found.get("parts"), list):
        found["parts"] = [_part(part) for part in found["parts"]]
    if levels == 0:
        return found
    for name in ("status", "message", "artifact"):
        if isinstance(found.get(name), dict):
            found[name] = _plain(found[name], levels - 1)
    for name in ("artifacts", "history"):
        if isinstance(found.get(name), list):
            found[name] = [_plain(one, 0) if isinstance(one, dict) else one for one in found[name]]
    return found


def _part(part: Any) -> Any:
    """A part without the second `data` around its data."""
    data = part.get("data") if isinstance(part, dict) else None
    if isinstance(data, dict) and data.keys() == {"data"} and "kind" not in part:
        return part | {"data": data["data"]}
    return part
