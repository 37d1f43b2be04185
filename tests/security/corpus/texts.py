"""Tables of labels: of another form, of another encoding, without end, or pointing elsewhere."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from tests.security.corpus.case import GOOD, Case, beside_good
from tests.support.zips import RawEntry, picture, raw_zip

MIB = 1024**2
UNUSABLE: dict[str, Any] = {"code": "unusable-dataset"}
HEAD = b"filename,label\n"


def endless(name: bytes, text: bytes, size: int, before: bytes = b"") -> RawEntry:
    """`text` over and over, packed badly on purpose: a better packer would meet the limit of the ratio."""
    data = before + text * (size // len(text))
    packer = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return RawEntry(name, packed=packer.compress(data) + packer.flush(), size=len(data), crc=zlib.crc32(data))


def _tables() -> Iterator[Case]:
    files: dict[str, tuple[bytes, bytes, str]] = {
        "semicolons": (b"labels.csv", b"filename;label\na;b", "semicolons"),
        "no-columns": (b"labels.csv", b"a,b\nc,d", "no column filename"),
        "no-line": (b"labels.csv", HEAD, "holds no line"),
        "nothing": (b"labels.csv", b"", "is empty"),
        "utf16": (b"labels.csv", "filename,label\na,b".encode("utf-16"), "not UTF-8"),
        "latin1": (b"labels.csv", "filename,label\nü,b".encode("latin-1"), "not UTF-8"),
        "open-quote": (b"labels.csv", HEAD + b'"a,b\n', "is not CSV"),
        "a-picture": (b"labels.csv", picture(1), "not UTF-8"),
        "long-field": (b"labels.csv", HEAD + b"x" * 900_000, "is not CSV"),
        "quote-without-end": (b"labels.csv", HEAD + b'"' + b"x\n" * 300_000, "is not CSV"),
        "jsonl-of-nothing": (b"metadata.jsonl", b"\n\n", "holds no line"),
        "jsonl-columns": (b"metadata.jsonl", b'{"file_name": "a", "text": "b"}', "no column label"),
        "jsonl-latin1": (b"metadata.jsonl", b'{"file_name": "\xfc"}', "not UTF-8"),
        "classes-no-json": (b"classes.json", b"{", "is not JSON"),
        "classes-deep": (b"classes.json", b"[" * 900_000, "is not JSON"),
        "classes-digits": (b"classes.json", b'{"a": ' + b"9" * 900_000 + b"}", "is not JSON"),
        "classes-a-list": (b"classes.json", b"[]", "is not a JSON object"),
        "classes-of-lists": (b"classes.json", b"[" + b"[]," * 290_000 + b"[]]", "is not a JSON object"),
        "classes-not-utf8": (b"classes.json", b"\xff", "not UTF-8"),
        "classes-unknown-key": (b"classes.json", b'{"cat": {"template": "{__class__}"}}', "unknown key"),
        "classes-long-name": (b"classes.json", json.dumps({"cat": {"name": "x" * 301}}).encode(), "1 to 300"),
        "classes-bidi": (b"classes.json", b'{"cat": {"name": "a\\u202eb"}}', "name is not text"),
        "classes-surrogate": (b"classes.json", b'{"cat": {"name": "\\ud800"}}', "name is not text"),
        "classes-phrasings": (b"classes.json", json.dumps({"cat": {"prompts": ["x"] * 65}}).encode(), "1 to 64"),
    }
    for name, (file, data, says) in files.items():
        entry = RawEntry(file, data)
        yield Case(f"table-{name}", partial(beside_good, entry), says, **UNUSABLE)


PLACES = ("../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/x.png", "\\\\server\\x.png")
LABELS = ("", " ", "a\u202eb", "a\x1b[31m", "x" * 256, "a\nb")


def rows(*pairs: tuple[str, str]) -> RawEntry:
    """A table of files and their labels."""
    lines = (json.dumps({"file_name": file, "label": label}) for file, label in pairs)
    return RawEntry(b"metadata.jsonl", "\n".join(lines).encode())


def _elsewhere() -> Iterator[Case]:
    """Rows that name what is not in the archive: nothing is opened, nothing is fetched."""
    for number, place in enumerate(PLACES):
        entry = rows((place, "cat"), (place, "dog"))
        yield Case(f"table-elsewhere-{number}", partial(beside_good, entry), "is not in the archive", **UNUSABLE)
    for number, label in enumerate(LABELS):
        entry = rows(("cat/0.png", label), ("dog/0.png", label))
        yield Case(f"table-label-{number}", partial(beside_good, entry), "the label of cat/0.png", **UNUSABLE)
    both = rows(*((one.name.decode(), label) for one in GOOD for label in ("1", "2")))
    yield Case("table-two-labels", partial(beside_good, both), "has two labels", **UNUSABLE)


def _endless() -> Iterator[Case]:
    line = b'{"file_name":"a","label":1}\n'
    many = "400,000 lines"
    tables: dict[str, tuple[bytes, bytes, int, bytes, str]] = {
        "over-its-size": (b"labels.csv", b"cat/0.png,cat\n", 65, HEAD, "are accepted"),
        "of-millions-of-lines": (b"labels.csv", b"a,b\n", 32, HEAD, many),
        "of-empty-lines": (b"labels.csv", b"\n", 32, HEAD, many),
        "jsonl-of-millions-of-lines": (b"metadata.jsonl", line, 32, b"", many),
        "jsonl-of-bad-lines": (b"metadata.jsonl", b"x\n", 32, b"", many),
        "jsonl-of-one-line": (b"metadata.jsonl", b"[],", 30, b"[", "too long"),
        "classes-of-millions-of-lists": (b"classes.json", b"[],", 60, b"[", "values"),
        "classes-of-millions-of-objects": (b"classes.json", b"{},", 60, b"[", "values"),
        "of-astral-letters": (b"labels.csv", "\U0001f600".encode(), 40, HEAD, "is not CSV"),
    }
    for name, (file, text, size, before, says) in tables.items():
        make = partial(_beside, file, text, size * MIB, before)
        yield Case(f"table-{name}", make, says, **UNUSABLE)


def _beside(file: bytes, text: bytes, size: int, before: bytes) -> bytes:
    return beside_good(endless(file, text, size, before))


def _nothing_to_learn() -> Iterator[Case]:
    shapes: dict[str, tuple[list[RawEntry], str]] = {
        "nothing": ([], "holds no file"),
        "litter": ([RawEntry(b"__MACOSX/._x", b"x"), RawEntry(b".DS_Store", b"x")], "the desktop's own"),
        "one-class": (list(GOOD[:2]), "the only class"),
        "no-class": ([RawEntry(b"0.png", picture(1)), RawEntry(b"1.png", picture(2))], "lies in no class folder"),
        "too-deep": ([RawEntry(f"a/b/c/d/{n}.png".encode(), picture(n)) for n in range(3)], "folders deep"),
        "only-a-test": ([RawEntry(b"test/" + one.name, one.data) for one in GOOD], "in the split test"),
        "only-folders": ([RawEntry(b"cat/", method=0), RawEntry(b"dog/", method=0)], "holds no file"),
        "programs": ([RawEntry(b"cat/run.exe", b"MZ" * 50), RawEntry(b"dog/run.sh", b"#!/bin/sh\n")], "accepted image"),
        "a-jar": (
            [RawEntry(b"META-INF/MANIFEST.MF", b"x"), RawEntry(b"a/B.class", b"\xca\xfe\xba\xbe")],
            "accepted image",
        ),
        "numpy": ([RawEntry(b"a.npy", b"\x93NUMPY\x01\0"), RawEntry(b"b.npy", b"\x93NUMPY\x01\0")], "no class folder"),
        "a-torch-file": ([RawEntry(b"archive/data.pkl", b"\x80\x02."), RawEntry(b"archive/data/0", b"\0" * 4)], ""),
    }
    for name, (entries, says) in shapes.items():
        yield Case(f"empty-{name}", partial(raw_zip, entries), says, **UNUSABLE)


CASES = (*_tables(), *_elsewhere(), *_endless(), *_nothing_to_learn())
