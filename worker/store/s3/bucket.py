"""A bucket as this project uses one: whole objects with their SHA-256, conditional writes, pages, retries.

Every object keeps the SHA-256 of its bytes as metadata, and who reads it compares. With every write goes the same
checksum in the protocol's own header, so that the server refuses what was damaged on its way. The client library asks
again by itself, with growing pauses: nothing here repeats a request that it has given up. A conditional write that was
repeated may meet what its own first try has written: each write therefore leaves a random mark, by which it is known
again.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import random
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import structlog

from worker.errors import CorruptRecordError, NotFoundError
from worker.store.base import StoreUnavailable
from worker.store.s3 import multipart
from worker.store.s3.failures import MISSING, BotoCoreError, ClientError, answered, said, translated, unavailable

log = structlog.get_logger(__name__)

TRIES = 5
"""Times that something is asked for in all, by the client library."""
LONG_TRIES = 3
"""The same, where each try may take a minute."""
SMALL_BYTES = 1024**2
"""More than that is written with patience."""
PIECE = 1024**2
PAGE = DELETED_AT_ONCE = 1000
"""Objects in one answer, and in one request to delete: the most that the protocol has."""
SHA256, MARK = "sha256", "mark"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Head:
    """What is known of an object without reading it."""

    key: str
    size: int
    etag: str
    modified: datetime
    metadata: Mapping[str, str]

    @property
    def sha256(self) -> str | None:
        """Of its bytes, in hex; None where somebody else wrote it."""
        found = self.metadata.get(SHA256, "")
        return found if _SHA256.fullmatch(found) else None

    @property
    def content(self) -> str:
        """Hex that changes with its bytes, fit for a file name."""
        return self.sha256 or hashlib.sha256(self.etag.encode()).hexdigest()


@dataclass(frozen=True)
class Listed:
    """An object in a listing."""

    key: str
    size: int
    modified: datetime


class Bucket:
    """Objects under a prefix of a bucket. Thread-safe, as the client is.

    Args:
        client: Of botocore, for S3.
        name: Of the bucket.
        prefix: Before every key; may be empty.
        patient: Another client, for what the server needs time for; by default the same.
    """

    def __init__(self, client: Any, name: str, prefix: str = "", patient: Any = None) -> None:
        self.client, self.name = client, name
        self.patient = patient or client
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    def __str__(self) -> str:
        return f"s3://{self.name}/{self._prefix}".rstrip("/")

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self.name, "Key": self._prefix + key}

    def answers(self) -> bool:
        """Whether it is there and lets us in. Raises StoreUnavailable where not."""
        with translated():
            self.client.head_bucket(Bucket=self.name)
        return True

    # -- writing

    def put(self, key: str, data: bytes, *, create_only: bool = False, match: str | None = None) -> str | None:
        """Write an object; its ETag, or None where a condition does not hold.

        Args:
            key: Its name.
            data: All of it.
            create_only: Only where there is none.
            match: Only where the one there has this ETag.
        """
        digest = hashlib.sha256(data)
        checksum = base64.b64encode(digest.digest()).decode()
        client = self.client if len(data) <= SMALL_BYTES else self.patient

        def send(metadata: dict[str, str], conditions: dict[str, str]) -> Any:
            return client.put_object(
                **self._place(key), Body=data, Metadata=metadata, ChecksumSHA256=checksum, **conditions
            )

        return self._write(key, digest.hexdigest(), send, create_only, match)

    def put_file(self, key: str, path: Path, *, create_only: bool = False, match: str | None = None) -> str | None:
        """Like `put`, in parts where it is large; the file stays."""
        if path.stat().st_size <= multipart.PART_BYTES:
            return self.put(key, path.read_bytes(), create_only=create_only, match=match)
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()

        def send(metadata: dict[str, str], conditions: dict[str, str]) -> Any:
            return multipart.send(self.patient, self._place(key), path, {"Metadata": metadata}, conditions)

        return self._write(key, sha256, send, create_only, match)

    def _write(
        self,
        key: str,
        sha256: str,
        send: Callable[[dict[str, str], dict[str, str]], Any],
        create_only: bool,
        match: str | None,
    ) -> str | None:
        mark = secrets.token_hex(16)
        conditions = {"IfNoneMatch": "*"} if create_only else {"IfMatch": match} if match is not None else {}
        for pause in _pauses(TRIES):
            try:
                return str(send({SHA256: sha256, MARK: mark}, conditions)["ETag"])
            except ClientError as error:
                code, status = said(error)
                if status == 409 and conditions:  # two conditional writes at once, and the server took neither
                    time.sleep(pause)
                    continue
                if status not in (404, 412) or code == "NoSuchBucket":
                    raise unavailable(error) from error
                head = self.head(key)
                if head is not None and head.metadata.get(MARK) == mark:
                    return head.etag  # the answer to an earlier try was lost
                if status == 412 or (conditions and code in MISSING):
                    return None
                raise unavailable(error) from error
            except BotoCoreError as error:
                raise unavailable(error) from error
        raise StoreUnavailable(f"Two or more write {key} at once, again and again.")

    def copy(self, source: Listed, target: str) -> bool:
        """Copy an object within the bucket, with its metadata; False where it is gone."""
        place = self._place(source.key)
        try:
            if source.size > multipart.COPY_BYTES:
                head = self.head(source.key)
                metadata = {"Metadata": dict(head.metadata)} if head is not None else {}
                multipart.copy(self.patient, place, self._place(target), source.size, metadata)
            else:
                self.patient.copy_object(**self._place(target), CopySource=place)
        except ClientError as error:
            if said(error)[0] in MISSING:
                return False
            raise unavailable(error) from error
        except BotoCoreError as error:
            raise unavailable(error) from error
        return True

    def touch(self, head: Head) -> bool:
        """Have an object written now, as it is; False where it is gone."""
        place = self._place(head.key)
        try:
            self.patient.copy_object(
                **place,
                CopySource=place,
                CopySourceIfMatch=head.etag,
                Metadata=dict(head.metadata),
                MetadataDirective="REPLACE",
            )
        except ClientError as error:
            code, status = said(error)
            if code in MISSING:
                return False
            if status != 412:  # it was written just now
                raise unavailable(error) from error
        except BotoCoreError as error:
            raise unavailable(error) from error
        return True

    # -- reading

    def head(self, key: str) -> Head | None:
        """What is known of an object; None where there is none."""
        try:
            answer = self.client.head_object(**self._place(key))
        except ClientError as error:
            status = said(error)[1]
            if status == 404:
                return None
            if status in (400, 403):  # an answer to HEAD has no body: whether it is final only another request tells
                try:
                    self._ask(key, None, 0)["Body"].close()
                except NotFoundError:
                    return None
            raise unavailable(error) from error
        except BotoCoreError as error:
            raise unavailable(error) from error
        return _head(key, answer)

    def get(self, key: str) -> bytes:
        """A small object.

        Raises:
            NotFoundError: there is none.
            CorruptRecordError: its bytes are not those that were written.
        """
        pieces: list[bytes] = []
        self.read(key, pieces.append, pieces.clear)
        return b"".join(pieces)

    def read(
        self, key: str, take: Callable[[bytes], object], again: Callable[[], object], *, judge: bool = True
    ) -> Head:
        """Read an object piece by piece. A connection that breaks is taken up again at the byte it broke at.

        Args:
            key: Which.
            take: Given each piece.
            again: Called before the first piece comes once more.
            judge: Compare the SHA-256; else the caller does.

        Raises:
            NotFoundError: there is none.
            CorruptRecordError: its bytes are not those that were written.
        """
        for last in (False, True):
            head, found = self._read(key, take)
            if not judge or head.sha256 in (None, found):
                return head
            if not last:  # once it may have happened on the way
                log.warning("object read with another checksum, once more", key=key)
                again()
        raise CorruptRecordError(
            f"The object {key} is not what was written: its SHA-256 differs. Restore it from a backup or remove it."
        )

    def _read(self, key: str, take: Callable[[bytes], object]) -> tuple[Head, str]:
        head: Head | None = None
        digest, done = hashlib.sha256(), 0
        pauses, reached = _pauses(TRIES - 1), 0
        while True:
            answer = self._ask(key, head, done)
            head = head if head is not None and done else _head(key, answer)
            try:
                with contextlib.closing(answer["Body"]) as body:
                    while piece := body.read(PIECE):
                        digest.update(piece)
                        done += len(piece)
                        take(piece)
                if done >= head.size:
                    return head, digest.hexdigest()
                broken: Exception = ConnectionError()
            except BotoCoreError as error:
                broken = error
            if done - reached >= PIECE:  # a line that breaks and brings something each time is no line to give up
                pauses, reached = _pauses(TRIES - 1), done
            pause = next(pauses, None)
            if pause is None:
                raise unavailable(broken) from broken
            log.info("reading of an object broke off", key=key, at=done, error=type(broken).__name__)
            time.sleep(pause)

    def _ask(self, key: str, head: Head | None, done: int) -> Any:
        """For an object, or for the rest of the very one whose beginning has come."""
        rest = {"Range": f"bytes={done}-", "IfMatch": head.etag} if head is not None and done else {}
        try:
            return self.client.get_object(**self._place(key), **rest)
        except ClientError as error:
            code, status = said(error)
            if code in MISSING or (rest and status == 412):
                raise NotFoundError(f"The store has no {key}.") from None
            raise unavailable(error) from error
        except BotoCoreError as error:
            raise unavailable(error) from error

    # -- listing

    def list(self, prefix: str) -> Iterator[Listed]:
        """Every object whose key begins so, a page at a time, in the order of their keys."""
        for page in self._pages(prefix, {}):
            for item in page.get("Contents", ()):
                yield Listed(item["Key"][len(self._prefix) :], int(item["Size"]), item["LastModified"])

    def level(self, prefix: str) -> Iterator[str]:
        """Keys that begin so, up to the next slash, which is included; each once."""
        for page in self._pages(prefix, {"Delimiter": "/"}):
            for item in page.get("Contents", ()):
                yield item["Key"][len(self._prefix) :]
            for item in page.get("CommonPrefixes", ()):
                yield item["Prefix"][len(self._prefix) :]

    def _pages(self, prefix: str, more: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
        with translated():
            yield from self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.name, Prefix=self._prefix + prefix, PaginationConfig={"PageSize": PAGE}, **more
            )

    # -- removing

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, a thousand in one request; one that is not there is no error."""
        rest = iter(keys)
        while some := list(islice(rest, DELETED_AT_ONCE)):
            with translated():
                if len(some) == 1:
                    self.client.delete_object(**self._place(some[0]))
                    continue
                objects = [{"Key": self._prefix + key} for key in some]
                answer = self.patient.delete_objects(Bucket=self.name, Delete={"Objects": objects, "Quiet": True})
            failed = [error for error in answer.get("Errors", ()) if error.get("Code") not in MISSING]
            if failed:
                code = str(failed[0].get("Code", ""))
                # Each object has a code and no status of its own.
                raise answered(code, 500 if code in ("InternalError", "ServiceUnavailable") else 400, "DeleteObjects")

    def unfinished(self) -> Iterator[tuple[str, str, datetime]]:
        """Uploads in parts that were begun and not ended: key, id, and when they were begun."""
        with translated():
            pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name, Prefix=self._prefix)
            for page in pages:
                for item in page.get("Uploads", ()):
                    yield item["Key"][len(self._prefix) :], item["UploadId"], item["Initiated"]

    def abort(self, key: str, upload_id: str) -> bool:
        """End one of these; False where it has ended."""
        try:
            self.client.abort_multipart_upload(**self._place(key), UploadId=upload_id)
        except ClientError as error:
            if said(error)[1] == 404:
                return False
            raise unavailable(error) from error
        except BotoCoreError as error:
            raise unavailable(error) from error
        return True


def _head(key: str, answer: Mapping[str, Any]) -> Head:
    return Head(
        key, int(answer["ContentLength"]), str(answer["ETag"]), answer["LastModified"], answer.get("Metadata", {})
    )


def _pauses(count: int) -> Iterator[float]:
    """Seconds before each further try, growing, and not the same for everybody."""
    return (0.1 * 2**number * random.uniform(0.5, 1.0) for number in range(count))  # noqa: S311 - no secret
