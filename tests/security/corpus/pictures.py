"""Files that are no picture, cut pictures of every format, and pictures whose header promises the moon."""

from __future__ import annotations

import importlib
import importlib.util
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from PIL import Image, features

from tests.security.corpus.case import PREDICT, Case
from tests.support.zips import png_header, raw_zip

NO_PICTURE: dict[str, Any] = {"code": "invalid-image", "path": PREDICT, "content_type": "image/png"}
ANSWERED: dict[str, Any] = {"status": 200, "code": "", "path": PREDICT, "content_type": "image/png"}
NOT, DAMAGED, SIDE, PIXELS = "not an accepted image", "corrupt or truncated", "no side may be longer", "megapixels"


def chunk(kind: bytes, body: bytes) -> bytes:
    """One part of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*parts: bytes, size: tuple[int, int] = (8, 8), depth: int = 8, colour: int = 0) -> bytes:
    """A PNG of any parts between its header and its pixels."""
    width, height = size
    rows = zlib.compress((b"\0" + bytes(width)) * min(height, 8))
    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(parts) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def tiff(tags: dict[int, tuple[int, int, int]], after: bytes = b"", following: int = 0) -> bytes:
    """A TIFF of one directory: tag -> (type, count, value or offset)."""
    body = b"".join(struct.pack("<HHLL", tag, *entry) for tag, entry in sorted(tags.items()))
    return b"II*\0" + struct.pack("<L", 8) + struct.pack("<H", len(tags)) + body + struct.pack("<L", following) + after


def saved(format: str, size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    """An honest picture with some detail in it."""
    out = io.BytesIO()
    if format == "HEIF":
        importlib.import_module("pillow_heif").register_heif_opener()
    image = Image.effect_noise(size, 60).convert("RGB")
    (image.convert("P") if format == "GIF" else image).save(out, format, **options)
    return out.getvalue()


def _no_picture() -> Iterator[Case]:
    files: dict[str, tuple[bytes, str]] = {
        "nothing": (b"", "an empty file"),
        "text": (b"cat", "found text"),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "an SVG or XML"),
        "svg-that-fetches": (b'<svg><image href="http://127.0.0.1:1/x"/></svg>', "an SVG or XML"),
        "svg-behind-a-mark": (b"\xef\xbb\xbf  <svg onload=alert(1)>", "an SVG or XML"),
        "xml-entities": (b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>', "SVG or XML"),
        "page": (b"<!doctype html><img src=x onerror=alert(1)>", "an HTML page"),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript"),
        "pdf": (b"%PDF-1.7\n", "a PDF"),
        "photoshop": (b"8BPS\0\1" + bytes(40), "a Photoshop"),
        "icon": (b"\0\0\1\0\1\0" + bytes(40), "an ICO icon"),
        "jpeg2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "a JPEG 2000"),
        "jpeg-xl": (b"\xff\x0a" + bytes(40), "a JPEG XL"),
        "ppm": (b"P6 99999 99999 255\n", "found text"),
        "xbm": (b"#define x_width 9\n", "found text"),
        "fits": (b"SIMPLE  =                    T", "found text"),
        "tga": (b"\0\0\2" + bytes(40), "unknown binary data"),
        "pcx": (b"\n\5\1\x08" + bytes(40), "unknown binary data"),
        "wmf": (b"\xd7\xcd\xc6\x9a" + bytes(40), "unknown binary data"),
        "video": (b"\0\0\0\x18ftypisom" + bytes(40), "a video"),
        "webm": (b"\x1aE\xdf\xa3" + bytes(40), "a Matroska"),
        "riff": (b"RIFF\x10\0\0\0AVI LIST" + bytes(40), NOT),
        "zip": (raw_zip([]), "zip archive"),
        "gzip": (b"\x1f\x8b\x08" + bytes(40), "a gzip archive"),
        "program": (b"MZ" + bytes(60), "a program"),
        "pickle": (b"\x80\x04\x95" + bytes(40) + b".", "unknown binary data"),
        "half-a-mark": (b"\x89PNG", NOT),
    }
    for name, (data, says) in files.items():
        yield Case(f"no-picture-{name}", partial(bytes, data), says, **NO_PICTURE)


FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {},
    "JPEG-progressive": {"progressive": True},
    "PNG": {},
    "WEBP": {"quality": 80},
    "WEBP-lossless": {"lossless": True},
    "BMP": {},
    "GIF": {},
    "TIFF": {},
    "TIFF-packed": {"compression": "tiff_lzw"},
    "TIFF-deflated": {"compression": "tiff_adobe_deflate"},
}
if features.check("avif"):
    FORMATS["AVIF"] = {}
if importlib.util.find_spec("pillow_heif"):
    FORMATS["HEIF"] = {}


def _cut() -> Iterator[Case]:
    for name, options in FORMATS.items():
        for share in (3, 30, 60, 85):

            def make(name: str = name, options: dict[str, Any] = options, share: int = share) -> bytes:
                data = saved(name.partition("-")[0], **options)
                return data[: len(data) * share // 100]

            yield Case(f"cut-{name.lower()}-at-{share}", make, "image", **NO_PICTURE)


def _damaged() -> Iterator[Case]:
    files: dict[str, tuple[Callable[[], bytes], str]] = {
        "png-checksum": (lambda: png().replace(b"IHDR", b"IHDX"), DAMAGED),
        "png-no-pixels": (lambda: png_header(8, 8), DAMAGED),
        "png-depth": (lambda: png(depth=3), DAMAGED),
        "png-colour": (lambda: png(colour=9), DAMAGED),
        "png-noise": (lambda: png()[:45] + bytes(range(200)), DAMAGED),
        "png-chunk-of-4-gib": (lambda: png(struct.pack(">I", 0xFFFFFFFF) + b"tEXt"), DAMAGED),
        "jpeg-no-frame": (lambda: b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xd9", DAMAGED),
        "jpeg-no-table": (lambda: saved("JPEG").replace(b"\xff\xdb", b"\xff\xfe"), DAMAGED),
        "gif-no-frame": (lambda: b"GIF89a\x08\0\x08\0\0\0\0;", DAMAGED),
        "gif-code-size": (lambda: _gif(8, 8, b"\xff\x01\0\0"), "image"),
        "bmp-bits": (lambda: saved("BMP").replace(b"\x18\0", b"\x19\0", 1), DAMAGED),
        "bmp-header": (lambda: b"BM" + bytes(12) + struct.pack("<L", 7) + bytes(40), DAMAGED),
        "bmp-of-palette": (lambda: _bmp(8, 8, bits=8, colours=2**31), DAMAGED),
        "webp-no-frame": (lambda: b"RIFF\x0c\0\0\0WEBPVP8 \0\0\0\0", DAMAGED),
        "webp-length": (lambda: saved("WEBP").replace(b"RIFF", b"RIFF\xff\xff\xff\x7f", 1), "image"),
        "tiff-no-directory": (lambda: b"II*\0" + struct.pack("<L", 0xFFFFFFF0), DAMAGED),
        "tiff-empty-directory": (lambda: tiff({}), DAMAGED),
        "tiff-in-itself": (lambda: b"II*\0" + struct.pack("<L", 4) + bytes(20), DAMAGED),
        "tiff-float": (lambda: _floating(), "pixels of 32 bits"),
    }
    for name, (make, says) in files.items():
        yield Case(f"damaged-{name}", make, says, **NO_PICTURE)
    if features.check("avif"):
        box = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + struct.pack(">I", 0x7FFFFFFF) + b"meta"
        yield Case("damaged-avif-boxes", lambda: box + bytes(40), "image", **NO_PICTURE)


def _floating() -> bytes:
    out = io.BytesIO()
    Image.new("F", (8, 8), 0.5).save(out, "TIFF")
    return out.getvalue()


def _bmp(width: int, height: int, *, bits: int = 24, colours: int = 0, packed: int = 0) -> bytes:
    return (
        b"BM"
        + struct.pack("<LHHL", 0, 0, 0, 54)
        + struct.pack("<LllHHLLllLL", 40, width, height, 1, bits, packed, 0, 0, 0, colours, 0)
    )


def _gif(width: int, height: int, data: bytes = b"\x08\x01\0\0") -> bytes:
    screen = struct.pack("<HH", width, height) + bytes(3)
    return b"GIF89a" + screen + b"," + struct.pack("<4HB", 0, 0, width, height, 0) + data + b";"


def _webp(width: int, height: int) -> bytes:
    size = struct.pack("<L", width - 1)[:3] + struct.pack("<L", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<L", 10) + b"\0\0\0\0" + size + b"VP8L" + struct.pack("<L", 5) + b"\x2f\0\0\0\0\0"
    return b"RIFF" + struct.pack("<L", len(body)) + body


def _jpeg(width: int, height: int, *, progressive: bool = False) -> bytes:
    """The picture's own frame header, with other sides."""
    data = bytearray(saved("JPEG", progressive=progressive))
    at = data.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    struct.pack_into(">HH", data, at, height, width)
    return bytes(data)


def _tiff(width: int, height: int, **more: tuple[int, int, int]) -> bytes:
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 277: (3, 1, 1)}
    tags |= {273: (4, 1, 200), 278: (4, 1, height), 279: (4, 1, width * height & 0xFFFFFFFF)}
    return tiff(tags | {int(tag[1:]): entry for tag, entry in more.items()}, bytes(300))


def _moons() -> Iterator[Case]:
    files: dict[str, tuple[Callable[[], bytes], str]] = {
        "png": (lambda: png_header(30_000, 30_000), SIDE),
        "png-of-31-bits": (lambda: png_header(2**31 - 1, 2**31 - 1), SIDE),
        "png-of-32-bits": (lambda: png_header(2**32 - 1, 2**32 - 1), SIDE),
        "png-just-over": (lambda: png_header(5001, 5000), PIXELS),
        "png-long": (lambda: png_header(20_001, 1), SIDE),
        "png-empty": (lambda: png_header(0, 5), "image"),
        "jpeg": (lambda: _jpeg(65_500, 65_500), SIDE),
        "jpeg-just-over": (lambda: _jpeg(20_000, 10_001), PIXELS),
        "jpeg-progressive": (lambda: _jpeg(8000, 6251, progressive=True), PIXELS),
        "gif": (lambda: _gif(65_535, 65_535), SIDE),
        "gif-just-over": (lambda: _gif(5001, 5000), PIXELS),
        "webp": (lambda: _webp(16_383, 16_383), "image"),
        "webp-of-24-bits": (lambda: _webp(2**24, 2**24), "image"),
        "bmp": (lambda: _bmp(2**31 - 1, 2**31 - 1), SIDE),
        "bmp-upside-down": (lambda: _bmp(6000, -6000), PIXELS),
        "bmp-below-nothing": (lambda: _bmp(-5, 5), SIDE),
        "bmp-runs": (lambda: _bmp(5000, 5000, bits=8, packed=1) + bytes(40), DAMAGED),
        "tiff": (lambda: _tiff(100_000, 100_000), SIDE),
        "tiff-just-over": (lambda: _tiff(5001, 5000), PIXELS),
        "tiff-of-32-bits": (lambda: _tiff(2**32 - 1, 2**32 - 1), SIDE),
        "tiff-huge-strip": (lambda: _tiff(4000, 4000, t279=(4, 1, 0xFFFFFFFF)), DAMAGED),
        "tiff-strip-behind-the-end": (lambda: _tiff(4000, 4000, t273=(4, 1, 0xFFFFFFF0)), DAMAGED),
        "tiff-a-billion-strips": (lambda: _tiff(4000, 4000, t273=(4, 10**9, 8), t279=(4, 10**9, 8)), "image"),
        "tiff-rows-of-nothing": (lambda: _tiff(4000, 4000, t278=(4, 1, 0)), "image"),
        "tiff-tiles-of-nothing": (lambda: _tiff(4000, 4000, t322=(4, 1, 0), t323=(4, 1, 0), t324=(4, 1, 8)), "image"),
        "tiff-samples": (lambda: _tiff(4000, 4000, t277=(3, 1, 65_535)), "image"),
        "tiff-packed-nothing": (lambda: _tiff(4000, 4000, t259=(3, 1, 5)), "image"),
        "tiff-as-jpeg": (lambda: _tiff(4000, 4000, t259=(3, 1, 7)), "image"),
        "tiff-unknown-packing": (lambda: _tiff(4000, 4000, t259=(3, 1, 34_999)), "image"),
    }
    for name, (make, says) in files.items():
        yield Case(f"moon-{name}", make, says, **NO_PICTURE)


def _metadata() -> Iterator[Case]:
    """What stands beside the pixels: it may be refused, it may be passed over; it may not cost."""
    flood = zlib.compress(bytes(100_000_000), 9)
    yield Case("meta-png-profile-bomb", lambda: png(chunk(b"iCCP", b"p\0\0" + flood)), DAMAGED, **NO_PICTURE)
    yield Case("meta-png-text-bomb", lambda: png(chunk(b"zTXt", b"k\0\0" + flood)), DAMAGED, **NO_PICTURE)
    one = zlib.compress(bytes(1_000_000), 9)
    texts = [chunk(b"zTXt", b"k%d\0\0" % n + one) for n in range(80)]
    yield Case("meta-png-many-texts", lambda: png(*texts), DAMAGED, **NO_PICTURE)
    yield Case("meta-png-unicode-bomb", lambda: png(chunk(b"iTXt", b"k\0\1\0\0\0" + flood)), "image", **NO_PICTURE)
    loop = b"Exif\0\0" + tiff({0x0112: (3, 1, 6), 0x8769: (4, 1, 8)}, following=8)
    yield Case("meta-jpeg-exif-in-itself", lambda: saved("JPEG", exif=loop), "predictions", **ANSWERED)
    counts = b"Exif\0\0" + tiff({0x0112: (3, 0xFFFFFFFF, 8), 0x927C: (7, 0xFFFFFFFF, 8)})
    yield Case("meta-jpeg-exif-counts", lambda: saved("JPEG", exif=counts), "predictions", **ANSWERED)
    yield Case("meta-jpeg-of-196-megapixels", lambda: _jpeg(14_000, 14_000), "predictions", **ANSWERED)
    profile = bytes(3_000_000)
    yield Case("meta-jpeg-profile", lambda: saved("JPEG", icc_profile=profile), "predictions", **ANSWERED)
    frames = chunk(b"acTL", struct.pack(">2I", 0x7FFFFFFF, 0))
    yield Case("meta-apng-endless", lambda: png(frames), "predictions", **ANSWERED)
    yield Case("meta-gif-of-thousands", lambda: _animated(5000), "predictions", **ANSWERED)
    yield Case("meta-webp-of-hundreds", lambda: _animated_webp(200), "predictions", **ANSWERED)
    pages = Image.new("L", (8, 8))
    yield Case("meta-tiff-of-hundreds", lambda: _pages(pages, 300), "predictions", **ANSWERED)
    yield Case("meta-flat-and-large", lambda: _flat(4990, 4990), "predictions", **ANSWERED)
    script = chunk(b"tEXt", b"Comment\0<script>alert(1)</script>")
    yield Case("meta-png-script", lambda: png(script), "predictions", **ANSWERED)
    yield Case("meta-png-and-zip", lambda: png() + raw_zip([]), "predictions", **ANSWERED)


def _animated(frames: int) -> bytes:
    frame = b"!\xf9\x04\0\0\0\0\0,\0\0\0\0\x08\0\x08\0\0\x02" + b"\x07\x84\x8f\xa9\xcb\xed\x0f\x63\0"
    return b"GIF89a\x08\0\x08\0\x80\0\0\0\0\0\xff\xff\xff" + frame * frames + b";"


def _animated_webp(frames: int) -> bytes:
    out = io.BytesIO()
    images = [Image.new("RGB", (16, 16), (n % 256, 0, 0)) for n in range(frames)]
    images[0].save(out, "WEBP", save_all=True, append_images=images[1:])
    return out.getvalue()


def _pages(page: Image.Image, count: int) -> bytes:
    out = io.BytesIO()
    page.save(out, "TIFF", save_all=True, append_images=[page] * (count - 1))
    return out.getvalue()


def _flat(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (width, height)).save(out, "PNG")
    return out.getvalue()


CASES = (*_no_picture(), *_cut(), *_damaged(), *_moons(), *_metadata())
