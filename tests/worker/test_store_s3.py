"""What is true of a bucket alone: large objects, broken lines, damage, locks of the dead, and what is said at start."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from npt_core.errors import ConfigError
from tests.support.certificates import certificates
from tests.support.s3_server import S3Server, running_s3
from worker.errors import ConflictError, CorruptRecordError, NotFoundError
from worker.store.s3 import cache as caching
from worker.store.s3 import multipart
from worker.store.s3.bucket import Bucket
from worker.store.s3.cache import ReadCache
from worker.store.s3.connecting import connect
from worker.store.s3.probe import check
from worker.store.s3.store import S3Store

Machine = Callable[..., S3Store]
IN_THE_ANSWER = 60
"""Bytes: behind one or two `100 Continue`, said before anything was read, and within what is said then."""
PART = 5 * 1024**2
"""The least that the protocol takes for a part that is not the last."""


@pytest.fixture
def bucket(s3_server: S3Server) -> Bucket:
    return s3_server.bucket()


@pytest.fixture
def machine(bucket: Bucket, tmp_path: Path) -> Machine:
    """Opens the bucket on another machine each time."""
    count = iter(range(100))

    def open_one(through: Bucket | None = None, **more: object) -> S3Store:
        return S3Store(through or bucket, tmp_path / f"machine-{next(count)}", **{"cache_bytes": 1 << 30, **more})

    return open_one


def large(tmp_path: Path, size: int = 2 * PART + 12345) -> tuple[Path, str]:
    """A file that goes in three parts, and its SHA-256."""
    path = tmp_path / "large"
    path.write_bytes(os.urandom(size))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "PART_BYTES", PART)


class TestLarge:
    def test_a_file_goes_in_parts_and_comes_back(self, bucket: Bucket, machine: Machine, tmp_path: Path) -> None:
        path, sha256 = large(tmp_path)
        store = machine()
        assert store.put_file("archives/a.zip", path)
        assert not path.exists()
        head = bucket.head("archives/a.zip")
        assert head is not None
        assert head.etag.rstrip('"').endswith("-3")  # the protocol's mark of three parts
        assert head.sha256 == sha256
        other = machine()
        assert other.digest("archives/a.zip") == sha256
        assert hashlib.sha256(other.fetch("archives/a.zip").read_bytes()).hexdigest() == sha256
        assert list(bucket.unfinished()) == []

    def test_one_of_the_size_of_a_part_goes_whole(self, bucket: Bucket, tmp_path: Path) -> None:
        path, _ = large(tmp_path, PART)
        bucket.put_file("archives/a.zip", path)
        head = bucket.head("archives/a.zip")
        assert head is not None
        assert "-" not in head.etag

    def test_it_is_copied_in_parts(
        self, bucket: Bucket, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(multipart, "COPY_BYTES", PART)
        path, sha256 = large(tmp_path)
        store = machine()
        store.put_file("uploads/x/input.zip", path)
        assert store.move("uploads/x", "jobs/x")
        assert machine().digest("jobs/x/input.zip") == sha256
        assert machine().fetch("jobs/x/input.zip").stat().st_size == 2 * PART + 12345

    def test_what_is_broken_off_is_paid_for_no_longer(
        self, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, _ = large(tmp_path)
        real = bucket.patient.upload_part

        def second_fails(**asked: object) -> object:
            if asked["PartNumber"] == 2:
                raise KeyboardInterrupt
            return real(**asked)

        monkeypatch.setattr(bucket.patient, "upload_part", second_fails)
        with pytest.raises(KeyboardInterrupt):
            bucket.put_file("archives/a.zip", path)
        assert list(bucket.unfinished()) == []
        assert bucket.head("archives/a.zip") is None

    def test_one_that_a_dead_process_left_is_swept(self, bucket: Bucket, machine: Machine) -> None:
        place = {"Bucket": bucket.name, "Key": "store/archives/a.zip"}
        bucket.client.create_multipart_upload(**place)
        store = machine()
        assert [place.split(" ")[-1] for place, _ in store.stale(-60)] == ["archives/a.zip"]
        assert store.sweep(-60) == 1
        assert list(bucket.unfinished()) == []


@pytest.mark.parametrize(("size", "again"), [(100, True), (200_000, False), (PART + 1, False)])
def test_what_was_just_touched_is_not_sent_again(bucket: Bucket, machine: Machine, size: int, again: bool) -> None:
    """Its bytes would go over the line at every use, and into a version each where the bucket keeps those."""
    store, sent = machine(), list[str]()
    bucket.put("datasets/d/x", bytes(size))
    for client in (bucket.client, bucket.patient):
        client.meta.events.register("before-call.s3", lambda model, **_: sent.append(model.name))
    assert store.touch("datasets/d/x")
    assert bool({"PutObject", "CopyObject"} & set(sent)) is again


class TestDamage:
    @pytest.fixture
    def damaged(self, bucket: Bucket) -> str:
        """An object whose bytes were changed behind everybody's back."""
        bucket.put("archives/a.zip", b"what was written")
        head = bucket.head("archives/a.zip")
        assert head is not None
        place = {"Bucket": bucket.name, "Key": "store/archives/a.zip"}
        bucket.client.put_object(**place, Body=b"what was WRITTEN", Metadata=dict(head.metadata))
        return "archives/a.zip"

    def test_it_is_never_read(self, machine: Machine, damaged: str) -> None:
        store = machine()
        for call in (store.get, store.fetch, store.open):
            with pytest.raises(CorruptRecordError, match="not what was written"):
                call(damaged)
        assert list((store.root / "cache").glob("*")) == []

    def test_it_can_be_told_by_its_digest(self, machine: Machine, damaged: str) -> None:
        assert machine().digest(damaged) == hashlib.sha256(b"what was WRITTEN").hexdigest()

    def test_what_another_program_wrote_can_be_read(self, bucket: Bucket, machine: Machine) -> None:
        """A bucket that was restored by a tool that keeps no metadata."""
        bucket.client.put_object(Bucket=bucket.name, Key="store/jobs/x/job.json", Body=b"{}")
        assert machine().get("jobs/x/job.json") == b"{}"
        assert machine().fetch("jobs/x/job.json").read_bytes() == b"{}"

    def test_names_of_others_lead_to_no_path(self, bucket: Bucket, machine: Machine) -> None:
        """Who may write to the bucket must not be able to write to the disks of all that read from it."""
        place = {"Bucket": bucket.name, "Body": b"evil"}
        bucket.put("models/m/model.json", b"{}")
        bucket.client.put_object(**place, Key="store/models/m/../../../evil")
        bucket.client.put_object(**place, Key="store/archives/a.zip", Metadata={"sha256": "../../evil"})
        store = machine()
        assert [path.name for path in store.fetch("models/m").iterdir()] == ["model.json"]
        assert store.fetch("archives/a.zip").parent == store.root / "cache"
        assert not list(store.root.parent.rglob("evil*"))


class TestCache:
    def test_what_could_not_be_made_leaves_nothing(self, tmp_path: Path) -> None:
        cache = ReadCache(tmp_path, 1000)

        def fail(path: Path) -> None:
            path.write_bytes(b"half")
            raise OSError("the line broke")

        with pytest.raises(OSError, match="broke"):
            cache.get("entry", fail)
        assert list(tmp_path.iterdir()) == []
        assert cache._making == {}

    def test_what_was_read_once_is_not_sent_again(
        self, bucket: Bucket, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bucket.put("archives/a.zip", b"zip")
        store = machine()
        first = store.fetch("archives/a.zip")
        monkeypatch.setattr(bucket.client, "get_object", None)
        assert store.fetch("archives/a.zip") == first
        bucket.put("archives/a.zip", b"other")
        with pytest.raises(TypeError):
            store.fetch("archives/a.zip")

    def test_what_is_deleted_is_not_there_although_it_is_kept(self, machine: Machine, bucket: Bucket) -> None:
        store, other = machine(), machine()
        store.put("models/m/model.json", b"{}")
        store.put("archives/a.zip", b"zip")
        paths = [store.fetch("models/m"), store.fetch("archives/a.zip")]
        other.delete("models/m")
        other.delete("archives/a.zip")
        for key in ("models/m", "archives/a.zip"):
            with pytest.raises(NotFoundError):
                store.fetch(key)
        assert all(path.exists() for path in paths)  # whoever has the path goes on

    def test_what_is_deleted_here_is_kept_here_no_longer(self, machine: Machine) -> None:
        store = machine()
        store.put("models/m/model.json", b"{}")
        store.put("models/m/deep/tensors", b"1")
        store.put("models/n/model.json", b"{}")
        for key in ("models/m", "models/m/model.json", "models/m/deep"):
            store.fetch(key)
        with store.edit("feedback/m/items") as path:
            path.write_bytes(b"1")
        with store.edit("feedback/m/items") as path:
            path.write_bytes(b"2")
        other = store.fetch("models/n")
        store.delete("models/m")
        store.delete("feedback/m")
        assert list((store.root / "cache").iterdir()) == [other]
        assert list((store.root / "work").iterdir()) == []

    def test_what_is_deleted_elsewhere_is_kept_for_a_day(self, machine: Machine) -> None:
        store, other = machine(), machine()
        store.put("models/m/model.json", b"{}")
        kept = store.fetch("models/m/model.json")
        other.delete("models/m")
        store.measure()
        assert kept.exists()
        os.utime(kept, (time.time() - caching.KEPT_S - 60,) * 2)
        store.measure()
        assert not kept.exists()

    def test_the_least_used_goes_where_there_is_no_room(
        self, bucket: Bucket, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = machine(cache_bytes=250)
        for name in "abc":
            bucket.put(f"archives/{name}.zip", name.encode() * 100)
        a, b = store.fetch("archives/a.zip"), store.fetch("archives/b.zip")
        c = store.fetch("archives/c.zip")
        assert a.exists()
        assert b.exists()  # used just now: more than there is room for
        for age, path in ((3000, a), (5000, b), (4000, c)):
            os.utime(path, (time.time() - age, time.time() - age))
        store.fetch("archives/a.zip")  # a use
        bucket.put("archives/d.zip", b"d" * 100)
        store.fetch("archives/d.zip")
        assert (a.exists(), b.exists(), c.exists()) == (True, False, False)

    def test_two_threads_read_it_once(self, bucket: Bucket, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        bucket.put("archives/a.zip", b"zip")
        store, asked, real = machine(), list[int](), bucket.client.get_object

        def counted(**wish: object) -> object:
            asked.append(1)
            return real(**wish)

        monkeypatch.setattr(bucket.client, "get_object", counted)
        threads = [threading.Thread(target=store.fetch, args=("archives/a.zip",)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(asked) == 1

    def test_drafts_of_the_dead_go(self, bucket: Bucket, machine: Machine) -> None:
        store = machine()
        folder = store.root / "cache"
        folder.mkdir(parents=True)
        for name, age in (("old", 2 * caching.DRAFT_KEPT_S), ("young", 10)):
            path = folder / f"{caching.DRAFT}{name}"
            path.write_bytes(b"")
            os.utime(path, (time.time() - age, time.time() - age))
        bucket.put("archives/a.zip", b"zip")
        store.fetch("archives/a.zip")
        assert [path.name for path in folder.glob(f"{caching.DRAFT}*")] == [f"{caching.DRAFT}young"]


class TestLocks:
    def test_that_of_a_dead_holder_is_taken(self, bucket: Bucket, machine: Machine) -> None:
        store = machine(lock_ttl_s=0.5)
        bucket.put("locks/models", b'{"held": "by somebody who died"}')
        with structlog.testing.capture_logs() as logs, store.lock("models"), machine().try_lock("models") as held:
            assert not held
        assert [entry["event"] for entry in logs] == ["lock taken from a holder that is silent"]

    def test_that_of_a_living_holder_is_not(self, machine: Machine) -> None:
        holder, other = machine(lock_ttl_s=1.0), machine(lock_ttl_s=1.0)
        with holder.lock("models"):
            deadline = time.monotonic() + 3  # three times the silence that a dead one is allowed
            while time.monotonic() < deadline:
                with other.try_lock("models") as held:
                    assert not held
        with other.try_lock("models") as held:
            assert held

    def test_a_holder_that_lost_it_says_so_and_takes_it_from_nobody(self, bucket: Bucket, machine: Machine) -> None:
        store, other = machine(), machine()
        with structlog.testing.capture_logs() as logs:
            with store.lock("models"):
                bucket.put("locks/models", b"{}")  # as if it had been silent, and another one had come and gone
                etag = bucket.put("locks/models", b'{"held": "another"}')
            with other.try_lock("models") as held:
                assert not held
        assert [entry["event"] for entry in logs] == ["lock was lost while it was held"]
        head = bucket.head("locks/models")
        assert head is not None
        assert head.etag == etag


class TestMoves:
    def test_one_that_was_cut_off_is_seen_by_nobody_and_can_be_done_again(
        self, bucket: Bucket, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = machine()
        for name in ("manifest.json", "model.json", "tensors"):
            store.put(f"jobs/x/attempts/0001/{name}", name.encode())
        with monkeypatch.context() as patch:
            patch.setattr(bucket, "put", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                store.move("jobs/x/attempts/0001", "models/m", last="model.json")
        assert not store.exists("models/m/model.json")
        assert machine().move("jobs/x/attempts/0001", "models/m", last="model.json")
        assert store.names("models/m") == ["manifest.json", "model.json", "tensors"]
        assert not store.exists("jobs/x/attempts/0001")

    def test_a_deletion_that_is_cut_off_has_hidden_it(
        self, bucket: Bucket, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, real = machine(), bucket.delete
        for name in ("manifest.json", "model.json", "tensors"):
            store.put(f"models/m/{name}", b"1")

        def once(keys: list[str]) -> None:
            real(keys)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(bucket, "delete", once)
            with pytest.raises(KeyboardInterrupt):
                store.delete("models/m")
        assert store.names("models/m") == ["tensors"]

    def test_results_whose_move_was_cut_off_are_moved_in_the_end(self, bucket: Bucket, machine: Machine) -> None:
        store = machine()
        for name in ("a.csv", "b.jsonl"):
            store.put(f"jobs/x/attempts/0001/results/{name}", name.encode())
        store.put("jobs/x/results/a.csv", b"a.csv")  # by somebody who died then
        assert store.move("jobs/x/attempts/0001/results", "jobs/x/results")
        assert store.names("jobs/x/results") == ["a.csv", "b.jsonl"]


class TestEditing:
    KEY = "feedback/m/items.sqlite3"

    def test_what_was_deleted_meanwhile_does_not_come_back(self, machine: Machine) -> None:
        store, other = machine(), machine()
        with store.edit(self.KEY) as path:
            path.write_bytes(b"a picture")

        def add() -> None:
            with store.edit(self.KEY) as path:
                assert path.read_bytes() == b"a picture"
                path.write_bytes(b"a picture and another")
                other.delete("feedback/m")

        with pytest.raises(ConflictError):
            add()
        assert not store.exists(self.KEY)
        with store.edit(self.KEY) as path:
            assert not path.exists()

    def test_what_was_changed_and_not_sent_is_seen_by_nobody(self, machine: Machine) -> None:
        store = machine()
        with store.edit(self.KEY) as path:
            path.write_bytes(b"1")
        editing = store.edit(self.KEY)
        draft = editing.__enter__()
        draft.write_bytes(b"2")  # and the process dies here: nothing of it is cleared up
        fresh = S3Store(store.bucket, store.root, cache_bytes=1 << 30)
        with fresh.edit(self.KEY, write=False) as path:
            assert path != draft
            assert path.read_bytes() == b"1"
        assert not editing.__exit__(RuntimeError, RuntimeError(), None)

    @pytest.mark.parametrize("process", ["same", "another"])
    def test_who_reads_while_it_is_written_sees_the_old_and_spoils_nothing(
        self, machine: Machine, process: str
    ) -> None:
        store = machine()
        # Another process of the machine: another object on the same folder, which shares no lock of threads.
        reader = store if process == "same" else S3Store(store.bucket, store.root, cache_bytes=1 << 30)
        with store.edit(self.KEY) as path:
            path.write_bytes(b"1")
        seen = list[bytes]()

        def read() -> None:
            with reader.edit(self.KEY, write=False) as path:
                seen.append(path.read_bytes())

        def read_at_once() -> None:
            threads = [threading.Thread(target=read) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)

        with store.edit(self.KEY) as path:
            read_at_once()
            path.write_bytes(b"2")
            read_at_once()
        assert seen == [b"1"] * 8
        read()
        assert seen[-1] == b"2"
        with machine().edit(self.KEY, write=False) as path:
            assert path.read_bytes() == b"2"
        assert list((store.root / "work").glob("*")) == []

    def test_who_reads_keeps_what_it_reads(self, machine: Machine) -> None:
        """Whatever is written, removed from the cache or swept meanwhile."""
        store = machine()
        with store.edit(self.KEY) as path:
            path.write_bytes(b"1")
        with store.edit(self.KEY, write=False) as path:
            with store.edit(self.KEY) as draft:
                draft.write_bytes(b"2")
            store.delete("feedback/m")
            for entry in (store.root / "cache").iterdir():
                entry.unlink()
            store.sweep(-60)
            assert path.read_bytes() == b"1"

    def test_what_came_between_question_and_answer_is_not_taken_for_the_older(
        self, bucket: Bucket, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, other = machine(), machine()
        with other.edit(self.KEY) as path:
            path.write_bytes(b"1")
        real, times = store.bucket.read, list[int]()

        def late(*asked: Any, **more: Any) -> object:
            times.append(1)
            if len(times) == 1:
                bucket.put(self.KEY, b"2")
            return real(*asked, **more)

        with monkeypatch.context() as patch:
            patch.setattr(store.bucket, "read", late)
            with store.edit(self.KEY, write=False) as path:
                assert path.read_bytes() == b"2"
        bucket.put(self.KEY, b"1")
        with store.edit(self.KEY, write=False) as path:
            assert path.read_bytes() == b"1"

    def test_a_version_that_is_the_newest_is_not_sent_again(
        self, bucket: Bucket, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = machine()
        with store.edit(self.KEY) as path:
            path.write_bytes(b"1")
        with monkeypatch.context() as patch:
            patch.setattr(bucket, "read", None)
            for write in (False, True):
                with store.edit(self.KEY, write=write) as path:
                    assert path.read_bytes() == b"1"

    def test_what_a_dead_process_left_is_swept(self, machine: Machine) -> None:
        store = machine()
        left = store.root / "work" / "edit-0123"
        left.mkdir(parents=True)
        (left / "items.sqlite3").write_bytes(b"1")
        assert store.sweep(-60) == 0  # it may be in use
        os.utime(left, (time.time() - 4000, time.time() - 4000))
        assert store.sweep(-60) == 1
        assert not left.exists()

    def test_what_is_not_changed_is_not_sent(self, bucket: Bucket, machine: Machine) -> None:
        store = machine()
        with store.edit(self.KEY) as path:
            path.write_bytes(b"1")
        before = bucket.head(self.KEY)
        with store.edit(self.KEY):
            pass
        after = bucket.head(self.KEY)
        assert before is not None
        assert after is not None
        assert before.etag == after.etag
        assert before.metadata == after.metadata


class TestWhatIsSaidAtStart:
    def test_a_good_bucket_is_left_as_it_was(self, bucket: Bucket) -> None:
        check(bucket)
        assert list(bucket.list("")) == []

    def test_there_is_no_such_bucket(self, s3_server: S3Server) -> None:
        with pytest.raises(ConfigError, match=r"There is no bucket 'npt-nowhere' at https?://.*NPT_STORE_URL"):
            check(connect("npt-nowhere", "", s3_server.url))

    def test_the_credentials_are_wrong(self) -> None:
        with running_s3(strict=True) as server:
            bucket = server.bucket()
            with pytest.raises(ConfigError, match=r"refuses the credentials \(403\).*AWS_ACCESS_KEY_ID") as refused:
                check(bucket)
        assert "very-secret" not in refused.value.message
        assert "testing" not in refused.value.message

    def test_there_are_no_credentials(
        self, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        name = s3_server.make_bucket()
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(variable)
        for variable in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            monkeypatch.setenv(variable, str(tmp_path / "none"))
        with pytest.raises(ConfigError, match="no credentials.*AWS_ACCESS_KEY_ID"):
            check(connect(name, "", s3_server.url))

    def test_nobody_answers(self) -> None:
        with running_s3() as server:
            bucket = server.bucket()
        with pytest.raises(ConfigError, match=r"cannot be reached at http://127.*NPT_S3_ENDPOINT"):
            check(bucket, wait_s=0)

    def test_over_https_the_ca_must_be_known(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ca, cert, key = certificates(tmp_path / "tls")
        with running_s3(f"--tls={cert},{key}") as server:
            monkeypatch.setenv("AWS_CA_BUNDLE", str(ca))
            name = server.make_bucket()
            check(connect(name, "", server.url))
            monkeypatch.delenv("AWS_CA_BUNDLE")
            with pytest.raises(ConfigError, match="cannot be reached at https.*AWS_CA_BUNDLE"):
                check(connect(name, "", server.url), wait_s=0)

    def test_conditions_are_ignored(self) -> None:
        said = "ignores conditional writes.*versioning"
        with running_s3("--no-conditions") as server, pytest.raises(ConfigError, match=said):
            check(server.bucket())
