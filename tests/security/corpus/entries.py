"""Entries that are no plain file: links, devices, locked, packed otherwise, or in each other's bytes."""

from __future__ import annotations

import bz2
import lzma
import stat
import zlib
from collections.abc import Iterator
from functools import partial

from tests.security.corpus.case import GOOD, Case, beside_good
from tests.support.zips import RawEntry, picture, raw_zip

KINDS = {
    "link": (stat.S_IFLNK, "a symbolic link"),
    "character-device": (stat.S_IFCHR, "a character device"),
    "block-device": (stat.S_IFBLK, "a block device"),
    "pipe": (stat.S_IFIFO, "a named pipe"),
    "socket": (stat.S_IFSOCK, "a socket"),
    "odd-kind": (0o030000, "a special file"),
}
LINKS = ("/etc/passwd", "../../../etc/shadow", "..", "/proc/self/environ", "cat/0.png", "")
LOCKED = {"zipcrypto": 0x1, "strong": 0x41, "strong-alone": 0x40, "masked": 0x2000, "masked-too": 0x2001}
METHODS = (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 16, 18, 19, 20, 93, 94, 95, 96, 97, 98, 99, 0xFFFF)
PACKED = {12: bz2.compress(bytes(200_000)), 14: lzma.compress(bytes(100_000)), 95: lzma.compress(bytes(9))}


def _cases() -> Iterator[Case]:
    for name, (kind, says) in KINDS.items():
        entry = RawEntry(b"cat/9.png", b"/etc/passwd", mode=kind | 0o777)
        yield Case(f"entry-{name}", partial(beside_good, entry), says)
    for number, target in enumerate(LINKS):
        entry = RawEntry(b"cat/9.png", target.encode(), method=0, mode=stat.S_IFLNK | 0o777)
        yield Case(f"entry-link-{number}", partial(beside_good, entry), "a symbolic link")
    folder = RawEntry(b"cat/inner/", b"/etc", method=0, mode=stat.S_IFLNK | 0o777)
    yield Case("entry-link-folder", lambda: beside_good(folder, RawEntry(b"cat/inner/1.png", b"x")), "a symbolic link")
    for name, flags in LOCKED.items():
        entry = RawEntry(b"cat/9.png", picture(9), flags=flags | 0x800)
        yield Case(f"entry-locked-{name}", partial(beside_good, entry), "encrypted")
    for method in METHODS:
        entry = RawEntry(b"cat/9.png", bytes(200_000), method=method, packed=PACKED.get(method, b"??"))
        yield Case(f"entry-method-{method}", partial(beside_good, entry), "compressed with")
    patch = RawEntry(b"cat/9.png", picture(9), flags=0x820)
    yield Case("entry-patch", lambda: beside_good(patch), "holds patch data")
    sizes = RawEntry(b"cat/9.png", picture(9), method=0, size=4)
    yield Case("entry-two-sizes", lambda: beside_good(sizes), "its two sizes differ")
    yield from _overlaps()
    yield from _damage()


def _overlaps() -> Iterator[Case]:
    kernel = RawEntry(b"cat/8.png", bytes(1000))
    many = [RawEntry(f"cat/k{n}.png".encode(), bytes(1000), offset=0) for n in range(300)]
    yield Case("entry-one-kernel", lambda: raw_zip([kernel, *many]), "its bytes overlap those of")
    inner = raw_zip([RawEntry(b"dog/9.png", picture(8))])
    at = 30 + len(b"cat/9.png")  # where the data of a first entry begins
    quoted = [RawEntry(b"cat/9.png", inner, method=0), RawEntry(b"dog/9.png", picture(8), offset=at), *GOOD]
    yield Case("entry-inside-another", lambda: raw_zip(quoted), "its bytes overlap those of")
    long = RawEntry(b"cat/9.png", b"x" * 10, method=0, size=500_000, compressed=500_000)
    yield Case("entry-into-the-directory", lambda: beside_good(long), "overlap those of the directory")
    far = RawEntry(b"cat/9.png", b"x", offset=2**63 + 5, zip64=True)
    yield Case("entry-behind-the-end", lambda: beside_good(far), "overlap those of the directory")
    last = RawEntry(b"cat/9.png", b"x", offset=0xFFFFFFFE)
    yield Case("entry-at-4-gib", lambda: beside_good(last), "overlap those of the directory")
    twin = RawEntry(b"cat/9.png", picture(1), offset=0)
    yield Case("entry-two-names-one-file", lambda: beside_good(twin), "its bytes overlap those of")


def _damage() -> Iterator[Case]:
    """Every picture is damaged, so that nothing is left to learn from; one alone would be left out and named."""
    noise = bytes(range(256)) * 8
    broken = {
        "checksum": (lambda name: RawEntry(name, picture(2), crc=12345), "checksum does not match"),
        "cut": (lambda name: RawEntry(name, noise, packed=zlib.compress(noise)[2:40]), "cut short in the archive"),
        "no-deflate": (lambda name: RawEntry(name, picture(2), packed=b"\xff" * 40), "damaged in the archive"),
        "too-short": (lambda name: RawEntry(name, picture(2), size=len(picture(2)) + 9), "cut short in the archive"),
        "other-name": (lambda name: RawEntry(name, picture(2), local_name=b"x" + name[1:]), "damaged in the archive"),
        "empty": (lambda name: RawEntry(name, b""), "an empty file"),
    }
    names = (b"cat/0.png", b"cat/1.png", b"dog/0.png", b"dog/1.png")
    for name, (make, says) in broken.items():
        yield Case(
            f"entry-all-{name}",
            lambda make=make: raw_zip([make(one) for one in names]),
            says,
            code="unusable-dataset",
        )
    lie = RawEntry(b"cat/9.png", picture(2) + bytes(5000), size=100, crc=zlib.crc32(picture(2)[:100]))
    yield Case("entry-longer-than-it-says", lambda: beside_good(lie), "unpacks to more than the 100 bytes")


CASES = tuple(_cases())
