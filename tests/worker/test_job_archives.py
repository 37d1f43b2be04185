"""Jobs that bring an archive of their own, and the parts that a long result is made of."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.in_process import runner
from worker.errors import NotFoundError
from worker.parts import Parts
from worker.records import JobStatus
from worker.service import Services
from worker.store.local import LocalStore


class TestAnArchiveOfItsOwn:
    """A job can bring an archive that nothing else needs."""

    @pytest.fixture
    def part(self, services: Services) -> Path:
        path = services.store.part()
        path.write_bytes(b"a zip")
        return path

    def test_comes_with_the_job_and_goes_when_it_has_ended(self, services: Services, part: Path) -> None:
        job, _ = services.start_job("sleep", {"steps": 1, "pause": 0}, archive=part)
        assert services.jobs.files.input(job.id).read_bytes() == b"a zip"
        assert list((services.settings.data_dir / "uploads").iterdir()) == []
        runner(services).run_next()
        assert services.jobs.get(job.id).status is JobStatus.SUCCEEDED
        with pytest.raises(NotFoundError, match="not there any more"):
            services.jobs.files.input(job.id)

    def test_goes_with_a_job_that_is_cancelled_while_it_waits(self, services: Services, part: Path) -> None:
        job, _ = services.start_job("sleep", {}, archive=part)
        services.cancel_job(job.id)
        assert not (services.store.path(f"jobs/{job.id}") / "input.zip").exists()

    def test_stays_with_the_sender_where_the_job_is_known(self, services: Services, part: Path) -> None:
        same = {"idempotency_key": "k", "fingerprint": "f"}
        job, created = services.start_job("sleep", {}, archive=part, **same)
        second = services.store.part()
        second.write_bytes(b"a zip")
        again, replayed = services.start_job("sleep", {}, archive=second, **same)
        assert (again.id, created, replayed) == (job.id, True, False)
        assert second.exists()

    def test_is_not_taken_by_a_job_that_is_refused(self, services: Services, part: Path) -> None:
        with pytest.raises(NotFoundError):
            services.start_job("sleep", {"models": ["model_" + "0" * 26]}, archive=part)
        assert part.exists()
        assert list(services.jobs.files.ids()) == []

    def test_a_death_between_archive_and_job_leaves_no_job(
        self, services: Services, part: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever is there then is swept like any unfinished upload."""
        store = services.store
        with monkeypatch.context() as patch:
            patch.setattr(type(store), "move", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            patch.setattr(type(store), "delete", lambda *_: False)
            patch.setattr(type(store), "abandon", lambda *_: None)
            with pytest.raises(KeyboardInterrupt):
                services.start_job("sleep", {}, archive=part)
        assert list(services.jobs.files.ids()) == []
        assert len(list((services.settings.data_dir / "uploads").iterdir())) == 1
        assert store.sweep(-1) == 1
        assert list((services.settings.data_dir / "uploads").iterdir()) == []


class TestParts:
    def test_the_next_begins_where_the_last_ends(self, services: Services) -> None:
        parts = Parts(services.store, "job_" + "0" * 26)
        assert (parts.done(), list(parts)) == (0, [])
        parts.add(0, 4, b"a")
        parts.add(8, 9, b"c")  # there is a gap before it
        assert [path.read_bytes() for path in parts] == [b"a"]
        parts.add(4, 8, b"b")
        assert parts.done() == 9
        assert b"".join(path.read_bytes() for path in parts) == b"abc"

    def test_an_attempt_that_cuts_elsewhere_and_comes_late_loses_nothing(self, services: Services) -> None:
        parts = Parts(services.store, "job_" + "0" * 26)
        parts.add(0, 4, b"abcd")
        parts.add(4, 8, b"efgh")
        parts.add(0, 3, b"abc")  # by a worker on another device that has lost its lease
        assert parts.done() == 8
        assert b"".join(path.read_bytes() for path in parts) == b"abcdefgh"

    def test_the_first_stays(self, services: Services) -> None:
        parts = Parts(services.store, "job_" + "0" * 26)
        parts.add(0, 4, b"first")
        parts.add(0, 4, b"late")
        assert [path.read_bytes() for path in parts] == [b"first"]

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=30))
    def test_whatever_is_there_no_part_is_counted_twice(self, spans: list[tuple[int, int]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            parts = Parts(LocalStore(Path(folder)), "job_" + "0" * 26)
            for start, end in spans:
                parts.add(start, end, f"{start}-{end}".encode())
            at = 0
            for path in parts:
                start, end = map(int, path.read_bytes().split(b"-"))
                assert start == at < end
                at = end
            assert at == parts.done()
