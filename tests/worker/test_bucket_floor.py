"""The worker floor on a bucket, from two machines that share nothing but it and Redis."""

from __future__ import annotations

import os
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from npt_core.errors import Cancelled
from tests.support.in_process import another, runner
from tests.support.line import Line, running_line
from tests.support.s3_server import S3Server, running_s3
from tests.support.zips import classes, write_zip
from worker import runner as running
from worker.control import JobControl, Pulse
from worker.errors import NotFoundError, StoreFullError
from worker.feedback import FeedbackSettings, Unsure
from worker.integrity import Integrity
from worker.records import JobRecord, JobStatus
from worker.service import Services
from worker.store.base import StoreRefused, StoreUnavailable
from worker.store.s3 import cache as caching
from worker.store.s3.bucket import Bucket
from worker.store.s3.store import S3Store

Machine = Callable[..., Services]


@pytest.fixture
def machine(open_floor: Callable[..., Services], s3_server: S3Server, tmp_path: Path) -> Machine:
    """Opens the floor on another machine each time."""
    url, count = f"s3://{s3_server.make_bucket()}/npt", iter(range(100))

    def open_one(**changes: object) -> Services:
        number = next(count)
        told = {"store_url": url, "s3_endpoint": s3_server.url, "node": f"machine-{number}"}
        return open_floor(data_dir=tmp_path / f"machine-{number}", **{**told, **changes})

    return open_one


@pytest.fixture
def here(machine: Machine) -> Services:
    return machine()


@pytest.fixture
def there(machine: Machine) -> Services:
    return machine()


def bucket_of(services: Services) -> Bucket:
    return cast("S3Store", services.store).bucket


def keys(services: Services, prefix: str = "") -> list[str]:
    """What the bucket holds; locks that were used stay, and are free."""
    return [one.key for one in bucket_of(services).list(prefix) if not one.key.startswith(("locks/", "run/"))]


def done(here: Services, there: Services, kind: str = "sleep", **more: Any) -> JobRecord:
    """A job that was asked for here and done there."""
    job, _ = here.start_job(kind, {"steps": 1, "pause": 0}, **more)
    assert runner(there).run_next() == job.id
    return here.jobs.get(job.id)


class TestJobs:
    def test_one_asked_for_here_is_done_there(self, here: Services, there: Services) -> None:
        job = done(here, there, name="counted")
        assert job.status is JobStatus.SUCCEEDED, job.error
        assert job.model_id is not None
        assert here.models.get(job.model_id).name == "counted"
        assert here.models.verify(job.model_id) == ()
        assert {path.name for path in here.models.folder(job.model_id).iterdir()} == {
            "manifest.json",
            "model.json",
            "report.json",
        }
        assert here.models.list().items == there.models.list().items != []
        assert [one.id for one in here.jobs.list(status=JobStatus.SUCCEEDED).items] == [job.id]
        assert list((there.store.root / "work").glob("*")) == []
        assert [key for key in keys(here, f"jobs/{job.id}/") if "attempts/0001/" in key or "checkpoint" in key] == []

    def test_what_it_made_for_its_user_can_be_read_anywhere(self, here: Services, there: Services) -> None:
        job = done(here, there, "write")
        assert here.jobs.files.result(job.id, "made.txt").read_text() == "1"
        with pytest.raises(NotFoundError):
            here.jobs.files.result(job.id, "scratch.txt")

    def test_its_archive_comes_with_it_and_goes_with_it(self, here: Services, there: Services) -> None:
        part = here.store.part()
        part.write_bytes(b"a zip")
        job, _ = here.start_job("sleep", {"steps": 1, "pause": 0}, archive=part)
        assert not part.exists()
        assert there.jobs.files.input(job.id).read_bytes() == b"a zip"
        assert keys(here, "uploads/") == []
        runner(there).run_next()
        assert there.jobs.get(job.id).status is JobStatus.SUCCEEDED
        with pytest.raises(NotFoundError, match="not there any more"):
            here.jobs.files.input(job.id)

    def test_one_that_is_refused_leaves_nothing(self, here: Services) -> None:
        part = here.store.part()
        part.write_bytes(b"a zip")
        with pytest.raises(NotFoundError):
            here.start_job("sleep", {"models": ["model_" + "0" * 26]}, archive=part)
        assert part.exists()
        assert keys(here, "uploads/") == keys(here, "jobs/") == []

    def test_it_goes_on_from_a_checkpoint_of_a_machine_that_is_gone(self, here: Services, there: Services) -> None:
        job, _ = here.start_job("sleep", {"steps": 3, "pause": 0})
        here.jobs.files.save_checkpoint(job.id, 1, b'{"done": 2}')
        runner(there).run_next()
        end = here.jobs.get(job.id)
        assert end.result == {"resumed_at": 2, "pid": end.result["pid"]} if end.result else False


class MendingDrain(threading.Event):
    """A worker's word to go, which mends the line to the bucket as soon as somebody waits for it.

    Args:
        line: Cut by the test.
        waits: Takes down how long each wait would have been.
        told: The worker is told to go in the same moment.
    """

    def __init__(self, line: Line, waits: list[float], *, told: bool = False) -> None:
        super().__init__()
        self._line, self._waits, self._told = line, waits, told

    def wait(self, timeout: float | None = None) -> bool:
        self._waits.append(timeout or 0)
        self._line.mend()
        if self._told:
            self.set()
        return self.is_set()


def cut_before_sync(monkeypatch: pytest.MonkeyPatch, floor: Services, line: Line, waits: list[float]) -> None:
    """The line breaks as the files of an attempt are about to be sent, until somebody has waited."""
    real = floor.store.sync

    def cut_then_sync(prefix: str) -> None:
        if not waits:
            line.cut()
        real(prefix)

    monkeypatch.setattr(floor.store, "sync", cut_then_sync)


class TestOutages:
    def test_the_result_of_a_job_waits_for_the_bucket(
        self, here: Services, machine: Machine, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with running_line(s3_server.url) as line:
            there, waits = machine(s3_endpoint=line.url), list[float]()
            cut_before_sync(monkeypatch, there, line, waits)
            job, _ = here.start_job("sleep", {"steps": 1, "pause": 0})
            runner(there, drain=MendingDrain(line, waits)).run_next()
            assert waits == [running.OUTAGE_PAUSE_S]
            end = here.jobs.get(job.id)
            assert (end.status, end.attempts) == (JobStatus.SUCCEEDED, 1)
            assert end.model_id is not None
            assert here.models.verify(end.model_id) == ()

    def test_a_worker_that_must_go_before_the_bucket_answers_puts_the_job_back(
        self, here: Services, machine: Machine, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with running_line(s3_server.url) as line:
            there, waits = machine(s3_endpoint=line.url, max_charges=1), list[float]()
            cut_before_sync(monkeypatch, there, line, waits)
            job, _ = here.start_job("sleep", {"steps": 1, "pause": 0})
            runner(there, drain=MendingDrain(line, waits, told=True)).run_next()
            assert waits[0] == running.OUTAGE_PAUSE_S
            assert here.jobs.get(job.id).status is JobStatus.QUEUED
            assert runner(here).run_next() == job.id
            end = here.jobs.get(job.id)
            assert end.status is JobStatus.SUCCEEDED, end.error

    @pytest.mark.parametrize("when", ["save_checkpoint", "ended"])
    def test_a_job_is_not_to_blame_for_a_bucket_that_does_not_answer(
        self, here: Services, machine: Machine, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, when: str
    ) -> None:
        with running_line(s3_server.url) as line:
            there = machine(s3_endpoint=line.url, max_charges=1)
            files = there.jobs.files
            real, waits = getattr(files, when), list[float]()

            def cut_once(*asked: Any) -> Any:
                if not waits:
                    line.cut()
                return real(*asked)

            monkeypatch.setattr(files, when, cut_once)
            job, _ = here.start_job("sleep", {"steps": 1, "pause": 0})
            work = runner(there, drain=MendingDrain(line, waits))
            assert work.run_next() == job.id
            assert waits != []
            assert here.jobs.get(job.id).status is JobStatus.QUEUED
            assert work.run_next() == job.id
            end = here.jobs.get(job.id)
            assert end.status is JobStatus.SUCCEEDED, end.error

    @pytest.mark.parametrize("how", ["cut", "hold"])
    def test_a_bucket_that_is_silent_for_longer_than_a_lease_costs_none(
        self, here: Services, machine: Machine, s3_server: S3Server, how: str
    ) -> None:
        with running_line(s3_server.url) as line:
            there = machine(s3_endpoint=line.url)
            job, _ = here.start_job("sleep", {})
            lease = there.leases.claim(there.settings.queue, another(there))
            assert lease is not None
            control, ttl_s = JobControl(3600), there.settings.lease_ttl_s
            pulse = Pulse(
                job.id,
                lease.fence,
                control,
                leases=there.leases,
                files=there.jobs.files,
                ttl_s=ttl_s,
                drain=threading.Event(),
            )
            with pulse:
                getattr(line, how)()
                deadline = time.monotonic() + 3 * ttl_s
                while time.monotonic() < deadline:
                    assert list(here.leases.expired()) == []
                    assert here.leases.renew(job.id, lease.fence, extend=False)[0] == "held"
                    time.sleep(0.1)
                assert control.reason is None
                line.mend()
                here.jobs.files.ask_cancel(job.id)  # in the bucket alone: Redis has forgotten it
                deadline = time.monotonic() + 60
                while control.reason is None and time.monotonic() < deadline:
                    time.sleep(0.05)
                assert isinstance(control.reason, Cancelled)

    @pytest.mark.parametrize("denied", ["/attempts/0001.json", "/checkpoint/", "/manifest.json"])
    def test_what_is_refused_fails_the_job(self, machine: Machine, denied: str) -> None:
        """It would be refused again: before the work, in it, and when its result is to be kept."""
        with running_s3(f"--deny={denied}") as server:
            url = f"s3://{server.make_bucket()}/npt"
            here = machine(store_url=url, s3_endpoint=server.url)
            job, _ = here.start_job("sleep", {"steps": 1, "pause": 0})
            work = runner(here)
            assert work.run_next() == job.id
            end = here.jobs.get(job.id)
            assert end.status is JobStatus.FAILED
            assert end.error is not None
            assert end.error.type == "store-refused"
            assert "403 AccessDenied to PutObject" in end.error.detail
            assert work.run_next() is None
            assert [one.id for one in here.jobs.list(status=JobStatus.FAILED).items] == [job.id]

    def test_where_not_even_the_failure_is_taken_the_job_waits(self, machine: Machine) -> None:
        """The rights of everything are gone: an operator gives them back, and the job is done."""
        with running_s3() as server:
            there = machine(store_url=f"s3://{server.make_bucket()}/npt", s3_endpoint=server.url, max_charges=1)
            job, _ = there.start_job("sleep", {"steps": 1, "pause": 0})
            refused, waits = StoreRefused("The bucket answers 403 AccessDenied to PutObject."), list[float]()

            class Drain(threading.Event):
                def wait(self, timeout: float | None = None) -> bool:
                    waits.append(timeout or 0)
                    patch.undo()
                    return self.is_set()

            work = runner(there, drain=Drain())
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(there.store, "put", lambda *_, **__: (_ for _ in ()).throw(refused))
                assert work.run_next() == job.id
            assert waits == [running.FULL_PAUSE_S]
            assert there.jobs.get(job.id).status is JobStatus.QUEUED
            assert work.run_next() == job.id
            assert there.jobs.get(job.id).status is JobStatus.SUCCEEDED

    def test_an_end_whose_answer_was_lost_is_the_end(
        self, here: Services, there: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, calls = there.jobs.finish, list[str]()

        def finish(job_id: str, end: Any) -> bool:
            calls.append(job_id)
            won = real(job_id, end)
            if len(calls) == 1:
                raise StoreUnavailable("the answer was lost")
            return won

        monkeypatch.setattr(there.jobs, "finish", finish)
        monkeypatch.setattr(running, "OUTAGE_PAUSE_S", 0.01)
        with structlog.testing.capture_logs() as logs:
            job = done(here, there)
        assert (job.status, job.attempts, len(calls)) == (JobStatus.SUCCEEDED, 1, 1)
        assert [model.id for model in here.models.list().items] == [job.model_id]
        assert here.models.verify(job.model_id or "") == ()
        assert [entry["event"] for entry in logs if entry["log_level"] in ("warning", "error")] == [
            "the store does not answer, the result is kept until it does"
        ]


class TestModels:
    def test_a_move_that_was_cut_off_is_done_by_whoever_looks(
        self, here: Services, there: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job, _ = here.start_job("sleep", {"steps": 1, "pause": 0})
        real, copied = Bucket.copy, list[str]()

        def copy(self: Bucket, source: Any, target: str) -> bool:
            if copied:
                raise KeyboardInterrupt
            copied.append(target)
            return real(self, source, target)

        with monkeypatch.context() as patch:
            patch.setattr(Bucket, "copy", copy)
            with pytest.raises(KeyboardInterrupt):
                runner(there).run_next()
        assert len(keys(here, "models/")) == 1
        assert here.models.list().items == []  # no record: nobody sees it
        model_id = here.jobs.get(job.id).model_id
        assert model_id is not None
        assert here.models.verify(model_id) == ()

    def test_one_that_was_deleted_does_not_come_back(self, here: Services, there: Services) -> None:
        """Whoever moved it died before what was copied was removed."""
        job = done(here, there)
        assert job.model_id is not None
        bucket = bucket_of(here)
        for one in list(bucket.list(f"models/{job.model_id}/")):
            bucket.copy(one, f"jobs/{job.id}/attempts/0001/{one.key.rpartition('/')[2]}")
        there.catalogue.delete(job.model_id)
        for services in (here, there):
            services.jobs.get(job.id)
            services.jobs.settle(job.id)
            with pytest.raises(NotFoundError):
                services.models.get(job.model_id)
        assert keys(here, "models/") == keys(here, "contents/") == []

    def test_one_half_made_is_swept_and_a_whole_one_stays(self, machine: Machine) -> None:
        here = machine(part_ttl_s=0.0)
        whole = done(here, here).model_id
        half = "model_" + "0" * 26
        here.store.put(f"models/{half}/manifest.json", b"{}")
        here.store.put("uploads/job_x/input.zip", b"zip")
        found = {(waste.kind, waste.id) for waste in here.retention.find()}
        assert found == {("leftover", f"models/{half}"), ("upload", "uploads/job_x/input.zip")}
        here.retention.sweep()
        assert [model.id for model in here.models.list().items] == [whole]
        assert not here.store.exists(f"models/{half}")
        assert keys(here, "uploads/") == []

    def test_only_one_machine_sweeps(self, here: Services, there: Services, monkeypatch: pytest.MonkeyPatch) -> None:
        swept: list[str] = []
        for services in (here, there):
            name = services.settings.node
            monkeypatch.setattr(services.retention, "sweep", lambda name=name: swept.append(name))
        here.retention.sweep_in_turn(3600)
        there.retention.sweep_in_turn(3600)
        assert swept == [here.settings.node]

    def test_each_machine_tidies_its_own_copies(self, here: Services, there: Services) -> None:
        here.store.put("archives/a.zip", b"zip")
        kept = [services.store.fetch("archives/a.zip") for services in (here, there)]
        for path in kept:
            os.utime(path, (time.time() - caching.KEPT_S - 60,) * 2)
        here.retention.sweep_in_turn(3600)
        there.retention.sweep_in_turn(3600)  # not its turn
        assert [path.exists() for path in kept] == [False, False]


class TestDataSets:
    def test_one_sent_here_is_read_and_deleted_there(self, here: Services, there: Services) -> None:
        files = classes("cat", "dog")
        record, created = here.datasets.add(write_zip(here.store.part(), files), "pets.zip")
        assert created
        with there.datasets.open(record.id) as dataset:
            assert {sample.path: dataset.read(sample) for sample in dataset.samples} == files
        again, created = there.datasets.add(write_zip(there.store.part(), files), "same.zip")
        assert (again, created) == (record, False)
        assert [one.id for one in there.datasets.list().items] == [record.id]
        there.datasets.delete(record.id)
        with pytest.raises(NotFoundError):
            here.datasets.open(record.id)
        assert keys(here, "archives/") == keys(here, "datasets/") == []
        for services in (here, there):
            assert list((services.store.root / "uploads").glob("*")) == []

    def test_one_grows_from_another_s_zip(self, here: Services, there: Services) -> None:
        from npt_core.data.edit import Edit

        first, _ = here.datasets.add(write_zip(here.store.part(), classes("cat", "dog")), "pets.zip")
        part = write_zip(there.store.part(), classes("cow", prefix="new/"))
        grown, created = there.datasets.edit(first.id, Edit(), part)
        assert created
        here.datasets.delete(first.id)
        with here.datasets.open(grown.id) as dataset:
            assert len([dataset.read(sample) for sample in dataset.samples]) == 9
        here.datasets.delete(grown.id)
        assert keys(here, "archives/") == keys(here, "needed/data") == []


class TestLimit:
    """What is counted is what a measuring finds, without one."""

    @pytest.fixture
    def limited(self, machine: Machine) -> Services:
        services = machine(max_store_bytes=10_000_000)
        services.usage.refresh()  # as every API process does when it starts
        return services

    @staticmethod
    def agrees(services: Services) -> bool:
        store = cast("S3Store", services.store)
        with store.limit._numbers() as numbers:
            return numbers[0] == store._count()

    @staticmethod
    def sent(services: Services, *names: str) -> Path:
        part = write_zip(services.store.part(), classes(*names))
        services.store.claim(part)
        return part

    def test_zips_of_data_sets_count_once(self, limited: Services) -> None:
        from npt_core.data.edit import Edit

        first, _ = limited.datasets.add(self.sent(limited, "cat", "dog"))
        assert self.agrees(limited)
        assert cast("S3Store", limited.store)._count() > limited.store.size(first.archives[0]) > 0
        limited.datasets.add(self.sent(limited, "cat", "dog"))  # known
        assert self.agrees(limited)
        other = limited.store.part()
        with zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as archive:  # the same pictures, other bytes
            for name, data in classes("cat", "dog").items():
                archive.writestr(name, data)
            archive.comment = b"another"
        limited.store.claim(other)
        assert limited.datasets.add(other) == (first, False)
        assert self.agrees(limited)
        grown, _ = limited.datasets.edit(first.id, Edit(), self.sent(limited, "cow"))
        assert self.agrees(limited)
        for record in (first, grown):
            limited.datasets.delete(record.id)
            assert self.agrees(limited)

    def test_archives_of_jobs_count_once(self, limited: Services) -> None:
        with pytest.raises(NotFoundError):
            limited.start_job("sleep", {"models": ["model_" + "0" * 26]}, archive=(part := self.sent(limited, "a")))
        assert self.agrees(limited)
        limited.start_job("sleep", {"steps": 1, "pause": 0}, archive=part)
        assert self.agrees(limited)

    def test_what_does_not_fit_beside_the_zips_is_refused(self, limited: Services, machine: Machine) -> None:
        dataset, _ = limited.datasets.add(self.sent(limited, "cat", "dog"))
        room = 10_000_000 - cast("S3Store", limited.store)._count()
        with pytest.raises(StoreFullError, match="NPT_MAX_STORE_BYTES"):
            limited.store.put("archives/more", b"x" * (room + 1))
        limited.store.put("archives/more", b"x" * room)
        assert limited.store.exists(dataset.archives[0])


class TestEverythingElse:
    def test_nothing_is_damaged_until_something_is(self, here: Services, there: Services, machine: Machine) -> None:
        dataset = here.datasets.add(write_zip(here.store.part(), classes("cat", "dog")), "pets.zip")[0]
        model = done(here, there).model_id
        here.feedback.switch(model or "", FeedbackSettings(enabled=True, below=0.9))
        here.feedback.keep(model or "", [Unsure(filename="1.png", picture=b"1", answer=(("cat", 0.4), ("dog", 0.3)))])

        def walk() -> list[tuple[str, str]]:
            integrity = Integrity(machine().store)  # one that has no good copy of its own
            return [(one.kind, one.id) for thing in integrity.things() for one in integrity.look(*thing).damage]

        assert walk() == []
        bucket = bucket_of(here)
        for key in (dataset.archives[0], f"models/{model}/report.json"):
            head = bucket.head(key)
            assert head is not None
            place = {"Bucket": bucket.name, "Key": f"npt/{key}", "Metadata": dict(head.metadata)}
            bucket.client.put_object(**place, Body=b"x" * head.size)
        damaged = set(walk())
        assert {("model", model), ("archive", dataset.archives[0].rpartition("/")[2])} <= damaged
        assert ("dataset", dataset.id) in damaged

    def test_feedback_of_two_machines_is_one(self, here: Services, there: Services) -> None:
        model = done(here, there).model_id or ""
        here.feedback.switch(model, FeedbackSettings(enabled=True, below=0.9))
        for number, services in enumerate((here, there, here)):
            picture = Unsure(filename=f"{number}.png", picture=b"%d" % number, answer=(("cat", 0.4), ("dog", 0.3)))
            assert services.feedback.keep(model, [picture]) == 1
        items = there.feedback.list(model).items
        assert [item.filename for item in items] == ["2.png", "1.png", "0.png"]
        there.feedback.label(model, {items[0].id: "cat"})
        assert here.feedback.get(model, items[0].id)[0].label == "cat"
        there.feedback.clear(model)
        assert here.feedback.state(model).items == 0
        assert keys(here, "feedback/") == []

    def test_versions_and_aliases_are_the_same_everywhere(self, here: Services, there: Services) -> None:
        models = [done(here, there, name="pets").model_id or "" for _ in range(2)]
        assert [there.models.get(model).version for model in models] == [1, 2]
        here.aliases.put("champion", models[0])
        assert there.catalogue.resolve("champion").id == models[0]
        there.aliases.put("champion", models[1])
        assert here.catalogue.resolve("champion").id == models[1]

    def test_a_new_redis_learns_everything_from_the_bucket(self, here: Services, there: Services) -> None:
        ended = done(here, there)
        waiting, _ = here.start_job("sleep", {"steps": 1, "pause": 0})
        here.redis.flushall()
        there.reconciler.run()
        assert runner(there).run_next() == waiting.id
        assert {job.id for job in here.jobs.list(status=JobStatus.SUCCEEDED).items} == {ended.id, waiting.id}
