"""How the engine opens a partition: nothing is read before, failed tries are repeated, and what cannot be mended ends it."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.errors import KafkaError, NodeNotReadyError, TransactionalIdAuthorizationFailed
from aiokafka.structs import OffsetAndMetadata

from streams.engine.commit import CommitFailed
from streams.rules.engine import starts
from tests.support.engine_rig import TASKS, MakeRig, StoringCommitter, failed, tps
from tests.support.engine_rig import rig as rig
from tests.support.wait import settle, until

pytestmark = pytest.mark.virtual_time


async def test_nothing_is_fetched_until_the_partition_is_open_and_nothing_is_lost(rig: MakeRig) -> None:
    """Paused from the assignment on, then sought to what is committed: records before, during and after come in order."""
    one = await rig()
    one.consumer.write(TASKS, 5)
    one.consumer.store({TASKS: OffsetAndMetadata(2, "")})
    gate = asyncio.Event()

    async def slowly() -> None:
        await gate.wait()

    one.prepare = lambda committer: setattr(committer, "start", slowly)
    await one.consumer.assign(*tps(0))
    assert one.consumer.paused == set(tps(0))
    one.consumer.write(TASKS, 3)
    await asyncio.sleep(0.02)
    assert one.consumer.polls == 0
    assert not one.engine.ready
    gate.set()
    await until(lambda: one.engine.ready)
    one.consumer.write(TASKS, 2)
    await until(lambda: len(one.taken) >= 8)
    assert one.taken == list(range(2, 10))
    assert one.consumer.paused == set()


async def test_a_handler_is_reachable_from_its_opening_on(rig: MakeRig) -> None:
    """It has read the control requests up to then; it would miss later ones until the fetch loop admits its partition."""
    one = await rig()
    one.consumer.group_error = NodeNotReadyError()
    await asyncio.sleep(0.1)  # the fetch loop now pauses for longer than this
    await one.consumer.assign(*tps(0))
    await settle()
    assert one.engine.processors == {}
    assert [partition.handler for partition in one.engine.opened] == [one.handler]
    one.consumer.group_error = None
    await until(lambda: one.engine.ready)
    assert [partition.handler for partition in one.engine.opened] == [one.handler]


async def test_opening_is_tried_again(rig: MakeRig) -> None:
    """Each try with a committer of its own; those that failed are closed."""
    one = await rig()
    errors = [KafkaError("away"), TimeoutError()]

    def prepare(committer: StoringCommitter) -> None:
        if errors:
            committer.start_errors.append(errors.pop())

    one.prepare = prepare
    await one.ready()
    assert [committer.closed for committer in one.committers] == [1, 1, 0]


async def test_what_cannot_be_opened_at_all_fails_the_engine(rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a bounded number of tries, and `failed` says which partition it was."""
    monkeypatch.setattr(starts, "START_TRIES", 2)
    one = await rig()
    one.prepare = lambda committer: committer.start_errors.append(TransactionalIdAuthorizationFailed())
    await one.consumer.assign(*tps(3))
    with pytest.raises(
        RuntimeError, match="partition 3 could not be opened in 2 tries: Kafka refuses access to transactional id;"
    ):
        await asyncio.wait_for(one.engine.failed(), 5)


async def test_brokers_that_are_away_are_waited_for(rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often they do not answer, at a start or at a commit, the engine goes on."""
    monkeypatch.setattr(starts, "START_TRIES", 2)
    monkeypatch.setattr(starts, "MAX_LOSSES", 2)
    monkeypatch.setattr(starts, "MAX_START_PAUSE_S", 0.005)
    monkeypatch.setattr(starts, "MAX_REOPEN_PAUSE_S", 0.005)
    one = await rig()
    errors = [NodeNotReadyError(), TimeoutError(), KafkaError("it broke")] * 3

    def prepare(committer: StoringCommitter) -> None:
        if errors:
            committer.start_errors.append(errors.pop())
        elif len(one.committers) < 15:
            committer.script.append(CommitFailed("no replicas", transient=True))

    one.prepare = prepare
    one.consumer.write(TASKS, 1)
    await one.ready()
    await until(lambda: len(one.committers) == 15)
    await until(lambda: one.engine.ready and one.taken)
    one.finish(0)
    await until(lambda: one.committed() == 1)
    assert not await failed(one)


async def test_a_bug_while_opening_fails_the_engine(rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition that stays shut without a word would be waited for, for ever."""
    one = await rig()
    monkeypatch.setattr(one.consumer, "fetch_committed_offsets", None)
    await one.consumer.assign(*tps(0))
    with pytest.raises(TypeError):
        await asyncio.wait_for(one.engine.failed(), 5)
    assert [committer.closed for committer in one.committers] == [1] * starts.BUG_TRIES


async def test_revoked_while_opening(rig: MakeRig) -> None:
    """The half-open partition is closed, and is not let in later."""
    one = await rig()
    one.prepare = lambda committer: setattr(committer, "start", asyncio.Event().wait)
    await one.consumer.assign(*tps(0))
    await until(lambda: one.committers)
    await one.consumer.revoke()
    assert one.committers[0].closed == 1
    await settle()
    assert one.engine.processors == {}
    assert one.handlers == []
