"""What the gateway of Ceph 16.2 was seen to do otherwise than moto, put before moto."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

NEVER = '"none"'


def as_ceph(app: Callable[..., Any]) -> Callable[..., Iterable[bytes]]:
    """A WSGI application that is told what such a server understands of a request.

    The ETag of a condition is compared with its quotes, so that a quoted one never holds; the end of an upload in parts
    is under no condition, and its answer names no ETag; a copy is under none; checksums of the newer kind are not read.
    """

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ.pop("HTTP_X_AMZ_COPY_SOURCE_IF_MATCH", None)
        environ.pop("HTTP_X_AMZ_CHECKSUM_SHA256", None)
        if environ["REQUEST_METHOD"] == "PUT" and environ.get("HTTP_IF_MATCH", "").startswith('"'):
            environ["HTTP_IF_MATCH"] = NEVER
        if environ["REQUEST_METHOD"] != "POST" or "uploadId=" not in environ.get("QUERY_STRING", ""):
            return list(app(environ, start_response))
        for condition in ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"):
            environ.pop(condition, None)
        told: list[Any] = []
        body = b"".join(app(environ, lambda *said, **_: told.extend(said)))
        body = re.sub(rb"<ETag>.*?</ETag>", b"<ETag></ETag>", body)
        headers = [(name, value) for name, value in told[1] if name.lower() != "content-length"]
        start_response(told[0], [*headers, ("Content-Length", str(len(body)))])
        return [body]

    return answer
