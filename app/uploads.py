"""Receiving archives: straight to a `.part` file on the data volume, hashed on the way, bounded in every direction.

An upload exists as `<random>.part` until the data set repository takes the file over; whatever goes wrong before that,
the file is gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import structlog
from anyio import to_thread
from starlette.requests import Request

from app.access.keyring import Caller
from app.access.limits import Limiter
from app.forms import Form, Sink, body_stream, content_length, media_type, read_form, too_large
from app.problems import DISK_FULL, Problem
from app.settings import AppSettings
from worker.store.base import Store

log = structlog.get_logger(__name__)

FLUSH_BYTES = 1024 * 1024
FREE_CHECK_BYTES = 64 * 1024 * 1024
FORM_OVERHEAD_BYTES = 4 * 1024 * 1024  # room for the other fields and the boundaries around the file
ZIP_TYPES = frozenset({"application/zip", "application/x-zip-compressed", "application/octet-stream"})
RETRY_AFTER_S = 10.0

Count = Callable[[int], Awaitable[None]]


@dataclass(frozen=True)
class Upload:
    """A whole file that has arrived."""

    path: Path
    filename: str
    size: int
    sha256: str


class PartFile:
    """A sink on the data volume. Writes and hashes in a thread, a megabyte at a time.

    Args:
        store: Where the file grows; refuses what is more than it may hold.
        limit: Most bytes.
        reserve: Bytes that must stay free on the volume.
        filename: The sender's name for it; text only.
        count: Told how many bytes have arrived, before they are written; raises to refuse them.
    """

    def __init__(
        self, store: Store, *, limit: int, reserve: int, filename: str = "", count: Count | None = None
    ) -> None:
        self._store, self.path = store, store.part()
        self._count = count
        self.filename, self.size = filename, 0
        self._limit, self._reserve = limit, reserve
        self._digest = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._next_check = FREE_CHECK_BYTES
        self._file: BinaryIO | None = None

    def write(self, data: bytes) -> None:
        """Take some bytes.

        Raises:
            Problem: 413 beyond the limit.
        """
        self.size += len(data)
        if self.size > self._limit:
            raise too_large("An archive", self._limit)
        self._waiting.append(data)
        self._waiting_bytes += len(data)

    async def flush(self) -> None:
        """Write what was taken, once it is worth a thread."""
        if self._waiting_bytes >= FLUSH_BYTES:
            await self._keep()

    async def finish(self) -> Upload:
        """Write the rest; the file is complete."""
        await self._keep()
        await to_thread.run_sync(self.close)
        return Upload(self.path, self.filename, self.size, self._digest.hexdigest())

    async def _keep(self) -> None:
        if self._count is not None:
            await self._count(self._waiting_bytes)
        await to_thread.run_sync(self._write)

    def _write(self) -> None:
        chunks, self._waiting, self._waiting_bytes = self._waiting, [], 0
        self._store.limit.take(sum(map(len, chunks)))
        try:
            if self._file is None:
                self._file = self.path.open("xb", buffering=0)
            for chunk in chunks:
                self._digest.update(chunk)
                view = memoryview(chunk)
                while view:
                    view = view[self._file.write(view) :]
            if self.size >= self._next_check:
                self._next_check = self.size + FREE_CHECK_BYTES
                check_room(self.path.parent, 0, self._reserve)
        except OSError as error:
            raise _disk_problem(error) from error

    def close(self) -> None:
        """Close the file; it stays where it is."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def remove(self) -> None:
        """Close and delete; a file that was taken over is no longer here."""
        with contextlib.suppress(OSError):
            self.close()
        with contextlib.suppress(OSError):
            self._store.discard(self.path)


def _disk_problem(error: OSError) -> Problem:
    if error.errno in DISK_FULL:
        return Problem("store-full", "The data volume filled up while the upload arrived.", close=True)
    log.error("an upload cannot be written", error=str(error))
    return Problem("not-ready", "The data volume cannot be written to.", retry_after_s=RETRY_AFTER_S, close=True)


def check_room(folder: Path, size: int, reserve: int) -> None:
    """Twice `size` must fit (the upload, and what is made of it), with `reserve` left.

    Raises:
        Problem: 507.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < 2 * size + reserve:
        raise Problem(
            "store-full",
            f"The data volume has {free:,} bytes free; this upload needs {2 * size + reserve:,} "
            f"(twice its size and {reserve:,} to spare).",
            close=True,
        )


class UploadDesk:
    """Lets in a few uploads at a time.

    Args:
        settings: Limits.
        store: Where uploads grow as `.part` files; what is left there by a crash is swept.
        limiter: Counts what each key uploads.
    """

    def __init__(self, settings: AppSettings, store: Store, limiter: Limiter) -> None:
        self._settings, self._store, self._limiter = settings, store, limiter
        self.active = 0

    @contextmanager
    def seat(self) -> Iterator[None]:
        """One of the places for an upload.

        Raises:
            Problem: 503 when all are taken.
        """
        if self.active >= self._settings.uploads_at_once:
            raise Problem(
                "overloaded",
                f"{self.active} uploads are being received and at most {self._settings.uploads_at_once} may be; "
                f"try again in {RETRY_AFTER_S:.0f} s.",
                retry_after_s=RETRY_AFTER_S,
                close=True,
            )
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1

    @asynccontextmanager
    async def receive(
        self, request: Request, file_field: str, max_fields: int = 16
    ) -> AsyncIterator[tuple[Form, Upload | None]]:
        """Receive a form with at most one archive in `file_field`, or a raw zip where `file_field` is "file".

        The upload is deleted when the block ends, unless somebody moved it away.

        Raises:
            Problem: 400, 408, 411, 413, 415, 429, 503, 507; the connection is closed after most of them.
        """
        with self.seat():
            parts: list[PartFile] = []
            try:
                yield await self._receive(request, file_field, max_fields, parts)
            finally:
                for part in parts:
                    part.remove()

    async def _receive(
        self, request: Request, file_field: str, max_fields: int, parts: list[PartFile]
    ) -> tuple[Form, Upload | None]:
        settings = self._settings
        limit = settings.max_archive_bytes
        caller: Caller = request.state.caller
        announced = content_length(request)
        if announced is not None:
            if announced > limit + FORM_OVERHEAD_BYTES:
                raise too_large("An archive", limit)
            await self._limiter.expect_upload(caller, announced)
            await to_thread.run_sync(check_room, settings.data_dir, announced, settings.min_free_bytes)
            await to_thread.run_sync(self._store.limit.ensure, announced)

        def open_part(filename: str) -> PartFile:
            part = PartFile(
                self._store,
                limit=limit,
                reserve=settings.min_free_bytes,
                filename=filename,
                count=partial(self._limiter.count_upload, caller),
            )
            parts.append(part)
            return part

        if media_type(request) in ZIP_TYPES and file_field == "file":
            part = open_part(request.query_params.get("filename", "")[:255])
            stream = body_stream(request, limit=limit, pace=settings.upload_pace, what="An archive")
            async with contextlib.aclosing(stream) as chunks:
                async for chunk in chunks:
                    part.write(chunk)
                    await part.flush()
            return Form(), await part.finish()

        def open_file(field: str, filename: str, content_type: str) -> Sink:
            if field != file_field:
                raise Problem(
                    "invalid-request", f"The form has a file in {field!r}; send it as {file_field!r}.", close=True
                )
            return open_part(filename)

        form = await read_form(
            request,
            open_file,
            limit=limit + FORM_OVERHEAD_BYTES,
            pace=settings.upload_pace,
            max_files=1,
            max_fields=max_fields,
            what="An upload",
        )
        return form, await parts[0].finish() if parts else None
