from __future__ import annotations

from typing import Any

import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from npt_core.clip.preprocess import PreprocessConfig
from npt_core.errors import ConfigError
from tests.support.tiny_clip import tiny_backbone


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_it_is_open_clips_own_evaluation(mode: str) -> None:
    picture = Image.effect_noise((50, 37), 80).convert("RGB")
    facts: dict[str, Any] = {"size": (32, 32), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "resize_mode": mode}
    own = image_transform_v2(PreprocessCfg(**facts), is_train=False)(picture)
    ours = PreprocessConfig.from_dict(facts).transform(picture)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, own, rtol=0, atol=0)


def test_load_pixels() -> None:
    b = tiny_backbone("clip")
    pixels = b.load_pixels(Image.new("RGB", (100, 60), "white"))
    assert pixels.shape == (3, 32, 32)
    white = (1 - torch.tensor(b.preprocess.mean)) / torch.tensor(b.preprocess.std)
    torch.testing.assert_close(pixels, white[:, None, None].expand(3, 32, 32))
    assert b.encode_images(pixels[None]).shape == (1, 16)


def test_there_and_back() -> None:
    one = PreprocessConfig((32, 48), mean=(0.1, 0.2, 0.3), interpolation="bilinear")
    assert PreprocessConfig.from_dict(one.to_dict()) == one
    assert PreprocessConfig.from_dict({"size": 224, "mode": "RGB"}).size == (224, 224)


@pytest.mark.parametrize(
    ("facts", "match"),
    [
        ({"size": 32, "colour": 1}, "colour"),
        ({}, "size is None"),
        ({"size": (1, 2, 3)}, "size is"),
        ({"size": 32, "interpolation": "magic"}, "bicubic"),
        ({"size": 32, "resize_mode": "magic"}, "squash"),
    ],
)
def test_what_no_preprocessing_has(facts: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        PreprocessConfig.from_dict(facts)
