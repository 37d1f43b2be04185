"""Deletions ask who needs a thing: they read few records, and a reference too many or a lost folder changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.in_process import another, runner
from tests.support.zips import classes, write_zip
from worker.errors import ConflictError, StoreFullError
from worker.ids import new_id
from worker.records import Attempt, DatasetRecord, JobStatus, ModelDraft, utcnow
from worker.references import COMPLETE, References
from worker.service import Services


def stored(services: Services, *labels: str) -> DatasetRecord:
    return services.datasets.add(write_zip(services.store.part(), classes(*labels, images=2)))[0]


def model(services: Services, dataset_id: str | None = None) -> str:
    """A model in its place, as an import puts it there."""
    model_id = new_id("model")
    folder = services.store.path(f"uploads/{model_id}")
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(f'{{"of": "{model_id}"}}')
    services.models.prepare(
        folder, ModelDraft(backbone="b", method="m", dataset_id=dataset_id), model_id=model_id, job_id=None
    )
    assert services.models.promote(f"uploads/{model_id}", model_id)
    return model_id


@pytest.fixture
def reads(services: Services, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The key of every record that is read from now on."""
    found: list[str] = []
    get = services.store.get

    def noting(key: str) -> bytes:
        found.append(key)
        return get(key)

    monkeypatch.setattr(services.store, "get", noting)
    return found


def test_a_deletion_reads_no_record_of_what_has_nothing_to_do_with_it(services: Services, reads: list[str]) -> None:
    services.reconciler.run()
    busy, free = stored(services, "cat", "dog"), stored(services, "sun", "moon")
    used, unused = model(services, busy.id), model(services, busy.id)
    for _ in range(30):
        services.start_job("sleep", {"parent": used}, dataset_id=busy.id)
        model(services, busy.id)
        stored(services, new_id("a")[2:], new_id("b")[2:])
    reads.clear()
    services.datasets.delete(free.id)
    services.catalogue.delete(unused)
    strange = [key for key in reads if free.id not in key and unused not in key]
    assert strange == []
    with pytest.raises(ConflictError, match="job_"):
        services.datasets.delete(busy.id)
    with pytest.raises(ConflictError, match="job_"):
        services.catalogue.delete(used)


@pytest.mark.parametrize("lost", [False, True])
def test_everything_that_needs_something_keeps_it(services: Services, lost: bool) -> None:
    """Whether it was noted as it came, or is found in a store from before references."""
    by_job, by_model = stored(services, "cat", "dog"), stored(services, "sun", "moon")
    parent = model(services, by_model.id)
    job, _ = services.start_job("sleep", {"steps": 1, "pause": 0, "deep": [{"parent": parent}]}, dataset_id=by_job.id)
    if lost:
        assert services.store.delete("needed")
    with pytest.raises(ConflictError, match=job.id):
        services.datasets.delete(by_job.id)
    with pytest.raises(ConflictError, match=job.id):
        services.catalogue.delete(parent)
    with pytest.raises(ConflictError, match=parent):
        services.datasets.delete(by_model.id)
    assert not services.datasets.expire(by_job.id, utcnow())
    assert not services.datasets.expire(by_model.id, utcnow())
    services.cancel_job(job.id)
    services.catalogue.delete(parent)
    services.datasets.delete(by_job.id)
    services.datasets.delete(by_model.id)
    assert services.store.names("needed") == [Path(COMPLETE).name]
    assert services.store.names("archives") == []


def test_a_request_that_dies_before_its_job_is_written_holds_nothing(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = stored(services, "cat", "dog")

    def full(*_: object) -> bool:
        raise StoreFullError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(services.jobs.files, "put_spec", full)
        with pytest.raises(StoreFullError):
            services.start_job("sleep", {}, dataset_id=record.id)
    assert services.jobs.uses(record.id) is None
    assert not [name for name in References(services.store).of(record.id) if name.startswith("job_")]
    services.datasets.delete(record.id)


@pytest.mark.parametrize("lost", [False, True])
def test_a_model_whose_worker_died_before_it_was_moved_holds_its_data_set(services: Services, lost: bool) -> None:
    record = stored(services, "cat", "dog")
    job, _ = services.start_job("sleep", {}, dataset_id=record.id)
    who = another(services)
    lease = services.leases.claim("default", who)
    assert lease is not None
    files, model_id = services.jobs.files, new_id("model")
    files.put_attempt(
        job.id,
        Attempt(
            fence=lease.fence,
            charged=0,
            node=who.node,
            boot=who.boot,
            worker=who.worker,
            pid=who.pid,
            started_at=utcnow(),
        ),
    )
    services.models.prepare(
        files.attempt_folder(job.id, lease.fence),
        ModelDraft(backbone="b", method="m", dataset_id=record.id),
        model_id=model_id,
        job_id=job.id,
    )
    end = services.jobs.ending(job.id, JobStatus.SUCCEEDED).model_copy(update={"model_id": model_id})
    assert files.put_end(job.id, end)
    if lost:
        services.store.delete("needed")
    with pytest.raises(ConflictError, match=model_id):
        services.datasets.delete(record.id)


def test_a_job_that_ended_is_noted_nowhere(services: Services) -> None:
    record = stored(services, "cat", "dog")
    job, _ = services.start_job("sleep", {"steps": 1, "pause": 0}, dataset_id=record.id)
    references = References(services.store)
    assert references.of(record.id) == [job.id]
    runner(services).run_next()
    assert references.of(record.id) == [services.jobs.get(job.id).model_id]


def test_a_data_set_that_cannot_be_read_keeps_every_zip(services: Services) -> None:
    kept, other = stored(services, "cat", "dog"), stored(services, "sun", "moon")
    services.store.put(f"datasets/{kept.id}/dataset.json", b"{")
    services.store.delete("needed")
    services.datasets.delete(other.id)
    assert {f"archives/{name}" for name in services.store.names("archives")} == {*kept.archives, *other.archives}


def test_they_are_made_once_however_many_ask(open_floor: Callable[..., Services]) -> None:
    here, there = open_floor(), open_floor()
    record = stored(here, "cat", "dog")
    here.store.delete("needed")
    assert References(there.store).of(record.id) == []
    here.store.unlink(f"needed/{record.archives[0].rpartition('/')[2]}/{record.id}")
    assert References(here.store).of(record.archives[0].rpartition("/")[2]) == []  # not made a second time
