"""What TaskResult and TaskError mean; the strictness of the JSON itself is tested in `test_exact_json` and the contract suite."""

from __future__ import annotations

import pytest

from agents_io.errors import AgentError, AnswerTooLarge, BadResponse, CallTimeout, ClientError, RateLimited, ServerError
from agents_io.protocols.gateway.rules.answers import error_of, read_result


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("ANALYSIS_FAILED", ServerError),
        ("INTERNAL", ServerError),
        ("", ServerError),
        ("made up", ServerError),
        ("503", ServerError),
        ("timeout", CallTimeout),
        ("DEADLINE_EXCEEDED", CallTimeout),
        ("408", CallTimeout),
        ("rate-limited", RateLimited),
        ("Resource Exhausted", RateLimited),
        ("429", RateLimited),
        ("425", RateLimited),
        ("draining", RateLimited),
        ("INVALID_ARGUMENT", ClientError),
        ("unauthenticated", ClientError),
        ("404", ClientError),
        ("4040", ServerError),
        ("4²4", ServerError),
    ],
)
def test_table_of_codes(code: str, error: type[AgentError]) -> None:
    """Row by row, however it is spelt."""
    assert type(error_of(code, "why")) is error


def test_an_error_shows_little_and_only_what_can_be_printed() -> None:
    """An agent's message is not to be trusted."""
    message = error_of("bad\x00code " + "y" * 300, "a\nb\x1b[31m" + "x" * 5000).message
    assert message.isprintable()
    assert len(message) < 220
    assert error_of("INTERNAL", " ").message == "the agent answered INTERNAL: no message"


@pytest.mark.parametrize("confidence", [float("nan"), float("inf"), -0.1, 1.1])
def test_confidence_must_be_in_the_unit_interval(confidence: float) -> None:
    """A double can be anything."""
    with pytest.raises(BadResponse, match="confidence must be in"):
        read_result("1", confidence, "", {}, 100)


@pytest.mark.parametrize("value_json", ["", " ", "NaN", '{"a":', "<html>", "[" * 900 + "]" * 900, '1,"confidence":1'])
def test_value_json_must_be_json(value_json: str) -> None:
    """Exactly one value of it."""
    with pytest.raises(BadResponse):
        read_result(value_json, 0.5, "", {}, 10_000)


def test_everything_counts_for_the_size() -> None:
    """A huge reasoning is a huge answer, and bytes are counted, not characters."""
    read_result('"x"', 0.5, "y" * 40, {"k": "v" * 49}, 93)
    with pytest.raises(AnswerTooLarge, match="94 bytes, more than 93"):
        read_result('"é"', 0.5, "y" * 40, {"k": "v" * 49}, 93)


@pytest.mark.parametrize("code", ["ALREADY_EXISTS", "conflict", "409", "423"])
def test_a_task_that_exists_already_is_tried_again_after_the_first_attempt(code: str) -> None:
    """An earlier attempt of ours may still run there."""
    assert error_of(code, "busy", 2).retryable
    assert not error_of(code, "busy", 2).counts_against_agent
    assert error_of("INVALID_ARGUMENT", "no", 2).retryable is False
