"""Any order of uploads, edits, starts, deaths, ends, deletions and sweeps: nothing goes that something needs.

The store, Redis and the worker floor are real. The policy is the harshest one: everything unneeded is old at once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from npt_core.data.edit import Edit
from tests.support.in_process import another
from tests.support.redis_server import RedisServer
from tests.support.zips import classes, picture, write_zip
from worker import retention
from worker.errors import ConflictError, NotFoundError
from worker.ids import new_id
from worker.records import Attempt, JobStatus, ModelDraft, utcnow
from worker.retention import Policy
from worker.service import Services, open_services
from worker.settings import WorkerSettings

HARSH = Policy(datasets_days=1e-9, jobs_days=1e-9)
NOTHING = Policy()
PREFIX = count()
MEMORY = Path("/dev/shm")
"""Thousands of writes that must be durable take minutes on a disk."""


def tree(root: Path) -> dict[str, str]:
    """Every file under a folder with the hash of its content; what only says that something runs is left out."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.relative_to(root).parts[0] != "run"
    }


@dataclass
class Running:
    """A claimed job."""

    job_id: str
    fence: int


class Store(RuleBasedStateMachine):
    """What a test may do to a store, and what must hold after each step."""

    redis: RedisServer

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="npt-gc-", dir=MEMORY if MEMORY.is_dir() else None))
        self.services: Services = open_services(
            WorkerSettings(
                data_dir=self.folder / "data",
                redis_url=self.redis.url,
                redis_prefix=f"gc{next(PREFIX)}",
                min_free_bytes=0,
                part_ttl_s=0,
            )
        )
        self.services.reconciler.run()
        self.jobs: dict[str, str | None] = {}  # id -> data set
        self.running: dict[str, Running] = {}
        self.ended: set[str] = set()
        self.models: dict[str, str | None] = {}
        self.datasets: set[str] = set()

    def teardown(self) -> None:
        self.services.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- what users do

    @initialize()
    def begin(self) -> None:
        self.upload(0)

    @rule(number=st.integers(0, 2))
    def upload(self, number: int) -> None:
        part = write_zip(self.services.store.part(), classes(f"a{number}", f"b{number}", images=2))
        self.datasets.add(self.services.datasets.add(part)[0].id)

    @precondition(lambda self: self.datasets)
    @rule(data=st.data(), grow=st.booleans())
    def edit(self, data: st.DataObject, grow: bool) -> None:
        parent = data.draw(st.sampled_from(sorted(self.datasets)))
        with self.services.datasets.open(parent) as dataset:
            label, first = dataset.labels[0], dataset.samples[0].path
            enough = len([sample for sample in dataset.samples if sample.label == label]) > 1
        part = write_zip(self.services.store.part(), {f"{label}/new.png": picture(900)}) if grow else None
        if grow or enough:
            child, _ = self.services.datasets.edit(parent, Edit(() if grow else (first,)), part)
            self.datasets.add(child.id)

    @rule(data=st.data(), key=st.sampled_from([None, "k1", "k2"]))
    def start(self, data: st.DataObject, key: str | None) -> None:
        dataset_id = data.draw(st.sampled_from(sorted(self.datasets) or [None]))
        job, created = self.services.start_job("sleep", {}, dataset_id=dataset_id, idempotency_key=key)
        if created:
            self.jobs[job.id] = dataset_id

    @precondition(lambda self: self.datasets)
    @rule(data=st.data())
    def delete_dataset(self, data: st.DataObject) -> None:
        dataset_id = data.draw(st.sampled_from(sorted(self.datasets)))
        try:
            self.services.datasets.delete(dataset_id)
        except ConflictError:
            assert self._needed(dataset_id)
        else:
            self.datasets.discard(dataset_id)

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def delete_model(self, data: st.DataObject) -> None:
        model_id = data.draw(st.sampled_from(sorted(self.models)))
        self.services.catalogue.delete(model_id)
        del self.models[model_id]

    @rule()
    def lose_references(self) -> None:
        self.services.store.delete("needed")

    @precondition(lambda self: self._unfinished())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self._unfinished())))
        self.services.jobs.cancel(job_id)
        if job_id not in self.running:
            self.ended.add(job_id)

    # -- what workers do

    @rule()
    def claim(self) -> None:
        who = another(self.services)
        lease = self.services.leases.claim("default", who)
        if lease is not None:
            attempt = Attempt(
                fence=lease.fence,
                charged=0,
                node=who.node,
                boot=who.boot,
                worker=who.worker,
                pid=who.pid,
                started_at=utcnow(),
            )
            assert self.services.jobs.files.put_attempt(lease.job_id, attempt)
            folder = self.services.jobs.files.attempt_folder(lease.job_id, lease.fence)
            (folder / "manifest.json").write_text(json.dumps({"of": lease.job_id}))
            self.services.jobs.files.save_checkpoint(lease.job_id, lease.fence, b"half")
            self.running[lease.job_id] = Running(lease.job_id, lease.fence)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        one = self.running.pop(data.draw(st.sampled_from(sorted(self.running))))
        if self.services.recovery.release(one.job_id, one.fence, "drained") == "cancelled":
            self.ended.add(one.job_id)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), carried_out=st.booleans())
    def succeed(self, data: st.DataObject, carried_out: bool) -> None:
        """With a model; its worker may die the moment the end is decided."""
        one = self.running.pop(data.draw(st.sampled_from(sorted(self.running))))
        files, model_id = self.services.jobs.files, new_id("model")
        folder, dataset_id = files.attempt_folder(one.job_id, one.fence), self.jobs[one.job_id]
        draft = ModelDraft(backbone="none", method="sleep", dataset_id=dataset_id)
        self.services.models.prepare(folder, draft, model_id=model_id, job_id=one.job_id)
        end = self.services.jobs.ending(one.job_id, JobStatus.SUCCEEDED).model_copy(update={"model_id": model_id})
        assert files.put_end(one.job_id, end)
        if carried_out:
            self.services.jobs.settle(one.job_id)
        self.ended.add(one.job_id)
        self.models[model_id] = dataset_id

    # -- what is swept

    @rule(policy=st.sampled_from([HARSH, HARSH, NOTHING]))
    def sweep(self, policy: Policy) -> None:
        before = tree(self.services.store.root)
        found = self.services.retention.find(policy)
        assert tree(self.services.store.root) == before
        removed = self.services.retention.sweep(policy)
        assert removed == found
        assert self.services.retention.find(policy) == []
        swept = {kind: {waste.id for waste in removed if waste.kind == kind} for kind in ("job", "dataset")}
        if policy is HARSH:
            assert swept["job"] == self.ended
            assert swept["dataset"] == {one for one in self.datasets if not self._needed(one)}
            left = set(tree(self.services.store.root))
            assert {waste.id for waste in removed if waste.kind in ("archive", "leftover")}.isdisjoint(left)
        else:
            assert swept == {"job": set(), "dataset": set()}
        self.ended -= swept["job"]
        self.datasets -= swept["dataset"]
        for job_id in swept["job"]:
            del self.jobs[job_id]
            with pytest.raises(NotFoundError):
                self.services.jobs.get(job_id)

    # -- what always holds

    def _unfinished(self) -> set[str]:
        return set(self.jobs) - self.ended

    def _needed(self, dataset_id: str) -> bool:
        return dataset_id in {self.jobs[job_id] for job_id in self._unfinished()} | set(self.models.values())

    @invariant()
    def data_sets_can_be_read(self) -> None:
        assert {record.id for record in self.services.datasets.list(limit=100).items} == self.datasets
        for dataset_id in self.datasets:
            with self.services.datasets.open(dataset_id) as dataset:
                assert all(dataset.read(sample) for sample in dataset.samples)

    @invariant()
    def jobs_are_what_they_were(self) -> None:
        listed = {job.id: job.status for job in self.services.jobs.list(limit=200).items}
        assert set(listed) == set(self.jobs)
        assert {job_id for job_id, status in listed.items() if not status.terminal} == self._unfinished()
        for status in (JobStatus.SUCCEEDED, JobStatus.CANCELLED):
            assert {job.id for job in self.services.jobs.list(status=status, limit=200).items} <= self.ended
        for one in self.running.values():
            folder = self.services.jobs.files.attempt_folder(one.job_id, one.fence)
            assert json.loads((folder / "manifest.json").read_text()) == {"of": one.job_id}
            assert self.services.jobs.files.load_checkpoint(one.job_id) == b"half"

    @invariant()
    def models_stay_whole(self) -> None:
        assert {record.id for record in self.services.models.list(limit=200).items} == set(self.models)
        for model_id, dataset_id in self.models.items():
            assert self.services.models.verify(model_id) == ()
            assert dataset_id is None or dataset_id in self.datasets


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No time is left to whoever may be about to tidy."""
    monkeypatch.setattr(retention, "SETTLING_S", -1.0)
    return


@pytest.mark.usefixtures("at_once")
def test_nothing_goes_that_something_needs(shared_redis: RedisServer) -> None:
    Store.redis = shared_redis
    run_state_machine_as_test(
        Store,
        settings=settings(
            max_examples=20,
            stateful_step_count=20,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
