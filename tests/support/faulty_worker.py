"""`python -m tests.support.faulty_worker`: the real worker, with gates around it. Its child runs this module too."""

from __future__ import annotations

import sys

from tests.support import faulty

faulty.install()

from tests.support.jobs_for_tests import USE_CASES  # noqa: E402
from worker.celery_app import create_celery  # noqa: E402
from worker.process import work  # noqa: E402
from worker.settings import get_settings  # noqa: E402
from worker.usecases import USE_CASES as REAL  # noqa: E402

if __name__ == "__main__":
    sys.exit(work(create_celery(get_settings(), {**REAL, **USE_CASES, "tune": "tests.support.faulty:tune"})))
