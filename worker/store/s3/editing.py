"""Files that are changed in place, in a store that only replaces: fetched, changed on this machine, sent back whole.

Meant for small data bases. Each machine keeps its copy, and asks before each use whether it is still the newest. Who
writes holds a lock of the bucket, and replaces only the very object it has fetched.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

from worker.errors import ConflictError, NotFoundError
from worker.store.s3.bucket import Bucket
from worker.store.s3.cache import remove
from worker.store.s3.locks import Locks

SHARDS = 64
"""Locks for all files there are: some share one."""


class Editing:
    """The copies of one machine.

    Args:
        bucket: Where the files are.
        locks: Of the bucket.
        folder: Where the copies lie.
    """

    def __init__(self, bucket: Bucket, locks: Locks, folder: Path) -> None:
        self._bucket, self._locks, self._folder = bucket, locks, folder

    @contextlib.contextmanager
    def edit(self, key: str, *, write: bool) -> Iterator[Path]:
        """The newest copy of a file, there or not; sent back when the block ends well and has changed it.

        Raises:
            ConflictError: somebody deleted or replaced it meanwhile.
        """
        name = hashlib.sha256(key.encode()).hexdigest()
        copy = self._folder / f"edit-{name}{Path(key).suffix}"
        if not write:
            self._refresh(key, copy)
            yield copy
            return
        with self._locks.hold(f"edit-{int(name, 16) % SHARDS}"):
            etag = self._refresh(key, copy)
            before = _digest(copy)
            _mark(copy).unlink(missing_ok=True)  # should we die now, the copy is not to be trusted
            try:
                yield copy
                if _digest(copy) != before:
                    etag = self._bucket.put_file(key, copy, create_only=etag is None, match=etag)
                    if etag is None:
                        raise ConflictError("It was deleted or changed meanwhile; look again, and try again.")
            except BaseException:
                remove(copy)
                raise
            if etag is not None:
                _mark(copy).write_text(etag)

    def _refresh(self, key: str, copy: Path) -> str | None:
        """Make the copy the newest; the ETag of what it is a copy of, None where there is nothing."""
        head = self._bucket.head(key)
        if head is None:
            remove(copy)
            _mark(copy).unlink(missing_ok=True)
            copy.parent.mkdir(parents=True, exist_ok=True)
            return None
        if copy.exists() and _etag(copy) == head.etag:
            return head.etag
        copy.parent.mkdir(parents=True, exist_ok=True)
        draft = copy.with_suffix(".draft")
        remove(draft)
        with open(draft, "xb") as file:
            try:
                head = self._bucket.read(key, file.write, lambda: (file.seek(0), file.truncate()))
            except NotFoundError:
                remove(copy)
                return None
        _mark(copy).unlink(missing_ok=True)
        draft.replace(copy)
        _mark(copy).write_text(head.etag)
        return head.etag


def _mark(copy: Path) -> Path:
    return copy.with_suffix(".etag")


def _etag(copy: Path) -> str | None:
    try:
        return _mark(copy).read_text()
    except FileNotFoundError:
        return None


def _digest(path: Path) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
