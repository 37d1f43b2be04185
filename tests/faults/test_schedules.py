"""Any schedule at all: the real store, scripts and runner; deaths at any write, on a clock of the test's own.

tests/worker/test_lease.py does the same with the scripts alone. Here the files are real too: two workers and an API
share a folder, and each of them may lose the power between any two of its writes. What it had written by then is there,
what it had not is not, and nothing tidies up after it.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.faults.record import CHAOS, times
from tests.support.in_process import runner
from tests.support.redis_server import RedisServer
from tests.support.zips import classes, write_zip
from worker.celery_app import NPTCelery, create_celery
from worker.errors import WorkerError
from worker.integrity import Integrity
from worker.records import JobStatus
from worker.service import Services, open_services
from worker.settings import WorkerSettings
from worker.store.local import LocalStore

pytestmark = pytest.mark.timeout(3600 if CHAOS else 900)

SCHEDULES, STEPS = times(1000, 5000), 12
TTL_MS = 3000
NODES = ("api", "one", "two")
WRITES = ("put", "put_file", "move", "delete", "unlink", "discard", "touch", "abandon")
TOY = {"steps": 2, "pause": 0, "checkpoint_every": 1}


class PowerCut(BaseException):
    """The process is no more."""


class Mortal:
    """A process that may die before any of its writes; from then on it writes nothing."""

    def __init__(self, store: LocalStore, writes: int | None) -> None:
        self.left, self.dead = writes, False
        for name in WRITES:
            setattr(store, name, self._mortal(getattr(store, name)))

    def _mortal(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if self.left is not None:
                self.left -= 1
                self.dead = self.dead or self.left < 0
            if self.dead:
                raise PowerCut
            return write(*args, **options)

        return call


DEATHS = st.one_of(st.none(), st.integers(0, 25))


class AnySchedule(RuleBasedStateMachine):
    """Requests, workers, reapers, cancels, lost memories and clocks, in any order."""

    redis_url: str
    sender: NPTCelery
    flush: Callable[[], None]

    def __init__(self) -> None:
        super().__init__()
        self.flush()
        self.now = 1_000_000
        self.folder = tempfile.TemporaryDirectory(dir=ROOM)
        self.floors = [self._floor(node) for node in NODES]
        self.promised: set[str] = set()
        self.cancelled: set[str] = set()
        self.datasets: set[str] = set()
        self.ends: dict[str, bytes] = {}

    def _floor(self, node: str) -> Services:
        own = WorkerSettings(
            data_dir=Path(self.folder.name),
            redis_url=self.redis_url,
            node=node,
            lease_ttl_s=TTL_MS / 1000,
            min_free_bytes=0,
        )
        floor = open_services(own, clock=lambda: self.now)
        floor.queue._sender = self.sender  # making one takes longer than all the rest
        return floor

    def _close(self, floor: Services) -> None:
        floor.queue._sender = None
        floor.close()

    @contextmanager
    def living(self, who: int, writes: int | None) -> Iterator[Services]:
        """A process for so many writes; where it died, another of its kind is there afterwards."""
        floor = self.floors[who]
        mortal = Mortal(floor.store, writes)
        try:
            with suppress(PowerCut):
                yield floor
        finally:
            mortal.left = None
            if mortal.dead:
                self._close(floor)
                self.floors[who] = self._floor(NODES[who])

    @property
    def api(self) -> Services:
        return self.floors[0]

    # -- what happens

    @initialize()
    def begin(self) -> None:
        self.submit(None)

    @rule(death=DEATHS)
    @precondition(lambda self: len(self.promised) < 4)
    def submit(self, death: int | None) -> None:
        with self.living(0, death) as api:
            job, _ = api.start_job("sleep", TOY)
            self.promised.add(job.id)

    @rule(death=DEATHS, number=st.integers(0, 2))
    def upload(self, death: int | None, number: int) -> None:
        part = write_zip(self.api.store.part(), classes("cat", "dog", images=2 + number))
        with self.living(0, death) as api:
            record, _ = api.datasets.add(part)
            self.datasets.add(record.id)

    @rule(death=DEATHS, who=st.integers(1, 2))
    def work(self, death: int | None, who: int) -> None:
        with self.living(who, death) as floor:
            runner(floor, worker=f"{who}-1").run_next()

    @rule(death=DEATHS, who=st.integers(0, 2))
    def reap(self, death: int | None, who: int) -> None:
        with self.living(who, death) as floor:
            floor.reaper.run_once()

    @rule(death=DEATHS, data=st.data())
    @precondition(lambda self: self.promised)
    def cancel(self, death: int | None, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.promised)))
        self.cancelled.add(job_id)
        with self.living(0, death) as api, suppress(WorkerError):
            api.cancel_job(job_id)

    @rule(passed=st.sampled_from([1, TTL_MS // 2, 2 * TTL_MS]))
    def time_passes(self, passed: int) -> None:
        self.now += passed

    @rule(jump=st.sampled_from([-3_600_000, 3_600_000]))
    def clock_is_set(self, jump: int) -> None:
        self.now += jump

    @rule()
    def redis_forgets(self) -> None:
        self.flush()

    # -- what always holds

    @invariant()
    def an_end_never_changes(self) -> None:
        for path in Path(self.folder.name).glob("jobs/*/end.json"):
            data = path.read_bytes()
            assert self.ends.setdefault(path.parent.name, data) == data

    @invariant()
    def what_was_promised_is_there(self) -> None:
        files = self.api.jobs.files
        assert all(files.exists(job_id) for job_id in self.promised)
        assert all(self.api.datasets.exists(dataset_id) for dataset_id in self.datasets)

    def teardown(self) -> None:
        """Whatever happened: once the world is quiet, every job comes to one end, and the store is whole."""
        try:
            self._come_to_rest()
            self._judge()
        finally:
            for floor in self.floors:
                self._close(floor)
            self.folder.cleanup()

    def _come_to_rest(self) -> None:
        files = self.api.jobs.files
        for _ in range(40):
            self.now += 3 * TTL_MS
            self.api.reaper.run_once()
            while runner(self.floors[1], worker="1-1").run_next() is not None:
                pass
            if all(files.ended(job_id) for job_id in files.ids() if files.exists(job_id)):
                return

    def _judge(self) -> None:
        files = self.api.jobs.files
        made = [model.job_id for model in self.api.models.list(limit=100).items]
        assert len(made) == len(set(made)), "two models of one job"
        for job_id in files.ids():
            if not files.exists(job_id):
                continue
            end = files.end(job_id)
            assert end is not None, "a job never ended"
            assert (end.status is JobStatus.SUCCEEDED) == (job_id in made)
            if end.status is JobStatus.CANCELLED:
                assert job_id in self.cancelled
            if end.status is JobStatus.FAILED:
                assert end.error is not None
                assert end.error.type == "poison"
                assert len(files.fences(job_id)) >= self.api.settings.max_charges
        integrity = Integrity(self.api.store)
        assert [one for thing in integrity.things() for one in integrity.look(*thing).damage] == []
        assert self.api.leases.held() == []


ROOM = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""A disk that costs nothing to flush: what is tested is the order of writes."""


@pytest.fixture
def quiet() -> Iterator[None]:
    """A thousand schedules have a lot to say."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("quiet")
def test_any_schedule_of_store_and_scripts(tried: Callable[..., None]) -> None:
    with RedisServer() as server, server.client() as client:
        own = WorkerSettings(redis_url=server.url)

        class Here(AnySchedule):
            redis_url, sender, flush = server.url, create_celery(own), staticmethod(client.flushall)

        run_state_machine_as_test(
            Here,
            settings=settings(
                max_examples=SCHEDULES,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    tried(5, "any schedule of deaths between two writes, lost memories and set clocks", "consistent", tried=SCHEDULES)
