"""One demo agent in a process of its own: a real classifier behind the agent contract.

    python -m streams.demo.agents --model NB --port 0

In: `POST /analyze` with `{"data": {feature: number}}`, `GET /health`, `GET /capabilities`. Out: a label and the model's own
confidence. `POST /condition` with `{"condition": "degraded"}` makes it ill, as `streams.demo.models` says; ill unto
failing it answers 500 or hangs up by turns. One line on stdout says where it serves.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
from collections.abc import Sequence
from typing import Any, get_args

import orjson
from aiohttp import web

from streams.demo.models import KINDS, Classifier, Condition, Features, Sight, rows, split

HOST = "127.0.0.1"
CAPABILITY = "phishing-detection"
MAX_BODY_BYTES = 64 * 1024
SHUTDOWN_S = 1.0


class BadInput(Exception):
    """A payload that is not a site; the message gives the reason."""


class DemoAgent:
    """Serves one classifier at `endpoint` between `start` and `stop`."""

    def __init__(self, *, classifier: Classifier, names: Sequence[str], port: int = 0, seed: int = 7) -> None:
        self.sight = Sight(random.Random(seed))
        self._classifier = classifier
        self._names = tuple(names)
        self._port = port
        self._failed = 0
        self._runner: web.AppRunner | None = None

    @property
    def endpoint(self) -> str:
        """Its address, without a trailing slash."""
        return f"http://{HOST}:{self._port}"

    async def start(self) -> None:
        """Listen. Raises OSError if the port is taken."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.add_routes(
            [
                web.post("/analyze", self._analyze),
                web.get("/health", self._health),
                web.get("/capabilities", self._capabilities),
                web.post("/condition", self._condition),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self._port).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _analyze(self, request: web.Request) -> web.StreamResponse:
        if self.sight.condition == "failing":
            return self._fail(request)
        try:
            features = self._features(await request.read())
        except BadInput as error:
            return _json({"error": str(error)}, 400)
        phishing, confidence = self._classifier.answer(self.sight.see(features))
        return _json(
            {"value": {"phishing": phishing}, "confidence": confidence, "agentId": self._classifier.kind.agent_id}
        )

    def _fail(self, request: web.Request) -> web.StreamResponse:
        self._failed += 1
        if self._failed % 2 == 0 and request.transport is not None:
            request.transport.abort()
        return _json({"error": "the model is gone"}, 500)

    def _features(self, body: bytes) -> Features:
        """The site in a payload: `data` if there is one, else the payload itself. Raises `BadInput`."""
        try:
            payload = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise BadInput(f"not JSON: {error}") from None
        data = payload.get("data", payload) if isinstance(payload, dict) else None
        if not isinstance(data, dict):
            raise BadInput("want a JSON object with the site's features in data")
        found: Features = {}
        for name in self._names:
            value = data.get(name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise BadInput(f"data.{name}: must be a number")
            found[name] = float(value)
        return found

    async def _health(self, request: web.Request) -> web.Response:
        failing = self.sight.condition == "failing"
        return _json({"status": "unhealthy" if failing else "healthy"}, 503 if failing else 200)

    async def _capabilities(self, request: web.Request) -> web.Response:
        kind = self._classifier.kind
        return _json({"agentId": kind.agent_id, "name": kind.title, "capabilities": [CAPABILITY]})

    async def _condition(self, request: web.Request) -> web.Response:
        try:
            wanted = orjson.loads(await request.read())["condition"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            wanted = None
        if wanted not in get_args(Condition):
            return _json({"error": f"condition: want one of {', '.join(get_args(Condition))}"}, 400)
        self.sight.turn(wanted)
        return _json({"condition": wanted})


def _json(data: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(data), status=status, content_type="application/json")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m streams.demo.agents", description="One demo agent.")
    parser.add_argument("--model", choices=sorted(KINDS), required=True)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    return parser.parse_args(arguments)


async def _serve(given: argparse.Namespace) -> None:
    training, unseen = split(rows())
    kind = KINDS[given.model]
    agent = DemoAgent(classifier=Classifier(kind, training), names=list(unseen[0][0]), port=given.port)
    stop = asyncio.Event()
    for which in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(which, stop.set)
    await agent.start()
    try:
        sys.stdout.write(f"agent {kind.agent_id} ready  endpoint={agent.endpoint}  trained_on={len(training)}_rows\n")
        sys.stdout.flush()
        await stop.wait()
    finally:
        await agent.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; the exit code."""
    given = _arguments(arguments)
    try:
        asyncio.run(_serve(given))
    except OSError as error:
        sys.stderr.write(f"demo agent: {HOST}:{given.port}: {error.strerror or error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
