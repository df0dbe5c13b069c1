"""An agent on a2a-sdk 0.3.x. Option `rest`: HTTP+JSON alone."""

from __future__ import annotations

from typing import Any

from a2a.server.agent_execution import AgentExecutor
from a2a.server.apps import A2ARESTFastAPIApplication, A2AStarletteApplication
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentSkill, DataPart, Part
from a2a.utils import new_task
from guard import OPTIONS, PORT, act, serve


class Executor(AgentExecutor):
    """Does what the text says; a failure is an exception that the SDK swallows."""

    async def execute(self, context: Any, event_queue: Any) -> None:
        task = context.current_task or new_task(context.message)
        await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        await updater.start_work()
        await act(context.get_user_input())
        await updater.add_artifact([Part(root=DataPart(data={"value": "yes", "confidence": 0.93, "why": "so"}))])
        await updater.complete()

    async def cancel(self, context: Any, event_queue: Any) -> None:
        print("CANCELLED", flush=True)
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


REST = "rest" in OPTIONS
card = AgentCard(
    name="real",
    description="d",
    version="1",
    url=f"http://127.0.0.1:{PORT}/",
    preferred_transport="HTTP+JSON" if REST else "JSONRPC",
    capabilities=AgentCapabilities(streaming=True),
    default_input_modes=["text/plain"],
    default_output_modes=["text/plain"],
    skills=[AgentSkill(id="judge", name="Judge", description="d", tags=["t"])],
)
handler = DefaultRequestHandler(agent_executor=Executor(), task_store=InMemoryTaskStore())
application = A2ARESTFastAPIApplication if REST else A2AStarletteApplication
serve(application(agent_card=card, http_handler=handler).build())
