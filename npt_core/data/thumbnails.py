"""Pictures made small, as text that a page or a report can hold."""

from __future__ import annotations

import base64
import io

from PIL import Image

THUMBNAIL_SIDE = 64
"""Longest side of a thumbnail, pixels."""


def thumbnail(image: Image.Image, side: int = THUMBNAIL_SIDE) -> str:
    """Return an RGB image without metadata as a data URI (WebP), made small; it is changed on the way.

    Args:
        image: RGB.
        side: Longest side of what is returned, pixels; a smaller image stays as it is.
    """
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "WEBP", quality=78, method=4)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode("ascii")
