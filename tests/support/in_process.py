"""Work on jobs in the test's own process: the real runner on the real store and server, without Celery around it."""

from __future__ import annotations

import os
import threading

from tests.support.jobs_for_tests import USE_CASES
from worker.identity import boot_id, process_name
from worker.lease import Identity
from worker.runner import Runner
from worker.service import Services
from worker.usecases import USE_CASES as REAL


def runner(services: Services, *, worker: str | None = None, drain: threading.Event | None = None) -> Runner:
    who = Identity(services.settings.node, boot_id(), worker or process_name(), os.getpid())
    return Runner(services, {**REAL, **USE_CASES}, who, drain or threading.Event())


def another(services: Services, name: str = "1-1", boot: str | None = None, node: str | None = None) -> Identity:
    """A worker that is not here."""
    return Identity(node or services.settings.node, boot or boot_id(), name, 1)
