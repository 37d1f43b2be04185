"""The life of a worker's two processes: the main one that Celery runs in, and the child that computes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from types import FrameType
from typing import Any

import structlog
from celery import signals
from celery.exceptions import SecurityWarning

from worker.broker import check_lets_in
from worker.celery_app import NPTCelery, keep_logging
from worker.identity import boot_id, process_name
from worker.lease import Identity
from worker.logs import setup_logging
from worker.redis_url import RedisAddress
from worker.runner import Runner
from worker.service import Services, open_services
from worker.settings import WorkerSettings
from worker.warden import DRAIN_SIGNAL, Warden

log = structlog.get_logger(__name__)

PARENT_POLL_S = 1.0


# -- the main process


def work(app: NPTCelery) -> int:
    """Be a worker until a signal ends it: SIGTERM and SIGINT hand the running job back. The exit status."""
    settings = app.settings
    setup_logging(settings)
    warnings.simplefilter("ignore", SecurityWarning)  # about pickle, which nothing here accepts
    check_lets_in(RedisAddress.parse(settings.redis_address))
    services = open_services(settings)
    worker = process_name()
    warden = Warden(services, worker)

    def on_shutting_down(**_: Any) -> None:
        warden.drain()

    def on_new_child(**_: Any) -> None:
        os.environ.pop("_MP_FORK_LOGLEVEL_", None)  # would make billiard log in its own way until ours is set up

    signals.setup_logging.connect(keep_logging, weak=False)
    signals.worker_shutting_down.connect(on_shutting_down, weak=False)
    signals.worker_before_create_process.connect(on_new_child, weak=False)
    services.reaper.start()
    warden.start()
    log.info("worker started", worker=worker, node=settings.node, redis=str(services.address))
    instance = app.Worker(
        hostname=f"{worker}@{settings.node}",
        loglevel=settings.log_level,
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    try:
        instance.start()
    finally:
        warden.stop()
        services.close()
        log.info("worker ended", worker=worker)
    return int(instance.exitcode or 0)


# -- the child process

_drain = threading.Event()
_working = threading.Event()
_child: Runner | None = None
_child_lock = threading.Lock()


class _Flagged(Runner):
    """A runner that signal handlers can ask whether it is at work."""

    def run_next(self, queue: str | None = None) -> str | None:
        _working.set()
        try:
            return super().run_next(queue)
        finally:
            _working.clear()


def child(app: NPTCelery) -> Runner:
    """The runner of this child process."""
    global _child
    with _child_lock:
        if _child is None:
            who = Identity(app.settings.node, boot_id(), process_name(os.getppid()), os.getpid())
            _child = _Flagged(_services(app.settings), app.use_cases, who, _drain)
        return _child


def _services(settings: WorkerSettings) -> Services:
    return open_services(settings)


def begin_child(app: NPTCelery) -> None:
    """What a fresh child does before its first task."""
    setup_logging(app.settings)
    _install_signals()
    threading.Thread(target=_watch_parent, args=(os.getppid(),), name="parent watch", daemon=True).start()
    if app.settings.warm_up and "tune" in app.use_cases:
        threading.Thread(target=_warm_up, args=(app.settings,), name="warm up", daemon=True).start()


def _install_signals() -> None:
    before = signal.getsignal(signal.SIGTERM)
    told = False

    def on_drain(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if not told:
            told = True
            # Not here: the thread this interrupts may hold the event's own lock, and would wait for itself.
            threading.Thread(target=_drain.set, name="drain", daemon=True).start()
        if number == signal.SIGTERM and not _working.is_set():
            if callable(before):
                before(number, frame)
            sys.exit(0)

    signal.signal(DRAIN_SIGNAL, on_drain)
    signal.signal(signal.SIGTERM, on_drain)


def _watch_parent(parent: int) -> None:
    """A child whose parent has changed works for nobody. Linux kills it first; elsewhere this does."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os._exit(1)


def _warm_up(settings: WorkerSettings) -> None:
    """Load the first backbone while nobody waits for it."""
    try:
        from worker.backbones import load

        load(settings)
    except Exception as error:  # the first job will say it in its own words
        log.warning("backbone not loaded ahead", error=str(error))
