"""Small files that want to become large: by ratio, by number, by nesting, by lies about their size."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

from tests.security.corpus.case import GOOD, Case, beside_good
from tests.support.zips import RawEntry, raw_zip

MIB = 1024**2
TOO_LARGE: dict[str, Any] = {"status": 413, "code": "archive-too-large"}
UNUSABLE: dict[str, Any] = {"code": "unusable-dataset"}
ENTRIES = 100_000
"""What the service under test takes, as by default."""


@cache
def deflated(size: int) -> bytes:
    """`size` zeros, a thousandth as long; made a piece at a time."""
    packer, piece = zlib.compressobj(6, zlib.DEFLATED, -15), bytes(MIB)
    return b"".join(packer.compress(piece) for _ in range(size // MIB)) + packer.flush()


def in_the_directory(count: int, *, comment_bytes: int = 0) -> bytes:
    """A zip of `count` entries without a name and without a body: a directory and nothing else."""
    header = struct.pack(
        "<4s6H3L5H2L", b"PK\x01\x02", 0x031E, 20, 0x800, 0, 0, 33, 0, 0, 0, 0, 0, comment_bytes, 0, 0, 0, 0
    )
    first = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0x800, 0, 0, 33, 0, 0, 0, 0, 0)
    directory = (header + b"c" * comment_bytes) * count
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(directory), len(first))
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(first) + len(directory), 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return first + directory + end64 + locator + end


def nested(depth: int) -> bytes:
    """A zip in a zip in a zip, two of it in each."""
    inner = raw_zip(GOOD)
    for _ in range(depth):
        inner = raw_zip([RawEntry(label + b"/0.zip", inner, method=0) for label in (b"cat", b"dog")])
    return inner


def many_small(files: int) -> bytes:
    """Each below the size from which one file's ratio is judged; together a gigabyte in a megabyte."""
    size = MIB - 100_000
    flat = zlib.compress(bytes(size), 9)[2:-4]
    crc = zlib.crc32(bytes(size))
    names = (f"{label}/{n}.bmp".encode() for label in ("cat", "dog") for n in range(files // 2))
    return raw_zip(RawEntry(name, packed=flat, size=size, crc=crc) for name in names)


def by_the_sum(files: int) -> bytes:
    """No file over a limit, all of them together."""
    packed = zlib.compress(bytes(range(256)) * 4096, 0)[2:-4]
    return raw_zip(RawEntry(f"cat/{n}.png".encode(), packed=packed, size=200 * MIB) for n in range(files))


def _sizes() -> Iterator[Case]:
    for size in (2, 32, 255):
        entry = RawEntry(b"cat/9.png", size=size * MIB)
        yield Case(f"bomb-of-{size}-mib", partial(_filled, entry), "times its size", **TOO_LARGE)
    over = RawEntry(b"cat/9.png", size=300 * MIB)
    yield Case("bomb-over-the-size-of-a-file", lambda: _filled(over), "one file may have", **TOO_LARGE)
    lie = RawEntry(b"cat/9.png", packed=b"", size=900)
    yield Case("bomb-that-says-it-is-small", lambda: _filled(lie, 255 * MIB), "more than the 900 bytes")
    said = [RawEntry(f"cat/z{n}.png".encode(), b"x", size=2**40, zip64=True) for n in range(9)]
    yield Case("bomb-of-sizes-only-said", lambda: beside_good(*said), "unpacks to 1,099,511,627,776", **TOO_LARGE)
    huge = RawEntry(b"cat/9.png", b"x", size=2**64 - 1, zip64=True)
    yield Case("bomb-of-all-64-bits", lambda: beside_good(huge), "unpacks to 18,446,744,073,709,551,615", **TOO_LARGE)
    yield Case("bomb-by-the-sum", lambda: by_the_sum(42), "accepted in all", **TOO_LARGE)
    yield Case("bomb-of-many-small-files", lambda: many_small(1000), "times its size", **TOO_LARGE)


def _filled(entry: RawEntry, size: int | None = None) -> bytes:
    entry.packed = deflated(size or entry.size or 0)
    return beside_good(entry)


def _numbers() -> Iterator[Case]:
    yield Case("bomb-a-million-entries", lambda: in_the_directory(10**6), "more than 100,000 entries", **TOO_LARGE)
    yield Case("bomb-one-entry-too-many", lambda: in_the_directory(ENTRIES + 1), "more than 100,000", **TOO_LARGE)
    yield Case("bomb-entries-without-names", lambda: in_the_directory(ENTRIES), "problems in it")
    large = {"comment_bytes": 65_000}
    yield Case("bomb-of-comments", lambda: in_the_directory(1100, **large), "directory is", **TOO_LARGE)


def _nested() -> Iterator[Case]:
    for depth in (1, 2, 8):
        yield Case(f"bomb-nested-{depth}", partial(nested, depth), "nested archives", **UNUSABLE)
    loose = [RawEntry(b"a.zip", raw_zip(GOOD)), RawEntry(b"b.tar.gz", b"\x1f\x8b\x08"), RawEntry(b"c.7z", b"7z")]
    yield Case("bomb-nested-loose", lambda: raw_zip(loose), "an archive inside the archive", **UNUSABLE)
    heads = (
        b"Rar!\x1a\x07\x00",
        b"\x1f\x8b\x08\0",
        b"BZh91AY",
        b"\xfd7zXZ\0",
        b"\x28\xb5\x2f\xfd",
        b"7z\xbc\xaf\x27\x1c",
    )
    for head in heads:
        inner = [RawEntry(label + b"/0.jpg", head * 9) for label in (b"cat", b"dog")]
        name = f"bomb-nested-{head[:3].hex()}"
        yield Case(name, partial(raw_zip, inner), "nested archives", **UNUSABLE)


CASES = (*_sizes(), *_numbers(), *_nested())
