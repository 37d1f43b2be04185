"""A bucket as this project uses one: whole objects with their SHA-256, conditional writes, pages, retries.

Every object keeps the SHA-256 of its bytes as metadata, and who reads it compares. With every write goes the same
checksum in the protocol's own header, so that the server refuses what was damaged on its way. The client library asks
again by itself, with growing pauses: nothing here repeats a request that it has given up.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import structlog

from worker.errors import CorruptRecordError, NotFoundError
from worker.store.base import StoreUnavailable
from worker.store.s3 import multipart
from worker.store.s3.failures import MISSING, BotoCoreError, ClientError, answered, said, translated, unavailable
from worker.store.s3.objects import Head, Listed
from worker.store.s3.writing import TRIES, Writing, in_header, pauses

log = structlog.get_logger(__name__)

LONG_TRIES = 3
"""Times that something is asked for in all, where each try may take a minute; else `TRIES`."""
QUICK_BYTES = 1024**2
"""More than that is written with patience."""
PIECE = 64 * 1024
"""Read at once: so much is lost of a try that breaks off."""
PROGRESS = 1024**2
"""Tries that bring so much together were not in vain: a line that breaks and brings something is no line to give up."""
PAGE = DELETED_AT_ONCE = 1000
"""Objects in one answer, and in one request to delete: the most that the protocol has."""


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
        self._writing = Writing(self.head)
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
        return self._put(key, data, None, create_only, match)

    def _put(
        self, key: str, data: bytes, metadata: Mapping[str, str] | None, create_only: bool, match: str | None
    ) -> str | None:
        client = self.client if len(data) <= QUICK_BYTES else self.patient
        digest = hashlib.sha256(data)

        def send(marked: Mapping[str, str], conditions: Mapping[str, str]) -> Any:
            return client.put_object(
                **self._place(key),
                Body=data,
                Metadata=dict(marked if metadata is None else metadata),
                ChecksumSHA256=in_header(digest.digest()),
                **conditions,
            )

        return self._writing.write(key, digest.hexdigest(), send, create_only, match)

    def put_file(self, key: str, path: Path, *, create_only: bool = False, match: str | None = None) -> bool:
        """Like `put`, from a file, which stays; whether it was written.

        A large one goes in parts, but whole where there is a condition: some servers judge none at the end of parts.
        """
        if path.stat().st_size <= multipart.PART_BYTES:
            return self.put(key, path.read_bytes(), create_only=create_only, match=match) is not None
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256")

        def send(marked: Mapping[str, str], conditions: Mapping[str, str]) -> Any:
            metadata = dict(marked)
            if not conditions:
                return multipart.send(self.patient, self._place(key), path, {"Metadata": metadata})
            checksum = in_header(digest.digest())
            with open(path, "rb") as body:
                return self.patient.put_object(
                    **self._place(key), Body=body, Metadata=metadata, ChecksumSHA256=checksum, **conditions
                )

        return self._writing.write(key, digest.hexdigest(), send, create_only, match) is not None

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
        """Have an object written now, as it is; False where it is gone.

        A small one is sent again, only in place of itself. A large one is copied onto itself, which some servers do
        without judging the condition: it must not be one that is replaced by another.
        """
        if head.size <= multipart.PART_BYTES:
            return self._send_again(head.key)
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

    def _send_again(self, key: str) -> bool:
        """With the metadata that it has: it stays known to who wrote it, and damaged if it is."""
        pieces: list[bytes] = []
        try:
            found = self.read(key, pieces.append, pieces.clear, judge=False)
        except NotFoundError:
            return False
        written = self._put(key, b"".join(pieces), found.metadata, create_only=False, match=found.etag)
        return written is not None or self.head(key) is not None  # else it was written just now, or deleted

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
                raise StoreUnavailable(f"The bucket answers {status} to HeadObject, and gives the object.") from error
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
        waits, reached = pauses(TRIES - 1), 0
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
            if done - reached >= PROGRESS:
                waits, reached = pauses(TRIES - 1), done
            pause = next(waits, None)
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
