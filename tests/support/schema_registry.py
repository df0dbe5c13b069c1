"""A Schema Registry on loopback, as far as serializers and our worker ask one; it can be away, and refuse.

In: `FakeRegistry()` as a context. Out: its `url`, and `asked`: the paths that were read of it.
Schemas are registered as Confluent's serializers do it; Protobuf ones in their serialized form.
"""

from __future__ import annotations

import json
import threading
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Written:
    """As much of a record as its schema needs."""

    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


NOT_FOUND = {"error_code": 40403, "message": "Schema not found"}


class FakeRegistry:
    """`asked`: paths of GET requests, in order. `status`: 200, or what every request is answered with."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status = 200
        self.authorization: str | None = None
        """What it asks for in this header; None: nothing."""
        self._schemas: list[dict[str, Any]] = []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append(self.path)
                self._answer(registry.answer_to(urlsplit(self.path).path.split("/")[1:]))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                subject = unquote(urlsplit(self.path).path.split("/")[2])
                self._answer(registry.register(subject, body))

            def _answer(self, found: dict[str, Any] | None) -> None:
                status = 404 if found is None else 200
                if registry.status != 200:
                    status, found = registry.status, {"message": "not now"}
                if registry.authorization not in (None, self.headers["authorization"]):
                    status, found = 401, {"message": "who are you?"}
                content = json.dumps(NOT_FOUND if found is None else found).encode()
                self.send_response(status)
                self.send_header("content-type", "application/vnd.schemaregistry.v1+json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Nothing to stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()

    def add(self, schema: Any, kind: str = "AVRO", references: Any = (), subject: str = "s") -> int:
        """Register one; its id."""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        found = self.register(subject, {"schema": text, "schemaType": kind, "references": list(references)})
        return int(found["id"])

    def guid_of(self, schema_id: int) -> str:
        """The GUID of the schema with this id."""
        return str(self._schemas[schema_id - 1]["guid"])

    def register(self, subject: str, body: dict[str, Any]) -> dict[str, Any]:
        known = next(
            (one for one in self._schemas if one["schema"] == body["schema"] and one["subject"] == subject), None
        )
        if known is None:
            number = len(self._schemas) + 1
            known = {
                "schemaType": "AVRO", **body, "subject": subject, "id": number,
                "version": 1 + sum(one["subject"] == subject for one in self._schemas),
                "guid": str(uuid.uuid5(uuid.NAMESPACE_OID, str(number))),
            }  # fmt: skip
            self._schemas.append(known)
        return known

    def answer_to(self, path: list[str]) -> dict[str, Any] | None:
        for one in self._schemas:
            if path[:2] == ["schemas", "ids"] and str(one["id"]) == path[2]:
                return self._shown(one)
            if path[:2] == ["schemas", "guids"] and one["guid"] == path[2]:
                return self._shown(one)
            if path[0] == "subjects" and (one["subject"], str(one["version"])) == (unquote(path[1]), path[3]):
                return one
        return None

    @staticmethod
    def _shown(one: dict[str, Any]) -> dict[str, Any]:
        """As registries do: the type is left out of Avro's."""
        names = ("schema", "references", *(() if one["schemaType"] == "AVRO" else ("schemaType",)))
        return {name: one[name] for name in names if one.get(name)}
