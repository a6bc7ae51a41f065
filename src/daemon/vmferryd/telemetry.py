"""The log: structlog on stderr. Event names are constants in snake case; the interceptor binds what belongs to a call."""

from __future__ import annotations

import logging
import sys

import structlog

from vmferryd.config import LogSection


def configure(section: LogSection) -> None:
    """Everything that is logged from now on goes to stderr, for people or as JSON lines."""
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if section.json_lines
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info if section.json_lines else structlog.processors.StackInfoRenderer(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[section.level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
