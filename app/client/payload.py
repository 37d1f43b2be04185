"""From what a person has (a folder, a zip, bytes, an image) to what is sent."""

from __future__ import annotations

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from app.client.errors import ClientError

Pictures = str | Path | bytes
"""A folder, a zip, or the bytes of a zip."""
Image = str | Path | bytes
"""An image file, or its bytes."""

OnSent = Callable[[int, int], object]
"""Told how many bytes of a zip are on their way, and how many it has."""

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


class Counted:
    """A file that tells how much of it was read; httpx reads it as it sends.

    Args:
        file: At any place; it is sent from its beginning.
        told: Called after each piece.
    """

    def __init__(self, file: IO[bytes], told: OnSent) -> None:
        self._file, self._told = file, told
        self._size = self.seek(0, os.SEEK_END)
        self.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Bytes from where it stands."""
        data = self._file.read(size)
        self._told(self._file.tell(), self._size)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to another place; the new one."""
        self._file.seek(offset, whence)
        return self._file.tell()

    def tell(self) -> int:
        """Where it stands."""
        return self._file.tell()


def counted(files: Any, told: OnSent | None) -> Any:
    """What httpx takes as `files`, so that it tells how much of the zip in it was sent."""
    if told is None or not isinstance(files, Mapping):
        return files
    return {field: (name, Counted(file, told), kind) for field, (name, file, kind) in files.items()}


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
