"""The Celery application: one worker a device, early acknowledgement, no results. The message is only a hint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery

from worker.queue import TASK_NAME
from worker.redis_url import RedisAddress
from worker.settings import WorkerSettings
from worker.usecases import USE_CASES

TIME_LIMIT_MARGIN_S = 300


class NPTCelery(Celery):  # type: ignore[misc]
    """Celery that carries our settings into its freshly started child processes."""

    settings: WorkerSettings
    use_cases: Mapping[str, str]

    def __reduce__(self) -> tuple[Callable[..., NPTCelery], tuple[Any, ...]]:
        return _in_child, (self.settings, dict(self.use_cases))


def _in_child(settings: WorkerSettings, use_cases: Mapping[str, str]) -> NPTCelery:
    """The same application in a child process, where it arrives pickled before the first task."""
    from celery import signals

    from worker.process import begin_child

    app = create_celery(settings, use_cases)

    def begin(**_: Any) -> None:
        begin_child(app)

    signals.worker_process_init.connect(begin, weak=False)
    signals.setup_logging.connect(keep_logging, weak=False)
    return app


def keep_logging(**_: Any) -> None:
    """Celery sets up no logging where somebody listens to this signal: ours stays."""


def create_celery(settings: WorkerSettings, use_cases: Mapping[str, str] = USE_CASES) -> NPTCelery:
    """The application, for sending hints and for working on them.

    Args:
        settings: This floor's settings.
        use_cases: Kind of job -> "module:function"; the kinds a worker made from this application knows.
    """
    app = NPTCelery("npt", broker=RedisAddress.parse(settings.redis_address).broker_url, set_as_current=False)
    app.settings, app.use_cases = settings, use_cases
    queue = f"{settings.redis_prefix}:hints:{settings.queue}"
    app.conf.update(
        task_default_queue=queue,
        worker_pool="prefork",
        worker_concurrency=1,
        worker_pool_start_method="spawn",  # CUDA does not survive a fork
        # A late acknowledgement runs a job again once it takes longer than the visibility timeout (celery issue 5935),
        # and an early one takes a second message along unless prefetching is off.
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        result_backend=None,
        accept_content=["json"],
        task_serializer="json",
        task_time_limit=settings.job_deadline_s + TIME_LIMIT_MARGIN_S,  # backstop: the deadline comes first
        worker_proc_alive_timeout=60.0,  # a spawned child imports everything anew
        worker_lost_wait=1.0,  # our own warden reports the death; Celery need not wait for a message
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": 3600,
            "socket_timeout": 10,  # without it a half-open connection leaves the worker deaf for minutes
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 5,
        },
    )

    def run(job_id: str) -> None:
        from worker.tasks import run as work

        work(app, job_id)

    app.task(name=TASK_NAME, ignore_result=True, lazy=False)(run)  # lazy ones are shared by all applications
    return app
