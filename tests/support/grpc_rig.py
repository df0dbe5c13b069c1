"""A fake gRPC agent and the transport that calls it, for the tests of what only gRPC has."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from agents_io.fakes.steps import ScriptStep
from agents_io.protocols.grpc.fake import GrpcFakeAgent
from agents_io.protocols.grpc.transport import GrpcTransport
from agents_io.transport import Call
from tests.support.transport_rig import TransportRig, running

CALL = Call("t1", "k1", b"{}", 10.0, (("traceparent", "00-1-2-01"),), "p")


def rig_of(
    *steps: ScriptStep, options: dict[str, Any] | None = None, **fake: Any
) -> AbstractAsyncContextManager[TransportRig]:
    """A fake gRPC agent and the transport."""
    return running(GrpcFakeAgent(steps, **fake), GrpcTransport(**(options or {})), CALL)
