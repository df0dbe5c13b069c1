"""What a worker must not hold any more when there is nothing to do. In: a worker. Out: a line for each thing that is left.

It reads private attributes of the product, on purpose: what leaks is held by nothing that can be seen from outside.
"""

from __future__ import annotations

from collections.abc import Iterator

from schemas.topics import full_name
from streams.dispatch.handler import DispatchHandler
from tests.simulation.worker import Worker


def leftovers_of(worker: Worker) -> Iterator[str]:
    """What a worker still holds, a line each."""
    node = worker.node
    for role, engine in worker.engines.items():
        for number, processor in engine.processors.items():
            for source, ledger in processor.ledgers.items():
                end = node.broker.logs[full_name(source, node.prefix), number].end
                if ledger.in_flight or ledger.head != end:
                    yield f"ledger {role} {source}/{number}: {ledger.in_flight} in flight, at {ledger.head} of {end}"
    for handler in worker.dispatchers():
        yield from (f"{what} in dispatch: {count}" for what, count in _held(handler).items() if count)
    for scheduler in worker.schedulers():
        if scheduler._waiting or scheduler._due or scheduler._to_check:
            yield f"scheduled tasks: {len(scheduler._waiting)} wait, {len(scheduler._due)} are being released"
    for planner in worker.planners():
        store = planner._store
        if store.active or store.by_key:
            yield f"active plans: {sorted(store.active)}"


def _held(handler: DispatchHandler) -> dict[str, int]:
    tasks, waiting, callers = handler._tasks, handler._waiting, handler.callers.values()
    return {
        "tasks": len(tasks),
        "claims": len(tasks._claims),
        "tasks being relocated": len(tasks._relocating),
        "tasks by id": len(tasks._by_task),
        "flights": len(waiting.flights._flights),
        "tasks waiting for an equal one": len(waiting.flights),
        "tasks left on their topic": len(waiting.backlogs),
        "tasks waiting for an agent": len(waiting.unassigned),
        "ordering keys": len(waiting.ordering),
        "records that keep a turn": len(waiting.ordering._aside) + len(waiting.ordering._returning),
        "tasks waiting for earlier ones": len(waiting.ordering._timers) + len(waiting.ordering._by_name),
        "records to relocate": len(waiting.relocation._to_read),
        "queued tasks": sum(caller.queue.waiting for caller in callers),
        "calls under way": sum(max(caller.queue.in_flight, caller.running) for caller in callers),
    }
