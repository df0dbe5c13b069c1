"""The chain of one ordering key against a naive model: lists that are sorted whenever they are asked."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streams.rules.dispatch.ordering import READING, TOPICS, Chain, LogPosition

topics = st.sampled_from(TOPICS)
offsets = st.integers(0, 30)


class ChainMachine(RuleBasedStateMachine):
    """One task at a time, each topic's in the order of its log, and no topic is kept waiting by the others."""

    def __init__(self) -> None:
        super().__init__()
        self.chain: Chain[LogPosition] = Chain()
        self.memory: dict[str, set[int]] = {topic: set() for topic in TOPICS}
        self.stored: dict[str, set[int]] = {topic: set() for topic in TOPICS}
        self.reading: set[str] = set()
        self.busy = False
        self.passed_over: dict[str, int] = dict.fromkeys(TOPICS, 0)

    def first_stored(self, topic: str) -> float | None:
        if topic in self.reading:
            return READING
        return min(self.stored[topic], default=None)

    @rule(topic=topics, offset=offsets, in_memory=st.booleans())
    def arrive(self, topic: str, offset: int, in_memory: bool) -> None:
        if offset in self.memory[topic] | self.stored[topic]:
            return
        if in_memory:
            self.memory[topic].add(offset)
            position = LogPosition(topic, offset)
            self.chain.add(position, position)
        else:
            self.stored[topic].add(offset)

    @rule(topic=topics, offset=offsets)
    def leave(self, topic: str, offset: int) -> None:
        """One that waits expires or is cancelled; unknown ones change nothing."""
        found = [
            position for position in self.chain.before(LogPosition(topic, offset + 1)) if position.offset == offset
        ]
        assert len(found) == (offset in self.memory[topic])
        for position in found:
            assert self.chain.remove(position, position)
            self.memory[topic].discard(offset)
        other = LogPosition(topic, offset)
        assert not self.chain.remove(other, other)

    @rule(topic=topics)
    def read(self, topic: str) -> None:
        self.reading ^= {topic}

    @rule()
    def give_turn(self) -> None:
        found = self.chain.next(self.first_stored)
        ready = {topic for topic in TOPICS if topic not in self.reading and self.memory[topic] | self.stored[topic]}
        if self.busy or not ready:
            assert found == (None, None)
            return
        if found.item is not None:
            topic = found.item.topic
            assert found.item.offset == min(self.memory[topic] | self.stored[topic])
            self.memory[topic].discard(found.item.offset)
            self.busy = True
            for other in ready - {topic}:
                self.passed_over[other] += 1
                assert self.passed_over[other] < len(TOPICS)
        else:
            topic = str(found.topic)
            offset = min(self.memory[topic] | self.stored[topic])
            assert offset in self.stored[topic]
            self.stored[topic].discard(offset)  # it is read back
            self.memory[topic].add(offset)
            position = LogPosition(topic, offset)
            self.chain.add(position, position)
        assert topic in ready
        if found.item is not None:
            self.passed_over[topic] = 0

    @precondition(lambda self: self.busy)
    @rule()
    def end(self) -> None:
        self.chain.release()
        self.busy = False

    @invariant()
    def agrees(self) -> None:
        assert self.chain.busy == self.busy
        assert len(self.chain) == sum(map(len, self.memory.values()))
        for topic in TOPICS:
            assert [position.offset for position in self.chain.before(LogPosition(topic, 99))] == sorted(
                self.memory[topic]
            )
            last = self.chain.last(topic)
            assert (None if last is None else last.offset) == max(self.memory[topic], default=None)
            assert self.chain.count(topic) == len(self.memory[topic])


TestChain = ChainMachine.TestCase
TestChain.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
