"""Logs: one line an event, JSON or for a terminal, the same for our own events and those of libraries."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any, TextIO

import structlog
from structlog.types import Processor

from worker.settings import WorkerSettings

QUIET = (
    *("celery", "kombu", "amqp", "billiard", "urllib3", "httpx", "httpcore", "PIL", "asyncio", "open_clip", "timm"),
    "botocore",  # for debugging it writes down what it signs: the key's id, the token of a session, the signature
)

REPORTED = ("celery.worker.request", "multiprocessing")
"""They tell of a dead child with a stack trace each; the warden says it with the job's id."""

AUDIT = "audit"
_audit = structlog.get_logger(AUDIT)


def setup_logging(settings: WorkerSettings, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging alike. May be called again."""
    stream = stream or sys.stderr
    as_json = settings.log_json if settings.log_json is not None else not stream.isatty()
    level = logging.getLevelNamesMapping()[settings.log_level]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if as_json:
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(
            exception_formatter=structlog.dev.plain_traceback  # the default one prints local variables, keys among them
        )
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=())],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in QUIET:  # their own news are ours too: a task received says less than a job started
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    for name in REPORTED:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger(AUDIT).setLevel(logging.INFO)  # whatever else is left out
    logging.captureWarnings(True)


@contextlib.contextmanager
def about_job(job_id: str, *, attempt: int | None = None, request: str | None = None) -> Iterator[None]:
    """Every line that is logged inside tells which job it is about, and which request asked for it."""
    facts = {"job": job_id, "attempt": attempt, "request": request}
    with structlog.contextvars.bound_contextvars(**{name: one for name, one in facts.items() if one is not None}):
        yield


def bound_request() -> str | None:
    """The id of the request that this is done for, where it is one."""
    found = structlog.contextvars.get_contextvars().get("request")
    return found if isinstance(found, str) else None


def log_change(action: str, object_id: str, **facts: object) -> None:
    """Say who changed what, in one line: `key` and `request` are bound by whoever received the wish.

    Args:
        action: What was done: `dataset.create`, `job.cancel`.
        object_id: To what.
        **facts: What else is worth a word; no secrets, no content.
    """
    _audit.info("change", action=action, object=object_id, **facts)
