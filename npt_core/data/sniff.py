"""Says what a file is by its first bytes, to put a name to what was sent instead of a picture."""

from __future__ import annotations

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"8BPS", "a Photoshop document"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x00\x00\x01\x00", "an ICO icon"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
)

_ISO_BRANDS = {
    b"avif": "an AVIF image",
    b"avis": "an AVIF image",
    b"heic": "a HEIC image",
    b"heix": "a HEIC image",
    b"heim": "a HEIC image",
    b"heis": "a HEIC image",
    b"hevc": "a HEIC image",
    b"hevx": "a HEIC image",
    b"mif1": "a HEIF image",
    b"msf1": "a HEIF image",
}

_ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")


def describe_content(head: bytes) -> str:
    """What the first bytes (64 are plenty) look like: `a PDF document`, `text`, `unknown binary data`."""
    if not head:
        return "an empty file"
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return what
    if head[4:8] == b"ftyp":
        return _ISO_BRANDS.get(head[8:12], "a video or another ISO media file")
    if head[257:262] == b"ustar":
        return "a tar archive"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if start.startswith((b"<svg", b"<?xml")):
        return "an SVG or XML document"
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<script")):
        return "an HTML page"
    if all(byte in b"\t\n\r\x0c" or 32 <= byte < 127 or byte >= 128 for byte in head):
        return "text"
    return "unknown binary data"


def is_archive_name(path: str) -> bool:
    """Whether the name promises an archive."""
    return path.lower().endswith(_ARCHIVE_SUFFIXES)


def is_archive_content(what: str) -> bool:
    """Whether `describe_content` named an archive."""
    return what.endswith("archive")
