"""One service a data folder: two would each run a broker on the same file and a worker under the same name."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from npt_core.errors import NPTError

RETRY_S = 0.1


class FolderLockedError(NPTError):
    """Another service uses the data folder."""

    code = "folder-locked"


class FolderLock:
    """An advisory lock on DATA/run/service.lock, which also says who holds it. The file stays: removing it would race.

    The supervisor's guard holds it too, so after a kill -9 it is free only when the last child is gone. That takes
    seconds, and is waited for; a living holder is an error at once.

    Args:
        data_dir: The folder to lock; made where it is missing.
        wait_s: How long a dead holder's children may take to end.
        on_wait: Called once when there is something to wait for.
    Raises:
        FolderLockedError: another service uses it, or the folder cannot be written.
    """

    def __init__(self, data_dir: Path, *, wait_s: float = 30.0, on_wait: Callable[[], None] = lambda: None) -> None:
        self._data_dir = data_dir
        self._wait_s = wait_s
        self._on_wait = on_wait
        self._fd = -1

    def __enter__(self) -> Self:
        path = self._data_dir / "run" / "service.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise FolderLockedError(
                f"the data folder {self._data_dir} cannot be used ({error.strerror}: {error.filename}); "
                "make it writable for this user, or choose another with NPT_DATA_DIR"
            ) from error
        try:
            self._acquire()
        except BaseException:
            os.close(self._fd)
            raise
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        return self

    def _acquire(self) -> None:
        deadline = time.monotonic() + self._wait_s
        told = False
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                holder = self._holder()
            if holder is not None or time.monotonic() > deadline:
                who = f"process {holder}" if holder is not None else "processes an earlier service left behind"
                raise FolderLockedError(
                    f"the data folder {self._data_dir} is in use by {who}; stop that service, "
                    "or choose another folder with NPT_DATA_DIR"
                ) from None
            if not told:
                self._on_wait()
                told = True
            time.sleep(RETRY_S)

    def _holder(self) -> int | None:
        """The process that wrote its number into the lock, if it still lives."""
        try:
            pid = int(os.pread(self._fd, 32, 0))
            return pid if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE else None
        except (ValueError, psutil.Error):
            return None

    def fileno(self) -> int:
        return self._fd

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.ftruncate(self._fd, 0)
        os.close(self._fd)
