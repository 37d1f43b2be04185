"""A zip that somebody sent: judged as a whole, read entry by entry, never extracted."""

from __future__ import annotations

import copy
import os
import struct
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from npt_core.data.checks import Checked, Limits, Verdict, check_records, decode_name
from npt_core.data.directory import UTF8_FLAG, Record, find_directory, read_records
from npt_core.data.faults import FaultLog, plural
from npt_core.data.names import clean_path, junk_kind, shown
from npt_core.errors import ArchiveError, ArchiveTooLargeError, Fault

__all__ = ["DamagedEntryError", "Entry", "Limits", "SafeArchive"]

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, UnicodeDecodeError)


_PIECE = 1024**2

_LOCAL_HEADER = struct.Struct("<4s22s2H")
_SLACK = 64
"""Bytes read beyond a file's least end: the extra field of a local header is rarely longer."""

_HAS_PREAD = hasattr(os, "pread")


class DamagedEntryError(ArchiveError):
    """One file of an otherwise good archive cannot be unpacked; the others can."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file in an archive or folder.

    Args:
        path: Relative, `/` between parts, no `.` or `..` among them.
        size: Unpacked size in bytes.
    """

    path: str
    size: int


class SafeArchive:
    """Read access to a zip under limits; `open` refuses what is hostile before a byte is unpacked.

    Reads are safe from several threads. Use as a context manager, or call `close`.

    Attributes:
        entries: The files, in the order of the directory, without litter.
        folders: Folders that are entries of their own, which is how an empty folder shows.
        skipped: How many files of each kind of litter were passed over (`__MACOSX`, `dotfiles`, ...).
        faults: What `survey` found wrong; always empty after `open`.
    """

    def __init__(self, path: Path, file: zipfile.ZipFile, infos: dict[str, zipfile.ZipInfo]) -> None:
        self.path = path
        self._zip = file
        self._infos = infos
        self._lock = threading.Lock()
        self.limits = Limits()
        self.entries: tuple[Entry, ...] = ()
        self.folders: tuple[str, ...] = ()
        self.skipped: Mapping[str, int] = {}
        self.faults = FaultLog()

    @classmethod
    def open(cls, path: Path | str, limits: Limits | None = None) -> SafeArchive:
        """Open an archive after judging all of it.

        Raises:
            ArchiveError: Hostile or unreadable; `faults` lists every entry that is at fault.
            ArchiveTooLargeError: Nothing worse than being over a limit.
        """
        archive = cls.survey(path, limits)
        if archive.faults:
            archive.close()
            raise hostile_error(archive.faults)
        return archive

    @classmethod
    def survey(cls, path: Path | str, limits: Limits | None = None) -> SafeArchive:
        """Like `open`, but hostile entries are left out and listed in `faults`, so that the rest can be judged too.

        What this returns with faults must be refused in the end.

        Raises:
            ArchiveError: The archive cannot be read at all.
            ArchiveTooLargeError: It is over a limit: then nothing more of it is read.
        """
        path, limits = Path(path), limits or Limits()
        records, directory_offset = _read_directory(path, limits)
        checked, verdict = check_records(records, limits, directory_offset)
        if verdict.over_limit:
            raise _over_limit_error(verdict)
        if any(decode_name(record) is None for record in records):
            raise hostile_error(verdict.hostile)  # zipfile stops at such a name
        archive = cls(path, *_open_zip(path, records, checked))
        archive.limits = limits
        archive.faults = verdict.hostile
        archive._sort_out(checked)
        return archive

    @classmethod
    def reopen(cls, path: Path | str) -> SafeArchive:
        """Open an archive that was judged before and stored by us: names are indexed, nothing is checked again."""
        path, trusted = Path(path), _trusting_limits()
        records, _ = _read_directory(path, trusted)
        checked = [
            Checked(clean_path(name), record, index, name.endswith("/"))
            for index, record in enumerate(records)
            if (name := decode_name(record)) is not None
        ]
        archive = cls(path, *_open_zip(path, records, checked))
        archive.limits = trusted
        archive._sort_out(checked)
        return archive

    def read(self, entry: Entry | str) -> bytes:
        """Unpack one file to memory, counting what really comes out.

        Raises:
            ArchiveError: The file is longer than the directory says, as bombs are.
            DamagedEntryError: Its bytes do not unpack, or not to what was packed (CRC).
        """
        path = entry if isinstance(entry, str) else entry.path
        info = self._infos.get(path)
        if info is None:
            raise ArchiveError(f"The archive has no file {shown(path)}.")
        data = self._at_once(info)
        return self._piecewise(path, info) if data is None else data

    def _at_once(self, info: zipfile.ZipInfo) -> bytes | None:
        """Unpack a small file from one read of the disk: a third of what `zipfile` takes for it.

        Returns:
            Its bytes, as long as the directory says and with the checksum it gives; None where the file is not small
            or anything about it is unusual. `zipfile` then reads it, or says what is wrong.
        """
        packed, declared = info.compress_size, info.file_size
        if packed > _PIECE or declared > _PIECE or not _HAS_PREAD:
            return None
        name = info.orig_filename.encode("utf-8" if info.flag_bits & UTF8_FLAG else "cp437")
        start = _LOCAL_HEADER.size + len(name)
        with self._lock:  # `close` waits: the number of a closed file may be another file's a moment later
            if self._zip.fp is None:
                return None
            head = os.pread(self._zip.fp.fileno(), start + _SLACK + packed, info.header_offset)
        if len(head) < start:
            return None
        magic, _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack_from(head)
        body = head[start + extra_bytes : start + extra_bytes + packed]
        if magic != b"PK\3\4" or name_bytes != len(name) or head[_LOCAL_HEADER.size : start] != name:
            return None
        if info.compress_type == zipfile.ZIP_DEFLATED:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                body = inflate.decompress(body, declared + 1)  # one more shows a lie
            except zlib.error:
                return None
            if not inflate.eof:
                return None
        elif info.compress_type != zipfile.ZIP_STORED:
            return None
        return body if len(body) == declared and zlib.crc32(body) == info.CRC else None

    def _piecewise(self, path: str, info: zipfile.ZipInfo) -> bytes:
        declared = info.file_size
        probe = copy.copy(info)
        probe.file_size = declared + 1  # zipfile stops at this size in silence; one byte more shows a lie
        del probe.CRC  # checked below: zipfile would compare it with what it cut off
        try:
            with self._lock:  # zipfile counts its open files without a lock
                stream = self._zip.open(probe)
            try:
                data = _read_all(stream, declared + 1)
            finally:
                with self._lock:
                    stream.close()
        except _DAMAGE as error:
            raise _damaged(path, f"damaged in the archive: {_damage(error)}; make the zip again") from error
        if len(data) > declared:
            fault = Fault(shown(path), f"unpacks to more than the {declared:,} bytes the directory says")
            raise ArchiveError(f"{fault.path}: {fault.message}", [fault])
        if len(data) < declared:
            raise _damaged(path, f"cut short in the archive: {len(data):,} of {declared:,} bytes; make the zip again")
        if zlib.crc32(data) != info.CRC:
            raise _damaged(path, "damaged in the archive: its checksum does not match; make the zip again")
        return data

    def close(self) -> None:
        """Close the file; reads after this fail."""
        with self._lock:
            self._zip.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _sort_out(self, checked: list[Checked]) -> None:
        entries, folders, skipped = [], [], Counter[str]()
        for item in checked:
            junk = junk_kind(item.path)
            if item.is_folder:
                if item.path and junk is None:
                    folders.append(item.path)
            elif junk is None:
                entries.append(Entry(item.path, item.record.size))
            else:
                skipped[junk] += 1
        self.entries, self.folders, self.skipped = tuple(entries), tuple(folders), dict(skipped)


def hostile_error(log: FaultLog) -> ArchiveError:
    """The one error for everything that is wrong with an archive."""
    return ArchiveError(
        f"The archive is refused: {plural(log.total, 'problem')} in it. Nothing of it was kept; correct what is listed "
        "and send it again.",
        log.faults(),
    )


def _over_limit_error(verdict: Verdict) -> ArchiveError:
    if verdict.hostile:
        verdict.hostile.merge(verdict.over_limit)
        return hostile_error(verdict.hostile)
    log = verdict.over_limit
    return ArchiveTooLargeError(f"The archive is over the limits: {plural(log.total, 'problem')}.", log.faults())


def _trusting_limits() -> Limits:
    huge = 2**62
    return Limits(huge, huge, huge, huge, float("inf"), huge, huge, huge, huge)


def _read_directory(path: Path, limits: Limits) -> tuple[list[Record], int]:
    size = path.stat().st_size
    if size > limits.archive_bytes:
        raise ArchiveTooLargeError(
            f"The archive has {size:,} bytes; {limits.archive_bytes:,} are accepted. Send fewer or smaller pictures."
        )
    with path.open("rb") as file:
        span = find_directory(file, max_bytes=limits.directory_bytes)
        return list(read_records(file, span, max_count=limits.entries)), span.offset


def _open_zip(
    path: Path, records: list[Record], checked: list[Checked]
) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """Open with `zipfile` and make sure that it sees what was judged."""
    try:
        file = zipfile.ZipFile(path)
    except (*_DAMAGE, ValueError) as error:
        raise ArchiveError(f"The zip cannot be read: {_damage(error)}. Make it again.") from error
    infos = file.infolist()
    same = len(infos) == len(records) and all(
        (info.header_offset, info.file_size, info.compress_size) == (record.offset, record.size, record.compressed)
        for info, record in zip(infos, records, strict=True)
    )
    if not same:
        file.close()
        raise ArchiveError("The zip is damaged: its directory can be read in two ways. Make it again.")
    return file, {item.path: infos[item.position] for item in checked if not item.is_folder}


def _read_all(stream: IO[bytes], limit: int) -> bytes:
    """At most `limit` bytes, a piece at a time: asked for all at once, zipfile holds a large file three times."""
    first = stream.read(min(limit, _PIECE))
    if len(first) < _PIECE or len(first) == limit:
        return first
    pieces, missing = [first], limit - len(first)
    while missing and (piece := stream.read(min(missing, _PIECE))):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _damaged(path: str, message: str) -> DamagedEntryError:
    return DamagedEntryError(f"{shown(path)}: {message}", [Fault(shown(path), message)])


def _damage(error: BaseException) -> str:
    return shown(str(error)).rstrip(".") or type(error).__name__
