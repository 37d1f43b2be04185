"""What comes of a bucket behind a line that breaks or a server that is silent, busy or refuses."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from botocore.retries.standard import ExponentialBackoff

from tests.support.line import Break, Line, running_line
from tests.support.s3_server import S3Server, running_s3
from worker.store.base import StoreRefused, StoreUnavailable
from worker.store.s3 import multipart
from worker.store.s3.bucket import PROGRESS, Bucket
from worker.store.s3.connecting import connect
from worker.store.s3.failures import unavailable
from worker.store.s3.objects import Listed
from worker.store.s3.store import S3Store
from worker.store.s3.writing import TRIES

IN_THE_ANSWER = (60, 100)
"""Bytes: behind one or two `100 Continue`, said before anything was read, and within what is said then: its first line,
or its headers."""
PART = 5 * 1024**2
"""The least that the protocol takes for a part that is not the last."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "PART_BYTES", PART)


@pytest.fixture
def bucket(s3_server: S3Server) -> Bucket:
    return s3_server.bucket()


@pytest.fixture
def line(s3_server: S3Server) -> Iterator[Line]:
    with running_line(s3_server.url) as running:
        yield running


def through(line: Line, bucket: Bucket) -> Bucket:
    """The same bucket behind a line that breaks."""
    return connect(bucket.name, "store", line.url)


def large(tmp_path: Path, size: int = 2 * PART + 12345) -> tuple[Path, str]:
    """A file that goes in parts, and its SHA-256."""
    path = tmp_path / "large"
    path.write_bytes(os.urandom(size))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client library makes no pauses."""
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0)


def unexpected() -> None:
    raise AssertionError


class TestBrokenLines:
    """The client tries again, and what comes of it is what one try would have come to."""

    def test_a_request_that_breaks_off_is_sent_again(self, bucket: Bucket, line: Line) -> None:
        far = through(line, bucket)
        line.expect(Break(answer=False, after=700))
        assert far.put("jobs/x/job.json", b"a" * 5000)
        assert line.broken == 1
        assert bucket.get("jobs/x/job.json") == b"a" * 5000

    @pytest.mark.parametrize("after", IN_THE_ANSWER)
    def test_a_create_only_write_whose_answer_is_lost_has_won(self, bucket: Bucket, line: Line, after: int) -> None:
        """The second try is refused, because of what the first has written."""
        far = through(line, bucket)
        line.expect(Break(answer=True, after=after))
        assert far.put("jobs/x/end.json", b"mine", create_only=True) is not None
        assert line.broken == 1
        assert far.put("jobs/x/end.json", b"other", create_only=True) is None
        assert bucket.get("jobs/x/end.json") == b"mine"

    @pytest.mark.parametrize("after", IN_THE_ANSWER)
    def test_a_swap_whose_answer_is_lost_has_won(self, bucket: Bucket, line: Line, after: int) -> None:
        far = through(line, bucket)
        first = far.put("locks/a", b"1")
        first = far.put("locks/a", b"1", match=first)  # it is known now how this server wants it
        line.expect(Break(answer=True, after=after))
        second = far.put("locks/a", b"2", match=first)
        assert second is not None
        assert line.broken == 1
        assert far.put("locks/a", b"3", match=second) is not None

    def test_an_answer_that_ends_in_its_headers_is_none(self, at_once: None) -> None:
        """To the client library it is a whole one that says less."""
        with running_s3() as server, running_line(server.url) as line:
            bucket = server.bucket()
            bucket.put("jobs/x/job.json", b"{}")
            far = through(line, bucket)
            cut = Break(answer=True, after=IN_THE_ANSWER[1])
            for ask in (far.head, far.get, lambda key: far.put(key, b"{}")):
                line.expect(cut)
                assert ask("jobs/x/job.json")
                before = line.broken
                line.expect(*[cut] * 50)
                with pytest.raises(StoreUnavailable, match="ConnectionClosedError"):
                    ask("jobs/x/job.json")
                assert line.broken - before == TRIES

    def test_reading_goes_on_at_the_byte_where_it_broke(self, bucket: Bucket, line: Line, tmp_path: Path) -> None:
        path, sha256 = large(tmp_path)
        bucket.put_file("archives/a.zip", path)
        store = S3Store(through(line, bucket), tmp_path / "machine", cache_bytes=1 << 30)
        line.expect(Break(answer=True, after=3 * 1024**2), Break(answer=True, after=2 * 1024**2))
        with structlog.testing.capture_logs() as logs:
            fetched = store.fetch("archives/a.zip")
        assert line.broken == 2
        assert hashlib.sha256(fetched.read_bytes()).hexdigest() == sha256
        assert [entry["event"] for entry in logs] == ["reading of an object broke off"] * 2
        assert 0 < logs[0]["at"] < logs[1]["at"] < 2 * PART

    @pytest.mark.parametrize("silent", [False, True])
    def test_a_line_that_always_breaks_and_always_brings_something_is_not_given_up(
        self, bucket: Bucket, line: Line, tmp_path: Path, silent: bool
    ) -> None:
        path, sha256 = large(tmp_path, 3 * TRIES * PROGRESS)
        bucket.put_file("archives/a.zip", path)
        many = 4 * TRIES
        line.expect(*(Break(answer=True, after=2 * PROGRESS // 3, silent=silent) for _ in range(many)))
        read = hashlib.sha256()
        connect(bucket.name, "store", line.url, silent_s=0.5).read("archives/a.zip", read.update, unexpected)
        assert line.broken == many
        assert read.hexdigest() == sha256

    def test_a_server_that_says_nothing_is_asked_five_times(self, bucket: Bucket, line: Line, at_once: None) -> None:
        """Nothing of ours repeats what the client has given up: five times five would be minutes."""
        bucket.put("jobs/x/job.json", b"{}")
        far = connect(bucket.name, "store", line.url, silent_s=0.2)
        for ask in (far.get, far.head, lambda key: far.put(key, b""), lambda key: list(far.list(key))):
            before = line.broken
            line.expect(*(Break(answer=True, after=0, silent=True) for _ in range(50)))
            with pytest.raises(StoreUnavailable):
                ask("jobs/x/job.json")
            assert line.broken - before == TRIES

    def test_a_server_that_falls_silent_in_an_answer_is_asked_five_times(
        self, bucket: Bucket, line: Line, at_once: None
    ) -> None:
        bucket.put("archives/a.zip", bytes(PROGRESS))
        far = connect(bucket.name, "store", line.url, silent_s=0.2)
        line.expect(*(Break(answer=True, after=PROGRESS // 10, silent=True) for _ in range(50)))
        with pytest.raises(StoreUnavailable, match="ReadTimeoutError"):
            far.get("archives/a.zip")
        assert line.broken == TRIES

    def test_what_takes_the_server_long_is_waited_for(self, bucket: Bucket, line: Line, at_once: None) -> None:
        """A copy is silent for as long as the server copies."""
        bucket.put("archives/a.zip", b"zip")
        zip_of_3 = Listed("archives/a.zip", 3, datetime.now(UTC))
        far = connect(bucket.name, "store", line.url, silent_s=0.1, long_silent_s=60)
        line.hold()
        threading.Timer(0.7, line.mend).start()
        assert far.copy(zip_of_3, "archives/b.zip")
        assert line.broken == 0

    def test_a_part_that_breaks_off_is_sent_again(self, bucket: Bucket, line: Line, tmp_path: Path) -> None:
        path, sha256 = large(tmp_path)
        line.expect(Break(answer=False, after=PART + 1000))
        assert through(line, bucket).put_file("archives/a.zip", path)
        assert line.broken == 1
        head = bucket.head("archives/a.zip")
        assert head is not None
        assert (head.sha256, head.size) == (sha256, path.stat().st_size)

    def test_a_server_that_is_gone_is_an_error_like_a_disk_s(self, tmp_path: Path, at_once: None) -> None:
        with running_s3() as server:
            gone = S3Store(server.bucket(), tmp_path, cache_bytes=1 << 30)
        for call in (gone.get, gone.exists, gone.fetch, gone.names, gone.delete, gone.touch):
            with pytest.raises(StoreUnavailable) as failed:
                call("jobs/x")
            assert isinstance(failed.value, OSError)
            assert "very-secret" not in str(failed.value)
        with pytest.raises(StoreUnavailable):
            gone.put("jobs/x", b"")
        with pytest.raises(StoreUnavailable):
            gone.writable()


class TestAnswers:
    """What is said again later, and what never."""

    @pytest.mark.parametrize(
        ("status", "code"),
        [
            (500, "InternalError"),
            (503, "SlowDown"),
            (503, ""),
            (429, "TooManyRequests"),
            (400, "RequestTimeout"),
            (400, "BadDigest"),
            (400, "ExpiredToken"),
            (403, "RequestTimeTooSkewed"),
            (409, "OperationAborted"),
            (404, "NoSuchUpload"),
            (0, ""),
        ],
    )
    def test_it_may_be_taken_later(self, status: int, code: str) -> None:
        assert type(unavailable(answer(status, code))) is StoreUnavailable

    @pytest.mark.parametrize(
        ("status", "code"),
        [
            (403, "AccessDenied"),
            (403, "403"),
            (400, "EntityTooLarge"),
            (400, "InvalidRequest"),
            (404, "NoSuchBucket"),
            (301, "PermanentRedirect"),
            (405, "MethodNotAllowed"),
        ],
    )
    def test_it_is_never_taken(self, status: int, code: str) -> None:
        refused = unavailable(answer(status, code))
        assert type(refused) is StoreRefused
        assert str(refused) == f"The bucket answers {status} {code} to PutObject."

    def test_a_line_that_breaks_is_no_refusal(self) -> None:
        for error in (EndpointConnectionError(endpoint_url="http://x"), ReadTimeoutError(endpoint_url="http://x")):
            assert type(unavailable(error)) is StoreUnavailable

    def test_a_server_that_refuses_says_so(self) -> None:
        with running_s3("--deny=/archives/") as server:
            bucket = server.bucket()
            assert bucket.put("jobs/x/job.json", b"{}")
            with pytest.raises(StoreRefused, match="403 AccessDenied to PutObject"):
                bucket.put("archives/a.zip", b"zip")

    @pytest.mark.parametrize(
        ("said", "kind"), [("400,ExpiredToken", StoreUnavailable), ("403,AccessDenied", StoreRefused)]
    )
    def test_a_refusal_that_says_no_more_than_its_number_is_asked_why(
        self, said: str, kind: type[StoreUnavailable]
    ) -> None:
        """An answer to HEAD has no body: an expired token and a missing right look alike in it."""
        with running_s3(f"--refuse={said}") as server, pytest.raises(StoreUnavailable) as refused:
            server.bucket().head("jobs/x/job.json")
        assert type(refused.value) is kind
        assert str(refused.value) == f"The bucket answers {said.replace(',', ' ')} to GetObject."

    def test_a_refusal_of_the_head_alone_passes(self) -> None:
        """Both take the same right: whoever is given the object is let in a moment later."""
        with running_s3("--no-heads") as server:
            bucket = server.bucket()
            assert bucket.head("jobs/x/job.json") is None
            bucket.put("jobs/x/job.json", b"{}")
            with pytest.raises(StoreUnavailable, match="403 to HeadObject") as refused:
                bucket.head("jobs/x/job.json")
            assert type(refused.value) is StoreUnavailable


def answer(status: int, code: str) -> ClientError:
    response: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "PutObject")
