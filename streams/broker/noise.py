"""Filters aiokafka's log records for users.

In: log records of aiokafka, and of asyncio about aiokafka's tasks. Out: whether to log them. Errors that recover by
themselves are dropped or logged at intervals; at level DEBUG everything passes.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from aiokafka import errors as kafka_errors

NOISE_INTERVAL_S = 30.0


class ExpectedNoise(logging.Filter):
    """Drops aiokafka's logs of errors that it retries itself; for lost connections, one line in `NOISE_INTERVAL_S`
    passes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._passed_s: dict[str, float] = {}
        """When a line of this template last passed; as many entries as aiokafka has log calls."""

    def filter(self, record: logging.LogRecord) -> bool:
        """True: log it."""
        if record.levelno <= logging.DEBUG and any(_secret(arg) for arg in _args(record)):
            return False
        if record.levelno > logging.ERROR or logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
            return True
        if record.levelno < logging.WARNING:
            return False
        if record.name == "asyncio":
            return not _aftermath(record)
        if record.exc_info and isinstance(record.exc_info[1], _REFUSALS):
            return False  # with a stack trace; the client that was refused logs it in a sentence
        template = str(record.msg)
        causes = [arg for arg in _args(record) if _is_kafka_error(arg)]
        if any(template.startswith(text) for text in _EVERYDAY) or any(_retried(cause) for cause in causes):
            return False
        if any(text in template for text in _CONNECTION):
            now_s = time.monotonic()
            if now_s - self._passed_s.get(template, -NOISE_INTERVAL_S) < NOISE_INTERVAL_S:
                return False
            self._passed_s[template] = now_s
        return True


_REFUSALS = (
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.GroupAuthorizationFailedError,
    kafka_errors.TransactionalIdAuthorizationFailed,
    kafka_errors.ClusterAuthorizationFailedError,
)
_EVERYDAY = (
    "Heartbeat failed",
    "Sending username and password in the clear",
    "Topic %s is not available during auto-create",
)
_CONNECTION = (
    "Unable connect",
    "Unable to request metadata",
    "Unable to update metadata",
    "Error sending",
    "Marking the coordinator dead",
    "Heartbeat se",
    "Cannot send",
    "Could not send",
    "Failed fetch",
    "Got error produce response",
    "Group Coordinator Request failed",
    "not found in cluster metadata",
)
_NOISE = ExpectedNoise()


def _aftermath(record: logging.LogRecord) -> bool:
    """Logs of asyncio after a producer of aiokafka was abandoned (futures not awaited, batches forgotten twice), and of
    uvloop after a TLS connection was cut while data arrived.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, kafka_errors.KafkaError) or "MessageAccumulator" in record.getMessage():
        return True
    return isinstance(error, RuntimeError) and "the handler is closed" in str(error)


def _args(record: logging.LogRecord) -> tuple[Any, ...]:
    return record.args if isinstance(record.args, tuple) else ()


def _secret(arg: Any) -> bool:
    """Whether the log contains login data: with PLAIN that is the password."""
    return type(arg).__name__.startswith("SaslAuthenticate")


def _is_kafka_error(arg: Any) -> bool:
    return isinstance(arg, kafka_errors.KafkaError) or (
        isinstance(arg, type) and issubclass(arg, kafka_errors.KafkaError)
    )


def _retried(error: Any) -> bool:
    """Whether it is a broker's retriable error, and not a broken connection."""
    kind = error if isinstance(error, type) else type(error)
    return bool(getattr(kind, "retriable", False)) and not issubclass(
        kind, kafka_errors.KafkaConnectionError | kafka_errors.NodeNotReadyError | kafka_errors.RequestTimedOutError
    )


def quiet_logs() -> None:
    """Hide aiokafka's expected errors, which recover by themselves; at level DEBUG everything passes. Idempotent."""
    for name in ("aiokafka", "asyncio", *logging.Logger.manager.loggerDict):
        if name in ("aiokafka", "asyncio") or name.startswith("aiokafka."):
            logging.getLogger(name).addFilter(_NOISE)
