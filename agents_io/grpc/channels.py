"""Channels to agents' gRPC servers: one per endpoint, kept while in use, dropped after a failure.

In: a `ChannelKey`. Out: a `Line` to call over, which must be given back. A line that failed is replaced at the next
call: gRPC's own reconnect backoff never delays a call to an agent that is back. Idle lines are bounded, the oldest
closes first; those in use are bounded by the calls under way.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
import grpc.aio

MAX_CHANNELS = 512
MAX_METADATA_BYTES = 64 * 1024
IDLE_S = 60.0
_LOOKED_AT = 4
"""Lines that are checked for idleness when one is given back."""


class ChannelKey(NamedTuple):
    """`target`: host:port. `credentials`: None without TLS. Other credentials are another key."""

    target: str
    credentials: grpc.ChannelCredentials | None


@dataclass(slots=True, eq=False)
class Line:
    """A channel and its users. `methods`: its callables by path, with bytes in and out."""

    key: ChannelKey
    channel: grpc.aio.Channel
    methods: dict[str, Any]
    users: int = 0
    idle_since: float = 0.0
    dropped: bool = False

    def method(self, path: str, *, streams: bool = False) -> Any:
        """The callable of one method; the caller encodes and decodes the message."""
        found = self.methods.get(path)
        if found is None:
            make = self.channel.unary_stream if streams else self.channel.unary_unary
            found = self.methods[path] = make(path)
        return found


class Channels:
    """All lines of a worker."""

    def __init__(
        self,
        *,
        max_message_bytes: int,
        max_channels: int = MAX_CHANNELS,
        idle_s: float = IDLE_S,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        """`options`: gRPC's own."""
        self._options = [*_options(max_message_bytes, idle_s), *options]
        self._max_channels = max_channels
        self._idle_s = idle_s
        self._lines: OrderedDict[ChannelKey, Line] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._lines)

    def is_open(self, key: ChannelKey) -> bool:
        """Whether there is a line to that place."""
        return key in self._lines

    def take(self, key: ChannelKey, addresses: Sequence[str] = ()) -> Line:
        """A line for the key, to be given back. `addresses`: a new line connects to these alone, whatever the name
        resolves to.
        """
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(key, self._open(key, addresses), {})
            self._make_room()
        line.users += 1
        self._lines.move_to_end(key)
        return line

    def give_back(self, line: Line, *, failed: bool) -> None:
        """Give a line back. `failed`: the next call gets a new one."""
        line.users -= 1
        if failed and not line.dropped:
            line.dropped = True
            if self._lines.get(line.key) is line:
                del self._lines[line.key]
        now = asyncio.get_running_loop().time()
        if line.users == 0:
            line.idle_since = now
            if line.dropped:
                self._close(line)
        for other in [self._lines[key] for key in _first(self._lines, _LOOKED_AT)]:
            if other.users == 0 and now - other.idle_since > self._idle_s:
                self._drop(other)

    async def close(self) -> None:
        """Close every line; a call still under way on one is cut off."""
        for line in list(self._lines.values()):
            self._drop(line)
        if self._closing:
            await asyncio.wait(self._closing)

    def _open(self, key: ChannelKey, addresses: Sequence[str]) -> grpc.aio.Channel:
        # Named, or a target such as unix:... would choose how it is resolved.
        target, options = f"dns:///{key.target}", self._options
        if addresses:
            target = _pinned(key, addresses)
            # TLS and the authority keep the name.
            host = key.target.rpartition(":")[0].strip("[]")
            options = [*options, ("grpc.default_authority", key.target), ("grpc.ssl_target_name_override", host)]
        if key.credentials is None:
            return grpc.aio.insecure_channel(target, options=options)
        return grpc.aio.secure_channel(target, key.credentials, options=options)

    def _make_room(self) -> None:
        if len(self._lines) > self._max_channels:
            idle = next((line for line in self._lines.values() if line.users == 0), None)
            # The newest line may be idle a moment longer.
            if idle is not None and idle is not next(reversed(self._lines.values())):
                self._drop(idle)

    def _drop(self, line: Line) -> None:
        line.dropped = True
        del self._lines[line.key]
        self._close(line)

    def _close(self, line: Line) -> None:
        task = asyncio.get_running_loop().create_task(line.channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _pinned(key: ChannelKey, addresses: Sequence[str]) -> str:
    """A target of addresses of one family; IPv4 if there are both."""
    port = key.target.rpartition(":")[2]
    four = [f"{address}:{port}" for address in addresses if ":" not in address]
    return f"ipv4:{','.join(four)}" if four else f"ipv6:{','.join(f'[{one}]:{port}' for one in addresses)}"


def _first(lines: OrderedDict[ChannelKey, Line], count: int) -> list[ChannelKey]:
    return [key for key, _ in zip(lines, range(count), strict=False)]


def _options(max_message_bytes: int, idle_s: float) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),
        # gRPC refuses at random between the two, which are 8 and 16 KiB by default; a mesh adds more than that.
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        # The agent queue alone decides about retries.
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
        # A subchannel shared with a dropped line would pass its backoff on.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.client_idle_timeout_ms", max(1000, round(idle_s * 1000))),
        ("grpc.enable_http_proxy", 0),
        # Only uncompressed answers: the size that is checked is the one on the wire.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.primary_user_agent", "parallax-streams"),
    ]
