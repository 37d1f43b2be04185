"""Jobs a minute: of workers, of one with a long queue before it, and of plain processes without the service."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.scaling.fill import CONFIG, start, wait_ended
from benchmarks.scaling.rig import WAIT_S, Rig, wait_for
from worker.records import JobStatus
from worker.service import Services, open_services
from worker.settings import WorkerSettings

BACKLOG_S = 20.0
"""How long one worker is watched."""


@dataclass(frozen=True)
class Pace:
    """How fast jobs went, and what one of them asked of Redis, by everybody together.

    Attributes:
        rate: Jobs a minute.
        commands: Commands to Redis.
        kib: KiB sent to it.
        redis_ms: Milliseconds that it kept a core busy.
    """

    rate: float
    commands: float
    kib: float
    redis_ms: float


def jobs_a_minute(rig: Rig, url: str, services: Services, dataset_id: str, workers: int, jobs: int) -> Pace:
    """The pace of so many workers, warm, with `jobs` each."""
    with contextlib.ExitStack() as running:
        processes = [running.enter_context(rig.worker(url)) for _ in range(workers)]

        def warm() -> bool:
            for process in processes:
                process.check()
            batch = [start(services, dataset_id, seed) for seed in range(2 * workers)]
            wait_ended(services, batch)
            return len(_workers_of(services, batch)) == workers

        wait_for("every worker to have done a job", warm)
        before = _redis_work(services)
        batch = [start(services, dataset_id, seed) for seed in range(jobs * workers)]
        wait_ended(services, batch)
        calls, nbytes, cpu = (now - then for now, then in zip(_redis_work(services), before, strict=True))
        records = [services.jobs.get(job_id) for job_id in batch]
    assert all(record.status is JobStatus.SUCCEEDED for record in records), Counter(r.status for r in records)
    begun = min(record.started_at for record in records if record.started_at)
    span = max(record.finished_at for record in records if record.finished_at) - begun
    each = 1 / len(batch)
    return Pace(60 / (span.total_seconds() * each), calls * each, nbytes / 1024 * each, 1000 * cpu * each)


def _workers_of(services: Services, batch: list[str]) -> set[str]:
    files = services.jobs.files
    return {files.attempt(job_id, fence).worker for job_id in batch for fence in files.fences(job_id)}


def _redis_work(services: Services) -> tuple[int, int, float]:
    stats, cpu = services.redis.info("stats"), services.redis.info("cpu")
    busy = float(cpu["used_cpu_sys"]) + float(cpu["used_cpu_user"])
    return int(stats["total_commands_processed"]), int(stats["total_net_input_bytes"]), busy


def backlog_rate(rig: Rig, url: str, services: Services) -> float:
    """Jobs a minute of one warm worker that has the whole queue before it."""
    ended = (JobStatus.SUCCEEDED, JobStatus.FAILED)
    with rig.worker(url) as process:

        def done() -> int:
            process.check()
            return sum(services.queue.counts()[status] for status in ended)

        first = done()
        wait_for("the first of the queued jobs", lambda: done() > first + 1)
        began, at = done(), time.monotonic()
        time.sleep(BACKLOG_S)
        return 60 * (done() - began) / (time.monotonic() - at)


def plain_rate(rig: Rig, dataset_id: str, processes: int, jobs: int) -> float:
    """Tunings a minute of so many processes side by side with no service around them: what the machine can do."""
    context = multiprocessing.get_context("spawn")
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(rig.threads)
    try:
        start, spans = context.Barrier(processes), context.Queue()
        args = (rig.data, dataset_id, jobs, start, spans)
        running = [context.Process(target=_tune_plainly, args=args) for _ in range(processes)]
        for process in running:
            process.start()
        found = [spans.get(timeout=WAIT_S) for _ in running]
        for process in running:
            process.join()
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
    return 60 * processes * jobs / (max(end for _, end in found) - min(begun for begun, _ in found))


def _tune_plainly(data: Path, dataset_id: str, jobs: int, start: Any, spans: Any) -> None:
    """What one of those processes does: the features come from the same cache as a worker's."""
    from npt_core.clip import load_backbone
    from npt_core.tuning.tune import tune
    from worker.features import feature_cache

    settings = WorkerSettings(data_dir=data, redis_url="unix:///nowhere")
    datasets = open_services(settings).datasets  # reads the store alone
    backbone = load_backbone("demo")
    for number in range(-2, jobs):
        if number == 0:  # the first ones were to warm up
            start.wait(WAIT_S)
            begun = time.time()
        with datasets.open(dataset_id) as dataset:
            result = tune(dataset, {**CONFIG, "seed": number + 2}, backbone=backbone, cache=feature_cache(settings))
    assert result.report is not None
    spans.put((begun, time.time()))
