"""Every route that reads a body reads so much of it and no more, whatever kind of body it is, with no length given."""

from __future__ import annotations

import contextlib
import re
import select
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from app.main import create_app
from app.settings import AppSettings
from tests.security.by_hand import hear, line
from tests.security.conftest import ANSWER_S, KEY, Target
from tests.support.service import wait_for

MIB = 1024**2
LARGEST = 104 * MIB
"""What the service under test takes of the largest body: an archive, and the form around it."""

LINGERS = 80 * MIB
"""What is read and thrown away of a refused body, so that its sender reads the answer; and the buffers on the way."""

IDS = {
    "job_id": "job_" + "0" * 26,
    "model_id": "model_" + "0" * 26,
    "dataset_id": "0" * 64,
    "key_id": "key_" + "0" * 26,
    "item_id": "0" * 64,
    "alias": "a",
}

BEGINNINGS = {
    "application/json": b'{"a": "',
    "application/zip": b"PK\x03\x04",
    "application/x-www-form-urlencoded": b"a=",
    "image/*": b"\x89PNG\r\n\x1a\n",
}


def _operations() -> Iterator[tuple[str, str, str, str]]:
    """(method, path, content type, field of a file or empty) of every body in the OpenAPI document."""
    for path, operations in create_app(AppSettings()).openapi()["paths"].items():
        for method, operation in operations.items():
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                fields = content.get("schema", {}).get("properties", {})
                files = [
                    name
                    for name, schema in fields.items()
                    if schema.get("format") == "binary" or schema.get("items", {}).get("format") == "binary"
                ]
                for field in [*files, ""] if kind.startswith("multipart/") else [""]:
                    yield method.upper(), path, kind, field


OPERATIONS = sorted(_operations())


def test_every_kind_of_body_is_among_them() -> None:
    assert len(OPERATIONS) > 20
    assert {kind for _, _, kind, _ in OPERATIONS} == {*BEGINNINGS, "multipart/form-data"}
    assert {name for _, path, _, _ in OPERATIONS for name in re.findall(r"{(\w+)}", path)} <= set(IDS)


@pytest.mark.parametrize(("method", "path", "kind", "field"), OPERATIONS, ids=lambda value: value.strip("/") or "field")
def test_a_body_without_end_is_cut_off(target: Target, method: str, path: str, kind: str, field: str) -> None:
    files, before = target.files(), target.forget_peak()
    kind = kind.replace("*", "png")
    first = BEGINNINGS.get(kind.replace("png", "*"), b"")
    if kind.startswith("multipart/"):
        kind += "; boundary=b"
        filename = '; filename="x"' if field else ""
        first = f'--b\r\nContent-Disposition: form-data; name="{field or "note"}"{filename}\r\n\r\n'.encode()
    head = [
        f"{method} {path.format(**IDS)} HTTP/1.1",
        f"Host: {urlsplit(target.service.url).netloc}",
        f"X-API-Key: {KEY}",
        f"Content-Type: {kind}",
        "Transfer-Encoding: chunked",
        "Connection: close",
    ]
    piece, sent = b"%x\r\n" % MIB + b"x" * MIB + b"\r\n", 0
    with line(target) as opened:
        opened.sendall("\r\n".join([*head, "", ""]).encode() + b"%x\r\n" % len(first) + first + b"\r\n")
        with contextlib.suppress(ConnectionError):
            while sent < 2 * (LARGEST + LINGERS) and not select.select([opened], [], [], 0)[0]:
                opened.sendall(piece)
                sent += MIB
        opened.settimeout(ANSWER_S)
        answer = hear(opened)
    assert sent <= LARGEST + LINGERS
    if answer.status:  # where the line was cut while it was sending, the answer may be lost
        assert 400 <= answer.status < 500, answer
        assert answer.headers["content-type"] == "application/problem+json"
    wait_for("nothing to be left", lambda: target.files() == files, 30)
    assert target.peak_bytes() - before < LARGEST + LINGERS
    assert target.client.get("/livez").status_code == 200
