"""Edits of stored data sets: lineage, shared zips, and what may be deleted when."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npt_core.data.edit import Edit, EditError
from npt_core.errors import ArchiveError, DatasetError
from tests.support.in_process import runner
from tests.support.zips import classes, picture, write_zip
from worker.archives import Archives
from worker.errors import ConflictError, CorruptRecordError, NotFoundError, StoreFullError
from worker.records import DatasetRecord
from worker.service import Services

FILES = classes("cat", "dog")


def upload(services: Services, files: dict[str, bytes]) -> Path:
    return write_zip(services.store.part(), files)


def stored(services: Services, files: dict[str, bytes] = FILES) -> DatasetRecord:
    return services.datasets.add(upload(services, files), "pets.zip")[0]


def zips(services: Services) -> set[str]:
    return {f"archives/{name}" for name in services.store.names("archives")}


def content(services: Services, dataset_id: str) -> dict[str, tuple[str, bytes]]:
    with services.datasets.open(dataset_id) as dataset:
        return {sample.path: (sample.label, dataset.read(sample)) for sample in dataset.samples}


def test_an_edit_makes_a_new_data_set_that_says_where_it_comes_from(services: Services) -> None:
    parent = stored(services)
    part = upload(services, {"owl/0.png": picture(800), "cat/0.png": picture(801)})
    edit = Edit(("dog/0.png",), {"dog/1.png": "cat"})
    child, created = services.datasets.edit(parent.id, edit, part, "more.zip")
    assert created
    assert (child.parent, child.filename) == (parent.id, "more.zip")
    assert child.change == {"removed": 1, "relabelled": 1, "added": 2, "known": 0}
    assert child.counts == {"train": {"cat": 5, "dog": 1, "owl": 1}}
    assert content(services, child.id)["cat/0~2.png"] == ("cat", picture(801))
    assert content(services, parent.id) == {path: (path.split("/")[0], data) for path, data in FILES.items()}
    change = services.datasets.change(child.id)
    assert change["parent"] == parent.id
    assert [one["path"] for one in change["removed"]] == ["dog/0.png"]
    assert [(one["was"], one["label"]) for one in change["relabelled"]] == [("dog", "cat")]
    with pytest.raises(NotFoundError, match="uploaded whole"):
        services.datasets.change(parent.id)
    assert not list(services.store.root.glob("uploads/*"))


def test_zips_are_shared_and_go_with_the_last_that_reads_from_them(services: Services) -> None:
    parent = stored(services)
    child, _ = services.datasets.edit(parent.id, Edit(("cat/0.png",)))
    grown, _ = services.datasets.edit(child.id, Edit(), upload(services, {"cat/n.png": picture(900)}))
    assert child.archives == parent.archives
    assert grown.archives[:1] == parent.archives
    assert len(zips(services)) == 2
    services.datasets.delete(parent.id)
    assert len(zips(services)) == 2
    assert services.datasets.get(child.id).parent == parent.id
    assert content(services, child.id)
    services.datasets.delete(child.id)
    assert content(services, grown.id)["cat/n.png"] == ("cat", picture(900))
    services.datasets.delete(grown.id)
    assert zips(services) == set()


def test_a_job_or_a_model_holds_its_own_data_set_alone(services: Services) -> None:
    parent = stored(services)
    child, _ = services.datasets.edit(parent.id, Edit(("cat/0.png",)))
    job, _ = services.start_job("sleep", {"steps": 1, "pause": 0}, dataset_id=child.id)
    services.datasets.delete(parent.id)
    with pytest.raises(ConflictError, match=job.id):
        services.datasets.delete(child.id)
    runner(services).run_next()
    with pytest.raises(ConflictError, match="model"):
        services.datasets.delete(child.id)
    assert content(services, child.id)


def test_an_edit_that_comes_to_known_pictures_answers_with_those(services: Services) -> None:
    parent = stored(services)
    child, _ = services.datasets.edit(parent.id, Edit(("cat/0.png",)))
    again, created = services.datasets.edit(parent.id, Edit(("cat/0.png",)))
    assert (again.id, again.created_at, created) == (child.id, child.created_at, False)
    back, created = services.datasets.edit(child.id, Edit(), upload(services, {"cat/0.png": FILES["cat/0.png"]}))
    assert (back.id, created) == (parent.id, False)
    assert zips(services) == set(parent.archives)
    same, created = services.datasets.edit(parent.id, Edit((), {"cat/1.png": "cat"}))
    assert (same.id, created) == (parent.id, False)


@pytest.mark.parametrize(
    ("edit", "files", "error"),
    [
        (Edit(("nothing.png",)), None, EditError),
        (Edit(), None, EditError),
        (Edit(tuple(path for path in FILES if "dog" in path)), None, DatasetError),
        (Edit(("nothing.png",)), {"cat/n.png": picture(900)}, EditError),
        (Edit(), {"../n.png": b"x"}, ArchiveError),
        (Edit(), {"cat/n.png": b"no picture"}, DatasetError),
    ],
)
def test_what_is_refused_leaves_nothing(
    services: Services, edit: Edit, files: dict[str, bytes] | None, error: type[Exception]
) -> None:
    parent = stored(services)
    before = sorted(path for path in services.store.root.rglob("*") if path.is_file())
    with pytest.raises(error):
        services.datasets.edit(parent.id, edit, upload(services, files) if files else None)
    assert sorted(path for path in services.store.root.rglob("*") if path.is_file()) == before


def test_an_edit_of_nothing_known_takes_the_upload_with_it(services: Services) -> None:
    part = upload(services, {"cat/n.png": picture(900)})
    with pytest.raises(NotFoundError):
        services.datasets.edit("0" * 64, Edit(), part)
    assert not part.exists()


def test_a_full_disk_leaves_the_parent_and_nothing_new(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = stored(services)
    real = services.store.put

    def full(key: str, *rest: object, **more: object) -> object:
        if key.endswith("manifest.json"):
            raise StoreFullError("full")
        return real(key, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(services.store, "put", full)
    with pytest.raises(StoreFullError):
        services.datasets.edit(parent.id, Edit(("cat/0.png",)), upload(services, {"cat/n.png": picture(900)}))
    monkeypatch.undo()
    assert zips(services) == set(parent.archives)
    assert [record.id for record in services.datasets.list().items] == [parent.id]
    assert content(services, parent.id)


def test_a_parent_that_goes_while_it_is_edited_is_noticed(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = stored(services)
    keep = services.datasets._keep_edited

    def gone(*args: object) -> object:
        services.datasets.delete(parent.id)
        return keep(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(services.datasets, "_keep_edited", gone)
    with pytest.raises(NotFoundError):
        services.datasets.edit(parent.id, Edit(("cat/0.png",)))

    other = stored(services)

    def replaced(*args: object) -> object:
        services.datasets.delete(other.id)
        stored(services, dict(reversed(FILES.items())))  # the same pictures, another zip
        return keep(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(services.datasets, "_keep_edited", replaced)
    with pytest.raises(ConflictError):
        services.datasets.edit(other.id, Edit(("cat/0.png",)))
    assert len(services.datasets.list().items) == 1


def test_zips_of_no_data_set_are_swept_and_an_unreadable_record_protects_them(services: Services) -> None:
    parent = stored(services)
    archives, part = Archives(services.store), upload(services, {"a/b.png": picture(1)})
    orphan = archives.ready(part)
    archives.put(orphan, part)
    services.store.put(f"datasets/{'0' * 64}/dataset.json", b"{")
    assert services.retention.sweep() == []
    services.store.delete(f"datasets/{'0' * 64}")
    assert [waste.id for waste in services.retention.sweep()] == [orphan]
    assert not services.store.exists(orphan)
    assert zips(services) == set(parent.archives)


def test_a_data_set_whose_zip_is_gone_says_so_when_it_is_read(services: Services) -> None:
    parent = stored(services)
    services.store.put(f"datasets/{parent.id}/dataset.json", parent.model_copy(update={"archives": ()}).to_json())
    with pytest.raises(CorruptRecordError, match=parent.id):
        services.datasets.open(parent.id)


def test_many_edits_at_once_make_one_data_set(services: Services) -> None:
    parent = stored(services)
    created: list[bool] = []
    threads = [
        threading.Thread(
            target=lambda: created.append(
                services.datasets.edit(parent.id, Edit(("cat/0.png",)), upload(services, {"cat/n.png": picture(9)}))[1]
            )
        )
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(created) == [False] * 4 + [True]
    assert len(zips(services)) == 2


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["edit", "add", "delete"]), st.integers(0, 5), st.integers(0, 9)), max_size=12
    )
)
def test_whatever_is_edited_and_deleted_every_data_set_reads_and_no_zip_is_left_over(
    services: Services, steps: list[tuple[str, int, int]]
) -> None:
    alive: dict[str, dict[str, tuple[str, bytes]]] = {}

    def note(record: DatasetRecord) -> None:
        alive.setdefault(record.id, content(services, record.id))

    note(stored(services))
    for what, which, number in steps:
        if not alive:
            break
        chosen = sorted(alive)[which % len(alive)]
        if what == "delete":
            services.datasets.delete(chosen)
            del alive[chosen]
        elif what == "add":
            part = upload(services, {f"cat/{number}.png": picture(3000 + number)})
            note(services.datasets.edit(chosen, Edit(), part)[0])
        else:
            path = sorted(alive[chosen])[number % len(alive[chosen])]
            try:
                note(services.datasets.edit(chosen, Edit((path,)))[0])
            except DatasetError:
                continue  # it was the last of its class
        for dataset_id, pictures in alive.items():
            assert content(services, dataset_id) == pictures
        assert zips(services) == {key for one in alive for key in services.datasets.get(one).archives}
    for dataset_id in alive:
        services.datasets.delete(dataset_id)
    assert zips(services) == set()
