"""JSON-RPC 2.0 as A2A and MCP use it over HTTP: one request, one response, and what its errors mean. Pure.

In: a method and its parameters; the JSON that came back. Out: the request's bytes; the result, or the `AgentError`.

  -32700, -32600, -32601, -32602    http_4xx    we sent what it cannot take: no retry, not held against the agent
  -32603, -32000 and all others     http_5xx    the agent failed; the protocols' own codes are mapped by their rules
"""

from __future__ import annotations

from typing import Any

from agents_io.errors import AgentError, BadResponse, ClientError, ServerError
from agents_io.rules.answer import excerpt
from schemas.exact_json import dumps

_CALLERS_FAULT = frozenset({-32700, -32600, -32601, -32602})


def request(number: int, method: str, params: Any) -> bytes:
    """The bytes of a request.

    >>> request(1, "ping", {})
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}'
    """
    return dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})


def notification(method: str, params: Any = None) -> bytes:
    """The bytes of a notification, which has no answer."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    return dumps(message if params is None else message | {"params": params})


def answers(message: Any, number: int) -> bool:
    """Whether this is the response to request `number`, also with the number as text; an error without an id counts as
    one.
    """
    if not isinstance(message, dict) or "method" in message:
        return False
    return message.get("id") in (number, str(number)) or ("error" in message and message.get("id") is None)


def is_response(message: Any) -> bool:
    """Whether this is a response."""
    return isinstance(message, dict) and ("result" in message or "error" in message)


def error_of(message: Any) -> dict[str, Any] | None:
    """The error of a response, None if it has none.

    >>> error_of({"id": 1, "error": {"code": -32603, "message": "oh"}})["code"]
    -32603
    """
    error = message.get("error") if isinstance(message, dict) else None
    return error if isinstance(error, dict) else None


def result_of(message: Any) -> dict[str, Any]:
    """The result of a response. Raises `BadResponse`, and the error that `meaning` returns."""
    error = error_of(message)
    if error is not None:
        raise meaning(error)
    result = message.get("result") if isinstance(message, dict) else None
    if not isinstance(result, dict):
        raise BadResponse("the answer is no JSON-RPC response with a result")
    return result


def meaning(error: dict[str, Any], also_callers: frozenset[int] = frozenset()) -> AgentError:
    """The `AgentError` for an error object. `also_callers`: a protocol's own codes that are the caller's fault.

    `reason`, which JSON-RPC does not have, is the error's name in another binding of the protocol.
    """
    code = error.get("code")
    if type(code) is not int:
        return ServerError(f"the agent answered an error without a code: {words(error)}")
    text = f"the agent answered {error.get('reason') or f'JSON-RPC error {code}'}: {words(error)}"
    return ClientError(text) if code in _CALLERS_FAULT or code in also_callers else ServerError(text)


def words(error: dict[str, Any]) -> str:
    """The error's message, fit for display."""
    return excerpt(str(error.get("message", "")).encode("utf-8", "replace"))


def picked(data: Any, number: int) -> Any:
    """The response to request `number` from a batch; other data is returned unchanged.

    >>> picked([{"method": "x"}, {"id": 1, "result": {}}], 1)
    {'id': 1, 'result': {}}
    """
    if not isinstance(data, list):
        return data
    return next((message for message in data if answers(message, number)), data)


def reply(request: Any) -> bytes | None:
    """The answer to a request of the server itself: an empty result for `ping`, an error for any other. The server
    waits for it, and so would our call.

    None: it is not a request.

    >>> reply({"jsonrpc": "2.0", "id": "s1", "method": "ping"})
    b'{"jsonrpc":"2.0","id":"s1","result":{}}'
    """
    if not isinstance(request, dict) or not isinstance(request.get("method"), str):
        return None
    number = request.get("id")
    if isinstance(number, bool) or not isinstance(number, (str, int)):
        return None
    answer: dict[str, Any] = {"jsonrpc": "2.0", "id": number}
    if request["method"] == "ping":
        return dumps(answer | {"result": {}})
    message = f"parallax-streams does not offer {request['method'][:80]}"
    return dumps(answer | {"error": {"code": -32601, "message": message}})
