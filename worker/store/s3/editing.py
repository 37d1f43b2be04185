"""Files that are changed in place, in a store that only replaces: fetched, changed on this machine, sent back whole.

Meant for small data bases. Nobody changes a file that somebody else has open: who reads is given a name of its own for
a version that never changes, who writes a draft of its own. Versions are kept in the cache of what was read, by their
content, so that one that is still the newest is not sent again. Who writes holds a lock of the bucket, and replaces
only the very object it has fetched.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from worker.errors import ConflictError, NotFoundError
from worker.store.base import StoreUnavailable
from worker.store.s3.bucket import Bucket
from worker.store.s3.cache import ReadCache, entry_name, remove
from worker.store.s3.locks import Locks
from worker.store.s3.objects import Head
from worker.store.s3.writing import TRIES

SHARDS = 64
"""Locks for all files there are: some share one."""
EDITS = "edit-"
"""Begins the name of each folder that one use of a file has; what a dead process left is found by it."""
EDIT_KEPT_S = 3600.0
"""No use of a file takes so long: a folder that old is of a process that died."""


class Editing:
    """The files of one machine.

    Args:
        bucket: Where the files are.
        locks: Of the bucket.
        cache: Of what was read.
        folder: Where each use has a folder; on the volume of the cache.
    """

    def __init__(self, bucket: Bucket, locks: Locks, cache: ReadCache, folder: Path) -> None:
        self._bucket, self._locks, self._cache, self._folder = bucket, locks, cache, folder

    @contextlib.contextmanager
    def edit(self, key: str, *, write: bool) -> Iterator[Path]:
        """The newest version of a file, there or not; sent back when the block ends well and has changed it.

        Raises:
            ConflictError: somebody deleted or replaced it meanwhile.
        """
        if not write:
            with self._own(key) as path:
                self._newest(key, path)
                yield path
            return
        shard = int(hashlib.sha256(key.encode()).hexdigest(), 16) % SHARDS
        with self._locks.hold(f"edit-{shard}"), self._own(key) as path:
            etag = self._newest(key, path)
            if etag is not None:
                _make_own(path)
            before = _digest(path)
            yield path
            after = _digest(path)
            if after == before:
                return
            if not self._bucket.put_file(key, path, create_only=etag is None, match=etag):
                raise ConflictError("It was deleted or changed meanwhile; look again, and try again.")
            with contextlib.suppress(OSError):  # it is sent; where there is no room here, it is read once more
                self._cache.keep(entry_name(key, str(after)), path)

    @contextlib.contextmanager
    def _own(self, key: str) -> Iterator[Path]:
        """A path in a new folder, where a data base may also lay what it needs beside its file; gone afterwards."""
        folder = self._folder / f"{EDITS}{secrets.token_hex(16)}"
        folder.mkdir(parents=True)
        try:
            yield folder / key.rpartition("/")[2]
        finally:
            remove(folder)

    def _newest(self, key: str, path: Path) -> str | None:
        """Put the newest version there, not to be changed; its ETag, None where there is nothing."""
        for _ in range(TRIES):
            head = self._bucket.head(key)
            if head is None:
                return None
            with contextlib.suppress(_ReplacedMeanwhile, NotFoundError, FileNotFoundError):
                entry = self._cache.get(entry_name(key, head.content), partial(self._read, head))
                _link(entry, path)
                return head.etag
        raise StoreUnavailable(f"{key} is changed again and again while it is read.")

    def _read(self, head: Head, draft: Path) -> None:
        with open(draft, "xb") as file:
            found = self._bucket.read(head.key, file.write, lambda: (file.seek(0), file.truncate()))
        if found.etag != head.etag:
            raise _ReplacedMeanwhile
        draft.chmod(0o400)


class _ReplacedMeanwhile(Exception):  # noqa: N818
    """Another version came between the question and the reading: it must not be kept under the name of the first."""


def _link(entry: Path, path: Path) -> None:
    """A name of its own: whatever is removed from the cache, the version stays."""
    try:
        os.link(entry, path)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        shutil.copyfile(entry, path)


def _make_own(path: Path) -> None:
    draft = path.with_name(f"{path.name}.draft")
    shutil.copyfile(path, draft)
    draft.replace(path)


def _digest(path: Path) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
