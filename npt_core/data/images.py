"""Pictures: which are accepted, and how their bytes become RGB pixels.

Tuning and prediction both decode here, so that a picture looks the same to both.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import io
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from npt_core.data.sniff import describe_content, is_archive_content
from npt_core.errors import ImageError

MAX_PIXELS = 25_000_000
"""Most pixels that are ever decoded."""

MAX_SIDE = 20_000
"""Longest side, in pixels."""

MAX_JPEG_PIXELS = 200_000_000
"""Most pixels of a baseline JPEG, which the decoder itself can shrink while reading."""

MAX_PROGRESSIVE_PIXELS = 50_000_000
"""Most pixels of a progressive JPEG: its coefficients are all held in memory, shrunk or not."""

DECODE_POLICY = "1"
"""Changes whenever the same bytes may decode to other pixels; part of every key that caches features."""

_HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None
_HAS_AVIF = features.check("avif") is True

_ALWAYS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

ACCEPTED_FORMATS: tuple[str, ...] = (*_ALWAYS, *(["HEIF"] if _HAS_HEIF else []), *(["AVIF"] if _HAS_AVIF else []))
"""Pillow's names of the formats that are tried, in this order; the content decides, never the file's name."""

_PLUGINS = (  # importing a plugin registers it; named here so that no unused import hides the reason
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    TiffImagePlugin,
    MpoImagePlugin,
)

_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHITE = (255, 255, 255)


@dataclass(frozen=True)
class ImageHeader:
    """What the first bytes of a picture say about it.

    Args:
        format: One of `ACCEPTED_FORMATS`, or `MPO` for a JPEG with several frames.
        width: Pixels, as stored, before any rotation.
        height: Pixels, as stored.
    """

    format: str
    width: int
    height: int


def read_header(data: bytes | BinaryIO) -> ImageHeader:
    """Check format and dimensions without decoding a pixel.

    Raises:
        ImageError: Not an accepted image, a broken header, or dimensions over the limits.
    """
    try:
        image = _open(_stream(data))
        return ImageHeader(image.format or "", *image.size)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"corrupt or truncated image: {_reason(error)}") from error


def decode_image(data: bytes | BinaryIO, *, target: int | None = None) -> Image.Image:
    """Decode a picture to RGB, upright, at its full size or (JPEG only) shrunk while it is read.

    Dimensions are checked before any pixel is decoded. Grey images of 16 bits are shifted to 8, transparency and
    transparent palettes are laid on white, EXIF orientation is applied, CMYK is converted, and of animations and
    multi-page files the first frame is taken.

    Args:
        data: The whole file.
        target: Side in pixels of the square the picture will be resized to. A JPEG is then decoded at 1/2, 1/4 or 1/8
            of its size as long as its shorter side stays at least twice the target. After preprocessing it differs
            from the full decode by at most 4 grey levels of 255 on average and by at most 16 in 99 % of the values
            (`tests/npt_core/data/test_reduced_decode.py`). Pass the same value in tuning and in prediction.

    Returns:
        An image in mode RGB, loaded, without metadata.

    Raises:
        ImageError: Not an accepted image, too large, corrupt or truncated.
    """
    try:
        image = _open(_stream(data))
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            _draft(image, target)
        image.load()
        rgb = _upright(_to_rgb(image), image)
    except ImageError:
        raise
    except Exception as error:  # decoders raise whatever they like on hostile bytes
        raise ImageError(f"corrupt or truncated image: {_reason(error)}") from error
    rgb.info = {}
    return rgb


def accepted_names() -> str:
    """The formats this installation reads, for messages: `JPEG, PNG, WebP, BMP, GIF, TIFF`."""
    return ", ".join({"WEBP": "WebP", "HEIF": "HEIC"}.get(name, name) for name in ACCEPTED_FORMATS)


def _stream(data: bytes | BinaryIO) -> BinaryIO:
    return io.BytesIO(data) if isinstance(data, bytes | bytearray | memoryview) else data


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):  # a decoder raises it for sizes it made up, too
        return "not enough memory to decode it"
    text = str(error).split("<_io.")[0].strip().rstrip(".")
    return text[:200] or type(error).__name__


@functools.cache
def _register_optional() -> None:
    """Make Pillow know HEIC and AVIF where this installation has them; done at the first such file."""
    if _HAS_HEIF:
        importlib.import_module("pillow_heif").register_heif_opener()
    if _HAS_AVIF:
        importlib.import_module("PIL.AvifImagePlugin")


def _open(stream: BinaryIO) -> ImageFile.ImageFile:
    """Open lazily the one accepted format that recognises the first bytes.

    `Image.open(formats=...)` does the same, but raises at 179 million pixels and warns at 89 million whatever the
    format, before the limits here can answer, and its threshold is a global of the whole process.
    """
    stream.seek(0)
    head = stream.read(512)
    stream.seek(0)
    prefix = head[:16]
    if prefix[4:8] == b"ftyp":
        _register_optional()
    for name in ACCEPTED_FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or accept is None or accept(prefix) is not True:
            continue
        image = factory(stream, "")
        _check_size(image)
        return image
    raise ImageError(_not_an_image(head))


def _not_an_image(head: bytes) -> str:
    what = describe_content(head)
    if not head:
        return "an empty file, 0 bytes"
    if is_archive_content(what):
        return f"{what} inside the archive; nested archives are not unpacked: put the pictures themselves in one zip"
    if what in ("a HEIC image", "a HEIF image") and not _HAS_HEIF:
        return "a HEIC image, and this server has no HEIC reader: install the 'heif' extra, or convert it to JPEG"
    return f"not an accepted image: found {what}; accepted are {accepted_names()}"


def _check_size(image: ImageFile.ImageFile) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"the image is empty: {width}×{height} pixels")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{width}×{height} pixels; no side may be longer than {MAX_SIDE:,}: make it smaller")
    limit, kind = MAX_PIXELS, image.format or "image"
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        limit, kind = MAX_JPEG_PIXELS, "JPEG"
        if image.info.get("progressive") or image.info.get("progression"):
            limit, kind = MAX_PROGRESSIVE_PIXELS, "progressive JPEG"
    if width * height > limit:
        found, accepted = width * height / 1e6, limit // 1_000_000
        raise ImageError(f"{width}×{height} is {found:.0f} megapixels; a {kind} may have {accepted}: make it smaller")


def _draft(image: JpegImagePlugin.JpegImageFile, target: int | None) -> None:
    width, height = image.size
    shrink = 1
    if target is not None:
        while shrink < 8 and min(width, height) // (shrink * 2) >= 2 * target:
            shrink *= 2
    while shrink < 8 and width * height > MAX_PIXELS * shrink * shrink:
        shrink *= 2
    if shrink > 1:
        image.draft(None, (max(1, width // shrink), max(1, height // shrink)))
    if image.size[0] * image.size[1] > MAX_PIXELS + image.size[0] + image.size[1]:  # the decoder rounds sides up
        raise ImageError(f"{width}×{height} pixels and it cannot be shrunk while it is read: make it smaller")


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return image
    if mode.startswith("I;16"):
        return _shift_16_bit(image)
    if mode in ("I", "F"):
        raise ImageError(f"pixels of 32 bits ({'float' if mode == 'F' else 'integer'}); save it with 8 or 16 bits")
    if mode == "La":  # Pillow converts it to LA only
        image = image.convert("LA")
    if mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB")


def _shift_16_bit(image: Image.Image) -> Image.Image:
    """Keep the high byte; Pillow's own conversion clips at 255 and turns nearly everything white."""
    pixels = np.asarray(image)
    grey = (pixels >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey = np.where(pixels == transparent, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")


def _on_white(rgba: Image.Image) -> Image.Image:
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return rgba.convert("RGB")
    white = Image.new("RGB", rgba.size, _WHITE)
    white.paste(rgba.convert("RGB"), mask=alpha)
    return white


def _upright(rgb: Image.Image, source: Image.Image) -> Image.Image:
    """Turn as EXIF says. TIFF and HEIC are turned by their own readers, which then clear the tag."""
    try:
        method = _TRANSPOSE.get(source.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # broken metadata on a picture that decoded well: the pixels count
        method = None
    return rgb if method is None else rgb.transpose(method)
