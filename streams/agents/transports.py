"""The transports, by protocol, for agents that are called at an address.

In: settings. Out: the transports that the worker and `parallax agents probe` use. Nothing connects before its first
call.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from agents_io.http.connecting import Connector, Origin
from agents_io.http.pooled_transport import PooledTransport
from agents_io.protocols.makers import MAKERS, TransportParts
from agents_io.protocols.transports import Transports
from agents_io.rules.secret_policy import SecretPolicy
from agents_io.rules.targets import AgentWall
from agents_io.tls import CONTEXTS, TlsFiles
from agents_io.transport import Transport
from streams.agents.kafka_exchange import KafkaExchange
from streams.settings import Settings
from streams.tokens import own_tokens


def together(settings: Settings, more: Mapping[str, Transport] = MappingProxyType({})) -> Transports:
    """These transports and `more` behind one port; a registration may reference only the secrets that the settings
    allow.
    """
    return Transports({**to_addresses(settings), **more}, secret_policy(settings))


def secret_policy(settings: Settings) -> SecretPolicy:
    """Which secrets registrations may reference: what `secrets.*` allows, without the worker's own tokens."""
    return SecretPolicy(settings.secrets.env, settings.secrets.directory, own_tokens(settings))


def to_addresses(settings: Settings) -> dict[str, Transport]:
    """The transports of all protocols whose agents have an address, each with its own pool."""
    parts = TransportParts(
        pool=lambda: pool(settings),
        max_answer_bytes=settings.dispatch.max_answer_bytes,
        tls=tls_files(settings),
        wall=settings.agents.wall(),
        broker=KafkaExchange(settings),
    )
    return {protocol: make(parts) for protocol, make in MAKERS.items()}


def pool(settings: Settings) -> PooledTransport:
    """Connections to agents, with the settings' CA and client certificate, limited by `agents.*`."""
    files = tls_files(settings)
    connector = walled(settings.agents.wall())
    return PooledTransport(
        max_connections=settings.dispatch.max_in_flight, connector=connector, tls=lambda: CONTEXTS.get(files)
    )


def walled(wall: AgentWall | None) -> Connector:
    """Opens connections to agents where `agents.*` allows; None: anywhere."""
    if wall is None:
        return Connector()

    def check_origin(origin: Origin) -> None:
        wall.check_origin(origin.host, origin.port, tls=origin.context is not None)

    return Connector(check=wall.check_address, check_origin=check_origin)


def tls_files(settings: Settings) -> TlsFiles:
    """The settings' CA and client certificate."""
    return TlsFiles(settings.tls.ca_file, settings.tls.cert_file, settings.tls.key_file)
