"""Deterministic views of an image: the plain one, and mild random crops drawn from the image's own hash.

N cached views are exact for those N views, but they are not CoOp's fresh crops at every step: an approximation that
buys encoding each image only once. No flip: digits, letters and many signs change their meaning in a mirror.
"""

from __future__ import annotations

import hashlib
import math
import random

from PIL import Image

VIEW_RECIPE = 1
"""Changes whenever a view of the same image may look different; part of every cache key of a crop."""

SCALE = (0.8, 1.0)
RATIO = (0.85, 1 / 0.85)


def view_of(image: Image.Image, sha256: str, view: int) -> Image.Image:
    """Return a view of an RGB image.

    Args:
        image: The decoded image, any size.
        sha256: Hash of the image file: with `view` it is the seed, so that no training seed changes a view.
        view: 0 is the image itself; others are crops of 80 to 100 % of its area, nearly its own aspect ratio.
    """
    if view == 0:
        return image
    digest = hashlib.sha256(f"{VIEW_RECIPE}:{sha256}:{view}".encode()).digest()
    draw = random.Random(int.from_bytes(digest[:8], "big"))  # noqa: S311 - pictures, not secrets
    width, height = image.size
    area = draw.uniform(*SCALE)
    stretch = math.sqrt(math.exp(draw.uniform(math.log(RATIO[0]), math.log(RATIO[1]))))
    crop_width = max(1, min(width, round(width * math.sqrt(area) * stretch)))
    crop_height = max(1, min(height, round(height * math.sqrt(area) / stretch)))
    left = draw.randint(0, width - crop_width)
    top = draw.randint(0, height - crop_height)
    return image.crop((left, top, left + crop_width, top + crop_height))
