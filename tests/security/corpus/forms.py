"""Multipart bodies that are written against the parser, and bodies that are not what their header says."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from functools import partial
from typing import Any

from tests.security.corpus.case import GOOD, Case
from tests.support.zips import raw_zip

FORM = "multipart/form-data; boundary=b"
MALFORMED: dict[str, Any] = {"status": 400, "code": "malformed-request", "content_type": FORM}
FILE = b'Content-Disposition: form-data; name="file"; filename="a.zip"\r\n'
END = b"\r\n--b--\r\n"
HEADS = b"".join(b"X-%d: y\r\n" % n for n in range(5000))
BOUNDARIES = {"none": "", "empty": "; boundary=", "quotes": '; boundary=""'}
KINDS = {
    "json": "application/json",
    "text": "text/plain",
    "none": "",
    "png": "image/png",
    "mixed": "multipart/mixed; boundary=b",
}


def part(head: bytes, body: bytes = b"x") -> bytes:
    """One part, with the boundary before it."""
    return b"--b\r\n" + head + b"\r\n" + body


def field(name: str, value: bytes = b"x") -> bytes:
    """One field, with the boundary before it."""
    return part(f'Content-Disposition: form-data; name="{name}"\r\n'.encode(), value)


def _broken() -> Iterator[Case]:
    zipped = raw_zip(GOOD)
    bodies: dict[str, tuple[bytes, str]] = {
        "nothing": (b"", "closing boundary"),
        "no-boundary": (zipped, "not valid multipart"),
        "other-boundary": (part(FILE, zipped).replace(b"--b", b"--c") + b"\r\n--c--\r\n", "not valid multipart"),
        "never-closed": (part(FILE, zipped), "closing boundary"),
        "closed-in-the-head": (b"--b\r\n" + FILE, "closing boundary"),
        "no-disposition": (part(b"Content-Type: text/plain\r\n") + END, "has no name"),
        "attachment": (part(b'Content-Disposition: attachment; name="file"\r\n') + END, "has no name"),
        "no-name": (part(b'Content-Disposition: form-data; filename="a.zip"\r\n') + END, "has no name"),
        "head-of-100-kb": (part(b"X: " + b"y" * 100_000 + b"\r\n" + FILE) + END, "not valid multipart"),
        "thousands-of-heads": (part(HEADS + FILE) + END, "not valid multipart"),
        "line-ends": ((part(FILE, zipped[:50]) + END).replace(b"\r\n", b"\n"), "not valid multipart"),
        "nul-in-the-head": (part(FILE.replace(b"a.zip", b"a\0.zip")[:-2] + b"\0\r\n: x\r\n") + END, ""),
        "bytes-in-a-field": (field("note", b"\xff\xfe") + END, "not UTF-8"),
        "thousands-of-fields": (b"\r\n".join(field(f"f{n}") for n in range(5000)) + END, "fields"),
        "a-flood-before": (b"x" * 2_000_000 + b"\r\n" + part(FILE, zipped) + END, "not valid multipart"),
    }
    for name, (body, says) in bodies.items():
        yield Case(f"form-{name}", partial(bytes, body), says, **MALFORMED)
    for name, text in BOUNDARIES.items():
        kind = MALFORMED | {"content_type": f"multipart/form-data{text}"}
        yield Case(f"form-boundary-{name}", lambda: part(FILE) + END, "boundary", **kind)
    long = "multipart/form-data; boundary=" + "b" * 5000
    yield Case("form-boundary-long", lambda: part(FILE) + END, "", **(MALFORMED | {"content_type": long}))


def _refused() -> Iterator[Case]:
    zipped = raw_zip(GOOD)
    whole = part(FILE, zipped)
    unfit: dict[str, Any] = {"code": "invalid-request", "content_type": FORM}
    large: dict[str, Any] = {"status": 413, "code": "too-large", "content_type": FORM}
    archive: dict[str, Any] = {"content_type": FORM}
    yield Case("form-field-alone", lambda: field("file") + END, "Unknown fields", **unfit)
    yield Case("form-another-name", lambda: whole.replace(b'"file"', b'"zip"') + END, "send it as", **unfit)
    yield Case("form-further-field", lambda: whole + b"\r\n" + field("path", b"/etc") + END, "Unknown fields", **unfit)
    yield Case("form-two-files", lambda: whole + b"\r\n" + whole + END, "At most 1 files", **large)
    yield Case("form-field-of-3-mb", lambda: field("note", b"x" * 3_000_000) + END, "bytes", **large)
    yield Case("form-empty-file", lambda: part(FILE, b"") + END, "empty, 0 bytes", **archive)
    inner = b"Content-Type: multipart/mixed; boundary=c\r\n"
    mixed = b"--c\r\nContent-Disposition: file; filename=a\r\n\r\n" + zipped + b"\r\n--c--"
    yield Case("form-in-a-form", lambda: part(FILE + inner, mixed) + END, "begins like", **archive)
    coded = FILE + b"Content-Transfer-Encoding: base64\r\n"
    yield Case("form-base64", lambda: part(coded, b"UEsDBAoAAAAA") + END, "begins like text", **archive)


def _types() -> Iterator[Case]:
    wrong: dict[str, Any] = {"status": 415, "code": "unsupported-media-type"}
    for name, kind in KINDS.items():
        yield Case(f"type-{name}", lambda: raw_zip(GOOD), "send multipart/form-data", content_type=kind, **wrong)
    form = "application/x-www-form-urlencoded"
    yield Case("type-url-encoded", lambda: b"file=x", "Unknown fields", code="invalid-request", content_type=form)
    yield Case(
        "type-url-encoded-flood", lambda: b"a=b&" * 200_000, "fields", 400, "malformed-request", content_type=form
    )
    yield Case(
        "type-url-encoded-long", lambda: b"a=" + b"b" * 3_000_000, "at most", 413, "too-large", content_type=form
    )
    packed = (("Content-Encoding", "gzip"),)
    yield Case("type-packed-once-more", lambda: gzip.compress(raw_zip(GOOD)), "a gzip archive", headers=packed)
    yield Case("type-packed-bomb", lambda: gzip.compress(bytes(50_000_000)), "a gzip archive", headers=packed)


CASES = (*_broken(), *_refused(), *_types())
