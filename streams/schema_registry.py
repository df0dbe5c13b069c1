"""Fetches the schemas of Avro and Protobuf values from the Schema Registry, once each.

In: settings, and records as they were polled. Out: `schemas.wire_format.SCHEMAS` has the schemas of these records
before they are decoded, or knows that there is none. It decodes no record, and asks only the configured address: a
record names an id, never an address.

A schema that cannot be fetched now is requested again and again: an unreachable registry must not turn valid records
into dead letters. Only the registry's own "there is no such schema" (error code 40403), or an unusable schema, ends
that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote
from uuid import UUID

from aiokafka.errors import KafkaConnectionError

from schemas.wire_format import SCHEMAS, Headers, SchemaCache, SchemaId, needed_schema
from streams.rules.broker.schema_formats import Schema, reader_of

if TYPE_CHECKING:
    import httpx

    from streams.settings import KafkaSettings

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
MISSING_TRIES = 3
"""A registry's followers learn of a schema moments after its leader gave it an id."""
FETCHES = 50
"""Concurrent fetches for one partition: bytes that only look like ids would delay it for long, one after the other."""
REFUSED_S = 60.0
"""How long a missing schema is assumed to stay missing."""
MAX_BYTES = 4 * 1024 * 1024
MAX_REFERENCES = 100
_NO_SUBJECT, _NO_VERSION, _NO_SCHEMA = 40401, 40402, 40403
_GONE = (_NO_SUBJECT, _NO_VERSION, _NO_SCHEMA)


class SchemaUnavailable(KafkaConnectionError):  # type: ignore[misc]  # aiokafka ships no types
    """The schema cannot be fetched now; a later try may succeed. One line that names the schema and the reason."""

    def __str__(self) -> str:
        return str(self.args[0])


class _NoSchema(Exception):
    """The registry has no such schema."""


class HasSchema(Protocol):
    """The parts of a record that are needed."""

    value: bytes | None
    headers: Headers


class SchemaRegistry:
    """One registry's schemas, in `cache`."""

    def __init__(
        self,
        url: str,
        credentials: tuple[str, str] | None = None,
        cafile: str | None = None,
        *,
        cache: SchemaCache = SCHEMAS,
        now: Callable[[], float] = time.monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`cafile`: the registry's CA, None: the system's CAs. `now`: seconds."""
        self.url = url.rstrip("/")
        self._credentials = credentials
        self._cafile = cafile
        self._cache = cache
        self._now = now
        self._transport = transport
        self._refused: dict[SchemaId, float] = {}
        self._running: dict[SchemaId, asyncio.Task[None]] = {}
        self.problem: str | None = None
        """Why records wait, in one line; None: no record waits."""

    def first_unknown(self, records: Sequence[HasSchema]) -> int | None:
        """The first of these records that must wait for its schema; None: all can be decoded."""
        for at, record in enumerate(records):
            needed = needed_schema(record.value, record.headers or ())
            if needed is not None and not self._is_known(needed):
                return at
        return None

    async def learn(self, records: Sequence[HasSchema]) -> None:
        """Return once each of these records can be decoded, or never can; waits while the registry is unreachable."""
        needed = self._unknown(records)
        for at in range(0, len(needed), FETCHES):
            await asyncio.gather(*map(self._learn, needed[at : at + FETCHES]))

    def _unknown(self, records: Iterable[HasSchema]) -> list[SchemaId]:
        """The unknown schemas that these records need, each once."""
        needed = {needed_schema(record.value, record.headers or ()): None for record in records}
        return [one for one in needed if one is not None and not self._is_known(one)]

    async def _learn(self, needed: SchemaId) -> None:
        pause_s, waited = FIRST_PAUSE_S, False
        while not self._is_known(needed):
            try:
                await self._fetch_once(needed)
            except SchemaUnavailable as error:
                if self.problem != str(error):
                    log.warning("records wait for their schema: %s", error)
                self.problem, waited = str(error), True
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
        if waited:
            log.info("schema %s is fetched; its records go on", needed)
            self.problem = None  # others that still wait set it again with their next try

    async def learn_now(self, records: Iterable[HasSchema]) -> None:
        """Fetch what these records need, with one try for each schema. Raises `SchemaUnavailable` if one cannot be fetched."""
        needed = self._unknown(records)
        for at in range(0, len(needed), FETCHES):
            fetched = await asyncio.gather(*map(self._fetch_once, needed[at : at + FETCHES]), return_exceptions=True)
            for error in fetched:
                if error is not None:
                    raise error

    async def check(self) -> None:
        """Check that it answers as a registry does, by asking for a schema that cannot exist. Raises
        `SchemaUnavailable`.
        """
        with suppress(_NoSchema, ValueError):
            await self._schema(0)

    def _is_known(self, schema_id: SchemaId) -> bool:
        if self._cache.get(schema_id) is None:
            return False
        until = self._refused.get(schema_id)
        if until is not None and until <= self._now():
            del self._refused[schema_id]
            self._cache.forget(schema_id)
            return False
        return True

    async def _fetch_once(self, schema_id: SchemaId) -> None:
        """Fetch a schema. Partitions that need the same one share a request, unless they run in loops of different
        threads.
        """
        task = self._running.get(schema_id)
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            task = self._running[schema_id] = asyncio.create_task(self._fetch(schema_id), name=f"schema-{schema_id}")
            task.add_done_callback(lambda done: self._forget_task(schema_id, done))
        await asyncio.shield(task)

    def _forget_task(self, schema_id: SchemaId, task: asyncio.Task[None]) -> None:
        if self._running.get(schema_id) is task:
            del self._running[schema_id]
        if not task.cancelled():
            task.exception()  # retrieved here too: all waiting callers may have been cancelled

    async def _fetch(self, schema_id: SchemaId) -> None:
        missing = 1
        while True:
            try:
                read = reader_of(await self._schema(schema_id))
            except _NoSchema:
                if missing < MISSING_TRIES:
                    await asyncio.sleep(missing * FIRST_PAUSE_S)
                    missing += 1
                    continue
                self._refuse(schema_id, f"was written with schema {schema_id}, which {self.url} does not have")
            except ValueError as error:
                self._refuse(schema_id, f"was written with schema {schema_id} of {self.url}, which {error}")
            else:
                self._cache.put(schema_id, read)
            return

    def _refuse(self, schema_id: SchemaId, reason: str) -> None:
        now = self._now()
        if len(self._refused) >= 1000:
            self._refused = {known: until for known, until in self._refused.items() if until > now}
        self._refused[schema_id] = now + REFUSED_S
        self._cache.refuse(schema_id, reason)

    async def _schema(self, schema_id: SchemaId) -> Schema:
        """Raises `SchemaUnavailable`, `_NoSchema`, `ValueError`: the schema is unusable."""
        import ssl

        import httpx

        kind = "guids" if isinstance(schema_id, UUID) else "ids"
        path = f"/schemas/{kind}/{schema_id}"
        try:
            trust = ssl.create_default_context(cafile=self._cafile)
            async with httpx.AsyncClient(
                base_url=self.url, timeout=TIMEOUT_S, verify=trust, transport=self._transport, auth=self._credentials
            ) as http:
                found = await self._get(http, path)
                schema_type = str(found.get("schemaType") or "AVRO")
                query = "?format=serialized" if schema_type == "PROTOBUF" else ""
                if query:
                    found = await self._get(http, path + query)
                references: dict[str, str] = {}
                await self._references(http, found, query, references, 0)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise SchemaUnavailable(
                f"schema {schema_id} cannot be fetched from {self.url} (kafka.schema_registry_url): "
                f"{str(error) or type(error).__name__}"
            ) from None
        except SchemaUnavailable as error:
            raise SchemaUnavailable(f"schema {schema_id} cannot be fetched from {self.url}: {error}") from None
        return Schema(schema_type, found["schema"], list(references.items()))

    async def _references(
        self, http: httpx.AsyncClient, found: dict[str, Any], query: str, into: dict[str, str], depth: int
    ) -> None:
        """Referenced schemas, each after those it needs itself."""
        if depth > MAX_REFERENCES:
            raise ValueError("refers to itself")
        for one in found.get("references") or ():
            try:
                name, subject, version = str(one["name"]), quote(str(one["subject"]), safe=""), int(one["version"])
            except (KeyError, TypeError):
                raise ValueError("has a reference without name, subject or version") from None
            if name in into:
                continue
            if len(into) >= MAX_REFERENCES:
                raise ValueError(f"refers to more than {MAX_REFERENCES} other schemas")
            needed = await self._get(http, f"/subjects/{subject}/versions/{version}{query}")
            await self._references(http, needed, query, into, depth + 1)
            into[name] = needed["schema"]

    async def _get(self, http: httpx.AsyncClient, path: str) -> dict[str, Any]:
        answer = await http.get(path)
        body = _object(answer)
        if answer.status_code == 404 and body.get("error_code") in _GONE:
            raise _NoSchema
        if answer.status_code in (401, 403):
            raise SchemaUnavailable(
                f"it refuses kafka.schema_registry_username and its password ({answer.status_code})"
            )
        if answer.status_code != 200 or not isinstance(body.get("schema"), str):
            raise SchemaUnavailable(f"it answers {answer.status_code} with no schema; check kafka.schema_registry_url")
        return body


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json() if len(answer.content) <= MAX_BYTES else None
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {}


_in_use: SchemaRegistry | None = None


def registry() -> SchemaRegistry | None:
    """The registry of this process; None: none is configured, and only JSON is read."""
    return _in_use


async def learn_schemas(records: Iterable[HasSchema]) -> None:
    """Fetch what these records need, if a registry is configured. Raises `SchemaUnavailable`."""
    if _in_use is not None:
        await _in_use.learn_now(records)


def use_registry(kafka: KafkaSettings) -> None:
    """Use it in this process from now on. Idempotent. Raises `ValueError`: invalid settings, or another registry is in
    use.
    """
    global _in_use
    url = kafka.schema_registry_url
    if url is None:
        return
    if find_spec("fastavro") is None:
        raise ValueError("fastavro is not installed; pip install 'parallax-streams[registry]'")
    user, password = kafka.schema_registry_username, kafka.schema_registry_password
    if (user is None) != (password is None):
        raise ValueError("kafka.schema_registry_username and kafka.schema_registry_password go together")
    credentials = None if user is None or password is None else (user, password.get_secret_value())
    if _in_use is not None and _in_use.url != url.rstrip("/"):
        raise ValueError(f"this process reads schemas from {_in_use.url}, and their ids mean nothing elsewhere")
    if _in_use is None:
        _in_use = SchemaRegistry(url, credentials, kafka.schema_registry_cafile)
        SCHEMAS.registry = _in_use.url


def forget_registry() -> None:
    """As at the start of the process; for tests."""
    global _in_use
    _in_use = None
    SCHEMAS.clear()
