"""What a JPEG loses that is decoded at a reduced size: the preprocessed picture stays within the stated bound.

The bound is that of docs/benchmarks.md, "Decoding large JPEGs". It is on the picture that the image tower sees, in grey
levels of 255, against the same file decoded in full.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from PIL import Image

from npt_core.clip import Backbone, PreprocessConfig, load_backbone
from npt_core.data.images import decode_image
from tests.support.photographs import as_jpeg, scene

MEAN_LEVELS = 4.0
LEVELS_OF_99_PERCENT = 16.0
COSINE = 0.98

SIZES = [(256, 256), (700, 430), (600, 900), (1300, 1000)]
FILES: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "quality 60": {"quality": 60},
    "lying on its side": {"orientation": 6},
    "upside down": {"orientation": 3},
    "mirrored and turned": {"orientation": 5},
}
MODES = ["RGB", "L", "CMYK"]


@pytest.fixture(scope="module")
def demo() -> Backbone:
    return load_backbone("demo", device="cpu")


@cache
def drawn(size: tuple[int, int]) -> Image.Image:
    return scene(*size, seed=1)


def levels_apart(data: bytes, preprocess: PreprocessConfig, target: int) -> torch.Tensor:
    full, reduced = decode_image(data), decode_image(data, target=target)
    assert min(reduced.size) < min(full.size), "it was not decoded at a reduced size"
    assert (full.width > full.height) == (reduced.width > reduced.height)
    std = torch.tensor(preprocess.std)[:, None, None] * 255
    return ((preprocess.transform(full) - preprocess.transform(reduced)) * std).abs()


def assert_within(apart: torch.Tensor) -> None:
    assert apart.mean() <= MEAN_LEVELS
    assert apart.flatten().quantile(0.99) <= LEVELS_OF_99_PERCENT


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("how", FILES.values(), ids=list(FILES))
def test_the_tower_sees_nearly_the_same(demo: Backbone, size: tuple[int, int], how: dict[str, Any]) -> None:
    assert_within(levels_apart(as_jpeg(drawn(size), **how), demo.preprocess, 64))


@pytest.mark.parametrize("mode", MODES)
def test_so_it_does_of_grey_files_and_of_files_for_print(demo: Backbone, mode: str) -> None:
    assert_within(levels_apart(as_jpeg(drawn((600, 900)).convert(mode)), demo.preprocess, 64))


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize(("side", "size"), [(64, (600, 900)), (224, (1300, 1000))])
def test_so_it_does_in_every_way_to_fit_a_picture_into_the_square(
    resize_mode: str, side: int, size: tuple[int, int]
) -> None:
    preprocess = replace(PreprocessConfig(size=(side, side)), resize_mode=resize_mode)
    assert_within(levels_apart(as_jpeg(drawn(size)), preprocess, side))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_features_hardly_move(demo: Backbone, size: tuple[int, int]) -> None:
    data = as_jpeg(drawn(size))
    pixels = [demo.load_pixels(decode_image(data, target=target)) for target in (None, 64)]
    full, reduced = demo.encode_images(torch.stack(pixels))
    assert full @ reduced >= COSINE


def test_a_picture_that_is_hardly_larger_than_the_square_is_decoded_in_full() -> None:
    data = as_jpeg(drawn((256, 256)))
    assert decode_image(data, target=64).size == (128, 128)
    assert decode_image(data, target=65).size == (256, 256)
