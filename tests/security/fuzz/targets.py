"""What is fuzzed: each takes any bytes and returns, or raises what a sender may be told. Anything else is a defect."""

from __future__ import annotations

import contextlib
import io
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from npt_core.artefact import manifest_faults, report_faults
from npt_core.bundle import unpack
from npt_core.data import manifest as dataset_manifest
from npt_core.data.archive import Entry, SafeArchive
from npt_core.data.checks import Limits
from npt_core.data.dataset import Dataset
from npt_core.data.faults import FaultLog
from npt_core.data.images import decode_image, read_header
from npt_core.data.layout import read_layout
from npt_core.data.tables import parse_classes, parse_table
from npt_core.errors import ArchiveError, ArtefactError, BundleError, DatasetError, ImageError
from npt_core.plainjson import read_plain
from npt_core.tensorfile import check_tensors
from tests.support.zips import RawEntry, raw_zip

MIB = 1024**2
LIMITS = Limits(archive_bytes=MIB, entries=500, entry_bytes=MIB, total_bytes=4 * MIB, table_bytes=MIB)
"""Small ones, so that a fuzzer meets them."""

HERE = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
MAX_PIXELS = 4_000_000
"""Larger pictures are within the limits of the product and would only take time."""


@contextlib.contextmanager
def _file(data: bytes) -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(dir=HERE, prefix="npt-fuzz-") as file:
        file.write(data)
        file.flush()
        yield Path(file.name)


def archive(data: bytes) -> None:
    """A zip as it is: judged, every file read; then as a data set."""
    with _file(data) as path:
        with contextlib.suppress(ArchiveError), SafeArchive.survey(path, LIMITS) as opened:
            for entry in opened.entries:
                assert ".." not in entry.path.split("/")
                assert entry.path
                assert not entry.path.startswith("/")
                with contextlib.suppress(ArchiveError):
                    assert len(opened.read(entry)) == entry.size
        with contextlib.suppress(ArchiveError, DatasetError), Dataset.from_archive(path, limits=LIMITS) as dataset:
            assert len(dataset.labels) >= 2
            again = Dataset.from_manifest(dataset.to_manifest(), path)
            assert again.id == dataset.id
            again.close()


_ENTRY = struct.Struct("<BBHIIIHB")


def recipe(data: bytes) -> None:
    """A zip whose every field may lie, from the bytes of a recipe: a mutation of it is still nearly a zip."""
    entries, at = [], 1
    head = data[0] if data else 0
    while at + _ENTRY.size <= len(data) and len(entries) < 12:
        what, name_bytes, mode, size, compressed, offset, flags, body_bytes = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        name, body = data[at : at + name_bytes], data[at + name_bytes : at + name_bytes + body_bytes]
        at += name_bytes + body_bytes
        entries.append(
            RawEntry(
                name,
                body,
                method=0 if what & 1 else 8,
                flags=flags,
                mode=mode,
                size=size if what & 2 else None,
                compressed=compressed if what & 4 else None,
                crc=offset if what & 8 else None,
                offset=offset if what & 16 else None,
                local_name=name[::-1] if what & 32 else None,
                packed=body if what & 64 else None,
                zip64=bool(what & 128),
            )
        )
    archive(
        raw_zip(entries, zip64=bool(head & 1), count=head if head & 2 else None, comment=data[:3] if head & 4 else b"")
    )


class _Listing:
    """A source of names and contents, without a zip around them."""

    limits = LIMITS
    folders: tuple[str, ...] = ()
    skipped: Mapping[str, int] = {}

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files
        self.entries = tuple(Entry(path, len(body)) for path, body in files.items())
        self.faults = FaultLog()

    def read(self, entry: Entry | str) -> bytes:
        return self._files[entry if isinstance(entry, str) else entry.path]

    def close(self) -> None:
        """Nothing is open."""


def layout(data: bytes) -> None:
    """Names and tables: a line is a path, `=` its content; labels come out, or what is wrong."""
    files = {}
    for line in data.split(b"\x1e"):
        name, _, body = line.partition(b"=")
        with contextlib.suppress(UnicodeDecodeError):
            path = name.decode().strip("/")
            if path and "\0" not in path:
                files[path] = body
    with contextlib.suppress(DatasetError):
        found = read_layout(_Listing(files))
        assert {one.label for one in found.samples} <= set(found.classes)
        assert {one.path for one in found.samples} <= set(files)


def table(data: bytes) -> None:
    """A table of one of the four kinds; the first byte says which."""
    kind, body = (data[0] % 4 if data else 0), data[1:]
    with contextlib.suppress(DatasetError):
        if kind == 3:
            parse_classes(body, "classes.json")
            return
        path, column = (("metadata.jsonl", "file_name"), ("metadata.csv", "file_name"), ("labels.csv", "filename"))[
            kind
        ]
        rows, _ = parse_table(body, path, file_column=column)
        assert all(row.file.strip() and row.label.strip() for row in rows)


def manifest(data: bytes) -> None:
    """The manifests of a model and of a data set, and a report, as somebody's JSON."""
    with contextlib.suppress(ValueError):
        value = read_plain(data)
        for fault in (*manifest_faults(value), *report_faults(value)):
            assert fault.message
            fault.path.encode()
        if isinstance(value, dict):
            with contextlib.suppress(DatasetError):
                dataset_manifest.parse(value)


def tensors(data: bytes) -> None:
    """The header of a safetensors file; what passes is read by safetensors itself."""
    with _file(data) as path, contextlib.suppress(ArtefactError):
        check_tensors(path)
        from npt_core.tensorfile import read_tensors

        read_tensors(path)


def bundle(data: bytes) -> None:
    """An exported model as it is."""
    with (
        _file(data) as path,
        tempfile.TemporaryDirectory(dir=HERE, prefix="npt-fuzz-") as folder,
        contextlib.suppress(BundleError, ArchiveError),
    ):
        unpack(path, folder, max_tensor_bytes=MIB)


def picture(data: bytes) -> None:
    """A file that may be a picture."""
    with warnings.catch_warnings(), contextlib.suppress(ImageError):
        warnings.simplefilter("ignore")
        header = read_header(data)
        if header.width * header.height <= MAX_PIXELS:
            decoded = decode_image(io.BytesIO(data), target=32)
            assert decoded.mode == "RGB"


TARGETS: dict[str, Callable[[bytes], None]] = {
    "archive": archive,
    "recipe": recipe,
    "layout": layout,
    "table": table,
    "manifest": manifest,
    "tensors": tensors,
    "bundle": bundle,
    "picture": picture,
}
