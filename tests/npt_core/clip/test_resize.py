"""One pair of towers, pictures fitted into its square in several ways."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from npt_core.clip.preprocess import RESIZE_MODES
from npt_core.errors import ConfigError
from tests.support.tiny_clip import tiny_backbone


def test_each_way_sees_a_wide_picture_in_its_own_way() -> None:
    backbone = tiny_backbone("clip")
    halves = Image.new("RGB", (96, 32), "black")
    halves.paste("white", (0, 0, 48, 32))  # left half white: cropped to its middle, white and black meet at the centre
    low, high = (
        (torch.tensor(value) - torch.tensor(backbone.preprocess.mean)) / torch.tensor(backbone.preprocess.std)
        for value in (0.0, 1.0)
    )
    crop, pad, squash = (backbone.with_resize(name).load_pixels(halves) for name in ("crop", "pad", "squash"))
    for pixels in (crop, pad, squash):
        assert pixels.shape == (3, 32, 32)
    torch.testing.assert_close(crop[:, 16, 0], high)
    torch.testing.assert_close(pad[:, 0, 0], low)  # a bar above, as the fill colour is black
    torch.testing.assert_close(pad[:, 16, 0], high)
    torch.testing.assert_close(squash[:, 0, 0], high)
    assert not torch.equal(crop, squash)


def test_it_is_the_same_towers_under_the_same_fingerprint() -> None:
    backbone = tiny_backbone("clip")
    padded = backbone.with_resize("pad")
    assert padded.image is backbone.image
    assert padded.fingerprint == backbone.fingerprint
    assert (backbone.resize, padded.resize) == (None, "pad")
    assert backbone.preprocess.resize_mode == "shortest"
    assert padded.describe()["preprocess"]["resize_mode"] == "longest"
    assert padded.with_resize(None).preprocess == backbone.preprocess
    assert padded.with_resize("squash").resize == "squash"


def test_its_own_way_by_name_is_its_own_way() -> None:
    backbone = tiny_backbone("clip")
    own = next(name for name, mode in RESIZE_MODES.items() if mode == backbone.preprocess.resize_mode)
    assert backbone.with_resize(own) is backbone
    assert backbone.with_resize(None) is backbone


def test_another_precision_keeps_the_way_and_knows_its_own() -> None:
    other = tiny_backbone("clip").with_resize("pad").with_precision("bf16")
    assert other.resize == "pad"
    assert other.with_resize(None).preprocess.resize_mode == "shortest"


def test_another_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="crop, pad, squash"):
        tiny_backbone("clip").with_resize("stretch")
