"""Files that pretend to be an exported model."""

from __future__ import annotations

import copy
import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tests.security.corpus.case import GOOD, Case
from tests.support.zips import RawEntry, raw_zip

NO_MODEL: dict[str, Any] = {"code": "invalid-model", "path": "/models/import"}
TENSORS, MANIFEST, REPORT, ORIGIN = "classifier.safetensors", "manifest.json", "report.json", "export.json"
MIB = 1024**2

_CLASSES = [{"label": one, "name": one, "phrasings": [one]} for one in ("red", "blue")]
MODEL: dict[str, Any] = {
    "format": 1,
    "method": "coop",
    "method_config": {"n_ctx": 4},
    "classes": _CLASSES,
    "backbone": {"name": "demo", "fingerprint": "a" * 64},
}


def tensors(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file; its header may be anything."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def _good() -> dict[str, bytes]:
    one = {"ctx": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    return {TENSORS: tensors(one, b"\0" * 4), MANIFEST: json.dumps(MODEL).encode()}


def bundle(change: Callable[[dict[str, bytes]], Any], origin: dict[str, Any] | None = None) -> bytes:
    """An exported model with one thing changed, whose own list of hashes is true."""
    files = _good()
    change(files)
    marks = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
        if name in (TENSORS, MANIFEST, REPORT)
    }
    facts = {"format": 1, "id": "model_x", "files": marks} | (origin or {})
    files.setdefault(ORIGIN, json.dumps(facts).encode())
    return raw_zip(RawEntry(name.encode(), data) for name, data in files.items())


def _put(name: str, data: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.update({name: data})


def _manifest(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    return _put(MANIFEST, json.dumps(copy.deepcopy(MODEL) | changes).encode())


def _shape(*shape: Any, dtype: str = "F32") -> Callable[[dict[str, bytes]], None]:
    return _put(TENSORS, tensors({"a": {"dtype": dtype, "shape": list(shape), "data_offsets": [0, 4]}}, b"\0" * 4))


_THOUSANDS = {f"t{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(5000)}


def _cases() -> Iterator[Case]:
    changes: dict[str, tuple[Callable[[dict[str, bytes]], Any], str]] = {
        "no-manifest": (lambda f: f.pop(MANIFEST), "manifest.json is missing"),
        "no-tensors": (lambda f: f.pop(TENSORS), "classifier.safetensors is missing"),
        "pickle": (_put("model.pkl", b"\x80\x04."), "does not belong here"),
        "code": (_put("code/run.py", b"import os"), "does not belong here"),
        "litter": (_put("__MACOSX/._x", b"x"), "does not belong here"),
        "another-case": (_put("Manifest.json", b"{}"), "differs from"),
        "tensors-empty": (_put(TENSORS, b""), "header"),
        "tensors-pickled": (_put(TENSORS, b"\x80\x04\x95" + b"x" * 40), "header"),
        "tensors-zipped": (_put(TENSORS, raw_zip([RawEntry(b"archive/data.pkl", b"\x80\x02.")])), "header"),
        "tensors-header-of-64-bits": (_put(TENSORS, tensors(b"{}", length=2**64 - 1)), "header"),
        "tensors-header-longer": (_put(TENSORS, tensors(b"{}", length=3)), "header"),
        "tensors-header-of-2-mb": (_put(TENSORS, tensors(b" " * (2 * MIB) + b"{}")), "header"),
        "tensors-header-deep": (_put(TENSORS, tensors(b"[" * 100_000)), "no safetensors file"),
        "tensors-header-a-list": (_put(TENSORS, tensors(b"[]")), "no safetensors file"),
        "tensors-claims": (_shape(1 << 40), "claims"),
        "tensors-overflow": (_shape(1 << 62, 1 << 62, 8), "claims"),
        "tensors-negative": (_shape(-1), "not accepted"),
        "tensors-many-sides": (_shape(*[1] * 100), "not accepted"),
        "tensors-sides-of-text": (_shape("4"), "not accepted"),
        "tensors-strange-kind": (_shape(1, dtype="PICKLE"), "not accepted"),
        "tensors-thousands": (_put(TENSORS, tensors(_THOUSANDS)), "5000 tensors"),
        "manifest-no-json": (_put(MANIFEST, b"\xff"), "is not JSON"),
        "manifest-deep": (_put(MANIFEST, b"[" * 100_000), "is not JSON"),
        "manifest-digits": (_put(MANIFEST, b'{"format": ' + b"1" * 10_000 + b"}"), "is not JSON"),
        "manifest-a-list": (_put(MANIFEST, b"[]"), "must be an object"),
        "manifest-of-tomorrow": (_manifest(format=2), "this version reads"),
        "manifest-unknown-key": (_manifest(hook="os.system"), "is not known"),
        "manifest-method-a-path": (_manifest(method="../../x"), "the name of a method"),
        "manifest-method-a-module": (_manifest(method="os.path"), "the name of a method"),
        "manifest-no-fingerprint": (_manifest(backbone={"name": "x"}), "64 hexadecimal digits"),
        "manifest-one-class": (_manifest(classes=_CLASSES[:1]), "entries"),
        "manifest-class-hides": (
            _manifest(classes=[*_CLASSES, {"label": "a\u202eb", "name": "x", "phrasings": ["x"]}]),
            "reading direction",
        ),
        "report-deep": (_put(REPORT, b'{"metrics": ' + b"[" * 300 + b"]" * 300 + b"}"), "nested more than"),
        "report-a-number": (_put(REPORT, b"3"), "must be an object"),
    }
    for name, (change, says) in changes.items():
        code = {"code": "invalid-archive"} if says == "differs from" else {}
        yield Case(f"model-{name}", partial(bundle, change), says, **(NO_MODEL | code))
    origins: dict[str, dict[str, Any]] = {
        "of-tomorrow": {"format": 2},
        "runs": {"run": "rm"},
        "name-hides": {"name": "a\u202eb"},
        "no-files": {"files": {}},
        "files-elsewhere": {"files": {"../x": {"size": 1, "sha256": "0"}}},
        "other-hash": {"files": {TENSORS: {"size": 4, "sha256": "0" * 64}, MANIFEST: {"size": 4, "sha256": "0" * 64}}},
    }
    for name, origin in origins.items():
        make = partial(bundle, len, origin)  # `len` changes nothing
        yield Case(f"model-origin-{name}", make, "export.json", **NO_MODEL)
    yield Case("model-a-data-set", lambda: raw_zip(GOOD), "export.json is missing", **NO_MODEL)
    yield Case("model-nothing", lambda: raw_zip([]), "export.json is missing", **NO_MODEL)
    for name, text in {"lists": b"[],", "objects": b"{},"}.items():
        yield Case(f"model-millions-of-{name}", partial(_millions, text), "values", **NO_MODEL)


def _millions(text: bytes) -> bytes:
    """A report of sixty megabytes: a gigabyte and a half, once it is objects."""
    data = b'{"history": [' + text * (60 * MIB // len(text)) + text[:2] + b"]}"
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    files = _good()
    marks = {
        name: {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        for name, body in (files | {REPORT: data}).items()
    }
    files[ORIGIN] = json.dumps({"format": 1, "id": "model_x", "files": marks}).encode()
    report = RawEntry(
        REPORT.encode(), packed=packer.compress(data) + packer.flush(), size=len(data), crc=zlib.crc32(data)
    )
    return raw_zip([*(RawEntry(name.encode(), body) for name, body in files.items()), report])


CASES = tuple(_cases())
