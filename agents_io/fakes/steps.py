"""The steps a fake agent's script is made of, and their form as text. Pure.

In: `answer(confidence=0.8, times=3)` or the text `answer:confidence=0.8,times=3`. Out: a `ScriptStep`. Nothing is served here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_JSON = (("Content-Type", "application/json"),)


@dataclass(frozen=True, slots=True)
class ScriptStep:
    """What the agent does for `times` calls (None: all that follow). `size` in bytes, `delay_s` before anything else."""

    kind: str
    times: int | None = None
    delay_s: float = 0.0
    code: int = 200
    body: Any = b""
    headers: tuple[tuple[str, str], ...] = _JSON
    size: int = 0
    compute: Callable[[Any], Any] | None = None


def answer(value: Any = "ok", confidence: Any = 0.9, *, delay_s: float = 0.0, times: int | None = None) -> ScriptStep:
    """A proper answer, after a delay if one is given."""
    return ScriptStep("answer", times, delay_s, body={"value": value, "confidence": confidence})


def compute(function: Callable[[Any], Any], *, delay_s: float = 0.0, times: int | None = None) -> ScriptStep:
    """The result of the function for the payload: JSON-able, or bytes that are sent as they are."""
    return ScriptStep("compute", times, delay_s, compute=function)


def status(
    code: int, *, retry_after: str | None = None, body: Any = b"", delay_s: float = 0.0, times: int | None = None
) -> ScriptStep:
    """An HTTP status, with Retry-After as given."""
    headers = _JSON if retry_after is None else (*_JSON, ("Retry-After", retry_after))
    return ScriptStep("status", times, delay_s, code=code, body=body, headers=headers)


def raw(
    body: bytes,
    *,
    content_type: str = "application/json",
    headers: tuple[tuple[str, str], ...] = (),
    delay_s: float = 0.0,
    times: int | None = None,
) -> ScriptStep:
    """A 200 with exactly these bytes."""
    return ScriptStep("raw", times, delay_s, body=body, headers=(("Content-Type", content_type), *headers))


def nan(**options: Any) -> ScriptStep:
    """A confidence that is not a number."""
    return raw(b'{"value":"ok","confidence":NaN}', **options)


def html(**options: Any) -> ScriptStep:
    """The HTML error page of a proxy, with status 200."""
    return raw(b"<!doctype html><html><body>It works</body></html>", content_type="text/html", **options)


def empty(**options: Any) -> ScriptStep:
    """A 200 without a body."""
    return raw(b"", **options)


def garbage(**options: Any) -> ScriptStep:
    """Bytes that are not JSON."""
    return raw(b'{"value":\x00\xff, oops', **options)


def deep(**options: Any) -> ScriptStep:
    """JSON nested 900 deep."""
    return raw(b'{"confidence":0.5,"value":' + b"[" * 900 + b"]" * 900 + b"}", **options)


def hang(*, delay_s: float = 0.0, times: int | None = None) -> ScriptStep:
    """Accept the call and never answer."""
    return ScriptStep("hang", times, delay_s)


def drip(*, delay_s: float = 0.0, times: int | None = None) -> ScriptStep:
    """Send a byte every 50 ms forever."""
    return ScriptStep("drip", times, delay_s)


def reset(after_bytes: int = 0, *, delay_s: float = 0.0, times: int | None = None) -> ScriptStep:
    """Cut the connection: before the answer, or in the middle of its body."""
    return ScriptStep("reset", times, delay_s, size=after_bytes)


def huge(size: int = 0, *, delay_s: float = 0.0, times: int | None = None) -> ScriptStep:
    """A chunked answer of that many bytes; 0: endless."""
    return ScriptStep("huge", times, delay_s, size=size)


_BUILDERS: dict[str, Callable[..., ScriptStep]] = {
    "answer": answer,
    "status": status,
    "nan": nan,
    "html": html,
    "empty": empty,
    "garbage": garbage,
    "deep": deep,
    "hang": hang,
    "drip": drip,
    "reset": reset,
    "huge": huge,
}
_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "times": ("times", int),
    "delay_ms": ("delay_s", lambda text: float(text) / 1000),
    "code": ("code", int),
    "retry_after": ("retry_after", str),
    "confidence": ("confidence", float),
    "value": ("value", str),
    "size": ("size", int),
    "after_bytes": ("after_bytes", int),
}


def parse_step(text: str) -> ScriptStep:
    """A step from text, `kind` or `kind:name=value,...`. Raises ValueError saying what is wrong.

    >>> parse_step("status:code=503,retry_after=1,times=2").headers[-1]
    ('Retry-After', '1')
    """
    kind, _, rest = text.partition(":")
    if kind not in _BUILDERS:
        raise ValueError(f"unknown behaviour {kind!r}; known: {', '.join(_BUILDERS)}")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        name, equals, value = part.partition("=")
        if name not in _OPTIONS or not equals:
            raise ValueError(f"{kind}: {part!r} is no option; write name=value with one of {', '.join(_OPTIONS)}")
        parameter, read = _OPTIONS[name]
        try:
            options[parameter] = read(value)
        except ValueError:
            raise ValueError(f"{kind}: {name} cannot be {value!r}") from None
    try:
        return _BUILDERS[kind](**options)
    except TypeError:
        raise ValueError(f"{kind}: does not take all of {', '.join(options)}") from None
