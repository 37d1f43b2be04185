"""Zips whose directory lies, is cut, is elsewhere, or can be read in two ways; and files that are no zip."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from functools import partial

from tests.security.corpus.case import GOOD, Case
from tests.support.zips import RawEntry, picture, raw_zip

END64, LOCATOR, END = b"PK\x06\x06", b"PK\x06\x07", b"PK\x05\x06"


def patched(raw: bytes, mark: bytes, at: int, form: str, value: int) -> bytes:
    """The field `at` bytes behind the last `mark`, replaced."""
    out, where = bytearray(raw), raw.rindex(mark) + at
    struct.pack_into(form, out, where, value)
    return bytes(out)


def _cut() -> Iterator[Case]:
    whole = raw_zip(GOOD)
    for share in (5, 20, 40, 60, 80, 95):
        yield Case(f"zip-cut-at-{share}", partial(bytes, whole[: len(whole) * share // 100]), "cut short")
    for missing in (1, 2, 21, 22, 23, 60):
        yield Case(f"zip-cut-{missing}-before-the-end", partial(bytes, whole[:-missing]), "The zip")
    yield Case("zip-no-beginning", lambda: whole[100:], "Not a zip")
    yield Case("zip-hole", lambda: whole[:60] + whole[90:], "not where it says")
    yield Case("zip-end-alone", lambda: END + b"\0" * 10, "cut short")


def _lies() -> Iterator[Case]:
    plain, wide = raw_zip(GOOD), raw_zip(GOOD, zip64=True)
    lies: dict[str, tuple[bytes, str]] = {
        "count-more": (raw_zip(GOOD, count=7), "says 7"),
        "count-none": (raw_zip(GOOD, count=0), "says 0"),
        "count-all": (raw_zip(GOOD, count=0xFFFF), "says 65,535"),
        "offset-less": (patched(plain, END, 16, "<L", 4), "not where it says"),
        "offset-more": (patched(plain, END, 16, "<L", len(plain)), "not where it says"),
        "offset-of-4-gib": (patched(plain, END, 16, "<L", 0xFFFFFFFE), "not where it says"),
        "length-less": (patched(plain, END, 12, "<L", 10), "not where it says"),
        "length-none": (patched(plain, END, 12, "<L", 0), "not where it says"),
        "length-of-4-gib": (patched(plain, END, 12, "<L", 0xFFFFFFFE), "bytes long"),
        "comment-longer": (patched(plain, END, 20, "<H", 9), "Bytes follow"),
        "parts": (raw_zip(GOOD, disk=1), "one part of several"),
        "parts-of-the-start": (patched(plain, END, 6, "<H", 1), "one part of several"),
        "parts-by-count": (patched(plain, END, 8, "<H", 1), "one part of several"),
        "wide-without-locator": (wide.replace(LOCATOR, b"PK\x06\0"), "zip64"),
        "wide-without-record": (wide.replace(END64, b"PK\x06\0"), "zip64"),
        "wide-elsewhere": (patched(wide, LOCATOR, 8, "<Q", 2**63), "zip64"),
        "wide-parts": (patched(wide, LOCATOR, 16, "<L", 2), "one part of several"),
        "wide-length": (patched(wide, END64, 40, "<Q", 2**62), "bytes long"),
        "wide-offset": (patched(wide, END64, 48, "<Q", 2**62), "not where it says"),
        "wide-count": (patched(wide, END64, 32, "<Q", 2**40), "says 1,099,511,627,776"),
        "wide-size-missing": (patched(plain, b"PK\x01\x02", 24, "<L", 0xFFFFFFFF), "64-bit size"),
        "wide-offset-missing": (patched(plain, b"PK\x01\x02", 42, "<L", 0xFFFFFFFF), "64-bit size"),
        "entry-signature": (plain.replace(b"PK\x01\x02", b"PK\x01\x03", 1), "damaged at entry 1"),
        "entry-name-too-long": (patched(plain, b"PK\x01\x02", 28, "<H", 0xFFFF), "damaged at entry 4"),
        "entry-comment-too-long": (patched(plain, b"PK\x01\x02", 32, "<H", 0xFFFF), "damaged at entry 4"),
    }
    for name, (raw, says) in lies.items():
        too_large = {"status": 413, "code": "archive-too-large"} if says == "bytes long" else {}
        yield Case(f"zip-lie-{name}", partial(bytes, raw), says, **too_large)
    short = RawEntry(b"cat/9.png", b"x", size=2**33, zip64=True)
    raw = raw_zip([*GOOD, short]).replace(struct.pack("<HH", 1, 24), struct.pack("<HH", 1, 8))
    yield Case("zip-lie-wide-extra-too-short", lambda: raw, "64-bit size")


def _two_readings() -> Iterator[Case]:
    inner = raw_zip([RawEntry(b"cat/9.png", picture(7)), RawEntry(b"dog/9.png", picture(8))])
    hidden_end = struct.pack("<4s4H2LH", END, 0, 0, 0, 0, 0, 0, 0)
    ways = {
        "two-zips": (inner + raw_zip(GOOD), "not where it says"),
        "zip-in-the-comment": (raw_zip(GOOD, comment=inner), "not where it says"),
        "end-in-the-comment": (raw_zip(GOOD, comment=b"x" + hidden_end), "not where it says"),
        "bytes-after": (raw_zip(GOOD, suffix=b"<script>alert(1)</script>"), "Bytes follow"),
        "zip-after": (raw_zip(GOOD) + inner, "not where it says"),
        "null-bytes-after": (raw_zip(GOOD, suffix=bytes(1000)), "Bytes follow"),
        "far-end": (raw_zip(GOOD, suffix=b"x" * 70_000), "cut short"),
    }
    for name, (raw, says) in ways.items():
        yield Case(f"zip-{name}", partial(bytes, raw), says)


def _no_zip() -> Iterator[Case]:
    heads: dict[str, tuple[bytes, str]] = {
        "nothing": (b"", "empty, 0 bytes"),
        "one-byte": (b"P", "begins like text"),
        "only-a-mark": (b"PK\x03\x04", "cut short"),
        "spanned": (b"PK\x07\x08PK\x03\x04" + bytes(99), "one part of several"),
        "rar": (b"Rar!\x1a\x07\x00" + bytes(99), "a RAR archive"),
        "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(99), "a 7z archive"),
        "gzip": (b"\x1f\x8b\x08" + bytes(99), "a gzip archive"),
        "bzip2": (b"BZh9" + bytes(99), "a bzip2 archive"),
        "xz": (b"\xfd7zXZ\x00" + bytes(99), "an xz archive"),
        "zstd": (b"\x28\xb5\x2f\xfd" + bytes(99), "a zstd archive"),
        "tar": (b"cat/0.png".ljust(257, b"\0") + b"ustar\x0000" + bytes(300), "a tar archive"),
        "png": (picture(1), "begins like"),
        "json": (json.dumps({"a": 1}).encode(), "begins like text"),
        "pickle": (b"\x80\x04\x95" + bytes(40) + b".", "begins like unknown binary data"),
        "html": (b"<!doctype html><script>alert(1)</script>", "an HTML page"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "an SVG or XML document"),
        "xml-entities": (b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>', "SVG or XML"),
        "script": (b"#!/bin/sh\nrm -rf /\n", "begins like text"),
        "noise": (bytes(range(256)) * 40, "begins like unknown binary data"),
    }
    for name, (raw, says) in heads.items():
        yield Case(f"no-zip-{name}", partial(bytes, raw), says)


def _polyglots() -> Iterator[Case]:
    fronts: dict[str, tuple[bytes, str]] = {
        "program": (b"MZ\x90\x00" + bytes(60), "a program"),
        "elf": (b"\x7fELF" + bytes(60), "a program"),
        "page": (b"<html><script>alert(1)</script>", "an HTML page"),
        "pdf": (b"%PDF-1.7\n", "a PDF document"),
        "gif": (b"GIF89a" + bytes(20), "unknown binary data"),
        "jpeg": (b"\xff\xd8\xff\xe0" + bytes(20), "unknown binary data"),
        "picture": (picture(3), "unknown binary data"),
        "shell": (b"#!/bin/sh\nunzip -p $0 x | sh; exit\n", "unknown binary data"),
        "space": (b" ", "begins like"),
        "mark": (b"\xef\xbb\xbf", "begins like"),
    }
    for name, (front, says) in fronts.items():
        yield Case(f"polyglot-{name}", partial(raw_zip, GOOD, prefix=front), says)
        if name in ("program", "page", "picture"):  # with offsets that count from the zip's own beginning
            yield Case(f"polyglot-moved-{name}", partial(bytes, front + raw_zip(GOOD)), says)


CASES = (*_cut(), *_lies(), *_two_readings(), *_no_zip(), *_polyglots())
