"""A bucket as the store, and a folder of this machine to work in.

The bucket holds every fact, under the same keys as the folder of `LocalStore`. On this machine lie, and are lost with
no harm: uploads in the making (`uploads/`), folders that a job makes (`work/`), and what was read as files (`cache/`).

A bucket has no folders and renames nothing. A folder is what its keys begin with; it is moved by copying, its record
last, and deleted with its record first, so that who looks for the record sees all of it or nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from worker.errors import NotFoundError, StoreFullError
from worker.measuring import KIND_OF
from worker.store.base import KEY_PATTERN, check_key
from worker.store.limit import SMALL_BYTES, Limit
from worker.store.local import FULL, UPLOADS, LocalStore
from worker.store.s3.bucket import Bucket
from worker.store.s3.cache import ReadCache, entry_name, remove, size_of
from worker.store.s3.editing import EDIT_KEPT_S, EDITS, Editing
from worker.store.s3.locks import Locks
from worker.store.s3.objects import Head, Listed
from worker.usage import COUNTED, counted, measure_counted

WORK, CACHE = "work", "cache"
WORK_KEPT_S = 7 * 86400.0
"""What a job made and nobody took goes after so long: the job may still be running."""
TOUCH_AGAIN = timedelta(hours=1)
UNFINISHED = "unfinished"
"""Stands before what `stale` says of uploads in parts."""


class S3Store:
    """`Store` on a bucket.

    Args:
        bucket: Which; `worker.store.s3.probe.check` has found it good.
        root: Folder of this machine.
        min_free_bytes: What must stay free on its volume.
        max_bytes: The most the bucket may hold; 0: no limit. Each machine counts what it writes itself, and all of it
            when it measures.
        cache_bytes: Room for what was read as files.
        lock_ttl_s: A holder of a lock that is silent for so long is dead.
    """

    look_every_s = 5.0
    measure_every_s = 600.0
    moves_in_steps = True

    def __init__(
        self,
        bucket: Bucket,
        root: Path,
        *,
        min_free_bytes: int = 0,
        max_bytes: int = 0,
        cache_bytes: int = 0,
        lock_ttl_s: float | None = None,
    ) -> None:
        self.bucket, self.root = bucket, root
        self.limit = Limit(root / "run" / "used", max_bytes, self._count)
        self._here = LocalStore(root, min_free_bytes=min_free_bytes, limit=self.limit)
        self._cache = ReadCache(root / CACHE, cache_bytes)
        self._locks = Locks(bucket) if lock_ttl_s is None else Locks(bucket, lock_ttl_s)
        self._editing = Editing(bucket, self._locks, self._cache, root / WORK)
        self._sent: dict[Path, str] = {}  # by `flush`: file -> key
        self._sent_lock = threading.Lock()

    # -- writing

    def put(self, key: str, data: bytes, *, create_only: bool = False) -> bool:
        check_key(key)
        with self._counting(key, len(data)) as written:
            if self.bucket.put(key, data, create_only=create_only) is not None:
                written.append(True)
        return bool(written)

    def put_file(self, key: str, source: Path, *, create_only: bool = False) -> bool:
        check_key(key)
        uploaded = source.is_relative_to(self.root / UPLOADS)  # counted as it came
        size = source.stat().st_size
        with self._sent_lock:
            sent = self._sent.pop(source, None) == key
        try:
            if sent and self.bucket.head(key) is not None:  # `flush` has counted it there
                written, twice = [True], True
            else:
                with self._counting(key, 0 if uploaded else size) as written:
                    if self.bucket.put_file(key, source, create_only=create_only):
                        written.append(True)
                twice = not written
            if uploaded and twice:
                self.limit.count(-size)
            return bool(written)
        finally:
            source.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _counting(self, key: str, nbytes: int) -> Iterator[list[bool]]:
        """Count what is written in the block, which appends True where it was; measuring finds what it replaced."""
        written: list[bool] = []
        if not self.limit.max_bytes or not counted(key):
            yield written
            return
        if nbytes > SMALL_BYTES:
            self.limit.take(nbytes)
        else:
            self.limit.count(nbytes)
        try:
            yield written
        finally:
            if not written:
                self.limit.count(-nbytes)

    def flush(self, source: Path, key: str) -> None:
        """Send it ahead: `put_file` then has nothing left to send.

        What is new in the bucket counts from now on, beside the file, which counts until it is gone.
        """
        new = self.limit.max_bytes > 0 and counted(check_key(key)) and self.bucket.head(key) is None
        self.bucket.put_file(check_key(key), source)
        if new:
            self.limit.count(source.stat().st_size)
        with self._sent_lock:
            self._sent[source] = key

    # -- reading

    def get(self, key: str) -> bytes:
        return self.bucket.get(check_key(key))

    def open(self, key: str) -> BinaryIO:
        try:
            return self.fetch(key).open("rb")
        except FileNotFoundError:  # deleted on this machine just now
            raise NotFoundError(f"The store has no {key}.") from None

    def fetch(self, key: str) -> Path:
        head = self.bucket.head(check_key(key))
        if head is not None:
            return self._cache.get(entry_name(key, head.content), lambda path: self._download(head, path))
        # What others have put there under names of their own is no file of ours, and could climb out of the folder.
        found = [one for one in self.bucket.list(f"{key}/") if KEY_PATTERN.fullmatch(one.key)]
        if not found:
            raise NotFoundError(f"The store has no {key}.")
        state = "".join(f"{one.key}\0{one.size}\0{one.modified.timestamp()}\n" for one in found)
        name = entry_name(key, hashlib.sha256(state.encode()).hexdigest())
        return self._cache.get(name, lambda path: self._download_all(key, found, path))

    def _download_all(self, prefix: str, found: list[Listed], folder: Path) -> None:
        folder.mkdir()
        for one in found:
            path = folder / one.key.removeprefix(f"{prefix}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._download(one, path)

    def _download(self, one: Head | Listed, path: Path) -> None:
        """An object into a file, judged by its SHA-256."""
        try:
            self._here.ensure_free(0 if one.size <= SMALL_BYTES else one.size)
            with open(path, "xb") as file:
                self.bucket.read(one.key, file.write, lambda: (file.seek(0), file.truncate()))
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._cache.trim()
            raise StoreFullError(
                f"The volume of {self.root} is full; {one.size:,} bytes could not be read into it. Make room, or lower "
                "NPT_S3_CACHE_BYTES."
            ) from error

    def digest(self, key: str) -> str:
        digest = [hashlib.sha256()]

        def again() -> None:
            digest[0] = hashlib.sha256()

        self.bucket.read(check_key(key), lambda piece: digest[0].update(piece), again, judge=False)
        return digest[0].hexdigest()

    def exists(self, key: str) -> bool:
        if "." in check_key(key).rpartition("/")[2]:
            return self.bucket.head(key) is not None
        return any(found in (key, f"{key}/") for found in self.bucket.level(key))

    def names(self, prefix: str) -> list[str]:
        start = len(check_key(prefix)) + 1
        return sorted(name for key in self.bucket.level(f"{prefix}/") if (name := key[start:].rstrip("/")))

    def walk(self, prefix: str) -> Iterator[tuple[str, int]]:
        for one in self.bucket.list(f"{check_key(prefix)}/"):
            yield one.key, one.size

    def _all(self, prefix: str) -> list[Listed]:
        """An object, or everything under a prefix."""
        check_key(prefix)
        return [one for one in self.bucket.list(prefix) if one.key == prefix or one.key.startswith(f"{prefix}/")]

    def touch(self, key: str) -> bool:
        """What is not small, and would be sent again, is written anew only where that was not done within the hour."""
        head = self.bucket.head(check_key(key))
        if head is not None and head.size > SMALL_BYTES and datetime.now(UTC) - head.modified < TOUCH_AGAIN:
            return True
        return head is not None and self.bucket.touch(head)

    def touched(self, key: str) -> datetime:
        found = self._all(key)
        if not found:
            raise NotFoundError(f"The store has no {key}.")
        return max(one.modified for one in found)

    def changed(self, prefix: str) -> float | None:
        return None

    def size(self, key: str) -> int:
        return sum(one.size for one in self._all(key))

    # -- removing and moving

    def delete(self, prefix: str) -> bool:
        """Its records go first, in a request of their own: nobody sees half of it."""
        found = self._all(prefix)
        remove(self.workspace(prefix))
        records = [one.key for one in found if _is_record(one.key, prefix)]
        if len(found) > len(records):
            self.bucket.delete(records)
        self.bucket.delete(one.key for one in found)
        self._cache.forget({prefix, *(place for one in found for place in _places(one.key, prefix))})
        if self.limit.max_bytes and counted(prefix):
            self.limit.count(-sum(one.size for one in found))
        return bool(found)

    def unlink(self, key: str) -> None:
        self.bucket.delete([check_key(key)])

    def prune(self, prefix: str) -> bool:
        return not self.exists(prefix)

    def move(self, prefix: str, target: str, last: str = "") -> bool:
        found = list(self.bucket.list(f"{check_key(prefix)}/"))
        final = f"{check_key(target)}/{last}"
        if not found or (last and self.exists(final)):
            return False
        for one in found:
            to = f"{target}/{one.key.removeprefix(f'{prefix}/')}"
            if to != final:
                self.bucket.copy(one, to)  # gone meanwhile: whoever moves it too has copied it
        if last and self.bucket.put(final, self.get(f"{prefix}/{last}"), create_only=True) is None:
            return False
        self.bucket.delete(one.key for one in found)
        return True

    # -- files made here

    def workspace(self, key: str) -> Path:
        return self.root / WORK / check_key(key).replace("/", "~")

    def sync(self, prefix: str) -> None:
        folder = self.workspace(prefix)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.bucket.put_file(f"{prefix}/{path.relative_to(folder).as_posix()}", path)

    def abandon(self, key: str) -> None:
        remove(self.workspace(key))
        self.bucket.delete(one.key for one in list(self.bucket.list(f"{key}/")))

    def edit(self, key: str, *, write: bool = True) -> contextlib.AbstractContextManager[Path]:
        return self._editing.edit(check_key(key), write=write)

    # -- locks

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        with self._locks.hold(name):
            yield

    def try_lock(self, name: str) -> contextlib.AbstractContextManager[bool]:
        return self._locks.hold(name, wait=False)

    # -- room

    def part(self) -> Path:
        return self._here.part()

    def claim(self, path: Path) -> None:
        self._here.claim(path)

    def discard(self, path: Path) -> bool:
        with self._sent_lock:
            self._sent.pop(path, None)
        return self._here.discard(path)

    def ensure_free(self, nbytes: int) -> None:
        self._here.ensure_free(nbytes)

    def writable(self) -> bool:
        return self._here.writable() and self.bucket.answers()

    def sweep(self, older_than_s: float) -> int:
        return sum(self.drop_stale(place) for place, _ in list(self.stale(older_than_s)))

    def stale(self, older_than_s: float) -> Iterator[tuple[str, int]]:
        yield from self._here.stale(older_than_s)
        now = time.time()
        for path in sorted((self.root / WORK).glob("*")):
            with contextlib.suppress(FileNotFoundError):
                kept_s = EDIT_KEPT_S if path.name.startswith(EDITS) else max(older_than_s, WORK_KEPT_S)
                if now - path.stat().st_mtime > kept_s:
                    yield path.relative_to(self.root).as_posix(), size_of(path)
        limit = datetime.now(UTC) - timedelta(seconds=older_than_s)
        for one in self.bucket.list(f"{UPLOADS}/"):
            if one.modified <= limit:
                yield one.key, one.size
        for key, upload_id, begun in self.bucket.unfinished():
            if begun <= limit:
                yield f"{UNFINISHED} {upload_id} {key}", 0

    def drop_stale(self, place: str) -> bool:
        if place.startswith(f"{UNFINISHED} "):
            _, upload_id, key = place.split(" ", 2)
            return self.bucket.abort(key, upload_id)
        if os.path.lexists(self.root / place):
            return self._here.discard(self.root / place)
        gone = self.bucket.head(place) is None
        self.bucket.delete([place])
        return not gone

    def measure(self) -> Mapping[str, int]:
        """The bucket, and the rest of this machine's folder."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.tidy()
        found = Counter(self._here.measure())
        found.update(self._in_bucket())  # and not `+`, which leaves out what is 0
        return dict(found)

    def tidy(self) -> None:
        """What others may have deleted, and what a dead process had open."""
        self._cache.trim()
        for path in (self.root / WORK).glob(f"{EDITS}*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > EDIT_KEPT_S:
                    remove(path)

    def _in_bucket(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for one in self.bucket.list(""):
            found[KIND_OF.get(one.key.partition("/")[0], "other")] += one.size
        return found

    def _count(self) -> int:
        return measure_counted(self.root) + sum(size for kind, size in self._in_bucket().items() if kind in COUNTED)


def _is_record(key: str, prefix: str) -> bool:
    """Whether it is what makes a folder visible: JSON right in it."""
    name = key.removeprefix(f"{prefix}/")
    return "/" not in name and name.endswith(".json")


def _places(key: str, prefix: str) -> Iterator[str]:
    """An object's key and those of the folders it is in, up to a prefix."""
    while len(key) > len(prefix):
        yield key
        key = key.rpartition("/")[0]
