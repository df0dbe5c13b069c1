"""An agent that dials in, as somebody else would write it: a process of its own that knows the published field tables and nothing
of ours. Not one import from this repository: names and numbers are typed in again, from the contract.

    python tests/support/dialled_agent.py --id a1 --gateway 127.0.0.1:50051 --gateway 127.0.0.1:50052 --log calls.jsonl

Prints `connected NODE GATEWAY` whenever it is accepted, and `holding` at the call that `--hold-call` names. It redials with a
jittered back-off, the next gateway each time. One JSON line a task goes into the log when it is over: {"task", "node", "at",
"timeoutMs", "ended"}; `ended`: answered or cancelled.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2, timestamp_pb2
from google.protobuf.json_format import MessageToDict

F = descriptor_pb2.FieldDescriptorProto
STRUCT, STAMP = ".google.protobuf.Struct", ".google.protobuf.Timestamp"
# (name, number, type): a type that begins with a dot is a message, `map` a map<string,string>, `*string` repeated.
TABLE: dict[str, list[tuple[str, int, str]]] = {
    "AgentHello": [
        ("agent_id", 1, "string"),
        ("agent_name", 2, "string"),
        ("capabilities", 3, "*string"),
        ("metadata", 4, "map"),
        ("heartbeat_interval_ms", 5, "int32"),
    ],
    "AgentHeartbeat": [("agent_id", 1, "string"), ("load", 2, "double"), ("status", 3, "string"), ("extra", 4, "map")],
    "TaskResult": [
        ("task_id", 1, "string"),
        ("value_json", 2, "string"),
        ("confidence", 3, "double"),
        ("reasoning", 4, "string"),
        ("metadata", 5, "map"),
    ],
    "TaskError": [("task_id", 1, "string"), ("error_message", 2, "string"), ("error_code", 3, "string")],
    "ServerAck": [("accepted", 1, "bool"), ("message", 2, "string"), ("assigned_node_id", 3, "string")],
    "TaskRequest": [
        ("task_id", 1, "string"),
        ("task_description", 2, "string"),
        ("data", 3, STRUCT),
        ("context", 4, "map"),
        ("timeout_ms", 5, "int32"),
        ("pattern_name", 6, "string"),
    ],
    "CancelTask": [("task_id", 1, "string"), ("reason", 2, "string")],
    "Ping": [("server_time", 1, STAMP)],
    "AgentToControlPlane": [
        ("request_id", 1, "string"),
        ("hello", 2, ".?AgentHello"),
        ("heartbeat", 3, ".?AgentHeartbeat"),
        ("task_result", 4, ".?TaskResult"),
        ("task_error", 5, ".?TaskError"),
    ],
    "ControlPlaneToAgent": [
        ("request_id", 1, "string"),
        ("ack", 2, ".?ServerAck"),
        ("task_request", 3, ".?TaskRequest"),
        ("cancel_task", 4, ".?CancelTask"),
        ("ping", 5, ".?Ping"),
    ],
}
SCALARS = {"string": F.TYPE_STRING, "double": F.TYPE_DOUBLE, "int32": F.TYPE_INT32, "bool": F.TYPE_BOOL}
PACKAGE = "parallax.gateway"


def build() -> dict[str, Any]:
    """Message classes by name, in a pool of their own."""
    file = descriptor_pb2.FileDescriptorProto(name="someone_elses.proto", package=PACKAGE, syntax="proto3")
    file.dependency.extend([struct_pb2.DESCRIPTOR.name, timestamp_pb2.DESCRIPTOR.name])
    for name, fields in TABLE.items():
        message = file.message_type.add(name=name)
        if any(kind.startswith(".?") for _, _, kind in fields):
            message.oneof_decl.add(name="payload")
        for field_name, number, kind in fields:
            _add(message, name, field_name, number, kind)
    pool = descriptor_pool.DescriptorPool()
    for known in (struct_pb2, timestamp_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in TABLE}


def _add(message: Any, owner: str, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number, label=F.LABEL_OPTIONAL)
    if kind == "map":
        entry_name = "".join(part.title() for part in name.split("_")) + "Entry"
        entry = message.nested_type.add(name=entry_name)
        entry.options.map_entry = True
        for part, place in (("key", 1), ("value", 2)):
            entry.field.add(name=part, number=place, label=F.LABEL_OPTIONAL, type=F.TYPE_STRING)
        field.label, field.type, field.type_name = F.LABEL_REPEATED, F.TYPE_MESSAGE, f".{PACKAGE}.{owner}.{entry_name}"
    elif kind.startswith(".?"):
        field.type, field.type_name, field.oneof_index = F.TYPE_MESSAGE, f".{PACKAGE}.{kind[2:]}", 0
    elif kind.startswith("."):
        field.type, field.type_name = F.TYPE_MESSAGE, kind
    else:
        field.type = SCALARS[kind.removeprefix("*")]
        if kind.startswith("*"):
            field.label = F.LABEL_REPEATED


class Agent:
    """Holds one stream at a time."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.types = build()
        self.log = open(options.log, "a", encoding="utf-8") if options.log else None  # noqa: SIM115 - as long as we live
        self.node = ""
        self.begun = 0
        self.outbox: asyncio.Queue[Any] = asyncio.Queue()
        self.working: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """For ever."""
        turn, pause = 0, 0.1
        while True:
            address = self.options.gateway[turn % len(self.options.gateway)]
            turn += 1
            try:
                if await self.hold(address):
                    pause = 0.1
            except grpc.aio.AioRpcError as error:
                sys.stderr.write(f"{address}: {error.code()} {error.details()}\n")
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2.0, pause * 2)

    async def hold(self, address: str) -> bool:
        """One stream, to its end; whether it was accepted."""
        accepted = False
        metadata = [("authorization", f"Bearer {self.options.token}")] if self.options.token else []
        async with grpc.aio.insecure_channel(address) as channel:
            stream = channel.stream_stream(
                f"/{PACKAGE}.AgentGateway/Connect",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=self.types["ControlPlaneToAgent"].FromString,
            )(metadata=metadata)
            self.outbox = asyncio.Queue()
            helpers = [asyncio.create_task(self.write(stream)), asyncio.create_task(self.beat())]
            hello = self.types["AgentHello"](
                agent_id=self.options.id,
                agent_name="Somebody Else's",
                capabilities=self.options.capability,
                metadata={"version": "9"},
                heartbeat_interval_ms=self.options.interval_ms,
            )
            self.say(request_id="h1", hello=hello)
            try:
                while (message := await stream.read()) is not grpc.aio.EOF:
                    accepted = self.take(message, address) or accepted
            finally:
                for task in (*helpers, *self.working.values()):
                    task.cancel()
                await asyncio.gather(*helpers, *self.working.values(), return_exceptions=True)
        return accepted

    def say(self, **fields: Any) -> None:
        """Send a message."""
        self.outbox.put_nowait(self.types["AgentToControlPlane"](**fields))

    async def write(self, stream: Any) -> None:
        """One at a time."""
        while True:
            await stream.write(await self.outbox.get())

    async def beat(self) -> None:
        """A heartbeat now and then."""
        while True:
            await asyncio.sleep(self.options.interval_ms / 1000)
            self.heartbeat("")

    def heartbeat(self, request_id: str) -> None:
        """How we are."""
        beat = self.types["AgentHeartbeat"](
            agent_id=self.options.id, load=len(self.working) / 10, status=self.options.status
        )
        self.say(request_id=request_id, heartbeat=beat)

    def take(self, message: Any, address: str) -> bool:
        """One message; whether it accepted us."""
        kind = message.WhichOneof("payload")
        if kind == "ack":
            self.node = message.ack.assigned_node_id
            word = "connected" if message.ack.accepted else "refused"
            sys.stdout.write(f"{word} {self.node or message.ack.message} {address}\n")
            sys.stdout.flush()
            return bool(message.ack.accepted)
        if kind == "task_request":
            task = asyncio.create_task(self.work(message.request_id, message.task_request))
            self.working[message.request_id] = task
            task.add_done_callback(lambda _: self.working.pop(message.request_id, None))
        elif kind == "cancel_task" and message.request_id in self.working:
            self.working[message.request_id].cancel()
        elif kind == "ping":
            self.heartbeat(message.request_id)
        return False

    async def work(self, request_id: str, task: Any) -> None:
        """Think, then answer."""
        begun = {"task": task.task_id, "node": self.node, "at": time.time(), "timeoutMs": task.timeout_ms}
        ended = "cancelled"
        self.begun += 1
        try:
            if self.begun == self.options.hold_call:
                sys.stdout.write("holding\n")
                sys.stdout.flush()
                await asyncio.sleep(60)
            await asyncio.sleep(self.options.delay_ms / 1000)
            value = {"did": task.task_description, "data": MessageToDict(task.data)}
            result = self.types["TaskResult"](
                task_id=task.task_id, value_json=json.dumps(value), confidence=0.9, reasoning="I thought about it"
            )
            self.say(request_id=request_id, task_result=result)
            ended = "answered"
        finally:
            if self.log is not None:
                self.log.write(json.dumps(begun | {"ended": ended}) + "\n")
                self.log.flush()


def main() -> None:
    """Until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--id", required=True)
    parser.add_argument("--gateway", action="append", required=True)
    parser.add_argument("--capability", action="append", default=[])
    parser.add_argument("--token", default="")
    parser.add_argument("--status", default="healthy")
    parser.add_argument("--interval-ms", type=int, default=500)
    parser.add_argument("--delay-ms", type=float, default=20)
    parser.add_argument("--hold-call", type=int, default=0, help="the call of this number takes a minute")
    parser.add_argument("--log", default="")
    asyncio.run(Agent(parser.parse_args()).run())


if __name__ == "__main__":
    main()
