"""Kafka requests in versions that aiokafka lacks, built from tables of their fields."""

from __future__ import annotations

from typing import Any

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, CompactArray, CompactString, Schema, String, TaggedFields

TEXT = String("utf-8")
COMPACT_TEXT = CompactString("utf-8")
TAGS = ("tags", TaggedFields)
"""Last field of every row of a version that Kafka calls flexible."""


def rows(name: str, *fields: tuple[str, Any]) -> tuple[str, Any]:
    """A field with any number of rows."""
    return name, Array(*fields)


def compact_rows(name: str, *fields: tuple[str, Any]) -> tuple[str, Any]:
    """The same in a flexible version."""
    return name, CompactArray(*fields, TAGS)


class NewerRequest(Request[RequestStruct]):  # type: ignore[misc]  # aiokafka ships no types
    """Base of one request. `key`, `version`: the protocol's numbers; `asked`, `answered`: the fields of both sides.

    `build(struct)` of a request returns `struct(...)` with the values of `asked` in their order.
    """

    API_KEY = -1

    def __init_subclass__(cls, key: int, version: int, asked: list[Any], answered: list[Any]) -> None:
        super().__init_subclass__()
        cls.API_KEY = key
        shared = {"API_KEY": key, "API_VERSION": version}
        answer = type(f"{cls.__name__}Answer", (Response,), {**shared, "SCHEMA": Schema(*answered)})
        struct = {**shared, "SCHEMA": Schema(*asked), "RESPONSE_TYPE": answer, "FLEXIBLE_VERSION": asked[-1] is TAGS}
        cls._CLASSES = (type(f"{cls.__name__}Struct", (RequestStruct,), struct),)
