"""Receiving pictures to look at now: kept in memory, bounded one by one, in a request, and over all requests."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from fastapi import Request

from app.context import Context
from app.forms import FilePart, Form, Sink, body_stream, read_form, too_large
from app.inference import Picture
from app.memory import Lease
from app.problems import Problem
from npt_core.errors import Fault, NPTError


class ImageSink:
    """Keeps one image file in memory."""

    def __init__(self, limit: int, lease: Lease) -> None:
        self.data = bytearray()
        self._limit, self._lease = limit, lease

    def write(self, data: bytes) -> None:
        """Take some bytes; 413 beyond the limit of one image."""
        if len(self.data) + len(data) > self._limit:
            raise too_large("An image", self._limit)
        self._lease.take(len(data))
        self.data += data

    async def flush(self) -> None:
        """Nothing to hand on."""

    def close(self) -> None:
        """Nothing to close."""


async def receive_image(context: Context, request: Request, lease: Lease) -> tuple[Form, list[Picture]]:
    """An image as the body, and the query's parameters as if they were fields of a form."""
    settings = context.settings
    sink = ImageSink(settings.max_image_bytes, lease)
    stream = body_stream(request, limit=settings.max_image_bytes, pace=settings.upload_pace, what="An image")
    async with contextlib.aclosing(stream) as chunks:
        async for chunk in chunks:
            sink.write(chunk)
    form = Form.of_query(request)
    filename = (form.fields.pop("filename", [""])[0])[:255]
    return form, [Picture(filename, bytes(sink.data))]


async def receive_images(
    context: Context, request: Request, lease: Lease, *, max_fields: int
) -> tuple[Form, list[Picture]]:
    """A form with any number of `images` up to the limit of one request."""
    settings = context.settings

    def open_image(field: str, filename: str, content_type: str) -> Sink:
        if field != "images":
            raise Problem("invalid-request", f"The form has a file in {field!r}; send images as 'images'.", close=True)
        return ImageSink(settings.max_image_bytes, lease)

    form = await read_form(
        request,
        open_image,
        limit=settings.max_predict_bytes,
        pace=settings.upload_pace,
        max_files=settings.max_images,
        max_fields=max_fields,
        what="A predict request",
    )
    return form, [_picture(part) for part in form.files]


def _picture(part: FilePart) -> Picture:
    sink = part.sink
    return Picture(part.filename, bytes(sink.data) if isinstance(sink, ImageSink) else b"")


def refuse_if_all_failed(filenames: Sequence[str], errors: Sequence[NPTError | None]) -> None:
    """A request of which no picture can be read is a bad request.

    Raises:
        Problem: With every picture's fault.
    """
    found = [error for error in errors if error is not None]
    if not found or len(found) < len(errors):
        return
    named = [name or f"images[{number}]" for number, name in enumerate(filenames)]
    faults = [Fault(name, error.message) for name, error in zip(named, found, strict=True)]
    detail = faults[0].message if len(faults) == 1 else f"None of the {len(faults)} images can be read."
    raise Problem(found[0].code, detail, faults)
