"""The audit job on a real (tiny) backbone, on the real machinery, in this process."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from npt_core.data.edit import Edit
from tests.support.in_process import runner
from tests.support.pictures import COLOURS, picture
from tests.support.tiny_clip import tiny_backbone
from tests.support.worker_process import wait_until
from tests.support.zips import write_zip
from worker import backbones
from worker.errors import ConflictError, NotFoundError
from worker.records import AuditStatus, DatasetRecord, JobStatus
from worker.service import Services
from worker.usecases import audit as usecase


@pytest.fixture
def floor(open_floor: Callable[..., Services], monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    monkeypatch.setattr(backbones, "load_backbone", lambda entry, **_: tiny_backbone("clip", seed=0, name=entry))
    backbones.forget()
    yield open_floor(backbone="demo")
    backbones.forget()


def png(colour: str, seed: int) -> bytes:
    out = io.BytesIO()
    picture(COLOURS[colour], seed, 48).save(out, "PNG")
    return out.getvalue()


def jpeg(data: bytes) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).save(out, "JPEG", quality=90)
    return out.getvalue()


def files() -> dict[str, bytes]:
    found = {f"{c}/{i}.png": png(c, 100 * n + i) for n, c in enumerate(("red", "green", "blue")) for i in range(8)}
    return found | {
        "red/copy.jpg": jpeg(found["red/0.png"]),
        "red/blue.png": png("blue", 77),
        "green/cut.png": png("green", 5)[:-200],
    }


@pytest.fixture
def dataset(floor: Services) -> DatasetRecord:
    return floor.datasets.add(write_zip(floor.store.part(), files()), "pictures.zip")[0]


def kinds(services: Services, dataset_id: str) -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in services.datasets.get(dataset_id).audit.findings}


def test_an_audit_finds_and_keeps_what_is_in_the_pictures(floor: Services, dataset: DatasetRecord) -> None:
    assert dataset.audit.status is AuditStatus.STRUCTURE
    job = floor.start_audit(dataset.id, owner="me")
    assert job is not None
    assert (job.kind, job.dataset_id, job.owner) == ("audit", dataset.id, "me")
    assert floor.datasets.get(dataset.id).audit.status is AuditStatus.QUEUED
    runner(floor).run_next()
    done = floor.jobs.get(job.id)
    assert done.status is JobStatus.SUCCEEDED, done.error
    assert done.model_id is None
    assert done.counters == {"images_encoded": 26, "images_cached": 0, "images_unreadable": 1}
    audit = floor.datasets.get(dataset.id).audit
    assert (audit.status, audit.job_id, audit.backbone) == (AuditStatus.DONE, job.id, "demo")
    found = kinds(floor, dataset.id)
    assert set(found["near-duplicate"]["paths"]) == {"red/0.png", "red/copy.jpg"}
    assert found["likely-label-error"]["paths"] == ["red/blue.png"]
    assert found["unreadable"]["paths"] == ["green/cut.png"]
    assert [one["severity"] for one in audit.findings] == sorted(
        (one["severity"] for one in audit.findings), reverse=True
    )
    assert done.metrics is not None
    assert done.metrics["findings"] >= 3
    events = [fields["data"] for _, fields in floor.redis.xrange(floor.keys.events(job.id))]
    assert any('"auditing"' in data for data in events)
    assert floor.datasets.list().items[0].audit == audit


def test_a_tuning_encodes_nothing_after_an_audit_and_an_edit_hardly_anything(
    floor: Services, dataset: DatasetRecord
) -> None:
    floor.start_audit(dataset.id)
    runner(floor).run_next()
    tuning, _ = floor.start_job("tune", {"epochs": 1, "views": 1}, dataset_id=dataset.id)
    runner(floor).run_next()
    assert floor.jobs.get(tuning.id).counters["images_encoded"] == 0
    more = write_zip(floor.store.part(), {"red/n.png": png("red", 900)})
    child, _ = floor.datasets.edit(dataset.id, Edit(("green/cut.png",), {"red/blue.png": "blue"}), more)
    job = floor.start_audit(child.id)
    assert job is not None
    runner(floor).run_next()
    assert floor.jobs.get(job.id).counters == {"images_encoded": 1, "images_cached": 26, "images_unreadable": 0}
    assert {"likely-label-error", "unreadable"}.isdisjoint(kinds(floor, child.id))
    assert "likely-label-error" in kinds(floor, dataset.id)


def test_what_is_done_or_under_way_is_not_started_again_unless_asked(floor: Services, dataset: DatasetRecord) -> None:
    first = floor.start_audit(dataset.id)
    assert first is not None
    assert [getattr(floor.start_audit(dataset.id, again=again), "id", None) for again in (False, True)] == [
        first.id
    ] * 2
    runner(floor).run_next()
    assert floor.start_audit(dataset.id) is None
    again = floor.start_audit(dataset.id, again=True)
    assert again is not None
    assert again.id != first.id
    assert floor.datasets.get(dataset.id).audit.status is AuditStatus.QUEUED
    runner(floor).run_next()
    assert floor.jobs.get(again.id).counters["images_encoded"] == 0
    assert floor.datasets.get(dataset.id).audit.job_id == again.id


def test_many_at_once_start_one_job(floor: Services, dataset: DatasetRecord) -> None:
    started: list[str] = []
    threads = [
        threading.Thread(target=lambda: started.append(getattr(floor.start_audit(dataset.id), "id", "")))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(started)) == 1
    assert len(floor.jobs.list().items) == 1


def test_a_job_that_is_quicker_than_its_announcement_keeps_its_findings(
    floor: Services, dataset: DatasetRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = floor.datasets.audits.announce
    worker = threading.Thread(target=runner(floor).run_next)

    def slow(*args: str) -> None:
        worker.start()
        worker.join(1.5)  # it computes, and waits for us before it keeps what it found
        real(*args)

    monkeypatch.setattr(floor.datasets.audits, "announce", slow)
    floor.start_audit(dataset.id)
    worker.join(60)
    assert floor.datasets.get(dataset.id).audit.status is AuditStatus.DONE


def test_a_cancelled_or_failed_audit_says_so_and_can_be_started_again(
    floor: Services, dataset: DatasetRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = floor.start_audit(dataset.id)
    assert job is not None
    floor.cancel_job(job.id)
    assert floor.datasets.get(dataset.id).audit.status is AuditStatus.CANCELLED
    assert floor.datasets.get(dataset.id).audit.findings == dataset.audit.findings

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("bug")

    monkeypatch.setattr(usecase, "_look", broken)
    second = floor.start_audit(dataset.id)
    assert second is not None
    assert second.id != job.id
    runner(floor).run_next()
    assert floor.datasets.get(dataset.id).audit.status is AuditStatus.FAILED
    monkeypatch.undo()
    monkeypatch.setattr(backbones, "load_backbone", lambda entry, **_: tiny_backbone("clip", seed=0, name=entry))
    floor.start_audit(dataset.id)
    runner(floor).run_next()
    assert floor.datasets.get(dataset.id).audit.status is AuditStatus.DONE


def test_a_running_audit_stops_when_it_is_cancelled(floor: Services, dataset: DatasetRecord) -> None:
    job = floor.start_audit(dataset.id)
    assert job is not None
    entered = threading.Event()
    real = usecase.load_backbone

    def waiting(context: Any, *rest: Any) -> Any:
        entered.set()
        wait_until("the job hears of it", lambda: context.control.reason is not None, 30)
        return real(context, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usecase, "load_backbone", waiting)
        worker = threading.Thread(target=runner(floor).run_next)
        worker.start()
        assert entered.wait(30)
        assert floor.datasets.get(dataset.id).audit.status is AuditStatus.RUNNING
        floor.cancel_job(job.id)
        worker.join(60)
    assert floor.jobs.get(job.id).status is JobStatus.CANCELLED
    assert floor.datasets.get(dataset.id).audit.status is AuditStatus.CANCELLED


def test_deleting_a_data_set_cancels_its_audit_and_a_late_one_leaves_nothing(
    floor: Services, dataset: DatasetRecord
) -> None:
    job = floor.start_audit(dataset.id)
    assert job is not None
    floor.datasets.delete(dataset.id)
    assert floor.jobs.get(job.id).status is JobStatus.CANCELLED
    assert not floor.datasets.audits.keep(dataset.id, [], backbone="demo", job_id=job.id)
    assert floor.store.names("datasets") == []
    with pytest.raises(NotFoundError):
        floor.start_audit(dataset.id)


def test_other_jobs_still_hold_the_data_set(floor: Services, dataset: DatasetRecord) -> None:
    floor.start_audit(dataset.id)
    tuning, _ = floor.start_job("tune", {}, dataset_id=dataset.id)
    with pytest.raises(ConflictError, match=tuning.id):
        floor.datasets.delete(dataset.id)


def test_a_damaged_or_forgotten_audit_counts_as_none(floor: Services, dataset: DatasetRecord) -> None:
    job = floor.start_audit(dataset.id)
    assert job is not None
    floor.store.delete(f"jobs/{job.id}")  # its record was cleaned away
    assert floor.datasets.get(dataset.id).audit.status is AuditStatus.STRUCTURE
    floor.store.put(f"datasets/{dataset.id}/audit.json", b"{")
    assert floor.datasets.get(dataset.id).audit.findings == dataset.audit.findings


def test_a_tuning_audits_a_small_data_set_that_nobody_looked_at(
    floor: Services, dataset: DatasetRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = floor.start_job("tune", {"epochs": 1, "views": 1}, dataset_id=dataset.id)
    runner(floor).run_next()
    done = floor.jobs.get(job.id)
    assert done.status is JobStatus.SUCCEEDED, done.error
    assert done.counters["images_encoded"] == 26
    report = floor.models.report(done.model_id or "")
    assert report["audit"]["status"] == "done"
    assert "likely-label-error" in {one["kind"] for one in report["audit"]["findings"]}
    assert floor.datasets.get(dataset.id).audit.status is AuditStatus.DONE

    monkeypatch.setattr(usecase, "WITH_A_TUNING", 3)
    large, _ = floor.datasets.edit(dataset.id, Edit(("red/1.png",)))
    job, _ = floor.start_job("tune", {"epochs": 1, "views": 1}, dataset_id=large.id)
    runner(floor).run_next()
    assert floor.models.report(floor.jobs.get(job.id).model_id or "")["audit"]["status"] == "structure"


def test_an_audit_that_fails_beside_a_tuning_does_not_stop_it(
    floor: Services, dataset: DatasetRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("bug")

    monkeypatch.setattr(usecase, "_look", broken)
    job, _ = floor.start_job("tune", {"epochs": 1, "views": 1}, dataset_id=dataset.id)
    runner(floor).run_next()
    done = floor.jobs.get(job.id)
    assert done.status is JobStatus.SUCCEEDED
    assert floor.models.report(done.model_id or "")["audit"]["status"] == "structure"


def test_an_unknown_backbone_fails_the_job(floor: Services, dataset: DatasetRecord) -> None:
    job = floor.start_audit(dataset.id, backbone="no/such")
    assert job is not None
    runner(floor).run_next()
    error = floor.jobs.get(job.id).error
    assert error is not None
    assert error.type == "unknown-backbone"
