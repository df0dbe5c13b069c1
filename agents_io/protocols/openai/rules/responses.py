"""OpenAI's Responses API (`POST /v1/responses`), as far as one question and one answer need it. Pure.

In: how a model is asked and a payload; the response object. Out: a request body; the answer as a chat completion, which
`chat.py` reads. Source: the public reference of the Responses API (fields `instructions`, `input`, `text.format`,
`status`, `incomplete_details`, `output[]`, `usage`). The server stores nothing unless the registration asks for it; no
tools are offered.
"""

from __future__ import annotations

from typing import Any

from agents_io.errors import BadResponse
from agents_io.rules.answer import excerpt
from schemas.exact_json import dumps

OURS = ("model", "input", "instructions", "text", "stream", "previous_response_id", "background")
"""Members of the request that a registration may not set."""
ABSENT = ("seed", "stop")
"""Parameters of chat completions that this API does not have."""
_LOGPROBS = "message.output_text.logprobs"
_RENAMED = {"max_tokens": "max_output_tokens", "max_completion_tokens": "max_output_tokens"}
_TOOLS = ("function_call", "custom_tool_call")


def request_body(template: dict[str, Any], system: str, text: str, *, logprobs: bool, stream: bool) -> bytes:
    """`template`: the request of a chat completion without its messages.

    >>> request_body({"model": "m", "max_tokens": 5}, "s", "t", logprobs=False, stream=False)
    b'{"store":false,"model":"m","max_output_tokens":5,"instructions":"s","input":"t","stream":false}'
    """
    body: dict[str, Any] = {"store": False}
    for name, value in template.items():
        if name == "response_format":
            schema = value.get("json_schema")
            body["text"] = {"format": value if schema is None else {"type": "json_schema", **schema}}
        elif name == "reasoning_effort":
            body["reasoning"] = {"effort": value}
        else:
            body[_RENAMED.get(name, name)] = value
    if logprobs:
        body["include"] = [_LOGPROBS]
    return dumps(body | {"instructions": system, "input": text, "stream": stream})


def as_completion(data: Any, body: bytes) -> dict[str, Any]:
    """The response as a chat completion with one choice. Raises `BadResponse`. `body`: quoted in the error."""
    output = data.get("output") if isinstance(data, dict) else None
    if not isinstance(output, list):
        raise BadResponse(f"the answer has no output: {excerpt(body)}")
    status = data.get("status")
    if status in ("in_progress", "queued"):
        raise BadResponse(f"the response is {status}: what goes on in the background is not waited for")
    message: dict[str, Any] = {"content": "", "reasoning_content": ""}
    logprobs: list[Any] = []
    for item in output:
        if not isinstance(item, dict):
            continue
        kind = item.get("type")
        if kind in _TOOLS:
            message["tool_calls"] = [item]
        for part in _parts(item, "content") + _parts(item, "summary"):
            text = part.get("text")
            if part.get("type") == "refusal":
                message["refusal"] = part.get("refusal") or "no reason given"
            elif isinstance(text, str):
                message["content" if kind == "message" else "reasoning_content"] += text
                rows = part.get("logprobs")
                logprobs += rows if isinstance(rows, list) else []
    end = {"completed": "stop", "incomplete": _reason(data), "failed": "error"}.get(str(status), status)
    choice = {"finish_reason": end, "message": message, "logprobs": {"content": logprobs}}
    return {"model": data.get("model"), "choices": [choice], "usage": _usage(data.get("usage"))}


def _parts(item: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = item.get(name)
    return [part for part in found if isinstance(part, dict)] if isinstance(found, list) else []


def _reason(data: dict[str, Any]) -> str:
    details = data.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    return reason if isinstance(reason, str) else "error"


def _usage(usage: Any) -> Any:
    names = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}
    return {names.get(name, name): value for name, value in usage.items()} if isinstance(usage, dict) else None
