"""The answer most samples give, when that is known, and what it is worth."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents_io.calling.rules.agreement import Agreement
from agents_io.errors import AgentError, BadResponse, ClientError, Refused, ServerError
from agents_io.rules.confidence import from_agreement
from agents_io.transport import Answer
from schemas.messages import ConfidenceSource


def said(value: Any, **metadata: Any) -> Answer:
    """An answer without a confidence."""
    return Answer(value, 0.0, metadata)


def test_enough_that_agree_end_it() -> None:
    """The rest is not needed: the confidence is that of three samples, not of five."""
    samples = Agreement(5, 3)
    assert [samples.add(said("a")), samples.add(said("A "))] == [None, None]
    end = samples.add(said("a", why="third"))
    assert end == Answer("a", 0.8, {"agreement": {"samples": 3, "agree": 3}})


def test_without_enough_all_are_waited_for() -> None:
    """Most of them win; of as many, the first. Its own metadata stay."""
    samples = Agreement(4, 3)
    ends = [samples.add(said(value, n=n)) for n, value in enumerate(("b", "a", "a", "b"))]
    assert ends[:3] == [None, None, None]
    assert ends[3] == Answer("b", 0.5, {"n": 0, "agreement": {"samples": 4, "agree": 2}})


def test_lost_samples_are_no_answers() -> None:
    """Two of five are lost: three decide. With a third lost there is no answer."""
    samples = Agreement(5, 3)
    ends = [samples.add(end) for end in (ServerError("x"), said("a"), BadResponse("y"), said("b"), said("a"))]
    assert ends[:4] == [None] * 4
    assert isinstance(ends[4], Answer)
    assert (ends[4].value, ends[4].confidence) == ("a", 0.6)
    samples, last = Agreement(5, 3), Refused("z")
    assert [samples.add(end) for end in (ServerError("x"), said("a"), ServerError("y"), last)][3] is last


def test_a_task_that_is_wrong_ends_at_its_first_sample() -> None:
    """400 is the same for all of them."""
    wrong = ClientError("400")
    assert Agreement(5, 3).add(wrong) is wrong


@given(st.integers(2, 20).flatmap(lambda n: st.tuples(st.just(n), st.integers(n // 2 + 1, n))), st.data())
def test_it_ends_exactly_once_and_as_the_samples_say(counts: tuple[int, int], data: st.DataObject) -> None:
    """Against a plain recount."""
    count, enough = counts
    fates = data.draw(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=count, max_size=count))
    samples, seen, lost = Agreement(count, enough), [], 0
    for fate in fates:
        end = samples.add(ServerError("x") if fate is None else said(fate))
        if fate is None:
            lost += 1
        else:
            seen.append(fate)
        most = max((seen.count(value) for value in seen), default=0)
        if lost >= count / 2:
            assert isinstance(end, AgentError)
            return
        if most < enough and len(seen) + lost < count:
            assert end is None
            continue
        assert isinstance(end, Answer)
        assert (end.value, end.confidence) == from_agreement(seen)
        return
    raise AssertionError("it never ended")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"from": "agreement", "samples": 1}, "greater than or equal to 2"),
        ({"from": "agreement", "samples": 21}, "less than or equal to 20"),
        ({"from": "agreement", "samples": 4, "enough": 2}, "enough: must be more than half of the 4 samples"),
        ({"from": "agreement", "samples": 3, "enough": 4}, "enough: must be more than half of the 3 samples"),
        ({"from": "stated", "samples": 3}, 'samples: allowed only with "from": "agreement"'),
        ({"from": "judge"}, 'agent: required with "from": "judge"'),
        ({"from": "agreement", "agent": "j"}, 'agent: required with "from": "judge"'),
    ],
)
def test_what_a_registration_cannot_say(given: dict[str, Any], reason: str) -> None:
    """Refused with the reason."""
    with pytest.raises(ValueError, match=reason):
        ConfidenceSource.model_validate(given)


def test_defaults() -> None:
    """Five samples, of which more than half."""
    source = ConfidenceSource.model_validate({"from": "agreement"})
    assert (source.sample_count, source.enough_count) == (5, 3)
    assert ConfidenceSource.model_validate({"from": "agreement", "samples": 4}).enough_count == 3
