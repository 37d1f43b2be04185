"""A folder as the store: temporary name, fsync, rename, fsync of the folder; `os.link` where only one may win."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from worker import measuring
from worker.errors import NotFoundError, StoreFullError
from worker.measuring import file_sizes
from worker.store.base import check_key
from worker.store.filelock import flocked
from worker.store.limit import SMALL_BYTES, Limit
from worker.usage import counted, measure_counted

if TYPE_CHECKING:
    from io import BufferedReader

TEMPORARY = ".tmp-"
FOLDERS = (
    "archives",
    "datasets",
    "jobs",
    "models",
    "names",
    "contents",
    "needed",
    "aliases",
    "exports",
    "feedback",
    "idempotency",
    "keys",
)
UPLOADS = "uploads"
FULL = {errno.ENOSPC, errno.EDQUOT}
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


MEASURING_S = 600.0


class LocalStore:
    """`Store` on one folder of a local (or properly shared) file system.

    Args:
        root: The folder.
        min_free_bytes: What must stay free on its volume.
        max_bytes: The most it may hold; 0: no limit.
        limit: Counts in its place, where the folder is only a part of the store.
    """

    look_every_s = 0.5
    measure_every_s = 60.0
    moves_in_steps = False

    def __init__(self, root: Path, *, min_free_bytes: int = 0, max_bytes: int = 0, limit: Limit | None = None) -> None:
        self.root = root
        self.min_free_bytes = min_free_bytes
        self.limit = limit or Limit(root / "run" / "used", max_bytes, lambda: measure_counted(root))

    # -- writing

    def put(self, key: str, data: bytes, *, create_only: bool = False) -> bool:
        target = self.path(key)
        if create_only and target.exists():
            return False
        temporary = target.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
        with _telling_full(len(data)), self._counting(key, len(data)) as published:
            self._make_folder(target.parent)
            try:
                with open(temporary, "xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                published.append(self._publish(temporary, target, create_only))
                return published[-1]
            finally:
                temporary.unlink(missing_ok=True)

    def put_file(self, key: str, source: Path, *, create_only: bool = False) -> bool:
        target = self.path(key)
        arrives = 0 if self._is_upload(source) else source.stat().st_size  # uploads were counted as they came
        with _telling_full(source.stat().st_size), self._counting(key, arrives) as published:
            self._make_folder(target.parent)
            if source.stat().st_dev != target.parent.stat().st_dev:
                copy = target.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
                shutil.copyfile(source, copy)
                source.unlink()
                source = copy
            with open(source, "rb") as file:
                os.fsync(file.fileno())
            size = source.stat().st_size
            try:
                published.append(self._publish(source, target, create_only))
                if not published[-1] and not arrives:
                    self.limit.count(-size)  # an upload that is not kept
                return published[-1]
            finally:
                source.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _counting(self, key: str, nbytes: int) -> Iterator[list[bool]]:
        """Count what is written in the block, which appends whether it was; and no longer what it replaces."""
        published: list[bool] = []
        if not self.limit.max_bytes or not counted(key):
            yield published
            return
        before = _size(self.path(key))
        if nbytes > SMALL_BYTES:
            self.limit.take(nbytes)
        else:
            self.limit.count(nbytes)
        try:
            yield published
        finally:
            self.limit.count(-before if published == [True] else -nbytes)

    def _is_upload(self, path: Path) -> bool:
        return path.is_relative_to(self.root / UPLOADS)

    def _publish(self, temporary: Path, target: Path, create_only: bool) -> bool:
        if not create_only:
            os.replace(temporary, target)
            _sync_folder(target.parent)
            return True
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            with self.lock("create"):  # a file system without hard links: one at a time
                if target.exists():
                    return False
                os.replace(temporary, target)
        _sync_folder(target.parent)
        return True

    def _make_folder(self, folder: Path) -> None:
        missing = []
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
            _sync_folder(each.parent)

    # -- reading

    def get(self, key: str) -> bytes:
        try:
            return self.path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFoundError(f"The store has no {key}.") from None

    def open(self, key: str) -> BinaryIO:
        try:
            return self.path(key).open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFoundError(f"The store has no {key}.") from None

    def path(self, key: str) -> Path:
        """Where a key lies in the folder."""
        return self.root / check_key(key)

    def fetch(self, key: str) -> Path:
        return self.path(key)

    def digest(self, key: str) -> str:
        with cast("BufferedReader", self.open(key)) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def exists(self, key: str) -> bool:
        return self.path(key).exists()

    def names(self, prefix: str) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.path(prefix)) if not name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def walk(self, prefix: str) -> Iterator[tuple[str, int]]:
        for folder, folders, files in os.walk(self.path(prefix)):
            folders.sort()
            for name in sorted(files):
                if not name.startswith("."):
                    path = Path(folder, name)
                    with contextlib.suppress(FileNotFoundError):
                        yield path.relative_to(self.root).as_posix(), path.stat().st_size

    def touch(self, key: str) -> bool:
        try:
            os.utime(self.path(key))
        except FileNotFoundError:
            return False
        return True

    def touched(self, key: str) -> datetime:
        return datetime.fromtimestamp(self.changed(key), UTC)

    def changed(self, prefix: str) -> float:
        try:
            return self.path(prefix).stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"The store has no {prefix}.") from None

    def size(self, key: str) -> int:
        return _size(self.path(key))

    # -- removing and moving

    def delete(self, prefix: str) -> bool:
        """A folder vanishes in one rename before its files are removed: nobody sees half of it."""
        target = self.path(prefix)
        trash = self.root / "trash"
        trash.mkdir(parents=True, exist_ok=True)
        grave = trash / secrets.token_hex(8)
        try:
            os.rename(target, grave)
        except FileNotFoundError:
            return False
        _sync_folder(target.parent)
        if self.limit.max_bytes and counted(prefix):
            self.limit.count(-_size(grave))
        _remove(grave)
        return True

    def unlink(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self.path(key).unlink()

    def prune(self, prefix: str) -> bool:
        try:
            self.path(prefix).rmdir()
        except OSError:
            return False
        return True

    def move(self, prefix: str, target: str, last: str = "") -> bool:
        source, destination = self.path(prefix), self.path(target)
        if destination.exists():
            return False
        with _telling_full(0):
            self._make_folder(destination.parent)
        try:
            os.rename(source, destination)
        except (FileNotFoundError, FileExistsError):
            return False
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                return False
            raise
        _sync_folder(destination.parent)
        _sync_folder(source.parent)
        return True

    # -- files made elsewhere

    def workspace(self, key: str) -> Path:
        return self.path(key)

    def abandon(self, key: str) -> None:
        _remove(self.path(key))

    @contextlib.contextmanager
    def edit(self, key: str, *, write: bool = True) -> Iterator[Path]:
        path = self.path(key)
        self._make_folder(path.parent)
        yield path

    def sync(self, prefix: str) -> None:
        """Each file below, its folder, and the folders above."""
        made = self.path(prefix)
        with _telling_full(0):
            for folder, _, files in os.walk(made, topdown=False):
                for name in files:
                    with open(Path(folder, name), "rb") as file:
                        os.fsync(file.fileno())
                _sync_folder(Path(folder))
            while made != self.root:
                made = made.parent
                _sync_folder(made)

    def flush(self, source: Path, key: str) -> None:
        with _telling_full(source.stat().st_size), open(source, "rb") as file:
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        with flocked(self._lock_file(name)):
            yield

    def try_lock(self, name: str) -> contextlib.AbstractContextManager[bool]:
        return flocked(self._lock_file(name), wait=False)

    def _lock_file(self, name: str) -> Path:
        return self.root / "run" / "locks" / check_key(name)

    # -- room

    def part(self) -> Path:
        folder = self.root / UPLOADS
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{secrets.token_hex(16)}.part"

    def claim(self, path: Path) -> None:
        """Count what was written by path: a part, or the folder of something that is about to be kept.

        Raises:
            StoreFullError: it is beyond what the store may hold.
        """
        if self.limit.max_bytes:
            self.limit.take(_size(path))

    def ensure_free(self, nbytes: int) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free
        if free < nbytes + self.min_free_bytes:
            raise StoreFullError(
                f"The data volume has {free:,} bytes free; this needs {nbytes:,}, and {self.min_free_bytes:,} must "
                "remain. Delete data sets or models, or make room."
            )
        self.limit.ensure(nbytes)

    def writable(self) -> bool:
        probe = self.root / f"{TEMPORARY}{secrets.token_hex(8)}"
        self.root.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
        return True

    def sweep(self, older_than_s: float) -> int:
        return sum(self.drop_stale(place) for place, _ in list(self.stale(older_than_s)))

    def tidy(self) -> None:
        """There are no copies."""

    def stale(self, older_than_s: float) -> Iterator[tuple[str, int]]:
        limit = time.time() - older_than_s
        paths = [path for folder in (UPLOADS, "trash") for path in (self.root / folder).glob("*")]
        paths += [path for folder in FOLDERS for path in (self.root / folder).glob(f"**/{TEMPORARY}*")]
        for path in sorted(paths):
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_mtime <= limit:
                    yield path.relative_to(self.root).as_posix(), _size(path)

    def drop_stale(self, place: str) -> bool:
        return self.discard(self.root / place)

    def measure(self) -> Mapping[str, int]:
        """Bytes by kind, counted in a process of its own: 100,000 files keep an interpreter busy for a second."""
        command = [sys.executable, "-I", "-S", measuring.__file__, str(self.root)]
        done = subprocess.run(command, capture_output=True, check=True, timeout=MEASURING_S)  # noqa: S603 - our own
        found: dict[str, int] = json.loads(done.stdout)
        return found

    def discard(self, path: Path) -> bool:
        """Remove a part, or something else that is no object; False where it is not there."""
        if not os.path.lexists(path):
            return False
        if self.limit.max_bytes and self._is_upload(path):
            self.limit.count(-_size(path))
        _remove(path)
        return True


@contextlib.contextmanager
def _telling_full(nbytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StoreFullError(f"The data volume is full; {nbytes:,} bytes could not be written. Make room.") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file_sizes(path))
    try:
        return path.lstat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0
