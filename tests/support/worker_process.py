"""A real worker, its main process and its child, to start, watch and kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from worker.records import JobRecord, JobStatus
from worker.service import Services
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]


def wait_until(what: str, true: Callable[[], object], timeout_s: float = 100.0) -> None:
    """Poll until `true()`; never a fixed sleep."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s in vain: {what}"
        time.sleep(0.03)


class WorkerProcess:
    """`python -m tests.support.worker_main` with the settings of the test."""

    def __init__(self, settings: WorkerSettings, log: Path, **extra: str) -> None:
        self.log = log
        environment = {key: value for key, value in os.environ.items() if not key.startswith("NPT_")}
        told = {
            "NPT_DATA_DIR": str(settings.data_dir),
            "NPT_REDIS_URL": settings.redis_address,
            "NPT_NODE": settings.node,
            "NPT_LEASE_TTL_S": str(settings.lease_ttl_s),
            "NPT_REAP_EVERY_S": str(settings.reap_every_s),
            "NPT_WATCH_EVERY_S": str(settings.watch_every_s),
            "NPT_STOP_GRACE_S": str(settings.stop_grace_s),
            "NPT_STALL_S": str(settings.stall_s),
            "NPT_MIN_FREE_BYTES": "0",
            "NPT_WARM_UP": "false",
            "NPT_LOG_JSON": "true",
            "OMP_NUM_THREADS": "1",
        }
        self.environment = environment | told | extra
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> WorkerProcess:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.worker_main"],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def family(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.pid).children(recursive=True)]

    def kill_main(self) -> None:
        """SIGKILL to the main process alone; its children must end by themselves."""
        assert self.process
        self.process.kill()
        self.process.wait(20)

    def terminate(self, timeout_s: float = 100.0) -> int:
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def close(self) -> None:
        if self.process is None:
            return
        left: list[psutil.Process] = []
        if self.process.poll() is None:
            left = psutil.Process(self.pid).children(recursive=True)
            self.process.kill()
            self.process.wait(20)
        for child in left:
            if child.is_running():
                child.kill()
        psutil.wait_procs(left, timeout=20)

    def text(self) -> str:
        return self.log.read_text(errors="replace")


def ended(services: Services, job_id: str, timeout_s: float = 100.0) -> JobRecord:
    """The job's record once it has ended."""
    wait_until(f"the end of {job_id}", lambda: services.jobs.files.ended(job_id), timeout_s)
    return services.jobs.get(job_id)


def at_step(services: Services, job_id: str, step: int, timeout_s: float = 100.0) -> JobRecord:
    """The job's record once it has come that far."""

    def there() -> bool:
        record = services.jobs.get(job_id)
        assert not record.status.terminal, f"ended before step {step}: {record}"
        return record.status is JobStatus.RUNNING and (record.progress is not None and record.progress.step >= step)

    wait_until(f"step {step} of {job_id}", there, timeout_s)
    return services.jobs.get(job_id)


def terminal_files(services: Services, job_ids: Iterable[str]) -> list[int]:
    """How many terminal files each job has: one, always."""
    return [len(list(services.store.path(f"jobs/{job_id}").glob("end*"))) for job_id in job_ids]
