"""JSON bodies and fields: too deep, of millions of values, of half characters, of the wrong form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlencode

from tests.security.corpus.case import Case

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
EDIT = "/datasets/" + "0" * 64 + "/edit"
MIB = 1024**2

NO_JSON: dict[str, Any] = {"status": 400, "code": "malformed-request"}
UNFIT: dict[str, Any] = {"code": "invalid-request"}


def millions(before: bytes, text: bytes, size: int, after: bytes) -> bytes:
    """A document that is `size` bytes of one value over and over."""
    return before + text * (size // len(text)) + text.rstrip(b",") + after


def _edits() -> Iterator[Case]:
    edit: dict[str, Any] = {"path": EDIT, "content_type": JSON}
    unfit = edit | {"code": "invalid-edit"}
    broken: dict[str, tuple[bytes, str]] = {
        "nothing": (b"", "not JSON"),
        "deep": (b"[" * MIB, "nested too deep"),
        "digits": (b'{"remove": [' + b"9" * MIB + b"]}", "too many digits"),
        "not-utf8": (b'{"remove": ["\xff"]}', "not UTF-8"),
    }
    for name, (body, says) in broken.items():
        yield Case(f"edit-{name}", partial(bytes, body), says, **(edit | NO_JSON))
    for name, text in {"lists": b"[],", "objects": b"{},", "numbers": b"0,"}.items():
        make = partial(millions, b'{"remove": [', text, 15 * MIB, b"]}")
        yield Case(f"edit-millions-of-{name}", make, "values", **(edit | NO_JSON))
    wrong: dict[str, tuple[bytes, str]] = {
        "no-object": (b"[]", "it looks like"),
        "unknown-key": (b'{"remove": [], "run": "rm"}', "run"),
        "half-a-pair": (b'{"remove": ["\\ud800"]}', "surrogate"),
        "objects": (millions(b'{"remove": [', b"{},", MIB, b"]}"), "must be the path"),
        "labels": (b'{"relabel": {' + b",".join(b'"%d": []' % n for n in range(90_000)) + b"}}", "must be a label"),
    }
    for name, (body, says) in wrong.items():
        yield Case(f"edit-{name}", partial(bytes, body), says, **unfit)
    yield Case(
        "edit-too-large", lambda: b'{"remove": ["' + b"x" * 17 * MIB + b'"]}', "at most", 413, "too-large", EDIT, JSON
    )


def _bodies() -> Iterator[Case]:
    key: dict[str, Any] = {"path": "/keys", "content_type": JSON}
    yield Case("body-no-json", lambda: b"{", "is not JSON", **(key | UNFIT))
    yield Case("body-deep", lambda: b'{"scopes":' + b"[" * 50_000, "", **(key | NO_JSON))
    yield Case("body-too-large", lambda: b'{"label": "' + b"x" * 70_000 + b'"}', "at most", 413, "too-large", **key)
    yield Case("body-unknown-key", lambda: b'{"scopes": ["tune"], "admin": true}', "not a field", **(key | UNFIT))
    yield Case("body-scopes", lambda: b'{"scopes": ["root"]}', "scopes", **(key | UNFIT))
    yield Case(
        "body-label-hides",
        lambda: json.dumps({"scopes": ["tune"], "label": "a\u202eb"}).encode(),
        "label",
        **(key | UNFIT),
    )
    yield Case(
        "body-label-breaks",
        lambda: json.dumps({"scopes": ["tune"], "label": "a\nb"}).encode(),
        "label",
        **(key | UNFIT),
    )


def _fields() -> Iterator[Case]:
    tune: dict[str, Any] = {"path": "/tune", "content_type": FORM}
    configs: dict[str, tuple[str, dict[str, Any], str]] = {
        "no-json": ("{", NO_JSON, "not JSON"),
        "deep": ("[" * 300_000, NO_JSON, "not JSON"),
        "digits": ('{"epochs": ' + "9" * 100_000 + "}", NO_JSON, "not JSON"),
        "list": ("[]", {"code": "invalid-config"}, "JSON object"),
        "half-a-pair": ('{"method": "\\ud800"}', {"code": "invalid-config"}, "surrogate"),
        "backbone-a-path": (
            '{"backbone": "local:x=ViT-B-32@/etc/passwd"}',
            {"code": "unknown-backbone"},
            "no backbone",
        ),
        "backbone-a-hub": ('{"backbone": "hf-hub:evil/model"}', {"code": "unknown-backbone"}, "no backbone"),
        "method-a-module": ('{"method": "os.path"}', {"code": "invalid-config"}, "method"),
        "method-a-path": ('{"method": "../../x"}', {"code": "invalid-config"}, "method"),
        "epochs-endless": ('{"epochs": 1e999}', {"code": "invalid-config"}, "epochs"),
        "epochs-negative": ('{"epochs": -1}', {"code": "invalid-config"}, "epochs"),
        "unknown": ('{"__class__": {}}', {"code": "invalid-config"}, "__class__"),
    }
    for name, (config, expected, says) in configs.items():
        body = urlencode({"dataset_id": "0" * 64, "config": config}).encode()
        yield Case(f"config-{name}", partial(bytes, body), says, **(tune | expected))
    for name, dataset in {"path": "../../etc/passwd", "nul": "a\0b", "pattern": "*", "long": "0" * 5000}.items():
        body = urlencode({"dataset_id": dataset}).encode()
        yield Case(f"dataset-id-{name}", partial(bytes, body), "", 404, "not-found", **tune)
    embed: dict[str, Any] = {"path": "/embed", "content_type": FORM}
    texts = {
        "no-json": "[",
        "deep": "[" * 300_000,
        "numbers": "[1]",
        "nothing": "[]",
        "long": json.dumps(["x" * 100_000]),
        "many": json.dumps(["x"] * 10_000),
        "half-a-pair": '["\\ud800"]',
    }
    for name, text in texts.items():
        body = urlencode({"texts": text}).encode()
        yield Case(f"texts-{name}", partial(bytes, body), "texts", **(embed | UNFIT))


CASES = (*_edits(), *_bodies(), *_fields())
