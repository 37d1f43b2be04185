"""How a picture becomes the numbers an image tower was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, cast

import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.transforms import Compose, Normalize, ToTensor

from npt_core.errors import ConfigError

_INTERPOLATION = ("bicubic", "bilinear", "random")
_RESIZE_MODE = ("shortest", "longest", "squash")

RESIZE_MODES: Mapping[str, str] = {"crop": "shortest", "pad": "longest", "squash": "squash"}
"""How users ask for a `resize_mode`: what happens to a picture that is not square."""


@dataclass(frozen=True)
class PreprocessConfig:
    """The evaluation preprocessing of an image tower.

    Attributes:
        size: Height and width in pixels.
        mean: Subtracted from each channel of a picture in [0, 1].
        std: Divides each channel after that.
        interpolation: `bicubic`, `bilinear` or `random`.
        resize_mode: `shortest` side to size, then centre crop; `longest` side, then pad; `squash` both.
        fill_color: Grey of the padding, 0 to 255.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float] = open_clip.OPENAI_DATASET_MEAN
    std: tuple[float, float, float] = open_clip.OPENAI_DATASET_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0

    def __post_init__(self) -> None:
        for name, value, accepted in (
            ("interpolation", self.interpolation, _INTERPOLATION),
            ("resize_mode", self.resize_mode, _RESIZE_MODE),
        ):
            if value not in accepted:
                raise ConfigError(f"Preprocessing {name} is {value!r}; it can be {', '.join(accepted)}.")

    @cached_property
    def transform(self) -> Callable[[Image.Image], torch.Tensor]:
        """From an RGB picture to (3, H, W) float32: open_clip's own numbers, bit for bit.

        Its last two steps are done in numpy: torch's start a team of threads for each picture, in every thread that
        decodes, beside the model's own.
        """
        whole = image_transform_v2(PreprocessCfg(**asdict(self)), is_train=False)
        *fitting, to_tensor, normalize = whole.transforms
        if not isinstance(to_tensor, ToTensor) or not isinstance(normalize, Normalize):
            return cast("Callable[[Image.Image], torch.Tensor]", whole)
        fit = Compose(fitting)
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (self.mean, self.std))

        def prepare(image: Image.Image) -> torch.Tensor:
            pixels = np.asarray(fit(image)).transpose(2, 0, 1).astype(np.float32, order="C")
            pixels /= np.float32(255)
            pixels -= mean
            pixels /= std
            return torch.from_numpy(pixels)

        return prepare

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PreprocessConfig:
        """Read what `to_dict` wrote, or open_clip's own form (`size` may be one number).

        Raises:
            ConfigError: An unknown key, or a value that no preprocessing has.
        """
        known = {f.name for f in fields(cls)}
        values = {k: v for k, v in data.items() if k != "mode"}  # open_clip's `mode` is always RGB
        if unknown := sorted(values.keys() - known):
            raise ConfigError(f"Unknown preprocessing keys {unknown}; known are {sorted(known)}.")
        size = values.get("size")
        if isinstance(size, int):
            size = (size, size)
        if not isinstance(size, list | tuple) or len(size) != 2:
            raise ConfigError(f"Preprocessing size is {size!r}; it needs one side or (height, width) in pixels.")
        values["size"] = (int(size[0]), int(size[1]))
        for key in ("mean", "std"):
            if key in values:
                values[key] = tuple(float(v) for v in values[key])
        return cls(**values)
