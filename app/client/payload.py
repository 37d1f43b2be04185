"""From what a person has (a folder, a zip, bytes, an image) to what is sent."""

from __future__ import annotations

import contextlib
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from app.client.errors import ClientError

Pictures = str | Path | bytes
"""A folder, a zip, or the bytes of a zip."""
Image = str | Path | bytes
"""An image file, or its bytes."""

SPOOL_BYTES = 64 << 20
ZIP = "application/zip"


@contextlib.contextmanager
def archive(pictures: Pictures) -> Iterator[tuple[str, IO[bytes], str]]:
    """A zip to send, as httpx takes a file; a folder is zipped on the way, hidden files left out.

    Raises:
        ClientError: There is no such folder or file, or nothing in it.
    """
    if isinstance(pictures, bytes):
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
            spool.write(pictures)
            spool.seek(0)
            yield "pictures.zip", spool, ZIP
        return
    path = Path(pictures).expanduser()
    if path.is_dir():
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
            _zip(path, spool)
            spool.seek(0)
            yield f"{path.resolve().name or 'pictures'}.zip", spool, ZIP
        return
    if not path.is_file():
        raise ClientError(
            f"There is no folder and no file {str(pictures)!r}; give a folder of labelled images, or a zip."
        )
    with path.open("rb") as file:
        yield path.name, file, ZIP


def _zip(folder: Path, out: IO[bytes]) -> None:
    """Every file below a folder, links left out; stored, since images are compressed already."""
    count = 0
    with zipfile.ZipFile(out, "w", strict_timestamps=False) as made:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_symlink() or not path.is_file() or any(part.startswith(".") for part in name.parts):
                continue
            made.write(path, name.as_posix())
            count += 1
    if not count:
        raise ClientError(f"The folder {str(folder)!r} is empty; it should hold one folder of images for each class.")


@contextlib.contextmanager
def images(given: Image | Sequence[Image]) -> Iterator[list[tuple[str, tuple[str, Any, str]]]]:
    """Image files to send as `images`, in order.

    Raises:
        ClientError: There is no such file, or none was given.
    """
    listed = [given] if isinstance(given, str | Path | bytes) else list(given)
    if not listed:
        raise ClientError("No image was given.")
    with contextlib.ExitStack() as stack:
        files: list[tuple[str, tuple[str, Any, str]]] = []
        for number, one in enumerate(listed):
            if isinstance(one, bytes):
                files.append(("images", (f"image-{number + 1}", one, "application/octet-stream")))
                continue
            path = Path(one).expanduser()
            if not path.is_file():
                raise ClientError(f"There is no image file {str(one)!r}.")
            file = stack.enter_context(path.open("rb"))
            files.append(("images", (path.name, file, "application/octet-stream")))
        yield files
