"""The Model Context Protocol, as much of it as one tool call needs: opening, calling, and reading the result. Pure.

In: metadata and a payload; JSON-RPC results. Out: parameters and headers; an `Answer` or the `AgentError` it means.
Source: the MCP specification, revisions 2024-10-07 to 2025-11-25 (initialize, then a session) and 2026-07-28 (no session: each
request says version and client in `_meta` and in headers): basic/transports, basic/versioning, server/tools.

  isError                      http_5xx    (the tool says it failed)        input required       refused
    bad arguments, no such tool    http_4xx
  result without confidence    bad_response, unless the registration gives defaultConfidence
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from agents_io.errors import BadResponse, ClientError, Refused, ServerError, Unsupported
from agents_io.rules.answer import Path, Reading, answer_within, compile_path, excerpt, load_json, search
from agents_io.rules.text_answer import content_of
from agents_io.transport import Answer

LEGACY = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05", "2024-10-07")
"""Versions with a handshake, newest first."""
MODERN = "2026-07-28"
CLIENT = {"name": "parallax-streams", "version": "1"}
UNSUPPORTED_VERSION = -32022
_MAX_CONTENT = 1000
_TASKS_FAULT = re.compile(
    r"(?:Error executing tool \S{1,256}: )?(?:MCP error -3260[12]\b|Unknown tool\b|Input validation error\b"
    r"|Invalid arguments\b|Invalid params\b|Tool \S{1,256} not found\b|\d{1,4} validation errors? for (?:\w+Arguments|call\[)"
    r"|Missing required argument)",
    re.IGNORECASE,
)
"""How the official SDKs and FastMCP report a task that does not fit the tool: as a result, with `isError`."""
_SESSION_WORDS = re.compile(r"session|not initialized|uninitialized", re.IGNORECASE)


class ToolCall:
    """The tool that an agent stands for, and how its arguments are made of a payload. Raises `Unsupported`.

    >>> ToolCall({"tool": "add"}).arguments({"a": 1})
    {'a': 1}
    >>> ToolCall({"tool": "add", "argumentsPath": "data"}).arguments({"data": 1})
    {'input': 1}
    """

    __slots__ = ("name", "path")

    def __init__(self, metadata: Mapping[str, Any] | None) -> None:
        given = metadata or {}
        name = given.get("tool")
        if not isinstance(name, str) or not 0 < len(name) <= 256:
            raise Unsupported("metadata.tool: an agent of protocol mcp needs the name of its tool")
        path = given.get("argumentsPath")
        if path is not None and not isinstance(path, str):
            raise Unsupported("metadata.argumentsPath: must be a JMESPath expression in a string")
        self.name = name
        self.path: Path | None = None if path is None else compile_path("argumentsPath", path)

    def arguments(self, payload: Any) -> dict[str, Any]:
        """The payload, or the part that `metadata.argumentsPath` selects; a value that is not an object becomes
        `input`.
        """
        if self.path is not None:
            try:
                payload = search(self.path, payload, "argumentsPath")
            except BadResponse as error:
                raise Unsupported(error.message) from None
        return payload if isinstance(payload, dict) else {"input": payload}

    def params(self, payload: Any) -> dict[str, Any]:
        return {"name": self.name, "arguments": self.arguments(payload)}


def initialize_params(version: str) -> dict[str, Any]:
    """Parameters of `initialize`: a version with a handshake, and no capabilities of the client."""
    return {"protocolVersion": version, "capabilities": {}, "clientInfo": CLIENT}


def negotiated(result: dict[str, Any]) -> str:
    """The version that the server chose. Raises `Unsupported` if we do not support it."""
    version = result.get("protocolVersion")
    if version not in LEGACY:
        raise Unsupported(f"the agent speaks MCP {excerpt(str(version).encode())}, not {', '.join((MODERN, *LEGACY))}")
    return str(version)


def modern_params(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters that name version and client in each request, for versions without a session."""
    about = {"protocolVersion": MODERN, "clientInfo": CLIENT, "clientCapabilities": {}}
    return params | {"_meta": {f"io.modelcontextprotocol/{name}": value for name, value in about.items()}}


def modern_headers(method: str, name: str | None = None) -> list[tuple[bytes, bytes]]:
    """Headers that repeat parts of the body, for versions without a session.

    >>> modern_headers("tools/call", "wetter für alle")[-1]
    (b'Mcp-Name', b'=?base64?d2V0dGVyIGbDvHIgYWxsZQ==?=')
    """
    headers = [(b"MCP-Protocol-Version", MODERN.encode()), (b"Mcp-Method", method.encode())]
    return headers if name is None else [*headers, (b"Mcp-Name", header_value(name))]


def header_value(text: str) -> bytes:
    """A value as a header can carry it: unchanged, or in base64 between marks."""
    plain = text.isascii() and text.isprintable() and text == text.strip()
    if plain and not (text.startswith("=?base64?") and text.endswith("?=")):
        return text.encode("ascii")
    return b"=?base64?" + base64.b64encode(text.encode()) + b"?="


def speaks_modern(error: dict[str, Any] | None) -> bool:
    """Whether an error in answer to `initialize` may come from a server without a handshake."""
    if error is None:
        return False
    supported = _supported(error)
    if supported is not None:
        return MODERN in supported
    return error.get("code") in (UNSUPPORTED_VERSION, -32020, -32600, -32601, -32602)


def other_version(error: dict[str, Any] | None) -> str | None:
    """The newest version with a handshake that an error in answer to `initialize` offers.

    By the specification a server answers with another version instead; some refuse ours, as its example of an error does.

    >>> other_version({"code": -32602, "data": {"supported": ["2024-11-05"]}}), other_version({"code": -32602})
    ('2024-11-05', None)
    """
    supported = _supported(error or {}) or []
    return next((version for version in LEGACY if version in supported), None)


def _supported(error: dict[str, Any]) -> list[Any] | None:
    data = error.get("data")
    supported = data.get("supported") if isinstance(data, dict) else None
    return supported if isinstance(supported, list) else None


def tool_answer(result: dict[str, Any], reading: Reading) -> Answer:
    """The answer in the result of `tools/call`. Paths of the registration select from the whole result.

    Raises `ServerError`, `Refused`, `BadResponse`.

    >>> tool_answer({"structuredContent": {"value": 3, "confidence": 0.5}}, Reading()).value
    3
    >>> tool_answer({"content": [{"type": "text", "text": "hi"}], "_meta": {"confidence": 1}}, Reading())
    Answer(value='hi', confidence=1.0, metadata={})
    """
    if result.get("resultType") == "input_required":
        raise Refused("the tool needs more input than the task holds")
    content = result.get("content")
    blocks = [block for block in content[:_MAX_CONTENT] if isinstance(block, dict)] if isinstance(content, list) else []
    texts = [block["text"] for block in blocks if block.get("type") == "text" and isinstance(block.get("text"), str)]
    if result.get("isError") is True:
        why = excerpt(" ".join(texts).encode("utf-8", "replace")) if texts else "no reason given"
        if texts and _TASKS_FAULT.match(texts[0].strip()):
            raise ClientError(f"the tool does not take this task: {why}")
        raise ServerError(f"the tool reports a failure: {why}")
    stated = _content(result, blocks, texts) if reading.value is None or "structuredContent" in result else None
    answer = answer_within(result, stated, _stated_confidence(result), reading)
    answer.metadata.update({key: value for key, value in _beside(result).items() if key not in answer.metadata})
    return answer


def _beside(result: dict[str, Any]) -> dict[str, Any]:
    """The members of `_meta`, without the confidence and the mark of a wrapped result."""
    meta = result.get("_meta")
    if not isinstance(meta, dict):
        return {}
    return {
        key: value
        for key, value in meta.items()
        if key not in (*_WRAPPED, "confidence") and not key.endswith("/confidence")
    }


def _stated_confidence(result: dict[str, Any]) -> Any:
    """A confidence in the result's `_meta`, plain or under a vendor's prefix."""
    meta = result.get("_meta")
    if not isinstance(meta, dict):
        return None
    return next((value for key, value in meta.items() if key == "confidence" or key.endswith("/confidence")), None)


def _content(result: dict[str, Any], blocks: list[dict[str, Any]], texts: list[str]) -> Any:
    """Structured content; else text, parsed if it is JSON; else the blocks as they came."""
    if "structuredContent" in result and result["structuredContent"] is not None:
        stated = _unwrapped(result["structuredContent"], result.get("_meta"), texts)
        return content_of(stated) if isinstance(stated, str) else stated
    if not blocks:
        raise BadResponse("the tool's result is empty")
    if len(texts) < len(blocks):
        return blocks
    text = "\n".join(texts)
    if not text.strip():
        raise BadResponse("the tool's result is empty")
    return content_of(text)


_WRAPPED = ("x-fastmcp-wrap-result", "fastmcp")


def _unwrapped(structured: Any, meta: Any, texts: list[str]) -> Any:
    """A tool's result without the object `{"result": ...}` that an SDK put around it.

    FastMCP marks such an object in `_meta`, the official SDK does not. An unmarked one is recognised by the text beside
    it, which repeats what the tool returned.
    """
    if not isinstance(structured, dict) or structured.keys() != {"result"}:
        return structured
    marked = isinstance(meta, dict) and any(meta.get(name) for name in _WRAPPED)
    if not marked and len(texts) == 1 and texts[0].lstrip()[:1] == "{":
        try:
            if load_json(texts[0].encode("utf-8", "replace")) == structured:
                return structured
        except BadResponse:
            pass
    return structured["result"]


def names_session(raw: bytes) -> bool:
    """Whether an error text is about the session."""
    return _SESSION_WORDS.search(raw[:500].decode("utf-8", "replace")) is not None


def is_about_session(error: dict[str, Any] | None) -> bool:
    """Whether an error says that the server does not know the session; the server has then run nothing.

    >>> is_about_session({"code": -32000, "message": "Bad Request: No valid session ID provided"})
    True
    """
    if error is None:
        return False
    code = error.get("code")
    implementation = type(code) is int and (-32099 <= code <= -32000 or code == -32600)
    return implementation and _SESSION_WORDS.search(str(error.get("message", ""))[:500]) is not None


def tool_names(result: dict[str, Any]) -> list[str]:
    """The names in the result of `tools/list`."""
    tools = result.get("tools")
    rows = tools[:_MAX_CONTENT] if isinstance(tools, list) else []
    return [row["name"] for row in rows if isinstance(row, dict) and isinstance(row.get("name"), str)]
