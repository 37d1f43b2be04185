"""Data sets and models in the store, with real archives."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from npt_core.errors import ArchiveError, DatasetError
from tests.support.in_process import runner
from tests.support.zips import classes, write_zip
from worker.errors import ConflictError, CorruptRecordError, NotFoundError, StoreFullError
from worker.records import FileMark, ModelDraft
from worker.service import Services
from worker.store import local


def upload(services: Services, files: dict[str, bytes]) -> Path:
    return write_zip(services.store.part(), files)


def test_a_data_set_is_stored_and_read_again(services: Services) -> None:
    files = classes("cat", "dog")
    record, created = services.datasets.add(upload(services, files), "pets.zip")
    assert created
    assert (record.images, record.labels, record.filename) == (6, ("cat", "dog"), "pets.zip")
    assert record.audit.status == "structure"
    assert services.datasets.get(record.id) == record
    with services.datasets.open(record.id) as dataset:
        assert dataset.id == record.id
        assert {sample.path: dataset.read(sample) for sample in dataset.samples} == files
    assert list(services.store.root.glob("uploads/*")) == []


def test_the_same_pictures_zipped_twice_are_one_data_set(services: Services) -> None:
    files = classes("cat", "dog")
    first, _ = services.datasets.add(upload(services, files), "a.zip")
    again, created = services.datasets.add(upload(services, dict(reversed(files.items()))), "b.zip")
    wrapped, created_too = services.datasets.add(upload(services, {f"w/{k}": v for k, v in files.items()}), "c.zip")
    assert (created, created_too) == (False, False)
    assert again == wrapped == first
    assert list(services.store.root.glob("uploads/*")) == []
    assert len(services.datasets.list().items) == 1


def test_what_an_archive_of_known_pictures_leaves_out_is_said_of_that_archive_and_its_job(services: Services) -> None:
    files = classes("cat", "dog")
    known, _ = services.datasets.add(upload(services, files), "a.zip")
    again, created = services.datasets.add(upload(services, files | {"cat/broken.png": b"\x89PNG no"}), "b.zip")
    assert (again.id, created) == (known.id, False)
    assert [fault.path for fault in again.faults] == ["cat/broken.png"]
    assert services.datasets.get(known.id).faults == ()  # the stored data set has no such file
    job, _ = services.start_job("tune", {}, dataset_id=known.id, warnings=["cat/broken.png: is no image"])
    assert job.warnings == services.jobs.get(job.id).warnings == ("cat/broken.png: is no image",)
    services.cancel_job(job.id)
    assert services.jobs.get(job.id).warnings == job.warnings


def test_many_uploads_of_one_data_set_at_once(services: Services) -> None:
    files = classes("cat", "dog")
    created: list[bool] = []
    threads = [
        threading.Thread(target=lambda: created.append(services.datasets.add(upload(services, files))[1]))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(created) == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"cat/0.png": b"", "../x/0.png": b""}, ArchiveError),
        ({"cat/0.png": b"no picture"}, DatasetError),
        ({}, DatasetError),
    ],
)
def test_what_is_refused_leaves_nothing(services: Services, files: dict[str, bytes], error: type[Exception]) -> None:
    with pytest.raises(error):
        services.datasets.add(upload(services, files))
    assert services.datasets.list().items == []
    assert [path for path in services.store.root.rglob("*") if path.is_file() and "run" not in path.parts] == []


def test_a_full_disk_leaves_no_half_data_set(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    part = upload(services, classes("cat", "dog"))

    def full(*_: object) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(local.os, "fsync", full)
    with pytest.raises(StoreFullError):
        services.datasets.add(part)
    monkeypatch.undo()
    assert not part.exists()
    assert services.datasets.list().items == []
    assert services.datasets.add(upload(services, classes("cat", "dog")))[1]


def test_a_record_that_cannot_be_written_leaves_no_archive(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    real = services.store.put

    def full(key: str, *rest: object, **more: object) -> object:
        if key.endswith("manifest.json"):
            raise StoreFullError("full")
        return real(key, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(services.store, "put", full)
    with pytest.raises(StoreFullError):
        services.datasets.add(upload(services, classes("cat", "dog")))
    assert not list(services.store.root.rglob("*.zip"))


def test_other_words_for_known_pictures_are_told(services: Services) -> None:
    files = classes("cat", "dog")
    first, _ = services.datasets.add(upload(services, files | {"classes.json": b'{"cat": {"name": "lion"}}'}))
    again, created = services.datasets.add(upload(services, files | {"classes.json": b'{"cat": {"name": "tiger"}}'}))
    assert not created
    assert again.id == first.id
    assert any(fault.path == "classes.json" and "class_names" in fault.message for fault in again.faults)
    same, _ = services.datasets.add(upload(services, files | {"classes.json": b'{"cat": {"name": "lion"}}'}))
    assert not same.faults


def test_lists_of_data_sets_are_paged(services: Services) -> None:
    ids = [services.datasets.add(upload(services, classes("a", f"b{i}")))[0].id for i in range(5)]
    page = services.datasets.list(limit=3)
    rest = services.datasets.list(limit=3, cursor=page.next_cursor)
    assert [record.id for record in page.items + rest.items] == ids[::-1]
    assert rest.next_cursor is None


def test_a_data_set_in_use_stays(services: Services) -> None:
    record, _ = services.datasets.add(upload(services, classes("cat", "dog")))
    job, _ = services.start_job("sleep", {"steps": 1, "pause": 0}, dataset_id=record.id)
    with pytest.raises(ConflictError, match=job.id):
        services.datasets.delete(record.id)
    runner(services).run_next()
    model_id = services.jobs.get(job.id).model_id
    assert model_id is not None
    with pytest.raises(ConflictError, match=model_id):
        services.datasets.delete(record.id)
    services.models.delete(model_id)
    services.datasets.delete(record.id)
    with pytest.raises(NotFoundError):
        services.datasets.get(record.id)
    with pytest.raises(NotFoundError):
        services.start_job("sleep", {}, dataset_id=record.id)
    assert services.datasets.add(upload(services, classes("cat", "dog")))[1]


def test_a_damaged_manifest_is_told_by_id(services: Services) -> None:
    record, _ = services.datasets.add(upload(services, classes("cat", "dog")))
    other, _ = services.datasets.add(upload(services, classes("cat", "cow")))
    services.store.put(f"datasets/{record.id}/manifest.json", b"{}")
    with pytest.raises(CorruptRecordError, match=record.id):
        services.datasets.open(record.id)
    services.datasets.open(other.id).close()


def model(services: Services, name: str) -> str:
    job, _ = services.start_job("sleep", {"steps": 1, "pause": 0}, name=name)
    runner(services).run_next()
    return services.jobs.get(job.id).model_id or ""


def test_models_are_listed_newest_first(services: Services) -> None:
    ids = [model(services, f"m{i}") for i in range(5)]
    page = services.models.list(limit=3)
    rest = services.models.list(limit=3, cursor=page.next_cursor)
    assert [record.id for record in page.items + rest.items] == ids[::-1]
    assert page.items[0].nbytes > 0


def test_a_deleted_model_is_gone(services: Services) -> None:
    model_id = model(services, "m")
    services.models.delete(model_id)
    for call in (services.models.get, services.models.folder, services.models.report, services.models.delete):
        with pytest.raises(NotFoundError):
            call(model_id)


def test_a_flipped_byte_is_found(services: Services) -> None:
    model_id, other = model(services, "m"), model(services, "n")
    path = services.models.folder(model_id) / "report.json"
    path.write_bytes(b"X" + path.read_bytes()[1:])
    assert services.models.verify(model_id) == ("report.json",)
    assert services.models.verify(other) == ()
    with pytest.raises(CorruptRecordError, match=model_id):
        services.models.report(model_id)
    assert services.models.sound_folder(model_id) == services.models.folder(model_id)  # nothing answers with a report
    manifest = services.models.folder(model_id) / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-1])
    with pytest.raises(CorruptRecordError, match=rf"manifest.json of the model {model_id} is missing or not"):
        services.models.sound_folder(model_id)
    services.models.sound_folder(other)
    services.store.put(f"models/{model_id}/model.json", b"{")
    with pytest.raises(CorruptRecordError):
        services.models.get(model_id)
    assert [record.id for record in services.models.list().items] == [other]


def test_a_record_names_every_file(services: Services, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"abc")
    record = services.models.prepare(
        tmp_path, ModelDraft(backbone="b", method="m"), model_id="model_" + "0" * 26, job_id=None
    )
    assert record.files == {
        "a.bin": FileMark(size=3, sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    }
