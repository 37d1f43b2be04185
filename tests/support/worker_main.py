"""`python -m tests.support.worker_main`: the real worker, with the kinds of jobs that only tests run."""

from __future__ import annotations

import sys

from tests.support.jobs_for_tests import USE_CASES
from worker.celery_app import create_celery
from worker.process import work
from worker.settings import get_settings
from worker.usecases import USE_CASES as REAL

if __name__ == "__main__":
    sys.exit(work(create_celery(get_settings(), {**REAL, **USE_CASES})))
