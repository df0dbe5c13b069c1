"""A broker that asks for OAUTHBEARER, and a token endpoint beside it.

In: nothing. Out: `OAuthCluster`, whose listener `at()` lets in whoever shows an unsigned JWT that is not over, and closes
connections whose token is; `TokenEndpoint`, which gives such tokens to the client it knows.
"""

from __future__ import annotations

import json
import threading
import time
from base64 import b64encode, urlsafe_b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from streams.broker.processes import free_port
from tests.support.kafka import KafkaCluster

CLIENT, SECRET = "parallax", "a-secret-of-the-client"


def unsigned_token(subject: str, lifetime_s: float) -> str:
    """As Kafka's `OAuthBearerUnsecuredValidatorCallbackHandler` reads it."""
    now = time.time()
    parts = {"alg": "none"}, {"sub": subject, "iat": now, "exp": now + lifetime_s}
    return ".".join(urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + "."


class OAuthCluster(KafkaCluster):
    """One broker. `bootstrap_servers` is its plain listener, for setting up and looking on."""

    def start(self) -> OAuthCluster:
        """As any cluster."""
        self.port = free_port()
        super().start()
        return self

    def at(self) -> str:
        """The address that asks for a token."""
        return f"127.0.0.1:{self.port}"

    def properties(self, node: Any) -> str:
        plain, ours = f"PLAINTEXT://{node.address}", f"TOKEN://127.0.0.1:{self.port}"
        module = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
        lines = {
            "listeners": f"{plain},{ours},CONTROLLER://127.0.0.1:{node.controller_port}",
            "advertised.listeners": f"{plain},{ours}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TOKEN:SASL_PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.name.token.sasl.enabled.mechanisms": "OAUTHBEARER",
            "listener.name.token.oauthbearer.sasl.jaas.config": f'{module} required unsecuredLoginStringClaim_sub="broker";',
            "listener.name.token.oauthbearer.connections.max.reauth.ms": 3_600_000,
            "connection.failed.authentication.delay.ms": 10,
        }
        return super().properties(node) + "".join(f"{name}={value}\n" for name, value in lines.items())


class TokenEndpoint:
    """`POST /token` on loopback. `lifetime_s`: of the tokens it gives; `given` of them so far; `down`: it answers 503."""

    def __init__(self, lifetime_s: float = 300.0) -> None:
        self.lifetime_s = lifetime_s
        self.given = 0
        self.down = False
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # the base class's name
                form = self.rfile.read(int(self.headers["Content-Length"]))
                known = f"Basic {b64encode(f'{CLIENT}:{SECRET}'.encode()).decode()}"
                if endpoint.down:
                    self._answer(503, {})
                elif form != b"grant_type=client_credentials" or self.headers["Authorization"] != known:
                    self._answer(401, {"error": "invalid_client"})
                else:
                    endpoint.given += 1
                    token = unsigned_token(CLIENT, endpoint.lifetime_s)
                    self._answer(200, {"access_token": token, "expires_in": endpoint.lifetime_s})

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/token"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
