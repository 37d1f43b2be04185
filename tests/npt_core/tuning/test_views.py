"""Views depend on the image and the number of the view, on nothing else."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from npt_core.tuning.views import RATIO, SCALE, view_of
from tests.support.pictures import picture


def sha(seed: int) -> str:
    return hashlib.sha256(str(seed).encode()).hexdigest()


@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(1, 300), st.integers(1, 300))
def test_a_crop_lies_inside_and_keeps_most_of_the_picture(seed: int, view: int, width: int, height: int) -> None:
    image = Image.new("RGB", (width, height))
    cut = view_of(image, sha(seed), view)
    assert 1 <= cut.width <= width
    assert 1 <= cut.height <= height
    if min(width, height) >= 50:
        assert cut.width * cut.height >= (SCALE[0] * RATIO[0] - 0.05) * width * height


def test_view_zero_is_the_picture_and_views_repeat() -> None:
    image = picture((200, 30, 30), 0, side=40)
    assert view_of(image, sha(1), 0) is image
    first, again, other = (np.asarray(view_of(image, sha(1), view)) for view in (1, 1, 2))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_a_view_is_never_mirrored() -> None:
    ramp = np.tile(np.arange(100, dtype=np.uint8), (100, 1))
    image = Image.fromarray(np.stack([ramp] * 3, axis=2))
    for view in range(1, 30):
        cut = np.asarray(view_of(image, sha(3), view))[0, :, 0].astype(int)
        assert (np.diff(cut) == 1).all()
