"""TLS between agents and workers, and between workers, on the embedded broker: whole workers, real certificates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from agents_io.fakes.steps import answer
from agents_io.grpc.services import method
from agents_io.protocols.gateway.fake import GatewayFakeAgent
from schemas.pb import registry_pb2 as pb
from streams.broker.embedded import EmbeddedBroker
from tests.pipeline.test_gateway import PARTITIONS, living_in, settled, worker
from tests.support.pipeline import Pipeline, pipeline_on
from tests.support.rig import parallax

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(180)]
CERTS = Path(__file__).parent.parent / "support" / "tls"
NAME = (("grpc.ssl_target_name_override", "worker.parallax"),)
ENV = {
    "PARALLAX_GRPC_TLS__CERT_FILE": str(CERTS / "worker.pem"),
    "PARALLAX_GRPC_TLS__KEY_FILE": str(CERTS / "worker.key"),
    "PARALLAX_GRPC_TLS__CLIENT_CA_FILE": str(CERTS / "authority.pem"),
    "PARALLAX_GRPC_TLS__CA_FILE": str(CERTS / "authority.pem"),
    "PARALLAX_GRPC_TLS__WORKER_NAME": "worker.parallax",
    "PARALLAX_GATEWAY__AGENT_TOKEN": "env:AGENTS_TOKEN",
    "AGENTS_TOKEN": "s3cret",
}


@pytest.fixture
async def pipeline(embedded: EmbeddedBroker, prefix: str) -> AsyncIterator[Pipeline]:
    """Topics of its own."""
    async with pipeline_on(embedded.bootstrap_servers, prefix, PARTITIONS) as made:
        yield made


async def test_agents_and_workers_meet_over_mutual_tls_only(pipeline: Pipeline) -> None:
    """An agent whose partition is with the other worker is called through the hop; the registry asks for certificate and
    token."""
    first, at_first = await worker(pipeline, "w1", ENV)
    second, at_second = await worker(pipeline, "w2", ENV)
    partitions, _ = await settled(pipeline, at_first["web"], at_second["web"])
    here, there = living_in(partitions, "here"), living_in(set(range(PARTITIONS)) - partitions, "there")
    authority, key, chain = ((CERTS / name).read_bytes() for name in ("authority.pem", "client.key", "client.pem"))
    shown, naked = grpc.ssl_channel_credentials(authority, key, chain), grpc.ssl_channel_credentials(authority)
    agents = [
        GatewayFakeAgent(
            name, answer(), gateways=[at_first["grpc"]], token="s3cret", credentials=shown, channel_options=NAME
        )
        for name in (here, there)
    ]
    async with agents[0], agents[1]:
        await pipeline.tasks(range(20), [here, there], metadata={"cache": False})
        results = await pipeline.results(f"t{n}" for n in range(20))
        assert {result["status"] for result in results.values()} == {"success"}, results
        assert [len(agent.calls) for agent in agents] == [10, 10]
        for credentials, token, code in (
            (shown, "s3cret", None),
            (shown, "wrong", grpc.StatusCode.UNAUTHENTICATED),
            (naked, "s3cret", grpc.StatusCode.UNAVAILABLE),
        ):
            async with grpc.aio.secure_channel(at_second["grpc"], credentials, options=NAME) as channel:
                listing = method(channel, pb, "Registry", "ListAgents")
                asking = listing(pb.ListAgentsRequest(), metadata=(("authorization", f"Bearer {token}"),), timeout=10)
                if code is None:
                    assert {agent.id for agent in (await asking).agents} == {here, there}
                    continue
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await asking
                assert caught.value.code() is code
    for process in (first, second):
        assert await asyncio.to_thread(process.stop) == 0


async def test_a_worker_does_not_start_with_files_that_cannot_be_used(pipeline: Pipeline, tmp_path: Path) -> None:
    """One line that names the setting, and exit code 1."""
    process = await asyncio.create_subprocess_exec(
        *parallax("worker", "--bootstrap-servers", pipeline.bootstrap, "--topic-prefix", pipeline.prefix),
        *("--web-port", "0", "--grpc-port", "0"),
        env={"PATH": "/usr/bin", **ENV, "PARALLAX_GRPC_TLS__KEY_FILE": str(tmp_path / "none.key")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(90):
        _, err = await process.communicate()
    assert process.returncode == 1
    assert f"grpc_tls.key_file: the file {tmp_path / 'none.key'} cannot be read" in err.decode()
    assert "Traceback" not in err.decode()
