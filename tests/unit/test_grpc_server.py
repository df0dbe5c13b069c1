"""The worker's gRPC server: what it does about clients that are gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from streams.grpc_server import KEEPALIVE, GrpcServer
from streams.settings import Settings
from tests.support.link import linked


async def test_a_call_of_a_client_that_disappeared_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine is gone, so nothing closes the connection."""
    quick = tuple((name, value // 20) for name, value in KEEPALIVE)
    monkeypatch.setattr("streams.grpc_server.KEEPALIVE", quick)
    ended = asyncio.Event()

    async def watch(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield b"begun"
            await asyncio.Event().wait()
        finally:
            ended.set()

    server = GrpcServer(Settings(grpc_port=0))
    methods = {"Watch": grpc.unary_stream_rpc_method_handler(watch)}
    server.add(grpc.method_handlers_generic_handler("test.Test", methods))
    await server.start()
    try:
        async with linked(server.address) as (link, address), grpc.aio.insecure_channel(address) as channel:
            assert await channel.unary_stream("/test.Test/Watch")(b"").read() == b"begun"
            link.dead = True
            async with asyncio.timeout(20):
                await ended.wait()
    finally:
        await server.stop()
