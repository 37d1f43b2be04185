"""Large JPEGs that are drawn, with what photographs have: slopes, grain, hard edges, small print, strong colours."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ORIENTATION = 0x0112


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture of this size in RGB."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x / width, y / height
    pixels = np.zeros((height, width, 3), np.float32)
    for channel in range(3):
        for _ in range(6):  # waves, from long ones to some of a few dozen pixels
            u, v = rng.normal(0, 12, 2)
            pixels[..., channel] += rng.uniform(5, 30) * np.sin(2 * np.pi * (u * x + v * y + rng.random()))
    pixels += 128 + rng.normal(0, 6, pixels.shape)  # grain
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        box = (rng.random(4) * [width, height, width, height]).astype(int)
        corners = [*np.minimum(box[:2], box[2:]).tolist(), *np.maximum(box[:2], box[2:]).tolist()]
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        if rng.random() < 0.5:
            draw.ellipse(corners, fill=colour)
        else:
            draw.rectangle(corners, outline=colour, width=max(1, width // 150))
    for line in range(6):
        size = max(10, height // (12 + 6 * line))
        where = (width // 20, line * height // 6)
        draw.text(where, "Neural collapse 0123456789", fill="black", font=ImageFont.load_default(size))
    return image


def as_jpeg(image: Image.Image, *, orientation: int | None = None, **how: Any) -> bytes:
    """The file; `how` goes to Pillow (quality, subsampling, progressive)."""
    if orientation is not None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        how["exif"] = exif
    out = io.BytesIO()
    image.save(out, "JPEG", **({"quality": 90} | how))
    return out.getvalue()
