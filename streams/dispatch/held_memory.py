"""Memory held by the tasks of one worker, over all partitions. The rule is in `rules/dispatch/delaying.py`."""

from __future__ import annotations

from streams.dispatch.task_run import TaskRun
from streams.rules.dispatch.delaying import may_hold, room_to_read_back


class HeldMemory:
    """Counts bytes and tasks, in all and by agent. `budget`: bytes; `most`: tasks."""

    def __init__(self, budget: int, most: int) -> None:
        self._budget = budget
        self._most = most
        self._by_agent: dict[str, tuple[int, int]] = {}
        self.used = self.count = 0

    def held(self, agent_id: str) -> int:
        """How many tasks of this agent are held."""
        return self._by_agent.get(agent_id, (0, 0))[1]

    def room_for(self, agent_id: str, concurrency: int, size: int) -> bool:
        """Whether another task of this agent, of `size` bytes, may be held."""
        held_bytes, held = self._by_agent.get(agent_id, (0, 0))
        if held and self.count >= self._most:
            return False
        return may_hold(self._budget, self.used, held_bytes, held, concurrency, size)

    def may_load(self, agent_id: str, average: int) -> int:
        """How many tasks of about `average` bytes may be read back for this agent; at least one if it holds none."""
        places = self._most - self.count
        return room_to_read_back(self._budget, self.used, average, places, self.held(agent_id))

    def hold(self, run: TaskRun, agent_id: str) -> None:
        """Count a task of this agent; a task is counted once."""
        self.release(run)
        held_bytes, held = self._by_agent.get(agent_id, (0, 0))
        self._by_agent[agent_id] = held_bytes + run.size, held + 1
        self.used += run.size
        self.count += 1
        run.held_for = agent_id

    def release(self, run: TaskRun) -> None:
        """Stop counting a task."""
        agent_id = run.held_for
        if agent_id is None:
            return
        run.held_for = None
        held_bytes, held = self._by_agent[agent_id]
        self.used -= run.size
        self.count -= 1
        if held == 1:
            del self._by_agent[agent_id]
        else:
            self._by_agent[agent_id] = held_bytes - run.size, held - 1
