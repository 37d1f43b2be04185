"""The one task: there is a hint, look for work. Runs in the child process of a worker."""

from __future__ import annotations

import redis
import structlog

from worker.celery_app import NPTCelery
from worker.process import child

log = structlog.get_logger(__name__)


def run(app: NPTCelery, job_id: str) -> None:
    """Take the oldest waiting job. `job_id` is the one the hint was sent for; it may be done, or not be next."""
    try:
        done = child(app).run_next()
    except redis.RedisError as error:
        log.warning("redis does not answer, hint dropped", job=job_id, error=str(error))
        return
    if done is None:
        log.debug("nothing waits", hint=job_id)
