"""What a job can be. Each kind names a function that is imported when the first job of that kind runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module

from npt_core.errors import ConfigError
from worker.context import JobContext
from worker.records import Outcome

UseCase = Callable[[JobContext], Outcome]

USE_CASES: Mapping[str, str] = {
    "tune": "worker.usecases.tune:run",
    "audit": "worker.usecases.audit:run",
    "compare": "worker.usecases.compare:run",
    "predict": "worker.usecases.batch_predict:run",
}


def find(kind: str, known: Mapping[str, str]) -> UseCase:
    """The function of a kind of job.

    Raises:
        ConfigError: this worker does not know the kind.
    """
    if kind not in known:
        raise ConfigError(f"This worker does not know jobs of kind {kind!r}; it knows {', '.join(sorted(known))}.")
    module, _, name = known[kind].partition(":")
    function: UseCase = getattr(import_module(module), name)
    return function
