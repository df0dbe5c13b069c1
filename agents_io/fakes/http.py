"""A scripted agent for tests: a real HTTP server on loopback that answers, fails, hangs or lies as its script has it.

In: steps, each used for a number of calls, the last forever. Out: answers to `POST /analyze`, and a log of every call
with its times, Idempotency-Key, headers and what it was answered. `POST /script` with a JSON list of steps as text changes
the behaviour of a running agent, so one in a process of its own can be healed:

    python -m agents_io.fakes.http --port 0 --behaviour "status:code=503,times=5,retry_after=1" --behaviour answer
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TextIO

import orjson
from aiohttp import web

from agents_io.fakes.steps import ScriptStep, answer, parse_step

MAX_LOG = 200_000
MAX_BODY = 64 * 1024 * 1024
_CHUNK = b"x" * 65_536


@dataclass(slots=True)
class Received:
    """One call as the agent saw it. Times are epoch seconds; `ended`: answered, dropped (by us), closed (by the caller).

    `code`: the HTTP status it was answered with, 0 without an answer.
    """

    at: float
    key: str
    headers: dict[str, str]
    payload: Any
    step: str
    ended: str = ""
    ended_at: float = 0.0
    code: int = 0

    def line(self) -> dict[str, Any]:
        """The JSON line of the log."""
        return {
            "at": self.at,
            "key": self.key,
            "step": self.step,
            "ended": self.ended,
            "endedAt": self.ended_at,
            "code": self.code,
        }


class FakeAgent:
    """`async with FakeAgent([status(503, times=2), answer(confidence=0.8)]) as agent:` serves at `agent.endpoint`.

    `per_task`: every task (by Idempotency-Key) goes through the steps on its own. `log`: a text file for JSON lines.
    """

    def __init__(
        self,
        steps: ScriptStep | Sequence[ScriptStep] = (),
        *,
        port: int = 0,
        per_task: bool = False,
        capabilities: Sequence[str] = (),
        log: TextIO | None = None,
    ) -> None:
        self.calls: deque[Received] = deque(maxlen=MAX_LOG)
        self.healthy = True
        self.in_flight = 0
        self.most_in_flight = 0
        self._capabilities = list(capabilities)
        self._per_task = per_task
        self._port = port
        self._log = log
        self._runner: web.AppRunner | None = None
        self.script(steps)

    @property
    def endpoint(self) -> str:
        """Where it serves, without a trailing slash."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def keys(self) -> Counter[str]:
        """Calls by Idempotency-Key, among those in the log."""
        return Counter(call.key for call in self.calls)

    def script(self, steps: ScriptStep | Sequence[ScriptStep]) -> None:
        """Restart with these steps."""
        self._steps = [steps] if isinstance(steps, ScriptStep) else list(steps) or [answer()]
        self._used: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_post("/script", self._rescript)
        app.router.add_routes(self.routes())
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def routes(self) -> list[web.RouteDef]:
        """What it serves; fakes of other protocols serve something else."""
        return [
            web.post("/analyze", self.play),
            web.get("/health", self._health),
            web.get("/capabilities", self._tell_capabilities),
        ]

    def payload_of(self, raw: bytes) -> Any:
        """The task's payload in a request's body."""
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError:
            return raw.decode("utf-8", "replace")

    def respond(self, step: ScriptStep, body: bytes, raw: bytes) -> web.Response:
        """The response to the request `raw` when a step gives these bytes."""
        return web.Response(status=step.code, body=body, headers=dict(step.headers))

    def _step_for(self, key: str) -> ScriptStep:
        scope = key if self._per_task else ""
        place = self._used[scope]
        self._used[scope] += 1
        if len(self._used) > MAX_LOG:
            del self._used[next(iter(self._used))]
        for step in self._steps:
            if step.times is None or place < step.times:
                return step
            place -= step.times
        return self._steps[-1]

    async def play(self, request: web.Request) -> web.StreamResponse:
        """Run the next step of the script for one call."""
        key = request.headers.get("Idempotency-Key", "")
        raw = await request.read()
        payload = self.payload_of(raw)
        step = self._step_for(key)
        received = Received(time.time(), key, dict(request.headers), payload, step.kind)
        self.calls.append(received)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            response = await self._play(step, payload, request, raw)
            received.ended = "dropped" if step.kind == "reset" else "answered"
            received.code = 0 if step.kind == "reset" else response.status
        except asyncio.CancelledError:
            received.ended = "closed"
            raise
        except ConnectionError:
            received.ended = "closed"
            raise
        finally:
            self.in_flight -= 1
            received.ended_at = time.time()
            if self._log is not None:
                self._log.write(json.dumps(received.line()) + "\n")
                self._log.flush()
        return response

    async def _play(self, step: ScriptStep, payload: Any, request: web.Request, raw: bytes) -> web.StreamResponse:
        if step.delay_s > 0:
            await asyncio.sleep(step.delay_s)
        special = _SPECIAL.get(step.kind)
        if special is not None:
            return await special(step, request)
        body = step.compute(payload) if step.compute is not None else step.body
        return self.respond(step, body if isinstance(body, bytes) else orjson.dumps(body), raw)

    async def _rescript(self, request: web.Request) -> web.Response:
        try:
            self.script([parse_step(text) for text in orjson.loads(await request.read())])
        except (ValueError, TypeError, AttributeError) as error:
            return web.Response(status=400, text=str(error))
        return web.Response(status=204)

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)

    async def _tell_capabilities(self, request: web.Request) -> web.Response:
        return web.json_response({"capabilities": self._capabilities})


async def _hang(step: ScriptStep, request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError("this event is never set")


async def _reset(step: ScriptStep, request: web.Request) -> web.StreamResponse:
    """Promise a body, send a part of it, then cut the line; without a size the first bytes of the head.

    A kept connection that is cut without a byte counts as one that was closing, and not against the agent.
    """
    if step.size:
        response = web.StreamResponse(
            headers={"Content-Length": str(step.size * 2), "Content-Type": "application/json"}
        )
        await response.prepare(request)
        await response.write(b'{"value":"' + b"x" * step.size)
        await asyncio.sleep(0.02)
    else:
        response = web.Response()
    if request.transport is not None:
        if not step.size:
            request.transport.write(b"HTTP/1.1 ")
        request.transport.abort()
    return response


async def _huge(step: ScriptStep, request: web.Request) -> web.StreamResponse:
    """Send `size` bytes, or endlessly, chunked: no Content-Length announces it."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    sent = 0
    while not step.size or sent < step.size:
        await response.write(_CHUNK)
        sent += len(_CHUNK)
    await response.write_eof()
    return response


async def _drip(step: ScriptStep, request: web.Request) -> web.StreamResponse:
    """Send a byte now and then, forever: no timeout between two bytes ever fires."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.05)


_SPECIAL: dict[str, Callable[[ScriptStep, web.Request], Awaitable[web.StreamResponse]]] = {
    "hang": _hang,
    "reset": _reset,
    "huge": _huge,
    "drip": _drip,
}


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log = open(options.log, "a", encoding="utf-8") if options.log else None  # noqa: SIM115, ASYNC230 - lives as long as we
    try:
        steps = [parse_step(text) for text in options.behaviour]
        agent = FakeAgent(steps, port=options.port, per_task=options.per_task, capabilities=options.capability, log=log)
        async with agent:
            sys.stdout.write(json.dumps({"endpoint": agent.endpoint}) + "\n")
            sys.stdout.flush()
            await stop.wait()
    finally:
        if log is not None:
            log.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Prints one JSON line with the endpoint when ready."""
    parser = argparse.ArgumentParser(prog="python -m agents_io.fakes.http", description="A scripted agent for tests.")
    parser.add_argument("--port", type=int, default=0, help="0 = a free one")
    parser.add_argument(
        "--behaviour", action="append", default=[], metavar="STEP", help="kind:name=value,...; repeat for a script"
    )
    parser.add_argument(
        "--per-task", action="store_true", help="each Idempotency-Key goes through the script on its own"
    )
    parser.add_argument("--capability", action="append", default=[])
    parser.add_argument("--log", metavar="FILE", help="append one JSON line per call")
    options = parser.parse_args(arguments)
    try:
        for text in options.behaviour:
            parse_step(text)
    except ValueError as error:
        parser.error(str(error))
    asyncio.run(_serve(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
