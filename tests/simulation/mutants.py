"""Fixes of the product taken out again, so that the simulation can show that it would have found what they mend.

`python -m tests.simulation --without F1,F2` runs the hole's own seeds, then more of its profile until one breaks its oracle, and
exits 1 if none does. Each mutant puts back what the code did before, as nearly as today's code has a place for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agents_io.calling.caller import Caller
from agents_io.rules.targets import AllowList
from streams.dispatch import answer_cache, router, task_run
from streams.dispatch.coalescing import SingleFlight
from streams.dispatch.decisions import Decision, Duplicate, Fail, Forward
from streams.dispatch.in_flight import InFlightTasks
from streams.dispatch.ordering import OrderedTasks
from streams.dispatch.router import Router
from streams.engine import group, inherited_state
from streams.engine.commit import CommitFailed
from streams.engine.engine import Engine
from streams.engine.inherited_state import InheritedState
from streams.engine.partition_processor import PartitionProcessor
from streams.engine.shared_transactions import SharedTransactions
from streams.plans.handler import PlanHandler
from streams.rules.dedup_window import DedupWindow
from streams.rules.dispatch.builtins import Builtins
from streams.rules.dispatch.ordering import LogPosition
from streams.rules.dispatch.routing import MAX_HOPS
from streams.rules.schedules.scheduled_tasks import ScheduledTasks
from streams.schedules import recurring
from streams.schedules.handler import ScheduleHandler
from streams.schedules.recurring import RecurringTasks
from tests.simulation.group import Group
from tests.simulation.surroundings import Surroundings


def _refusals_claim_the_id_again() -> None:
    """F1: a task that was checked in its id's partition was checked there once more when no agent was left for it."""

    def fail(self: Router, run: Any, error: Any) -> Decision:
        return Fail(error) if self._tasks.claim(run, "") else Duplicate()

    Router._fail = fail  # type: ignore[method-assign]
    InFlightTasks.release_all = lambda self, run: None  # type: ignore[method-assign]


def _leaders_that_wait_stay_leaders() -> None:
    """F2: a task that led equal ones kept them waiting when it was put aside, and for ever if it ended elsewhere."""
    left = SingleFlight.left

    def stay(self: SingleFlight, run: Any) -> None:
        flight = self._flights.get(run.cache_key or "")
        if flight is None or flight.leader is not run:
            left(self, run)

    SingleFlight.left = stay  # type: ignore[method-assign]


def _unknown_agents_fail_where_the_id_lives() -> None:
    """F4: a task for an agent that is not registered was answered in its id's partition, any other in its agent's."""
    by_name = Router._by_name

    def elsewhere(self: Router, run: Any, looked_up: bool) -> Decision:
        if run.task.type != "agent" or self._context.agents.get(run.task.target or "") is not None:
            return by_name(self, run, looked_up)
        forward = self._forward(run, run.task_id, None)
        if forward is not None:
            return forward
        if not self._tasks.claim(run, ""):
            return Duplicate()
        return by_name(self, run, looked_up)

    Router._by_name = elsewhere  # type: ignore[method-assign]


def _calls_begin_after_a_freeze() -> None:
    """F7: a worker that woke began calls by what it remembered, whoever owned their agents by then."""
    begin: Any = Caller.__init__

    def unguarded(self: Any, *args: Any, **options: Any) -> None:
        begin(self, *args, **options | {"may_begin": lambda: True})

    Caller.__init__ = unguarded  # type: ignore[method-assign]


def _requests_are_repeated_in_place() -> None:
    """F8: a transactional request whose answer was lost was sent again in the same epoch."""
    make: Any = Surroundings.__init__

    def repeating(self: Any, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        self.repeats_in_place = True

    Surroundings.__init__ = repeating  # type: ignore[method-assign]


def _calls_cut_off_are_forgotten() -> None:
    """F9: what calls that were cut off had changed in their agents' guards was not committed when their partition moved."""

    async def only_close(self: PartitionProcessor) -> None:
        self._close_handler()

    async def commit_finished(self: PartitionProcessor) -> None:
        while (self._finished or not self._idle.is_set()) and not self._loop_done():
            self.committer.hurry()
            await asyncio.sleep(0.002)

    PartitionProcessor._cut_off = only_close  # type: ignore[method-assign]
    PartitionProcessor._commit_rest = commit_finished  # type: ignore[method-assign]


def _done_in_the_wrong_partition() -> None:
    """N2: a task that was forwarded five times was done wherever it was; here after two, which more worlds show."""

    def away(self: Router, run: Any, key: str, agent_id: str | None) -> Forward | None:
        return None if run.hops >= MAX_HOPS - 3 else self._forward(run, key, agent_id)

    Router._away = away  # type: ignore[method-assign]


def _no_order() -> None:
    """O1: tasks with an ordering key went to their agent's queue like all others."""
    OrderedTasks.enter = lambda self, run: True  # type: ignore[method-assign]


def _relocated_tasks_are_not_waited_for() -> None:
    """O2: a new owner began with whatever it read first."""
    PartitionProcessor.caught_up = lambda self, source: True  # type: ignore[method-assign]


def _a_relocated_task_is_as_old_as_its_record() -> None:
    """O3: the new record of a task did not say where its first one lay."""
    task_run.first_record_of = lambda record: LogPosition(record.topic, record.offset)


def _plans_end_before_results_are_read() -> None:
    """P1: the time of a plan counted before the results that had come while its partition had no owner."""
    caught_up = PartitionProcessor.caught_up
    PartitionProcessor.caught_up = (  # type: ignore[method-assign]
        lambda self, source: source == "results" or caught_up(self, source)
    )


def _unaccepted_records_wait_already() -> None:
    """S1: a new owner counted records that no owner had accepted as waiting, and then took them for duplicates of themselves."""
    ScheduledTasks.keep = lambda self, wanted: None  # type: ignore[method-assign]


def _tombstones_come_later() -> None:
    """S2: a released task was taken from those that wait by the transaction after the one that released it."""
    outputs: Any = ScheduleHandler._outputs

    def release(self: Any, record: Any, due: bool) -> Any:
        found = outputs(self, record, due)

        def later() -> None:
            self._pending += found[1:]
            self._partition.touch()

        if found:
            self._partition.afterwards(later)
        return found[:1]

    ScheduleHandler._outputs = release  # type: ignore[method-assign]


def _firings_are_forgotten() -> None:
    """S3: a new owner did not know what its schedules had made."""
    RecurringTasks._restore = lambda self, value: None  # type: ignore[method-assign]


def _schedules_begin_with_their_owner() -> None:
    """S4: a new owner made the tasks of the times after its start."""
    restore: Any = RecurringTasks.restore

    def begin_now(self: Any, records: Any, now_ms: int) -> Any:
        outputs = restore(self, records, now_ms)
        for active in self._active.values():
            active.since_ms = max(active.since_ms, self._parts.wall_ms())
            active.next_ms = active.after(active.since_ms)
        return outputs

    RecurringTasks.restore = begin_now  # type: ignore[method-assign]


def _changes_count_from_the_workers_clock() -> None:
    """S5: the old schedule ended where the worker's clock was, and the new one began at its record's time."""
    last: Any = RecurringTasks._last_tasks

    def by_own_clock(self: Any, name: str, until_ms: int) -> Any:
        return last(self, name, min(until_ms, self._parts.wall_ms()))

    RecurringTasks._last_tasks = by_own_clock  # type: ignore[method-assign]


def _anybody_commits_offsets() -> None:
    """T1: offsets were sent without the member and its generation, so the coordinator took them from anybody."""
    Group.knows = lambda self, member, generation: True  # type: ignore[method-assign]


def _lost_ends_did_not_come_about() -> None:
    """T2: a transaction whose end was asked for, and not answered, was run again."""

    async def again(self: SharedTransactions, now: Any, until: float, failed: CommitFailed) -> CommitFailed:
        return CommitFailed(str(failed), transient=True, again=True)

    SharedTransactions._found_out = again  # type: ignore[method-assign]


def _added_partitions_know_nothing() -> None:
    """G1: a partition that was added began with nothing."""

    async def nothing(self: InheritedState, number: int, count: int, consumer: Any) -> dict[bytes, bytes]:
        return {}

    InheritedState._from_ancestor = nothing  # type: ignore[method-assign]


def _each_worker_counts_by_itself() -> None:
    """G2: a worker went by the partitions in its own metadata, which others had not seen yet."""
    Engine.partition_count = property(  # type: ignore[assignment]
        lambda self: self._growth._counts.common(self._consumer) if self._consumer is not None else 0
    )


def _results_of_steps_stay_where_they_lie() -> None:
    """G3: the result of a step in the partition where its plan was reached nobody."""
    PlanHandler._step_moved = lambda self, record, place: None  # type: ignore[method-assign]


def _any_row_makes_an_ancestor() -> None:
    """G4: the nearest partition that was ever open was taken for the ancestor, though it was new itself."""
    inherited_state.is_ancestor = lambda earlier, counts: bool(counts)  # type: ignore[attr-defined]


def _moved_schedules_begin_anew() -> None:
    """G5: a schedule that went to an added partition began there with the time of its new record."""
    recurring.own_header = lambda headers, name: None  # type: ignore[attr-defined]


def _ends_are_those_of_readers_of_committed_records() -> None:
    """O5: a log ended where the first transaction began whose end had not reached it."""

    async def stable(consumer: Any, tps: Any) -> Any:
        return await consumer.end_offsets(tps)

    group.log_ends = stable  # type: ignore[attr-defined]


def _compared_at_its_agent(kind: str) -> Callable[[], None]:
    """K1, K2: the id of a task was compared where the settings of the worker had its agent."""

    def mutate() -> None:
        first: Any = router.first_comparison  # type: ignore[attr-defined]
        router.first_comparison = lambda task: None if task.type == kind else first(task)  # type: ignore[attr-defined]

    return mutate


def _every_host_is_allowed() -> None:
    """K3: the allow-list only said under which name a host is limited."""
    AllowList.host_key = lambda self, target: f"{target.host}:{target.port}"  # type: ignore[method-assign]


def _builtin_agents_have_default_limits() -> None:
    """K4: the limits of hosts, functions and patterns were those of agents without their own."""
    make: Any = Builtins.__init__

    def default(self: Any, **options: Any) -> None:
        make(self, **options | {"limits": dict.fromkeys(("http", "function", "pattern"))})

    Builtins.__init__ = default  # type: ignore[method-assign]


def _requests_are_equal_by_their_url() -> None:
    """K5: an http task was answered with the answer to another content."""
    answer_cache.asked_of = lambda task, payload: task.target  # type: ignore[attr-defined]


def _requests_that_change_something_are_cached() -> None:
    """K6: http tasks were cached as tasks of agents are."""
    answer_cache.cacheable = lambda task: task.metadata.cache  # type: ignore[attr-defined]


def _slots_follow_from_sequence_numbers() -> None:
    """I1: rows of answered ids lay at the remainder of their sequence number, also in a ring of another size."""
    restore: Any = DedupWindow.restore
    DedupWindow.restore = lambda self, chunks: restore(  # type: ignore[method-assign]
        self, [(chunk._replace(slot=None), at_ms) for chunk, at_ms in chunks]
    )


def _each_owner_begins_a_row() -> None:
    """I2: a new owner of a partition began another row of answered ids, over the oldest, however few the newest had."""
    restore: Any = DedupWindow.restore
    DedupWindow.restore = lambda self, chunks: restore(  # type: ignore[method-assign]
        self, [(chunk._replace(since_ms=None), at_ms) for chunk, at_ms in chunks]
    )


MUTANTS: dict[str, Callable[[], None]] = {
    "G1": _added_partitions_know_nothing,
    "G2": _each_worker_counts_by_itself,
    "G3": _results_of_steps_stay_where_they_lie,
    "G4": _any_row_makes_an_ancestor,
    "G5": _moved_schedules_begin_anew,
    "F1": _refusals_claim_the_id_again,
    "F2": _leaders_that_wait_stay_leaders,
    "F4": _unknown_agents_fail_where_the_id_lives,
    "F7": _calls_begin_after_a_freeze,
    "F8": _requests_are_repeated_in_place,
    "F9": _calls_cut_off_are_forgotten,
    "I1": _slots_follow_from_sequence_numbers,
    "I2": _each_owner_begins_a_row,
    "K1": _compared_at_its_agent("http"),
    "K2": _compared_at_its_agent("pattern"),
    "K3": _every_host_is_allowed,
    "K4": _builtin_agents_have_default_limits,
    "K5": _requests_are_equal_by_their_url,
    "K6": _requests_that_change_something_are_cached,
    "N2": _done_in_the_wrong_partition,
    "O1": _no_order,
    "O2": _relocated_tasks_are_not_waited_for,
    "O5": _ends_are_those_of_readers_of_committed_records,
    "O3": _a_relocated_task_is_as_old_as_its_record,
    "P1": _plans_end_before_results_are_read,
    "S1": _unaccepted_records_wait_already,
    "S2": _tombstones_come_later,
    "S3": _firings_are_forgotten,
    "S4": _schedules_begin_with_their_owner,
    "S5": _changes_count_from_the_workers_clock,
    "T1": _anybody_commits_offsets,
    "T2": _lost_ends_did_not_come_about,
}
"""By the name of the hole in `holes.py`."""
