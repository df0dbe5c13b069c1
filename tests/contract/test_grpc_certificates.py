"""gRPC over TLS: whom it trusts, what it shows, and certificates that change on disk."""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio
import pytest

from agents_io.errors import ConnectionFailed, Unsupported
from agents_io.fakes.steps import answer
from agents_io.tls import TlsFiles
from tests.support.grpc_rig import rig_of

CERTS = Path(__file__).parent.parent / "support" / "tls"

CA = {"caFile": str(CERTS / "authority.pem")}

CLIENT = {"certFile": str(CERTS / "client.pem"), "keyFile": str(CERTS / "client.key")}


def behind_tls(*, wants_client: bool = False) -> grpc.ServerCredentials:
    """What a server for 127.0.0.1 shows, and whether it wants to be shown something."""
    pair = [((CERTS / "server.key").read_bytes(), (CERTS / "server.pem").read_bytes())]
    authority = (CERTS / "authority.pem").read_bytes() if wants_client else None
    return grpc.ssl_server_credentials(pair, authority, wants_client)


async def test_tls_by_the_files_of_the_settings_or_of_the_registration() -> None:
    """An agent nobody vouches for is not called."""
    files = TlsFiles(ca_file=CA["caFile"])
    async with rig_of(answer(), options={"tls": files}, credentials=behind_tls()) as rig:
        assert rig.agent.endpoint.startswith("grpcs://")
        assert (await rig.call()).value == "ok"
        with pytest.raises(ConnectionFailed, match=r"CERTIFICATE_VERIFY_FAILED|certificate verify failed"):
            await rig.call(metadata={"tls": {"caFile": str(CERTS / "stranger.pem")}})
        assert len(rig.fake.calls) == 1
    async with rig_of(answer(), credentials=behind_tls()) as rig:
        assert (await rig.call(metadata={"tls": CA})).value == "ok"
        with pytest.raises(ConnectionFailed):
            await rig.call()
        with pytest.raises(Unsupported, match="no/such"):
            await rig.call(metadata={"tls": {"caFile": "no/such"}})


async def test_client_certificate() -> None:
    """An agent that talks to nobody without one."""
    async with rig_of(answer(), credentials=behind_tls(wants_client=True)) as rig:
        assert (await rig.call(metadata={"tls": CA | CLIENT})).value == "ok"
        with pytest.raises(ConnectionFailed):
            await rig.call(metadata={"tls": CA})


async def test_a_certificate_that_changes_on_disk_is_used_from_the_next_call_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a channel of its own; no restart."""
    monkeypatch.setattr("agents_io.tls.RECHECK_S", 0.0)
    authority = tmp_path / "authority.pem"
    authority.write_bytes((CERTS / "stranger.pem").read_bytes())
    async with rig_of(answer(), credentials=behind_tls()) as rig:
        with pytest.raises(ConnectionFailed):
            await rig.call(metadata={"tls": {"caFile": str(authority)}})
        authority.write_bytes((CERTS / "authority.pem").read_bytes())
        for _ in range(3):
            assert (await rig.call(metadata={"tls": {"caFile": str(authority)}})).value == "ok"
        assert len(rig.transport.channels) == 1
