"""Which bytes of a step are sent in the protocol's form of an answer, and which as they are. Pure."""

from __future__ import annotations

from agents_io.fakes.steps import ScriptStep


def text_of(step: ScriptStep, body: bytes) -> str | None:
    """The text of an answer; None for an error status, bytes that are no text, and HTML, which no agent answers."""
    if not 200 <= step.code < 300 or dict(step.headers).get("Content-Type") != "application/json":
        return None
    if any(name == "Content-Encoding" for name, _ in step.headers):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
