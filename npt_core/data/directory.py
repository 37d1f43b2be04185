"""Reads the directory at the end of a zip, bounded, before `zipfile` is let near it.

`zipfile` loads a directory of any size, believes the last of two names, stops at the first name that is not UTF-8
and accepts anything in front of the archive. This reads the same bytes first, so that every problem is found and
none of them costs memory.

Source: APPNOTE.TXT 6.3.10, sections 4.3.12 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from npt_core.data.sniff import describe_content
from npt_core.errors import ArchiveError, ArchiveTooLargeError

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_HEADER = struct.Struct("<4s6H3L5H2L")
_LOCAL_HEADER_BYTES = 30

_MAX_COMMENT = 0xFFFF
_FULL16 = 0xFFFF
_FULL32 = 0xFFFFFFFF

UTF8_FLAG = 0x800


@dataclass(frozen=True)
class Span:
    """Where the directory lies: byte offset, length in bytes, and how many entries it claims to hold."""

    offset: int
    size: int
    count: int


class Record(NamedTuple):
    """One entry as the directory describes it; nothing here is checked yet."""

    name: bytes
    flags: int
    method: int
    compressed: int
    size: int
    mode: int
    offset: int

    @property
    def least_end(self) -> int:
        """The first byte after the entry, were its local header as short as it can be."""
        return self.offset + _LOCAL_HEADER_BYTES + len(self.name) + self.compressed


def find_directory(file: BinaryIO, *, max_bytes: int) -> Span:
    """Locate the directory and hold it against the file's own layout.

    Args:
        file: The whole archive, seekable.
        max_bytes: Longest directory that is accepted, in bytes.

    Raises:
        ArchiveError: Not a zip, cut short, in several parts, or with bytes before or after it.
        ArchiveTooLargeError: The directory is longer than `max_bytes`.
    """
    size = file.seek(0, os.SEEK_END)
    _check_start(file)
    tail_offset = max(0, size - _END.size - _MAX_COMMENT)
    file.seek(tail_offset)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise ArchiveError(
            f"The zip is cut short: its directory, which is at the end, is missing ({size:,} bytes arrived). "
            "Send the whole file again."
        )
    _, disk, start_disk, disk_count, count, length, offset, comment = _END.unpack_from(tail, at)
    if len(tail) - at - _END.size != comment:
        raise ArchiveError("Bytes follow the end of the zip. Send one plain zip file and nothing after it.")
    if disk or start_disk or disk_count != count:
        raise ArchiveError("The zip is one part of several. Send one whole zip file.")
    end = tail_offset + at
    end64 = _find_end64(file, end)
    if end64 is not None:
        end, count, length, offset = end64
    elif _FULL32 in (length, offset):
        raise ArchiveError("The zip is damaged: it says it is a zip64 file but its zip64 directory is missing.")
    if length > max_bytes:
        raise ArchiveTooLargeError(
            f"The zip's directory is {length:,} bytes long; {max_bytes:,} are accepted. Put fewer files in one zip."
        )
    if offset + length != end:
        raise ArchiveError("The zip is damaged or has other data in front of it: its directory is not where it says.")
    return Span(offset, length, count)


def _check_start(file: BinaryIO) -> None:
    file.seek(0)
    head = file.read(512)
    if not head:
        raise ArchiveError("The file is empty, 0 bytes. Send a zip.")
    if head.startswith((b"PK\x07\x08", b"PK00")):
        raise ArchiveError("The zip is one part of several. Send one whole zip file.")
    if not head.startswith((b"PK\x03\x04", b"PK\x05\x06")):  # the second is a zip with nothing in it
        what = describe_content(head)
        raise ArchiveError(f"Not a zip: the file begins like {what}. Send a zip.")


def _find_end64(file: BinaryIO, end: int) -> tuple[int, int, int, int] | None:
    """End of directory, count, length and offset from the zip64 record in front of the classic one, if there is one."""
    at = end - _LOCATOR.size - _END64.size
    if at < 0:
        return None
    file.seek(at)
    raw = file.read(_END64.size + _LOCATOR.size)
    signature, _, position, parts = _LOCATOR.unpack_from(raw, _END64.size)
    if signature != b"PK\x06\x07":
        return None
    if parts > 1:
        raise ArchiveError("The zip is one part of several. Send one whole zip file.")
    fields = _END64.unpack_from(raw)
    if fields[0] != b"PK\x06\x06" or position != at:
        raise ArchiveError("The zip is damaged: its zip64 directory is not where it says.")
    return at, fields[7], fields[8], fields[9]


def read_records(file: BinaryIO, span: Span, *, max_count: int) -> Iterator[Record]:
    """Walk the directory entry by entry.

    Raises:
        ArchiveError: The directory is damaged, or holds another number of entries than it claims.
        ArchiveTooLargeError: More than `max_count` entries; raised as soon as one more is seen.
    """
    file.seek(span.offset)
    raw = file.read(span.size)
    if len(raw) != span.size:
        raise ArchiveError("The zip is cut short inside its directory. Send the whole file again.")
    at = count = 0
    while at < len(raw):
        if len(raw) - at < _HEADER.size or raw[at : at + 4] != b"PK\x01\x02":
            raise ArchiveError(f"The zip's directory is damaged at entry {count + 1}. Make the zip again.")
        fields = _HEADER.unpack_from(raw, at)
        name_bytes, extra_bytes, comment_bytes = fields[10:13]
        name_at = at + _HEADER.size
        extra_at = name_at + name_bytes
        at = extra_at + extra_bytes + comment_bytes
        if at > len(raw):
            raise ArchiveError(f"The zip's directory is damaged at entry {count + 1}. Make the zip again.")
        count += 1
        if count > max_count:
            raise ArchiveTooLargeError(
                f"The zip holds more than {max_count:,} entries, which is the most accepted. Put fewer files in it."
            )
        compressed, size, offset = fields[8], fields[9], fields[16]
        if _FULL32 in (compressed, size, offset):
            compressed, size, offset = _widen(raw[extra_at : extra_at + extra_bytes], compressed, size, offset)
        yield Record(raw[name_at:extra_at], fields[3], fields[4], compressed, size, fields[15] >> 16, offset)
    if count != span.count and count & _FULL16 != span.count:  # old writers count modulo 65,536
        raise ArchiveError(f"The zip's directory holds {count:,} entries but says {span.count:,}. Make the zip again.")


def _widen(extra: bytes, compressed: int, size: int, offset: int) -> tuple[int, int, int]:
    """Replace the 32-bit fields that are full by their 64-bit values (extra field 1)."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            body = extra[at + 4 : at + 4 + length]
            values = iter(struct.unpack(f"<{len(body) // 8}Q", body[: len(body) // 8 * 8]))
            try:
                size = next(values) if size == _FULL32 else size
                compressed = next(values) if compressed == _FULL32 else compressed
                offset = next(values) if offset == _FULL32 else offset
            except StopIteration:
                break
            return compressed, size, offset
        at += 4 + length
    raise ArchiveError("The zip's directory is damaged: a 64-bit size is announced and missing. Make the zip again.")
