"""Reading request bodies: multipart as a stream, straight to where each file belongs.

A framework's form parser spools files to TMPDIR without a limit and reports a full disk as a bad request. Here a file
part goes to a sink chosen by its field while it arrives, every limit holds while bytes arrive, and a sender that
falls silent or trickles is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Protocol, Self
from urllib.parse import parse_qsl

import python_multipart
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from app.pace import Pace, Patience
from app.problems import Problem

MAX_FIELD_BYTES = 1024 * 1024
MAX_FILENAME = 255


class Sink(Protocol):
    """Where the bytes of one file part go."""

    def write(self, data: bytes) -> None:
        """Take some bytes, at once; raises `Problem` beyond its limit."""

    async def flush(self) -> None:
        """Hand on what was taken; called now and then, and at the end of the part."""

    def close(self) -> None:
        """The part is over, well or not."""


@dataclass
class FilePart:
    """One file of a form. `filename` is the sender's text: shown, never used as a path."""

    field: str
    filename: str
    content_type: str
    sink: Sink


@dataclass
class Form:
    """What a form held."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    files: list[FilePart] = field(default_factory=list)

    @classmethod
    def of_query(cls, request: Request) -> Self:
        """The query's parameters as if they were fields: for requests whose body is a file."""
        form = cls()
        for name, value in request.query_params.multi_items():
            form.fields.setdefault(name, []).append(value)
        return form

    def one(self, name: str) -> str | None:
        """The value of a field that may appear once."""
        values = self.fields.get(name, [])
        if len(values) > 1:
            raise Problem("invalid-request", f"The field {name!r} appears {len(values)} times; send it once.")
        return values[0] if values else None


def content_length(request: Request) -> int | None:
    """The announced size, or None for a chunked body."""
    text = request.headers.get("content-length")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit():
        raise Problem("malformed-request", "Content-Length is not a number.", close=True)
    return int(text)


def media_type(request: Request) -> str:
    """The content type without its parameters, in lower case."""
    return request.headers.get("content-type", "").split(";", 1)[0].strip().lower()


async def body_stream(request: Request, *, limit: int, pace: Pace, what: str) -> AsyncGenerator[bytes, None]:
    """The body in chunks; ends a sender that is slower than `pace` or sends over `limit` bytes.

    Raises:
        Problem: 408, 413, or 400 when the sender went away.
    """
    announced = content_length(request)
    if announced is not None and announced > limit:
        raise too_large(what, limit)
    received = 0
    patience = Patience(pace)
    stream = request.stream()
    try:
        while True:
            began = time.monotonic()
            try:
                async with asyncio.timeout(patience.left_s):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise Problem("request-timeout", patience.over(), close=True) from None
            except ClientDisconnect:
                raise Problem("malformed-request", "The connection ended before the request did.", close=True) from None
            patience.arrived(len(chunk), time.monotonic() - began)
            received += len(chunk)
            if received > limit:
                raise too_large(what, limit)
            if chunk:
                yield chunk
    finally:
        await stream.aclose()


def too_large(what: str, limit: int) -> Problem:
    """The 413 of a body over `limit`."""
    return Problem("too-large", f"{what} may be at most {limit:,} bytes; send less.", close=True)


class _Reader:
    """Callbacks of the multipart parser; collects fields, opens and feeds sinks."""

    def __init__(self, open_file: Callable[[str, str, str], Sink], max_files: int, max_fields: int) -> None:
        self.form = Form()
        self.ended = False
        self.touched: list[Sink] = []
        self._open_file, self._max_files, self._max_fields = open_file, max_files, max_fields
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""
        self._field: str | None = None
        self._data = bytearray()
        self._sink: Sink | None = None
        self._num_fields = 0

    def on_part_begin(self) -> None:
        self._headers = {}
        self._name = self._value = b""
        self._field, self._sink = None, None
        self._data = bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def on_headers_finished(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if disposition != b"form-data" or b"name" not in options:
            raise Problem("malformed-request", "A part of the form has no name.", close=True)
        name = options[b"name"].decode("utf-8", errors="replace")[:MAX_FILENAME]
        if b"filename" not in options:
            self._field = name
            self._num_fields += 1
            if self._num_fields > self._max_fields:
                raise Problem("malformed-request", f"The form has over {self._max_fields} fields.", close=True)
            return
        if len(self.form.files) >= self._max_files:
            raise Problem("too-large", f"At most {self._max_files} files are accepted in one request.", close=True)
        filename = options[b"filename"].decode("utf-8", errors="replace")[:MAX_FILENAME]
        content_type = self._headers.get(b"content-type", b"").decode("latin-1")[:MAX_FILENAME]
        self._sink = self._open_file(name, filename, content_type)
        self.touched.append(self._sink)
        self.form.files.append(FilePart(name, filename, content_type, self._sink))

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._sink is not None:
            self._sink.write(data[start:end])
            return
        if len(self._data) + end - start > MAX_FIELD_BYTES:
            raise Problem("too-large", f"The field {self._field!r} is over {MAX_FIELD_BYTES:,} bytes.", close=True)
        self._data += data[start:end]

    def on_part_end(self) -> None:
        if self._sink is None and self._field is not None:
            self.form.fields.setdefault(self._field, []).append(_text(self._field, bytes(self._data)))

    def on_end(self) -> None:
        self.ended = True


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8: JSON can spell half a surrogate pair, which is no character."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Problem("malformed-request", f"The field {name!r} is not UTF-8 text.", close=True) from None


async def read_form(
    request: Request,
    open_file: Callable[[str, str, str], Sink],
    *,
    limit: int,
    pace: Pace,
    max_files: int,
    max_fields: int,
    what: str,
) -> Form:
    """Read a multipart or url-encoded form.

    Args:
        request: Whose body is read.
        open_file: Called with (field, filename, content type) of each file part; returns where its bytes go, or raises.
        limit: Most bytes of the whole body.
        pace: How slowly it may arrive.
        max_files: Most file parts.
        max_fields: Most other parts.
        what: How the body is called in messages.

    Returns:
        The form; whoever asked for it finishes and closes the sinks.

    Raises:
        Problem: 400, 408, 413, 415, or what a sink raises. Every sink opened so far was closed.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind == b"application/x-www-form-urlencoded":
        return await _read_urlencoded(request, pace, max_fields)
    if kind != b"multipart/form-data":
        found = media_type(request) or "nothing"
        raise Problem("unsupported-media-type", f"Content-Type is {found!r}; send multipart/form-data.", close=True)
    if not options.get(b"boundary"):
        raise Problem("malformed-request", "The multipart boundary is missing from Content-Type.", close=True)
    reader = _Reader(open_file, max_files, max_fields)
    names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "headers_finished")
    callbacks = {f"on_{name}": getattr(reader, f"on_{name}") for name in (*names, "end")}
    try:
        parser = python_multipart.MultipartParser(options[b"boundary"], callbacks)  # type: ignore[arg-type]
        async with contextlib.aclosing(body_stream(request, limit=limit, pace=pace, what=what)) as stream:
            async for chunk in stream:
                parser.write(chunk)
                if reader.touched:
                    await reader.touched[-1].flush()
        parser.finalize()
        if not reader.ended:
            raise Problem("malformed-request", "The form ends before its closing boundary.", close=True)
    except BaseException as error:
        for sink in reader.touched:
            sink.close()
        if isinstance(error, FormParserError):
            raise Problem("malformed-request", "The form is not valid multipart data.", close=True) from error
        raise
    return reader.form


async def _read_urlencoded(request: Request, pace: Pace, max_fields: int) -> Form:
    body = b""
    async with contextlib.aclosing(body_stream(request, limit=MAX_FIELD_BYTES, pace=pace, what="A form")) as stream:
        async for chunk in stream:
            body += chunk
    if body.count(b"&") >= max_fields:  # counted as the parser counts
        raise Problem("malformed-request", f"The form has over {max_fields} fields.", close=True)
    try:
        text = body.decode("utf-8")
        pairs = parse_qsl(text, True, True, errors="strict", max_num_fields=max_fields) if text else []
    except ValueError:
        raise Problem(
            "malformed-request",
            "The body is no URL-encoded form. With curl: -F for fields, -H 'Content-Type: application/json' for JSON.",
        ) from None
    form = Form()
    for name, value in pairs:
        form.fields.setdefault(name, []).append(value)
    return form
