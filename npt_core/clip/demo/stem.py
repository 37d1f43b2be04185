"""A convolutional stem in the place of the patch embedding of open_clip's VisionTransformer.

Four small convolutions that each halve the picture come to the same grid of tokens as patches of 16 x 16. From nothing
and with few pictures they learn strokes and edges many times faster than one linear map of whole patches does
(T. Xiao et al., "Early Convolutions Help Transformers See Better", 2021). All behind them is open_clip's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

STEM_KEY = "stem"
PREFIX = "visual.conv1."


def make_stem(channels: Sequence[int], width: int, *, normed: bool) -> nn.Sequential:
    """Convolutions 3x3 of stride 2 to each of `channels`, then one of 1x1 to `width`.

    Args:
        channels: One entry for each halving of the picture.
        width: Width of the tokens.
        normed: With batch norms, as it is trained; without, as it is shipped (`fold_stem`).
    """
    layers: list[nn.Module] = []
    before = 3
    for after in channels:
        layers.append(nn.Conv2d(before, after, 3, stride=2, padding=1, bias=not normed))
        layers.append(nn.BatchNorm2d(after) if normed else nn.Identity())
        layers.append(nn.GELU())
        before = after
    layers.append(nn.Conv2d(before, width, 1))
    return nn.Sequential(*layers)


def build_demo_model(config: Mapping[str, Any], *, normed: bool = False, vocab_size: int | None = None) -> CLIP:
    """The network of a demo configuration, weights random.

    Args:
        config: As `DemoWeights.config`; `preprocess` is not read.
        normed: Whether the stem has its batch norms, for training.
        vocab_size: Rows of the token table in place of the configured ones.

    Returns:
        open_clip's root `CLIP`, its image tower a `VisionTransformer` whose `conv1` is the stem.
    """
    text = dict(config["text_cfg"])
    if vocab_size is not None:
        text["vocab_size"] = vocab_size
    model = CLIP(config["embed_dim"], dict(config["vision_cfg"]), text)
    channels = config.get(STEM_KEY)
    if channels:
        model.visual.conv1 = make_stem(channels, config["vision_cfg"]["width"], normed=normed)
    return model


def fold_stem(model: CLIP) -> dict[str, Tensor]:
    """State dict of a trained model with its stem's batch norms worked into the convolutions before them."""
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(PREFIX)}
    stem = cast("nn.Sequential", model.visual.conv1)
    with torch.no_grad():
        for i, layer in enumerate(stem):
            if not isinstance(layer, nn.Conv2d):
                continue
            norm = stem[i + 1] if i + 1 < len(stem) else None
            whole = layer
            if isinstance(norm, nn.BatchNorm2d):
                modes = layer.training, norm.training
                whole = fuse_conv_bn_eval(layer.eval(), norm.eval())
                layer.train(modes[0])
                norm.train(modes[1])
            state[f"{PREFIX}{i}.weight"] = whole.weight.detach()
            if whole.bias is not None:
                state[f"{PREFIX}{i}.bias"] = whole.bias.detach()
    return state
