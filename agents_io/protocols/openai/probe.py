"""Recognises an OpenAI-compatible API by its list of models."""

from __future__ import annotations

from typing import Any

from agents_io.errors import AgentError, BadResponse
from agents_io.http.exchange import HttpExchange
from agents_io.http.peer import Peer, below
from agents_io.protocols.probing import Found, asked_agent, exchange, listed, member, names_in
from schemas.messages import SecretRef


async def probe(endpoint: str, auth: SecretRef | None) -> Found:
    """The API that lists models at the URL, or below its `/v1`. Raises `AgentError`."""
    peer = Peer(asked_agent(endpoint, "openai", auth))
    async with exchange() as http:
        where = None
        try:
            rows = await _model_rows(http, peer, "models")
        except AgentError as error:
            if endpoint.rstrip("/").endswith("/v1") or error.status in (401, 403):
                raise
            try:
                rows = await _model_rows(http, peer, "v1/models")
            except AgentError:
                raise error from None
            where = str(below(peer.base, "v1").httpx)
    models = names_in([row.get("id") for row in rows if isinstance(row, dict)])
    if not models:
        raise BadResponse("the list of models is empty")
    description = (
        f"an OpenAI-compatible API with {'model ' + models[0] if len(models) == 1 else 'models ' + listed(models)}"
    )
    metadata = {"model": models[0]} if len(models) == 1 else {}
    return Found("openai", description, metadata=metadata, choices=models, endpoint=where, choice="model")


async def _model_rows(http: HttpExchange, peer: Peer, leaf: str) -> list[Any]:
    _, body = await http.good(peer, peer.get(below(peer.base, leaf)))
    rows = member(body, "data")
    if not isinstance(rows, list):
        raise BadResponse("the response is not a list of models")
    return rows
