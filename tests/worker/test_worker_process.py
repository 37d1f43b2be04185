"""Real workers: main process and child, killed, drained, starved. Whatever happens, a job ends once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

import psutil
import pytest

from tests.support.redis_server import RedisServer
from tests.support.worker_process import WorkerProcess, at_step, ended, terminal_files, wait_until
from worker.identity import alive, boot_id, process_name
from worker.lease import Identity
from worker.records import JobStatus
from worker.service import Services

SLOW = {"steps": 400, "pause": 0.05}  # long enough to be hit in mid-job; a checkpoint at every step
LATER = {"steps": 30, "pause": 0.05}

pytestmark = pytest.mark.timeout(600)


def child_pid(services: Services, job_id: str) -> int:
    return next(held.pid for held in services.leases.held() if held.job_id == job_id)


def gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def test_one_worker_through_many_troubles(
    services: Services, start_worker: Callable[..., WorkerProcess], redis_server: RedisServer
) -> None:
    """One start of a worker is dear, so its tests share it, one trouble after the other."""
    worker = start_worker()

    # The same hint fifty times runs the job once.
    first, _ = services.start_job("sleep", LATER)
    for _ in range(50):
        services.queue.hint(first.id)
    assert ended(services, first.id).attempts == 1
    assert services.health()["workers"] == 1

    # kill -9 of the child: the job resumes within seconds, on its checkpoint, uncharged, without waiting for the TTL.
    job, _ = services.start_job("sleep", {"steps": 60, "pause": 0.05})
    at_step(services, job.id, 5)
    os.kill(child_pid(services, job.id), signal.SIGKILL)
    done = ended(services, job.id)
    assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 2)
    assert done.result is not None
    assert done.result["resumed_at"] >= 5
    death = services.jobs.files.attempt_end(job.id, 1)
    assert death is not None
    assert (death.outcome, death.charged) == ("died", 0)

    # A running job is cancelled in its steps; one behind it at once.
    running, _ = services.start_job("sleep", SLOW)
    waiting, _ = services.start_job("sleep", SLOW)
    at_step(services, running.id, 2)
    assert services.cancel_job(waiting.id).status is JobStatus.CANCELLED
    services.cancel_job(running.id)
    assert ended(services, running.id).status is JobStatus.CANCELLED

    # Redis forgets everything while one job runs and two wait: all finish, the running one undisturbed.
    jobs = [services.start_job("sleep", LATER | {"steps": 80})[0].id for _ in range(3)]
    at_step(services, jobs[0], 2)
    services.redis.flushall()
    records = [ended(services, job_id) for job_id in jobs]
    assert [(record.status, record.attempts) for record in records] == [(JobStatus.SUCCEEDED, 1)] * 3

    # A job that always kills its worker is given up after three charges, and the queue goes on.
    poison, _ = services.start_job("crash", {})
    after, _ = services.start_job("sleep", LATER)
    bad = ended(services, poison.id)
    assert bad.error is not None
    assert (bad.status, bad.error.type, bad.attempts) == (JobStatus.FAILED, "poison", 3)
    assert ended(services, after.id).status is JobStatus.SUCCEEDED

    # SIGTERM: the job goes back with its checkpoint, uncharged, and nobody is left.
    drained, _ = services.start_job("sleep", SLOW)
    at_step(services, drained.id, 5)
    family = [worker.pid, *worker.family()]
    assert worker.terminate() == 0
    back = services.jobs.get(drained.id)
    assert (back.status, back.attempts) == (JobStatus.QUEUED, 1)
    end = services.jobs.files.attempt_end(drained.id, 1)
    assert end is not None
    assert (end.outcome, end.charged) == ("drained", 0)
    wait_until("no process is left", lambda: all(gone(pid) for pid in family))
    assert list((services.settings.run_dir / "workers").glob("*")) == []
    services.cancel_job(drained.id)

    assert services.health()["workers"] == 0
    everything = [record.id for record in services.jobs.list(limit=100).items]
    assert terminal_files(services, everything) == [1] * len(everything)
    models = [model.job_id for model in services.models.list(limit=100).items]
    assert len(models) == len(set(models)) == services.queue.counts()["succeeded"]
    for line in ("Traceback", "Exception"):
        assert line not in worker.text()


def test_a_dead_worker_leaves_no_child_and_its_successor_takes_over_at_once(
    services: Services, start_worker: Callable[..., WorkerProcess], settings: object
) -> None:
    first = start_worker(NPT_LEASE_TTL_S="600")  # not by the lease, then
    job, _ = services.start_job("sleep", {"steps": 80, "pause": 0.05})
    at_step(services, job.id, 5)
    child = process_name(child_pid(services, job.id))
    first.kill_main()
    wait_until("the child ends by itself", lambda: not alive(child))
    assert services.jobs.get(job.id).status is JobStatus.RUNNING
    second = start_worker(NPT_LEASE_TTL_S="600")
    done = ended(services, job.id)
    assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 2)
    assert done.result is not None
    assert done.result["resumed_at"] >= 5
    assert terminal_files(services, [job.id]) == [1]
    assert second.terminate() == 0


def test_what_will_not_stop_is_killed(services: Services, start_worker: Callable[..., WorkerProcess]) -> None:
    worker = start_worker(NPT_STALL_S="2", NPT_STOP_GRACE_S="2")

    # Standing still is failed as such, and its process does not stay.
    hanging, _ = services.start_job("hang", {})
    stalled = ended(services, hanging.id)
    assert stalled.error is not None
    assert (stalled.status, stalled.error.type, stalled.attempts) == (JobStatus.FAILED, "stalled", 1)
    after, _ = services.start_job("sleep", LATER)
    assert ended(services, after.id).status is JobStatus.SUCCEEDED

    # A job deaf to SIGTERM is killed after the grace, and goes back uncharged.
    deaf, _ = services.start_job("deaf", {"seconds": 600})
    wait_until("the deaf job runs", lambda: services.jobs.get(deaf.id).status is JobStatus.RUNNING)
    family = [worker.pid, *worker.family()]
    worker.terminate()
    wait_until("no process is left", lambda: all(gone(pid) for pid in family))
    assert services.jobs.get(deaf.id).status is JobStatus.QUEUED
    end = services.jobs.files.attempt_end(deaf.id, 1)
    assert end is not None
    assert (end.outcome, end.charged) == ("drained", 0)


def test_a_job_goes_on_while_redis_has_forgotten_it(
    services: Services, start_worker: Callable[..., WorkerProcess], redis_server: RedisServer
) -> None:
    """Until Redis is read back a live child has no lease; it is neither killed nor charged for that."""
    worker = start_worker(NPT_STOP_GRACE_S="1")
    job, _ = services.start_job("sleep", {"steps": 120, "pause": 0.05})
    at_step(services, job.id, 5)
    pid = child_pid(services, job.id)
    with redis_server.client() as client:
        client.flushall()
        client.set(services.keys.reconciling, "somebody", px=4000)  # who died in the middle of it
    done = ended(services, job.id)
    assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 1)
    assert not gone(pid)
    assert worker.terminate() == 0


def test_a_worker_waits_for_a_broker_that_comes_and_goes(
    services: Services, start_worker: Callable[..., WorkerProcess], redis_server: RedisServer
) -> None:
    redis_server.kill()
    job, created = services.start_job("sleep", {"steps": 60, "pause": 0.05})
    assert created
    worker = start_worker()
    redis_server.start()
    at_step(services, job.id, 3)
    redis_server.kill()  # everything in it is lost, in mid-job
    redis_server.start()
    done = ended(services, job.id)
    assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 1)
    later, _ = services.start_job("sleep", LATER)
    assert ended(services, later.id).status is JobStatus.SUCCEEDED
    assert worker.terminate() == 0


def test_what_a_child_never_heard_of_goes_back_uncharged(
    services: Services, start_worker: Callable[..., WorkerProcess]
) -> None:
    """The answer to a claim can be lost on its way; the claim then stands in the child's name, and nobody works."""
    worker = start_worker(NPT_STOP_GRACE_S="1", NPT_LEASE_TTL_S="600")
    first, _ = services.start_job("sleep", {"steps": 1, "pause": 0})
    done = ended(services, first.id)
    assert done.result is not None
    who = Identity(services.settings.node, boot_id(), process_name(worker.pid), int(done.result["pid"]))
    spec, _ = services.jobs.create("sleep", {"steps": 1, "pause": 0})
    services.leases.enqueue(spec.id, "default")  # no hint: nobody but us claims it
    assert services.leases.claim("default", who) is not None
    services.redis.hset(services.keys.job(spec.id), "ttl", 600_000)
    services.redis.zadd(services.keys.leases, {spec.id: services.leases.now_ms() + 600_000})
    assert ended(services, spec.id).status is JobStatus.SUCCEEDED
    end = services.jobs.files.attempt_end(spec.id, 1)
    assert end is not None
    assert (end.outcome, end.charged) == ("drained", 0)
