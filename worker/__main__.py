"""`python -m worker`: one Celery worker with the settings of the environment."""

from __future__ import annotations

import sys

from pydantic import ValidationError

from npt_core.errors import NPTError
from worker.celery_app import create_celery
from worker.process import work
from worker.settings import get_settings


def main() -> int:
    """Work until a signal ends it."""
    try:
        return work(create_celery(get_settings()))
    except ValidationError as error:  # its own text would repeat what was set, passwords among it
        for fault in error.errors(include_url=False, include_input=False):
            name = "_".join(str(part) for part in fault["loc"][:1]).upper()
            sys.stderr.write(f"worker: {f'NPT_{name}: ' if name else ''}{fault['msg']}\n")
        return 2
    except NPTError as error:
        sys.stderr.write(f"worker: {error.message}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
