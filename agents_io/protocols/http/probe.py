"""Recognises an agent over HTTP by its health page, or by a URL that accepts tasks."""

from __future__ import annotations

import httpx

from agents_io.errors import AgentError
from agents_io.http.exchange import HttpExchange
from agents_io.http.peer import Peer, below
from agents_io.protocols.probing import Found, asked_agent, count_in, exchange, listed, member, names_in
from schemas.messages import SecretRef


async def probe(endpoint: str, auth: SecretRef | None) -> Found:
    """Probe for an HTTP agent: the weakest sign, since many other servers have a health page. Raises `AgentError`."""
    peer = Peer(asked_agent(endpoint, "http", auth))
    async with exchange() as http:
        try:
            await http.good(peer, peer.get(below(peer.base, "health")))
        except AgentError as error:
            if error.status not in (404, 405, 501) or not await _takes_tasks(http, peer):
                raise
            return Found("http", "an agent over HTTP without a health page")
        try:
            _, body = await http.good(peer, peer.get(below(peer.base, "capabilities")))
            capabilities = names_in(member(body, "capabilities"))
            concurrency = count_in(member(body, "concurrency"))
        except AgentError:
            capabilities, concurrency = (), None  # the page is optional
    able = f", capabilities {listed(capabilities)}" if capabilities else ""
    description = f"an agent over HTTP that is healthy{able}"
    return Found("http", description, capabilities=capabilities, concurrency=concurrency)


async def _takes_tasks(http: HttpExchange, peer: Peer) -> bool:
    """Whether a URL for tasks exists; asked with methods that start none."""
    target = below(peer.base, "analyze")
    options = httpx.Request("OPTIONS", target.httpx, headers=peer.authorised(), extensions=target.extensions)
    for request in (peer.get(target), options):
        response, _ = await http.send(peer, request)
        if response.status_code not in (401, 403, 404) and not 300 <= response.status_code < 400:
            return True
    return False
