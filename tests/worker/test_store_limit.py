"""What the store may hold: counted by every process together, right after deletions, deaths and restarts."""

from __future__ import annotations

import hashlib
import multiprocessing
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npt_core.errors import NPTError
from tests.support.in_process import runner
from tests.support.zips import classes, write_zip
from worker.errors import StoreFullError
from worker.feedback import FeedbackItem
from worker.labelled import grow
from worker.records import JobStatus, utcnow
from worker.service import Services
from worker.store.limit import SMALL_BYTES, Limit
from worker.store.local import LocalStore
from worker.usage import measure_counted

BIG = SMALL_BYTES + 1


def used(store: LocalStore) -> int:
    """What is counted now."""
    with store.limit._numbers() as numbers:
        return numbers[0]


def agrees(store: LocalStore) -> bool:
    return used(store) == measure_counted(store.root)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "data", max_bytes=10 * BIG)


def test_every_way_in_and_out_is_counted(store: LocalStore) -> None:
    store.put("jobs/one/job.json", b"1" * 100)
    store.put("jobs/one/job.json", b"2" * 50)  # replaced
    assert not store.put("jobs/one/job.json", b"3" * 70, create_only=True)
    part = store.part()
    part.write_bytes(b"4" * BIG)
    store.claim(part)
    store.put_file("archives/a.zip", part)
    dropped = store.part()
    dropped.write_bytes(b"5" * 30)
    store.claim(dropped)
    store.discard(dropped)
    known = store.part()
    known.write_bytes(b"6" * 20)
    store.claim(known)
    assert not store.put_file("archives/a.zip", known, create_only=True)
    outside = store.root.parent / "outside"
    outside.write_bytes(b"7" * 10)
    store.put_file("models/m/x", outside)
    store.put("features/cache", b"8" * 10_000)  # has a limit of its own
    store.move("jobs/one", "jobs/two")
    assert used(store) == 50 + BIG + 10
    assert agrees(store)
    store.delete("archives/a.zip")
    store.delete("jobs/two")
    assert used(store) == 10
    assert agrees(store)


def test_what_does_not_fit_is_refused_with_what_to_do_and_records_are_not(store: LocalStore) -> None:
    for number in range(10):
        store.put(f"archives/{number}", b"a" * BIG)
    with pytest.raises(StoreFullError) as refused:
        store.put("archives/more", b"a" * BIG)
    for words in (f"{10 * BIG:,} bytes of the {10 * BIG:,}", f"{BIG:,} more", "Delete", "gc --dry-run"):
        assert words in refused.value.message
    assert not store.exists("archives/more")
    with pytest.raises(StoreFullError):
        store.limit.ensure()
    store.put("jobs/one/end.json", b"{}")
    assert agrees(store)
    store.delete("archives/0")
    store.put("archives/more", b"a" * (BIG - 2))


def test_a_death_is_set_right_by_measuring(store: LocalStore) -> None:
    store.put("archives/a", b"a" * BIG)
    store.limit.take(3 * BIG)  # and the process dies before it writes
    store.path("jobs").mkdir()
    (store.path("jobs") / "by-path").write_bytes(b"b" * 10)
    store.limit.recounted(lambda: measure_counted(store.root))
    assert used(store) == BIG + 10


def test_what_is_written_while_it_is_measured_is_not_forgotten(store: LocalStore) -> None:
    store.put("archives/a", b"a" * BIG)

    def measure() -> int:
        found = measure_counted(store.root)
        store.put("archives/b", b"b" * BIG)
        return found

    store.limit.recounted(measure)
    assert agrees(store)


def test_the_count_outlives_a_process_and_is_made_again_where_it_is_lost(store: LocalStore) -> None:
    store.put("archives/a", b"a" * BIG)
    again = LocalStore(store.root, max_bytes=10 * BIG)
    assert used(again) == BIG
    (store.root / "run" / "used").write_bytes(b"half")
    assert used(again) == BIG


def _take(path: Path, times: int, queue: multiprocessing.Queue[int]) -> None:
    limit, taken = Limit(path, 1000, lambda: 0), 0
    for _ in range(times):
        try:
            limit.take(7)
            taken += 7
        except StoreFullError:
            continue
    queue.put(taken)


def test_processes_together_take_no_more_than_there_is(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[int] = context.Queue()
    workers = [context.Process(target=_take, args=(tmp_path / "used", 100, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    total = sum(queue.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(60)
    assert total == 1000 // 7 * 7


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3 * BIG), st.booleans()), max_size=12))
@settings(max_examples=30, deadline=None)
def test_never_more_than_the_limit_and_the_small_ones(steps: list[tuple[str, int, bool]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store, small = LocalStore(Path(folder), max_bytes=5 * BIG), 0
        for name, size, keep in steps:
            if not keep:
                store.delete(f"archives/{name}")
                continue
            small += size if size <= SMALL_BYTES else 0
            try:
                store.put(f"archives/{name}", b"x" * size)
            except StoreFullError:
                assert size > SMALL_BYTES
            assert agrees(store)
            assert measure_counted(store.root) <= 5 * BIG + small


class TestTheFloor:
    def test_jobs_are_refused_and_audits_are_not(self, open_floor: Callable[..., Services]) -> None:
        record = open_floor().datasets.add(write_zip(open_floor().store.part(), classes("a", "b")))[0]
        full = open_floor(max_store_bytes=1)
        with pytest.raises(StoreFullError, match="NPT_MAX_STORE_BYTES"):
            full.start_job("sleep", {}, idempotency_key="k", fingerprint="f")
        assert full.store.names("jobs") == full.store.names("idempotency") == []
        assert full.start_audit(record.id)

    def test_a_result_that_does_not_fit_fails_the_job_and_leaves_nothing(
        self, open_floor: Callable[..., Services]
    ) -> None:
        services = open_floor(max_store_bytes=100_000)
        job = services.start_job("sleep", {"steps": 1, "pause": 0})[0].id
        services.store.put("archives/full", b"x" * (100_000 - used(services.store) - 1))
        runner(services).run_next()
        record = services.jobs.get(job)
        assert record.status is JobStatus.FAILED
        assert record.error
        assert record.error.type == "store-full"
        assert "NPT_MAX_STORE_BYTES" in record.error.detail
        assert services.models.list().items == []
        assert {path.name for path in services.store.path(f"jobs/{job}").rglob("*")} == {
            "job.json", "attempts", "0001.json", "end.json"
        }  # fmt: skip

    def test_data_sets_count_once_and_no_more_when_they_are_deleted(self, open_floor: Callable[..., Services]) -> None:
        services = open_floor(max_store_bytes=10_000_000)
        services.usage.refresh()  # as every API process does when it starts
        part = write_zip(services.store.part(), classes("a", "b"))
        services.store.claim(part)
        record, _ = services.datasets.add(part)
        assert agrees(services.store)
        again = write_zip(services.store.part(), classes("a", "b"))
        services.store.claim(again)
        services.datasets.add(again)
        assert agrees(services.store)
        job = services.start_job("sleep", {"steps": 1, "pause": 0}, dataset_id=record.id)[0].id
        runner(services).run_next()
        services.catalogue.delete(services.jobs.get(job).model_id or "")
        services.datasets.delete(record.id)
        services.jobs.remove(job)
        services.usage.refresh()
        assert agrees(services.store)
        assert measure_counted(services.store.root) < 200

    def test_what_is_refused_before_it_was_counted_is_not_taken_off(self, open_floor: Callable[..., Services]) -> None:
        services = open_floor(max_store_bytes=1_000_000)
        services.store.put("archives/there", b"a" * BIG)
        part = services.store.part()
        with zipfile.ZipFile(part, "w") as archive:  # begins like a model, and then is none
            archive.writestr("manifest.json", b" " * 100_000)
            archive.writestr("bundle.json", b" " * 100_000)
        services.store.claim(part)
        with pytest.raises(NPTError), services.exchange.unpacked(part):
            pass
        services.store.discard(part)
        assert agrees(services.store)

        archive_part = write_zip(services.store.part(), classes("a", "b"))
        services.store.claim(archive_part)
        dataset, _ = services.datasets.add(archive_part)
        room = 1_000_000 - used(services.store)
        services.store.put("archives/more", b"a" * (room - BIG))

        def items() -> Iterator[tuple[FeedbackItem, bytes]]:
            for number in range(2):  # the first fits, both together do not
                picture = bytes([number]) * (BIG - 1000)
                digest = hashlib.sha256(picture).hexdigest()
                yield (
                    FeedbackItem(
                        id="i", sha256=digest, created_at=utcnow(), filename="", answer=(), label="a", size=len(picture)
                    ),
                    picture,
                )

        with pytest.raises(StoreFullError):
            grow(services.datasets, services.store, dataset.id, items())
        assert agrees(services.store)
