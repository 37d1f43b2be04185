"""`python -m worker`: one Celery worker with the settings of the environment."""

from __future__ import annotations

import sys

from pydantic import ValidationError

from npt_core.errors import NPTError
from worker.celery_app import create_celery
from worker.process import work
from worker.settings import faults_in, get_settings


def main() -> int:
    """Work until a signal ends it."""
    try:
        return work(create_celery(get_settings()))
    except ValidationError as error:
        sys.stderr.writelines(f"worker: {fault}\n" for fault in faults_in(error))
        return 2
    except NPTError as error:
        sys.stderr.write(f"worker: {error.message}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
