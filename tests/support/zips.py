"""Small pictures, honest zips, and zips that no honest program writes."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image


def picture(number: int = 0, *, size: tuple[int, int] = (8, 6), format: str = "PNG") -> bytes:
    """A small picture in one colour; another number gives other bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (number % 256, number // 256 % 256, 77)).save(buffer, format)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG of any size in a few dozen bytes: a bomb, were it decoded."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def classes(*labels: str, images: int = 3, prefix: str = "") -> dict[str, bytes]:
    """`prefix`label/0.png ... for each label, no two pictures alike."""
    return {
        f"{prefix}{label}/{i}.png": picture(1 + i + images * k + 1000 * len(prefix))
        for k, label in enumerate(labels)
        for i in range(images)
    }


def write_zip(path: Path, files: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> Path:
    """A plain zip by the standard library; names that end in a slash are folders."""
    items = files.items() if isinstance(files, Mapping) else files
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in items:
            archive.writestr(name, data)
    return path


@dataclass
class RawEntry:
    """One entry, every field of which may lie. `None` means the truth."""

    name: bytes
    data: bytes = b""
    method: int = 8
    flags: int = 0x800
    mode: int = 0
    size: int | None = None
    compressed: int | None = None
    crc: int | None = None
    offset: int | None = None
    local_name: bytes | None = None
    packed: bytes | None = None
    zip64: bool = False

    def payload(self) -> bytes:
        if self.packed is not None:
            return self.packed
        if self.method != 8:
            return self.data
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        return deflate.compress(self.data) + deflate.flush()


def raw_zip(
    entries: Iterable[RawEntry],
    *,
    prefix: bytes = b"",
    suffix: bytes = b"",
    count: int | None = None,
    directory_offset: int | None = None,
    comment: bytes = b"",
    disk: int = 0,
    zip64: bool = False,
) -> bytes:
    """A zip written field by field, so that any of them can be false."""
    out, directory, number = bytearray(prefix), bytearray(), 0
    for entry in entries:
        number += 1
        payload = entry.payload()
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        size = len(entry.data) if entry.size is None else entry.size
        compressed = len(payload) if entry.compressed is None else entry.compressed
        offset = len(out) if entry.offset is None else entry.offset
        local_name = entry.name if entry.local_name is None else entry.local_name
        narrow = (min(compressed, 0xFFFFFFFF), min(size, 0xFFFFFFFF))
        out += struct.pack(
            "<4s5H3L2H", b"PK\x03\x04", 20, entry.flags, entry.method, 0, 33, crc, *narrow, len(local_name), 0
        )
        out += local_name + payload
        extra = b""
        if entry.zip64:
            extra = struct.pack("<HH3Q", 1, 24, size, compressed, offset)
            narrow, offset = (0xFFFFFFFF, 0xFFFFFFFF), 0xFFFFFFFF
        directory += struct.pack(
            "<4s6H3L5H2L",
            b"PK\x01\x02",
            0x031E,
            20,
            entry.flags,
            entry.method,
            0,
            33,
            crc,
            *narrow,
            len(entry.name),
            len(extra),
            0,
            0,
            0,
            entry.mode << 16,
            offset,
        )
        directory += entry.name + extra
    where = len(out) if directory_offset is None else directory_offset
    total = number if count is None else count
    out += directory
    if zip64:
        end = len(out)
        out += struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, total, total, len(directory), where)
        out += struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
        total, where, length = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF
    else:
        length = len(directory)
    out += struct.pack(
        "<4s4H2LH", b"PK\x05\x06", disk, disk, total & 0xFFFF, total & 0xFFFF, length, where, len(comment)
    )
    return bytes(out + comment + suffix)
