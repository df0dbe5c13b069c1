"""The cheapest HTTP/1.1 agent: one asyncio.Protocol, no framework, answers as soon as a request is complete.

Prints its port as a line; `--delay-ms` waits before each answer, `--vary` lets the confidence depend on the number of
the request (0.50 to 0.99, deterministically); `--fail-every N` answers every N-th with 500. Keep-alive; pipelined requests
are answered in order. Not for production: it reads only the length of what it is sent.
When it is stopped it prints how many requests it answered, and to stderr the CPU it used for each.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time

import uvloop


def _response(confidence: str) -> bytes:
    body = f'{{"value":"ok","confidence":{confidence}}}'
    return f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


FIXED = _response("0.9")
FAILURE = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"
VARIED = [_response(f"0.{hundredths}") for hundredths in range(50, 100)]


class Agent(asyncio.Protocol):
    """One connection."""

    answered = 0
    delay_s = 0.0
    vary = False
    fail_every = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete by now."""
        if self._buffer:
            data = self._buffer + data
        out = []
        while (end := data.find(b"\r\n\r\n")) >= 0:
            total = end + 4 + _length(data, end)
            if len(data) < total:
                break
            data = data[total:]
            out.append(self._answer())
        self._buffer = data
        if not out:
            return
        if self.delay_s > 0:
            asyncio.get_running_loop().call_later(self.delay_s, self._write, b"".join(out))
        else:
            self._transport.write(b"".join(out))

    def _write(self, answers: bytes) -> None:
        if not self._transport.is_closing():  # the caller may have been killed meanwhile
            self._transport.write(answers)

    def _answer(self) -> bytes:
        number = Agent.answered
        Agent.answered = number + 1
        if Agent.fail_every and number % Agent.fail_every == Agent.fail_every - 1:
            return FAILURE
        return VARIED[number * 7 % 50] if self.vary else FIXED


def _length(data: bytes, end: int) -> int:
    head = data[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        return 0
    stop = head.find(b"\r\n", at + 2)
    return int(head[at + 17 : stop if stop >= 0 else end])


async def serve(port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(Agent, "127.0.0.1", port, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    before = time.process_time()
    await stop.wait()
    used_us = (time.process_time() - before) * 1e6
    print(Agent.answered, flush=True)
    print(f"{Agent.answered} requests, {used_us / max(1, Agent.answered):.1f} us CPU each", file=sys.stderr)
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--vary", action="store_true")
    parser.add_argument("--fail-every", type=int, default=0)
    options = parser.parse_args()
    Agent.fail_every = options.fail_every
    Agent.delay_s, Agent.vary = options.delay_ms / 1000, options.vary
    uvloop.run(serve(options.port))
