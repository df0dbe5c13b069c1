"""Runs a command's coroutine, and turns every failure into one line on stderr and an exit code."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from streams.cli.options import FAILED, INTERRUPTED, NOT_FOUND, TIMED_OUT, UNREACHABLE, USAGE
from streams.cli.output import say

if TYPE_CHECKING:
    from streams.settings import Settings

REACH_TIMEOUT_S = 6.0


def run(settings: Settings, work: Coroutine[Any, Any, None]) -> None:
    """Check that Kafka answers, then run the command. Raises what the command raises."""
    asyncio.run(_checked(settings, work))


async def _checked(settings: Settings, work: Coroutine[Any, Any, None]) -> None:
    from streams.broker.kafka import reach
    from streams.broker.noise import quiet_logs

    quiet_logs()
    try:
        await reach(settings, REACH_TIMEOUT_S)
    except BaseException:
        work.close()
        raise
    await work


def explain(error: BaseException) -> int:
    """Print the failure on stderr and return its exit code."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    code, text = _known(error)
    if code is None:
        traceback.print_exception(error)
        say(f"parallax: internal error: {type(error).__name__}: {text}; please report it")
        return FAILED
    say(f"parallax: {text}")
    return code


def _known(error: BaseException) -> tuple[int | None, str]:
    """Exit code and message of a failure that a user or a broker may cause; code None for an internal error."""
    text = str(error).strip().replace("\n", " ")
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):  # ours, the worker's, typer's
        return code, _usage(error, text)
    if isinstance(error, TimeoutError):
        return TIMED_OUT, text or "timed out"
    # Imported only now: a command that succeeds need not load it.
    from streams.settings import SettingsError

    if isinstance(error, SettingsError):
        return USAGE, text
    if "streams.client.errors" in sys.modules and (code := _client(error)) is not None:
        return code, text
    if "aiokafka" in sys.modules:
        return _kafka(error, text)
    return (FAILED, text) if isinstance(error, OSError) else (None, text)


def _client(error: BaseException) -> int | None:
    """Exit code of what the client's parts raise; None: the error is none of theirs."""
    from streams.client.errors import ClientError, InvalidTask, KafkaUnreachable, NotFound

    codes = ((KafkaUnreachable, UNREACHABLE), (NotFound, NOT_FOUND), (InvalidTask, USAGE), (ClientError, FAILED))
    return next((code for kind, code in codes if isinstance(error, kind)), None)


def _usage(error: BaseException, text: str) -> str:
    from typer.exceptions import TyperException

    if not isinstance(error, TyperException):
        return text
    context = getattr(error, "ctx", None)
    hint = f" (see: {context.command_path} --help)" if context is not None else ""
    return error.format_message().strip().replace("\n", " ").replace("Value error, ", "") + hint


def _kafka(error: BaseException, text: str) -> tuple[int | None, str]:
    from aiokafka.errors import KafkaConnectionError, KafkaError

    from streams.broker.access import AccessDenied
    from streams.broker.child_broker import ChildBrokerError
    from streams.broker.client import TopicMissing
    from streams.broker.kafka import BrokerUnreachable, TransactionsDenied
    from streams.broker.topics_admin import MissingTopics, TopicsError
    from streams.engine.faults import describe_error, is_refused

    if isinstance(error, (BrokerUnreachable, KafkaConnectionError)):
        return UNREACHABLE, text
    if is_refused(error):
        return FAILED, describe_error(error)
    if isinstance(error, KafkaError):
        return FAILED, f"Kafka failed: {type(error).__name__}: {text}"
    ours = (TopicMissing, TopicsError, MissingTopics, TransactionsDenied, AccessDenied,
            ChildBrokerError, OSError)  # fmt: skip
    return (FAILED if isinstance(error, ours) else None), text
