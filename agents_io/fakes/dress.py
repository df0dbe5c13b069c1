"""Which bytes of a step are dressed as an answer of the protocol, and which go out as they are. Pure."""

from __future__ import annotations

from agents_io.fakes.steps import Step


def text_of(step: Step, body: bytes) -> str | None:
    """The text an agent would say; None for what no agent says: an error status, bytes that are no text, a page of HTML."""
    if not 200 <= step.code < 300 or dict(step.headers).get("Content-Type") != "application/json":
        return None
    if any(name == "Content-Encoding" for name, _ in step.headers):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
