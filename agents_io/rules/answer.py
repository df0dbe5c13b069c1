"""Validates an agent's answer: JSON bytes to a value with a confidence, or a short reason why not. Pure.

In: the body of a successful answer, and where the registration says its parts are. Out: an `Answer`.

By default the body is an object with `confidence` and `value`; without `value`, the object without its confidence is
the value. Every other member becomes the answer's metadata. A confidence that exceeds 1 by rounding is 1. NaN,
infinities, confidences outside [0, 1], nesting beyond 128 and anything that is not JSON are refused as `BadResponse`. A
reason quotes at most 80 printable characters of the body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from agents_io.errors import BadResponse, Unsupported
from agents_io.rules.paths import Path as Path
from agents_io.rules.paths import compiled, select
from agents_io.transport import Answer
from schemas.exact_json import loads
from schemas.messages import ConfidenceSource

MAX_DEPTH = 128
MAX_EXCERPT = 80
MAX_BODY_EXCERPT = 240
BOM = b"\xef\xbb\xbf"
_CHARSET = re.compile(
    rb"charset\s*=\s*[\"']?(iso-?8859-[0-9]{1,2}|latin-?1|(?:windows|cp)-?125[0-8]|utf-(?:16|32)(?:le|be)?|gb2312|gbk|gb18030"
    rb"|big5|shift[_-]jis|euc-(?:jp|kr)|koi8-[ru])\b",
    re.IGNORECASE,
)
"""Charsets in use beside UTF-8; some other codecs of Python's are slow, or not charsets."""
ROUNDING = 1e-6
"""How far a softmax in single precision may sum past 1."""
UNRATED = 0.0
"""Placeholder for the confidence of an answer that gets one later, from other samples or a judge."""
_NUMBER = re.compile(r"(\+?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,3})?)\s*(%?)", re.ASCII)


def compile_path(name: str, expression: str, within: str = "metadata.") -> Path:
    """The expression of `metadata.<name>`, compiled once. Raises `Unsupported`: the registration is invalid.

    >>> compile_path("valuePath", "a.b").search({"a": {"b": 1}})
    1
    """
    try:
        return compiled(expression)
    except ValueError as error:
        raise Unsupported(f"{within}{name}: {excerpt(str(error).encode())[1:-1]}") from None


@dataclass(frozen=True, slots=True)
class Reading:
    """Where the registration says an answer's value and confidence are. `default`: the confidence of answers without
    one.

    `constant`: the confidence of every answer, whatever it states. `logprobs`: the confidence is computed from the
    model's tokens. `lenient`: accept models' spellings of a number: `"0.93"`, `"93%"`, 93.
    """

    value: Path | None = None
    confidence: Path | None = None
    default: float | None = None
    lenient: bool = False
    constant: float | None = None
    logprobs: bool = False


_PLAIN = Reading()


def reading_of(metadata: Mapping[str, Any] | None, source: ConfidenceSource | None = None) -> Reading:
    """From a registration's `metadata` (`valuePath`, `confidencePath`, `defaultConfidence`) and its `confidence`.

    Raises `Unsupported`.

    >>> reading_of({"defaultConfidence": 0.5}).default
    0.5
    """
    reading = _of_metadata(metadata) if metadata else _PLAIN
    if source is None or source.source == "stated":
        return reading
    if source.source == "path":
        return replace(reading, confidence=compile_path("confidence.path", source.path or "", ""))
    if source.source in ("agreement", "judge"):
        return replace(reading, constant=UNRATED)
    return replace(reading, constant=source.value, logprobs=source.source == "logprobs")


def _of_metadata(metadata: Mapping[str, Any]) -> Reading:
    default = metadata.get("defaultConfidence")
    if default is not None:
        try:
            default = checked_confidence(default)
        except BadResponse as error:
            raise Unsupported(f"metadata.defaultConfidence: {error.message}") from None
    return Reading(_path(metadata, "valuePath"), _path(metadata, "confidencePath"), default)


def _path(metadata: Mapping[str, Any], name: str) -> Path | None:
    expression = metadata.get(name)
    if expression is None:
        return None
    if not isinstance(expression, str):
        raise Unsupported(f"metadata.{name}: must be a JMESPath expression in a string")
    return compile_path(name, expression)


def parse_answer(body: bytes, reading: Reading = _PLAIN) -> Answer:
    """The answer in a body. Raises `BadResponse`.

    >>> parse_answer(b'{"value": 4, "confidence": 0.5}')
    Answer(value=4, confidence=0.5, metadata={})
    >>> parse_answer(b'{"label": "spam", "confidence": 1}').value
    {'label': 'spam'}
    """
    data = load_json(body)
    if (
        not isinstance(data, dict)
        and reading.confidence is None
        and reading.default is None
        and reading.constant is None
    ):
        raise BadResponse(f"the answer must be a JSON object with confidence, not {excerpt(body)}")
    return read_answer(data, reading)


def read_answer(data: Any, reading: Reading = _PLAIN) -> Answer:
    """The answer in parsed JSON. Raises `BadResponse`.

    >>> read_answer("spam", Reading(default=0.5))
    Answer(value='spam', confidence=0.5, metadata={})
    """
    return answer_within(data, data, None, reading)


def answer_within(whole: Any, content: Any, beside: Any, reading: Reading) -> Answer:
    """The answer in a part of a response. Paths of the registration select from the `whole`.

    Without a path, the confidence is the one stated `beside` the content, else the content's own, else the default.
    Raises `BadResponse`.

    >>> answer_within({}, {"value": 1}, 0.5, Reading())
    Answer(value=1, confidence=0.5, metadata={})
    """
    found = beside
    if reading.constant is not None:
        found = reading.constant
    elif reading.confidence is not None:
        found = search(reading.confidence, whole, "confidencePath")
    elif found is None and isinstance(content, dict):
        found = content.get("confidence")
    confidence = checked_confidence(reading.default if found is None else found, reading.lenient)
    if reading.value is not None:
        value = search(reading.value, whole, "valuePath")
        return Answer(value, confidence, _others(content, reading, value, found))
    if not isinstance(content, dict):
        return Answer(content, confidence)
    if "value" in content:
        return Answer(content["value"], confidence, _others(content, reading, content["value"], found))
    return Answer({key: value for key, value in content.items() if key != "confidence"}, confidence)


def _others(content: Any, reading: Reading, value: Any, confidence: Any) -> dict[str, Any]:
    """The members beside value and confidence. A value that a path selected deeper stays within its member too."""
    if not isinstance(content, dict):
        return {}
    value_name, confidence_name = leaf_name(reading.value, "value"), leaf_name(reading.confidence, "confidence")
    return {
        name: member
        for name, member in content.items()
        if not ((name == value_name and member is value) or (name == confidence_name and member is confidence))
        and (name != "confidence" or reading.confidence is not None)
    } | _stated(content, reading)


def _stated(content: dict[str, Any], reading: Reading) -> dict[str, Any]:
    """The confidence an answer states, kept for comparison where another one is used."""
    return (
        {"statedConfidence": content["confidence"]} if reading.constant is not None and "confidence" in content else {}
    )


def leaf_name(path: Path | None, default: str) -> str:
    """The last name of a path of plain names."""
    return default if path is None else str(getattr(path, "expression", "")).rpartition(".")[2].strip(' "')


def answer_beside(
    value_json: bytes, confidence: object, rest: dict[str, Any], value_path: Path | None = None
) -> Answer:
    """The answer whose confidence came separately from its value, as in gRPC. Raises `BadResponse`.

    >>> answer_beside(b"[1]", 0.5, {})
    Answer(value=[1], confidence=0.5, metadata={})
    """
    if not value_json.strip():
        raise BadResponse("the answer's value_json is empty; a value without content is `null`")
    value = load_json(value_json)
    return Answer(
        value if value_path is None else search(value_path, value, "valuePath"), checked_confidence(confidence), rest
    )


def in_utf8(body: bytes, content_type: bytes) -> bytes:
    """The body in UTF-8: unchanged if it is valid UTF-8, else converted from the charset of its type.

    UTF-8 is tried first: some servers name a default charset and write another. UTF-16 and UTF-32 are recognised by
    name only.

    >>> in_utf8(b"caf\\xe9", b"text/plain; charset=iso-8859-1").decode(), in_utf8(b"caf\\xe9", b"text/plain")
    ('caf\xe9', b'caf\\xe9')
    """
    match = _CHARSET.search(content_type)
    if match is None:
        return body
    name = match[1].decode("ascii")
    try:
        if not name.lower().startswith("utf"):
            try:
                body.decode()
                return body
            except UnicodeDecodeError:
                pass
        return body.decode(name).encode()
    except (UnicodeError, LookupError):
        return body


def excerpt(raw: bytes, most: int = MAX_EXCERPT) -> str:
    """The start of a body for an error message: printable, at most `most` characters, quoted.

    >>> excerpt(b"Internal\\x00 Error")
    "'Internal? Error'"
    """
    text = raw[: 4 * most].decode("utf-8", "replace")
    text = "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))
    return f"'{text}'" if len(text) <= most - 2 else f"'{text[: most - 5]}...'"


def body_excerpt(body: bytes) -> str:
    """The start of an error's body for an error message, long enough for the reason that model servers wrap in an
    object.

    >>> body_excerpt(b"not found"), body_excerpt(b" ")
    ("'not found'", 'no body')
    """
    return excerpt(body, MAX_BODY_EXCERPT) if body.strip() else "no body"


def load_json(body: bytes) -> Any:
    """The JSON in a body, read strictly and nested at most `MAX_DEPTH` deep. Raises `BadResponse`."""
    body = body.removeprefix(BOM)
    if not body or body.isspace():
        raise BadResponse("the answer is empty")
    try:
        data = loads(body)
    except ValueError as error:
        kind = "HTML, not JSON" if body.lstrip()[:1] == b"<" else f"not JSON ({str(error)[:60]})"
        raise BadResponse(f"the answer is {kind}: {excerpt(body)}") from None
    # Counting brackets is cheap and decides it for every normal answer.
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _too_deep(data):
        raise BadResponse(f"the answer is nested deeper than {MAX_DEPTH}")
    return data


def _too_deep(data: Any) -> bool:
    level = [data]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                below.extend(value for value in node.values() if isinstance(value, (dict, list)))
            elif isinstance(node, list):
                below.extend(value for value in node if isinstance(value, (dict, list)))
        if not below:
            return False
        level = below
    return True


def search(path: Path, data: Any, name: str) -> Any:
    """The selection of the expression in `metadata.<name>`. Raises `BadResponse`."""
    try:
        return select(path, data)
    except ValueError as error:
        raise BadResponse(f"metadata.{name} does not fit the answer: {excerpt(str(error).encode())}") from None


def checked_confidence(found: Any, lenient: bool = False) -> float:
    """The confidence, if it is a valid one. `lenient`: see `Reading`. Raises `BadResponse`.

    >>> checked_confidence(1.0000001192092896), checked_confidence("93%", True), checked_confidence(95, True)
    (1.0, 0.93, 0.95)
    """
    if found is None:
        raise BadResponse("the answer has no confidence")
    number = _number(found, lenient)
    if number is None:
        raise BadResponse(f"confidence must be a number, not {excerpt(repr(found)[:200].encode('utf-8', 'replace'))}")
    if lenient and 2 <= number <= 100:
        number = number / 100
    if not (isfinite(number) and 0 <= number <= 1 + ROUNDING):
        raise BadResponse(f"confidence must be in [0, 1], not {found!r:.80}")
    return min(1.0, float(number))


def _number(found: Any, lenient: bool) -> int | float | None:
    if isinstance(found, (int, float)):
        return None if isinstance(found, bool) else found
    if not lenient or not isinstance(found, str) or (match := _NUMBER.fullmatch(found.strip())) is None:
        return None
    number = float(match[1])
    return number / 100 if match[2] else number
