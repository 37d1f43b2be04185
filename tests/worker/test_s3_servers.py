"""Servers differ: what another than AWS was seen to do is told to the server of the tests, and nothing comes of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.s3_server import S3Server, running_s3
from worker.errors import CorruptRecordError
from worker.store.base import StoreUnavailable
from worker.store.s3 import multipart, writing
from worker.store.s3.bucket import Bucket
from worker.store.s3.connecting import connect
from worker.store.s3.objects import Head
from worker.store.s3.probe import check
from worker.store.s3.writing import TRIES, Writing

KEY = "feedback/m/items.sqlite3"
PART = 5 * 1024**2


@pytest.fixture(scope="module")
def ceph() -> Iterator[S3Server]:
    with running_s3("--as-ceph") as server:
        yield server


@pytest.fixture(params=["aws", "ceph"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    name = "ceph" if request.param == "ceph" else "s3_server"
    server: S3Server = request.getfixturevalue(name)
    return server.bucket()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "PART_BYTES", PART)


def head_of(bucket: Bucket, key: str) -> Head:
    head = bucket.head(key)
    assert head is not None
    return head


def said_by_server(status: int, code: str) -> ClientError:
    said: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(said, "PutObject")


def large(path: Path, seed: bytes) -> Path:
    path.write_bytes(seed * (2 * PART // len(seed) + 1))
    return path


def test_it_is_found_good(bucket: Bucket) -> None:
    check(bucket)
    assert list(bucket.list("")) == []


def test_only_the_version_that_was_seen_is_replaced(bucket: Bucket) -> None:
    first = bucket.put("locks/a", b"1")
    second = bucket.put("locks/a", b"2", match=first)
    assert second is not None
    assert bucket.put("locks/a", b"3", match=first) is None
    assert bucket.put("locks/a", b"4", match=second) is not None
    assert bucket.put("locks/b", b"5", match=second) is None  # there is none
    assert bucket.put("locks/a", b"6", create_only=True) is None
    assert bucket.get("locks/a") == b"4"


def test_how_an_etag_is_wanted_is_found_out_once(ceph: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = ceph.bucket()
    etag = bucket.put("locks/a", b"0")
    real, asked = bucket.client.put_object, list[str]()

    def put_object(**wish: Any) -> object:
        asked.append(wish["IfMatch"])
        return real(**wish)

    monkeypatch.setattr(bucket.client, "put_object", put_object)
    for number in range(3):
        etag = bucket.put("locks/a", b"%d" % number, match=etag)
        assert etag is not None
    assert [one.startswith('"') for one in asked] == [True, False, False, False]


def test_two_that_find_it_out_at_once_both_do() -> None:
    head, asked = Head("locks/a", 1, '"1"', datetime.now(UTC), {}), list[str]()

    def send(_: object, conditions: Mapping[str, str]) -> object:
        asked.append(conditions["IfMatch"])
        if len(asked) == 1:  # another thread comes in between
            assert writes.write("locks/a", "0" * 64, send, False, '"1"') == '"2"'
        if conditions["IfMatch"].startswith('"'):
            raise said_by_server(412, "PreconditionFailed")
        return {"ETag": '"2"'}

    writes = Writing(lambda _: head)
    assert writes.write("locks/a", "0" * 64, send, False, '"1"') == '"2"'
    assert asked == ['"1"', '"1"', "1", "1"]


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_file_is_under_the_condition_that_was_named(bucket: Bucket, tmp_path: Path, size: str) -> None:
    """Where it would have gone in parts, too: not every server judges conditions at their end."""
    paths = [large(tmp_path / name, name.encode()) for name in ("one", "two", "three")]
    if size == "small":
        for path in paths:
            path.write_bytes(path.name.encode())
    one, two, three = paths
    assert bucket.put_file(KEY, one, create_only=True)
    assert not bucket.put_file(KEY, two, create_only=True)
    seen = head_of(bucket, KEY).etag
    assert bucket.put_file(KEY, two, match=seen)
    assert not bucket.put_file(KEY, three, match=seen)
    assert head_of(bucket, KEY).sha256 == hashlib.sha256(two.read_bytes()).hexdigest()
    read = hashlib.sha256()
    bucket.read(KEY, read.update, lambda: None)
    assert read.hexdigest() == head_of(bucket, KEY).sha256
    assert list(bucket.unfinished()) == []
    bucket.delete([KEY])
    assert not bucket.put_file(KEY, three, match=seen)
    assert bucket.head(KEY) is None


def test_one_under_no_condition_goes_in_parts(bucket: Bucket, tmp_path: Path) -> None:
    assert bucket.put_file("archives/a.zip", large(tmp_path / "one", b"one"))
    assert head_of(bucket, "archives/a.zip").etag.endswith('-3"')


class TestTouch:
    def test_what_came_meanwhile_stays_what_it_is(self, bucket: Bucket) -> None:
        bucket.put("datasets/d/dataset.json", b"1")
        seen = head_of(bucket, "datasets/d/dataset.json")
        bucket.put("datasets/d/dataset.json", b"2")
        assert bucket.touch(seen)
        assert bucket.get("datasets/d/dataset.json") == b"2"  # and not said to be damaged

    def test_what_came_while_it_was_sent_stays(self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        bucket.put("datasets/d/dataset.json", b"1")
        real, late = bucket.client.put_object, [b"2"]

        def put_object(**wish: Any) -> object:
            if late:
                bucket.put("datasets/d/dataset.json", late.pop())
            return real(**wish)

        monkeypatch.setattr(bucket.client, "put_object", put_object)
        assert bucket.touch(head_of(bucket, "datasets/d/dataset.json"))
        assert bucket.get("datasets/d/dataset.json") == b"2"

    def test_what_was_deleted_meanwhile_does_not_come_back(
        self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bucket.put("datasets/d/dataset.json", b"1")
        seen = head_of(bucket, "datasets/d/dataset.json")
        real = bucket.client.put_object

        def put_object(**wish: Any) -> object:
            bucket.delete(["datasets/d/dataset.json"])
            return real(**wish)

        with monkeypatch.context() as patch:
            patch.setattr(bucket.client, "put_object", put_object)
            assert not bucket.touch(seen)
        assert bucket.head("datasets/d/dataset.json") is None
        assert not bucket.touch(seen)

    def test_metadata_stay(self, bucket: Bucket) -> None:
        """The writer knows its own by them, and damage is known by them."""
        bucket.put("datasets/d/dataset.json", b"1")
        before = head_of(bucket, "datasets/d/dataset.json")
        assert bucket.touch(before)
        assert head_of(bucket, "datasets/d/dataset.json").metadata == before.metadata
        place = {"Bucket": bucket.name, "Key": "store/datasets/d/dataset.json"}
        bucket.client.put_object(**place, Body=b"3", Metadata=dict(before.metadata))
        assert bucket.touch(before)
        with pytest.raises(CorruptRecordError):
            bucket.get("datasets/d/dataset.json")


class TestRaces:
    """Ceph answers 500 UnknownError to who came too late, and the client library may have no tries left."""

    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(writing.random, "uniform", lambda *_: 0)

    @pytest.mark.parametrize(("status", "code"), [(500, "UnknownError"), (409, "ConditionalRequestConflict")])
    def test_it_is_judged_again(self, status: int, code: str) -> None:
        answers = [said_by_server(status, code), said_by_server(412, "PreconditionFailed")]

        def send(*_: object) -> object:
            raise answers.pop(0)

        assert Writing(lambda _: None).write("locks/a", "0" * 64, send, False, '"1"') is None
        assert answers == []

    def test_not_for_ever(self) -> None:
        sent = list[int]()

        def send(*_: object) -> object:
            sent.append(1)
            raise said_by_server(500, "UnknownError")

        with pytest.raises(StoreUnavailable, match="again and again"):
            Writing(lambda _: None).write("locks/a", "0" * 64, send, True, None)
        assert len(sent) == TRIES

    def test_without_a_condition_it_is_an_error_as_any(self) -> None:
        def send(*_: object) -> object:
            raise said_by_server(500, "UnknownError")

        with pytest.raises(StoreUnavailable, match="500 UnknownError"):
            Writing(lambda _: None).write("jobs/a", "0" * 64, send, False, None)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_every_body_is_signed(ceph: S3Server, tmp_path: Path, scheme: str) -> None:
    """The one checksum of ours that a server compares which knows none of the newer headers, over TLS too."""
    bucket, signed = connect("some", "", f"{scheme}://127.0.0.1:1"), list[str]()

    def sent(request: Any, **_: object) -> None:
        signed.append(request.headers["X-Amz-Content-SHA256"].decode())
        raise InterruptedError

    for client in (bucket.client, bucket.patient):
        client.meta.events.register("before-send.s3", sent)
    path = large(tmp_path / "large", os.urandom(8))
    for write in (
        lambda: bucket.put("a", b"1"),
        lambda: bucket.put_file("a", path, create_only=True),
        lambda: multipart._send_part(bucket.patient, {"Bucket": "some", "Key": "a"}, path, PART, "id", 1),
    ):
        with pytest.raises(InterruptedError):
            write()
    data = path.read_bytes()
    assert signed == [hashlib.sha256(one).hexdigest() for one in (b"1", data, data[:PART])]
