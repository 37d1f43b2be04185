"""Writes the seeds that the fuzzer begins with; `make fuzz` adds what it finds.

python -m tests.security.fuzz.make_seeds
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path

from tests.security.corpus import bundles, directories, entries, names, texts
from tests.security.corpus.case import GOOD
from tests.security.corpus.pictures import FORMATS, png, saved, tiff
from tests.support.zips import RawEntry, classes, picture, raw_zip

SEEDS = Path(__file__).parent / "seeds"
MOST_BYTES = 4096


def recipe_of(*parts: tuple[bytes, bytes]) -> bytes:
    """The recipe of an honest archive."""
    return b"\0" + b"".join(
        struct.pack("<BBHIIIHB", 0, len(name), 0, 0, 0, 0, 0x800, len(body)) + name + body for name, body in parts
    )


def seeds() -> Iterator[tuple[str, bytes]]:
    """(target, input) of each."""
    for case in (*names.CASES[:60:4], *entries.CASES[::6], *directories.CASES[::5]):
        yield "archive", case.make()
    yield "archive", raw_zip(GOOD, zip64=True)
    yield (
        "archive",
        raw_zip([RawEntry(name.encode(), data) for name, data in classes("a", "b", prefix="train/").items()]),
    )
    body = picture(3, size=(2, 2))
    honest = ((b"cat/0.png", body), (b"dog/0.png", picture(4, size=(2, 2))))
    yield "recipe", recipe_of(*honest)
    yield "recipe", recipe_of(*honest, (b"labels.csv", b"filename,label\ncat/0.png,x\ndog/0.png,y\n"))
    yield "recipe", recipe_of(*honest, (b"classes.json", b'{"cat": {"name": "a", "prompts": ["b"]}}'))
    layouts = (
        {"cat/0.png": "", "dog/0.png": ""},
        {"x/train/cat/0.png": "", "x/train/dog/0.png": "", "x/test/cat/1.png": ""},
        {"0.png": "", "labels.csv": "filename,label\n0.png,cat\n"},
        {"train/0.png": "", "train/metadata.jsonl": '{"file_name": "0.png", "label": "cat"}', "test/1.png": ""},
        {"cat/0.png": "", "dog/0.png": "", "classes.json": '{"cat": {"name": "tabby"}}'},
    )
    for files in layouts:
        yield "layout", "\x1e".join(f"{name}={body}" for name, body in files.items()).encode()
    tables = (b'\0{"file_name": "a", "label": "b"}\n', b'\1file_name,label\n"a, b",c\n', b"\2filename,label\na,b\n")
    yield from (("table", one) for one in tables)
    yield "table", b'\3{"cat": {"name": "a", "prompts": ["b", "c"]}}'
    for case in texts.CASES:
        if "classes" in case.name and len(data := case.make()) < MOST_BYTES:
            yield "archive", data
    for case in bundles.CASES[::3]:
        if "million" not in case.name and len(data := case.make()) < MOST_BYTES:
            yield "bundle", data
    yield "bundle", bundles.bundle(len)
    yield "tensors", bundles.tensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8))
    yield (
        "tensors",
        bundles.tensors(
            {"__metadata__": {"x": "y"}, "a": {"dtype": "BF16", "shape": [], "data_offsets": [0, 2]}}, bytes(2)
        ),
    )
    yield "manifest", json.dumps(bundles.MODEL).encode()
    yield "manifest", json.dumps({"metrics": {}, "history": [], "config": {}, "warnings": ["x"]}).encode()
    stored = {
        "version": 2,
        "id": "0" * 64,
        "layout": "folders",
        "classes": [{"label": "a", "name": "a", "prompts": ["a"]}],
        "splits": ["train", "val", "test"],
        "columns": [],
        "samples": [["a/0.png", 0, 0, "0" * 64, 5, 0, ""]],
        "skipped": {},
        "notes": [],
        "left_out": {"total": 0, "faults": []},
    }
    yield "manifest", json.dumps(stored).encode()
    for name, options in FORMATS.items():
        yield "picture", saved(name.partition("-")[0], (9, 7), **options)
    yield "picture", png()
    yield (
        "picture",
        tiff({256: (4, 1, 8), 257: (4, 1, 8), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 8)}),
    )


def main() -> None:
    """Write each under the hash of its content."""
    for target, data in seeds():
        if len(data) <= MOST_BYTES:
            folder = SEEDS / target
            folder.mkdir(parents=True, exist_ok=True)
            (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


if __name__ == "__main__":
    main()
