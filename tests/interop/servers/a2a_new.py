"""An agent on a2a-sdk 1.x as its hello-world has it: the card's interface names no version. Option `rest`: HTTP+JSON alone."""

from __future__ import annotations

from typing import Any

from a2a.helpers import proto_helpers
from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types.a2a_pb2 import AgentCapabilities, AgentCard, AgentInterface, AgentSkill
from guard import OPTIONS, PORT, act, serve
from starlette.applications import Starlette


class Executor(AgentExecutor):
    """Does what the text says."""

    async def execute(self, context: Any, event_queue: Any) -> None:
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        await event_queue.enqueue_event(proto_helpers.new_task_from_user_message(context.message))
        await updater.start_work()
        await act(context.get_user_input())
        await updater.add_artifact([proto_helpers.new_data_part({"value": "yes", "confidence": 0.93, "why": "so"})])
        await updater.complete()

    async def cancel(self, context: Any, event_queue: Any) -> None:
        print("CANCELLED", flush=True)
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


REST = "rest" in OPTIONS
BINDING = "HTTP+JSON" if REST else "JSONRPC"
card = AgentCard(
    name="real",
    description="d",
    version="1",
    supported_interfaces=[AgentInterface(url=f"http://127.0.0.1:{PORT}/", protocol_binding=BINDING)],
    capabilities=AgentCapabilities(streaming=True),
    default_input_modes=["text/plain"],
    default_output_modes=["text/plain"],
    skills=[AgentSkill(id="judge", name="Judge", description="d", tags=["t"])],
)
handler = DefaultRequestHandler(agent_executor=Executor(), task_store=InMemoryTaskStore(), agent_card=card)
calls = create_rest_routes(handler) if REST else create_jsonrpc_routes(handler, rpc_url="/")
serve(Starlette(routes=[*create_agent_card_routes(card), *calls]))
