"""Logging of a long-running process: structlog and the standard library's loggers, in one form, on stderr.

In: `log_level` and `log_format` (`auto`: text on a terminal, JSON lines elsewhere). stdout is for data and stays
untouched.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import structlog

from streams.settings import Settings


def configure_logs(settings: Settings) -> None:
    """Set up logging for this process; a second call replaces the first."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    if level > logging.DEBUG:
        # gRPC writes past all loggers, a line for each connection that fails at TLS; it reads this when it is imported.
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    terminal = sys.stderr.isatty()
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not terminal)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info if as_json else _as_it_is,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    colours = terminal and "NO_COLOR" not in os.environ
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=colours)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(_no_lifecycle)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)


def _no_lifecycle(record: logging.LogRecord) -> bool:
    """Faust logs each start, stop and delay of its services, under the names of our modules if the class is ours: below an
    error that is for debugging only.
    """
    wanted = record.levelno > logging.WARNING or logging.getLogger().isEnabledFor(logging.DEBUG)
    return wanted or not str(record.msg).startswith("[^")


def _as_it_is(_logger: Any, _method: str, event: Any) -> Any:
    return event
