"""The pages about messages: fields from the JSON Schemas, meanings from `sentences.toml`.

Every field of a message that users write or read has a sentence, and so has every event type. A nested type is shown once, on the
page of the first message that holds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import orjson

from docs.tools.markdown import cell, in_step, table, words

ANSWERED_TASK = "AnsweredTask"
"""Written by dispatch alone: its fields are no business of users."""


def kind_of(schema: dict[str, Any]) -> str:
    """A JSON Schema type in a few words."""
    if "enum" in schema:
        return " \\| ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "$ref" in schema:
        return "[" + schema["$ref"].rpartition("/")[2] + "]"
    if parts := schema.get("anyOf") or schema.get("oneOf"):
        known = [kind_of(part) for part in parts if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(known))
    kind = schema.get("type", "any JSON")
    if kind == "array":
        return f"list of {kind_of(schema.get('items', {}))}"
    if schema.get("format") == "date-time":
        return "time"
    return str(kind)


def fields(name: str, schema: dict[str, Any], sentences: dict[str, Any] | None) -> str:
    """The table of a type. `sentences`: by field, None where fields have no column for them."""
    rows = []
    properties = schema.get("properties", {})
    if sentences is not None:
        in_step(f"[fields.{name}]", properties, sentences)
    for field, about in properties.items():
        kind = re.sub(r"\[(\w+)\]", r"`\1`", kind_of(about))
        default = about.get("default")
        shown = "" if default is None else f"`{orjson.dumps(default).decode()}`"
        row = [f"`{field}`", kind, "yes" if field in schema.get("required", ()) else "", shown]
        rows.append(row if sentences is None else [*row, cell(sentences[field])])
    head = ["field", "type", "required", "default"]
    return table(head if sentences is None else [*head, "meaning"], rows)


def events() -> str:
    """Every type of event with the members of its `data`."""
    from schemas.messages.events import EventType

    sentences = words()["events"]
    in_step("[events]", get_args(EventType), sentences)
    rows = [
        [f"`{kind}`", cell(sentences[kind]["when"]), sentences[kind].get("data", "")] for kind in get_args(EventType)
    ]
    return "### Types of events\n\n" + table(["type", "when", "members of `data`"], rows)


def messages() -> Iterator[tuple[str, str]]:
    """Three pages: what users write, what they read, and what workers keep for themselves."""
    from schemas.contract import PUBLISHED, schema
    from schemas.examples import EXAMPLES
    from schemas.topics import TOPICS

    sentences = words()["fields"]
    sent = {topic.message for topic in TOPICS if topic.users_write}
    read = {topic.message for topic in TOPICS if topic.users_read} - sent
    seen: set[str] = set()
    for page, title, chosen in (
        ("messages-you-write", "Messages you write", [model for model in PUBLISHED if model in sent]),
        ("messages-you-read", "Messages you read", [model for model in PUBLISHED if model in read]),
        ("internal-messages", "Internal messages", [model for model in PUBLISHED if model not in sent | read]),
    ):
        public = page != "internal-messages"
        parts = [
            f"# {title}\n\nValues are JSON. Unknown fields are accepted. Times are RFC 3339 with milliseconds; epoch "
            "milliseconds are accepted on input. Durations are milliseconds. The JSON Schemas are in `schemas/json/`; "
            "`parallax docs schemas` prints them, and `parallax docs asyncapi` prints the public topics as AsyncAPI 3.1."
        ]
        seen |= {model.__name__ for model in chosen}
        for model in chosen:
            name, document = model.__name__, schema(model)
            parts.append(f"## {name}\n\n{document.get('description', '')}")
            parts.append(fields(name, document, sentences.get(name, {}) if public else None))
            if name == "Event":
                parts.append(events())
            if name in EXAMPLES and public:
                parts.append(f"```json\n{orjson.dumps(EXAMPLES[name]).decode()}\n```")
            for inner, about in document.get("$defs", {}).items():
                if about.get("properties") and inner not in seen:
                    seen.add(inner)
                    parts.append(f"### {inner} (in {name})\n\n{about.get('description', '')}")
                    described = public and inner != ANSWERED_TASK
                    parts.append(fields(inner, about, sentences.get(inner, {}) if described else None))
        yield page, "\n\n".join(part.rstrip() for part in parts)
