from __future__ import annotations

import functools
import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from npt_core.data import images
from npt_core.data.images import ACCEPTED_FORMATS, MAX_PIXELS, decode_image, read_header
from npt_core.errors import ImageError
from tests.support.outcomes import outcome
from tests.support.zips import png_header


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def scene(width: int = 12, height: int = 7) -> Image.Image:
    """No symmetry: every flip and turn of it differs."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x > y) * 200], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


@functools.cache
def small(format: str) -> bytes:
    return saved(scene(), format)


def jpeg_header(width: int, height: int, *, progressive: bool = False) -> bytes:
    """A whole small JPEG whose header claims other dimensions."""
    data = bytearray(saved(scene(), "JPEG", progressive=progressive))
    at = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">2H", height, width)
    return bytes(data)


def reason(data: bytes, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, **options)
    with pytest.raises(ImageError):
        decode_image(io.BytesIO(data), **options)
    return caught.value.message


LOSSLESS = {
    "PNG": {},
    "BMP": {},
    "TIFF": {},
    "GIF": {},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 100},
    "HEIF": {"quality": -1, "chroma": 444},
}


@pytest.mark.parametrize("format", ["JPEG", *LOSSLESS])
def test_every_accepted_format_decodes_to_the_same_picture(format):
    if format not in ACCEPTED_FORMATS:
        pytest.skip(f"this installation has no {format} reader")
    if format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    source = scene(64, 48)
    data = saved(source, format, **LOSSLESS.get(format, {"quality": 95, "subsampling": 0}))
    header = read_header(data)
    assert (header.format, header.width, header.height) == (format, 64, 48)
    decoded = decode_image(data)
    assert (decoded.mode, decoded.size, decoded.info) == ("RGB", (64, 48), {})
    error = np.abs(np.asarray(decoded).astype(int) - np.asarray(source).astype(int))
    assert error.mean() < (12 if format == "GIF" else 4)


def test_bytes_and_files_are_both_read():
    data = saved(scene(), "PNG")
    buffer = io.BytesIO(data)
    buffer.seek(5)
    assert np.array_equal(np.asarray(decode_image(buffer)), np.asarray(decode_image(data)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
def test_exif_orientation_is_applied_once(format, orientation):
    stored = scene(32, 16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif, **({"lossless": True} if format == "WEBP" else {})}
    data = saved(stored, format, **options)
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF's number -> Pillow's method
    methods = [
        Image.Transpose.FLIP_LEFT_RIGHT,
        Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.ROTATE_90,
        Image.Transpose.ROTATE_180,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSPOSE,
        Image.Transpose.TRANSVERSE,
    ]
    expected = stored if orientation == 1 else stored.transpose(methods[turns[orientation]])
    decoded = decode_image(data)
    assert decoded.size == expected.size
    error = np.abs(np.asarray(decoded).astype(int) - np.asarray(expected).astype(int))
    assert error.mean() < (25 if format in ("JPEG", "MPO") else 0.01)


def test_an_orientation_that_means_nothing_changes_nothing():
    exif = Image.Exif()
    exif[0x0112] = 77
    assert decode_image(saved(scene(), "PNG", exif=exif)).size == (12, 7)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_grey_of_16_bits_is_shifted_not_clipped(format):
    ramp = np.arange(0, 65536, 251, dtype=np.uint16)[:, None].repeat(2, axis=1)
    decoded = np.asarray(decode_image(saved(Image.fromarray(ramp), format)))
    assert np.array_equal(decoded[:, 0, 0], (ramp[:, 0] >> 8).astype(np.uint8))
    assert np.array_equal(decoded[..., 0], decoded[..., 2])


def test_the_transparent_grey_of_a_16_bit_png_becomes_white():
    grey = Image.fromarray(np.array([[0, 300, 65535]], dtype=np.uint16))
    assert np.asarray(decode_image(saved(grey, "PNG", transparency=300)))[0, :, 0].tolist() == [0, 255, 255]


def test_pixels_of_32_bits_are_refused_with_what_to_do():
    assert "8 or 16 bits" in reason(saved(Image.fromarray(np.ones((2, 2), dtype=np.float32)), "TIFF"))
    assert "8 or 16 bits" in reason(saved(Image.fromarray(np.ones((2, 2), dtype=np.int32)), "TIFF"))


def test_transparency_is_laid_on_white():
    pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]]], dtype=np.uint8)
    decoded = np.asarray(decode_image(saved(Image.fromarray(pixels), "PNG"))).tolist()
    assert decoded[0][:2] == [[255, 0, 0], [255, 255, 255]]
    assert decoded[0][2] == pytest.approx([127, 127, 127], abs=1)


def test_every_kind_of_transparency_is_laid_on_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    grey = Image.fromarray(np.array([[0, 90]], dtype=np.uint8))
    red = Image.new("RGB", (2, 1), (9, 9, 9))
    red.putpixel((0, 0), (255, 0, 0))
    grey_alpha = Image.merge("LA", [Image.new("L", (2, 1), 0), grey.point(lambda v: 255 if v else 0)])
    for data, clear, kept in [
        (saved(palette, "PNG", transparency=1), 1, [255, 0, 0]),
        (saved(palette, "PNG", transparency=b"\xff\x00"), 1, [255, 0, 0]),
        (saved(palette, "GIF", transparency=1), 1, [255, 0, 0]),
        (saved(grey, "PNG", transparency=0), 0, [90, 90, 90]),
        (saved(red, "PNG", transparency=(255, 0, 0)), 0, [9, 9, 9]),
        (saved(grey_alpha, "PNG"), 0, [0, 0, 0]),
        (saved(grey_alpha, "TIFF"), 0, [0, 0, 0]),
    ]:
        row = np.asarray(decode_image(data))[0].tolist()
        assert row[clear] == [255, 255, 255]
        assert row[1 - clear] == kept


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB"])
def test_other_modes_become_rgb(mode):
    format = "TIFF" if mode in ("CMYK", "YCbCr", "LAB", "1") else "PNG"
    source = Image.new(mode, (16, 16)) if mode == "LAB" else scene(16, 16).convert(mode)
    assert decode_image(saved(source, format)).mode == "RGB"


def test_a_cmyk_jpeg_keeps_its_colours():
    red = Image.new("RGB", (16, 16), (250, 10, 10)).convert("CMYK")
    pixel = decode_image(saved(red, "JPEG", quality=95)).getpixel((8, 8))
    assert pixel[0] > 200
    assert max(pixel[1:]) < 60


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_of_several_frames_the_first_is_taken(format):
    first, second = Image.new("RGB", (16, 16), (255, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 255))
    data = saved(first, format, save_all=True, append_images=[second])
    pixel = decode_image(data).getpixel((8, 8))
    assert pixel[0] > 240
    assert pixel[2] < 15


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<!DOCTYPE html><p>", "HTML"),
        (b"%!PS-Adobe EPSF", "PostScript"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04rest", "nested archives are not unpacked"),
        (b"\x1f\x8b\x08rest", "nested archives are not unpacked"),
        (b"\x00\x00\x01\x00\x01\x00", "ICO"),
        (b"not an image at all", "found text"),
        (b"\x00\x00\x00\x18ftypmp42....", "video"),
        (b"\x00\x01\x02\x03", "unknown binary data"),
    ],
)
def test_what_is_no_picture_is_named_together_with_what_is_accepted(data, said):
    message = reason(data)
    assert said in message
    with pytest.raises(ImageError, match="."):
        read_header(data)


def test_the_content_decides_and_not_a_plugin_that_is_installed():
    for format in ("PPM", "ICO", "TGA", "PCX", "DDS", "EPS"):
        assert "accepted are JPEG" in reason(saved(scene(), format))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_truncated_picture_passes_the_header_at_most(format):
    whole = saved(scene(200, 150), format)
    for keep in (len(whole) * 3 // 4, len(whole) // 2):
        assert "corrupt or truncated" in reason(whole[:keep])
    assert "corrupt or truncated" in reason(whole[:16])


def test_giant_dimensions_are_refused_before_a_pixel_is_decoded(monkeypatch):
    cases = [
        (png_header(9000, 9000), "81 megapixels; a PNG may have 25"),
        (png_header(5001, 5000), "25 megapixels"),
        (png_header(20_001, 1), "no side may be longer than 20,000"),
        (png_header(20_000, 20_000), "400 megapixels"),
        (jpeg_header(20_000, 10_001), "a JPEG may have 200"),
        (jpeg_header(7072, 7072, progressive=True), "a progressive JPEG may have 50"),
    ]
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", pytest.fail)
    for data, said in cases:
        with pytest.raises(ImageError) as caught:
            read_header(data)
        assert said in caught.value.message
        assert said in reason(data)


def test_dimensions_at_the_limits_pass_the_header():
    for data in (
        png_header(5000, 5000),
        png_header(20_000, 1250),
        jpeg_header(20_000, 10_000),
        jpeg_header(10_000, 5000, progressive=True),
    ):
        read_header(data)


def test_a_large_jpeg_is_shrunk_by_its_decoder_to_what_is_accepted():
    data = saved(Image.new("L", (6001, 5003), 99), "JPEG")
    decoded = decode_image(data)
    assert decoded.size == (3001, 2502)
    assert decoded.size[0] * decoded.size[1] < MAX_PIXELS


def test_a_jpeg_stays_at_least_twice_the_target():
    data = saved(scene(1030, 520), "JPEG")
    assert decode_image(data).size == (1030, 520)
    assert decode_image(data, target=130).size == (515, 260)
    assert decode_image(data, target=131).size == (1030, 520)
    assert decode_image(data, target=64).size == (258, 130)
    assert decode_image(data, target=1).size == (129, 65)
    png = saved(scene(1030, 520), "PNG")
    assert decode_image(png, target=1).size == (1030, 520)


@settings(max_examples=100, deadline=None)
@given(width=st.integers(1, 600), height=st.integers(1, 600), target=st.integers(1, 300))
def test_shrinking_never_goes_below_what_is_needed(width, height, target):
    decoded = decode_image(saved(Image.new("L", (width, height)), "JPEG"), target=target)
    assert min(decoded.size) >= min(min(width, height), 2 * target)
    assert decoded.size[0] / width == pytest.approx(decoded.size[1] / height, abs=2 / min(width, height))


@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of damaged tags
@given(data=st.data(), format=st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF"]))
def test_no_bytes_raise_anything_but_an_image_error(data, format):
    if format not in ACCEPTED_FORMATS:
        return
    images._register_optional()
    whole = bytearray(small(format))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    del whole[data.draw(st.integers(1, len(whole))) :]
    for call in (read_header, decode_image):
        result = outcome(lambda call=call: call(bytes(whole)), ImageError)
        assert result.message if isinstance(result, ImageError) else result


def test_a_picture_that_memory_does_not_suffice_for_is_one_bad_picture(monkeypatch):
    def out_of_memory(self):
        raise MemoryError

    data = saved(scene(), "PNG")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", out_of_memory)
    assert "not enough memory" in reason(data)


def test_decoding_needs_neither_torch_nor_a_global_of_pillow():
    import subprocess
    import sys

    code = (
        "import sys; from PIL import Image; before = Image.MAX_IMAGE_PIXELS; import npt_core.data; "
        "assert Image.MAX_IMAGE_PIXELS == before and 'torch' not in sys.modules and 'open_clip' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
