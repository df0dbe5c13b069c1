"""A model's streamed answer, put together: chunks of a chat completion, or the events of a response. Pure.

In: pieces of the event stream, cut anywhere. Out: the object that the server would have sent without a stream. The size
of that object is bounded, not that of the stream: a chunk repeats some hundred bytes for each word.
"""

from __future__ import annotations

from typing import Any

from agents_io.errors import AnswerTooLarge, BadResponse
from agents_io.rules.sse import EventData, event_json

DONE = b"[DONE]"
_ENDS = ("response.completed", "response.incomplete", "response.failed")
_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")
_ROW_BYTES = 8


class AnswerStream:
    """`feed` it pieces until the answer is complete; then take `whole`.

    >>> stream = AnswerStream(1000)
    >>> stream.feed(b'data: {"choices":[{"delta":{"content":"4"}}]}\\n\\n')
    False
    >>> stream.feed(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\\n\\ndata: [DONE]\\n\\n')
    True
    >>> stream.whole()["choices"][0]["message"]
    {'content': '4'}
    """

    def __init__(self, max_bytes: int) -> None:
        self._events = EventData()
        self._max = max_bytes
        self._size = 0
        self._is_done = False
        self._ready: dict[str, Any] | None = None
        self._about: dict[str, Any] = {}
        self._texts: dict[str, list[str]] = {}
        self._tools: list[Any] = []
        self._logprobs: list[Any] = []
        self._finish: str | None = None

    def feed(self, piece: bytes) -> bool:
        """Whether the answer is complete. Raises `BadResponse`, `AnswerTooLarge`."""
        self._take(self._events.feed(piece))
        self._events.check_size(self._max)
        return self._is_done

    def whole(self) -> dict[str, Any]:
        """The answer as an unstreamed object. Raises `BadResponse`: the stream ended before it did."""
        if not self._is_done:
            self._take(self._events.end())
        if self._ready is not None:
            return self._ready
        if self._finish is None and not self._is_done:  # some servers send their end mark alone
            raise BadResponse("the stream ended before the answer did")
        message: dict[str, Any] = {name: "".join(parts) for name, parts in self._texts.items()}
        if self._tools:
            message["tool_calls"] = self._tools
        choice = {"finish_reason": self._finish, "message": message, "logprobs": {"content": self._logprobs}}
        return {**self._about, "choices": [choice]}

    def _take(self, events: list[bytes]) -> None:
        for data in events:
            if self._is_done or not data.strip():
                continue
            if data.strip() == DONE:
                self._is_done = True
                continue
            event = event_json(data)
            if isinstance(event, dict):
                self._event(event)

    def _event(self, event: dict[str, Any]) -> None:
        kind, response = event.get("type"), event.get("response")
        if kind in _ENDS and isinstance(response, dict):
            self._ready, self._is_done = response, True
        elif kind == "error" or event.get("object") == "error" or event.get("error"):
            self._ready, self._is_done = {"error": event.get("error") or event}, True
        for name in ("model", "usage"):
            if event.get(name) is not None:
                self._about[name] = event[name]
        choices = event.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            self._choice(choices[0])

    def _choice(self, choice: dict[str, Any]) -> None:
        delta, logprobs, finish = choice.get("delta"), choice.get("logprobs"), choice.get("finish_reason")
        if isinstance(delta, dict):
            for name in _TEXTS:
                if isinstance(text := delta.get(name), str) and text:
                    self._texts.setdefault(name, []).append(text)
                    self._grow(len(text.encode("utf-8", "replace")))
            if delta.get("tool_calls") or delta.get("function_call"):
                self._tools = [True]  # none was offered, so any call is an error
        rows = logprobs.get("content") if isinstance(logprobs, dict) else None
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, dict):
                self._logprobs.append({"logprob": row.get("logprob")})
                self._grow(_ROW_BYTES)
        if isinstance(finish, str):
            self._finish = finish

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._max:
            raise AnswerTooLarge(f"the answer is larger than {self._max} bytes")
