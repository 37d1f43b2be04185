"""The frozen CLIP: the only place that knows open_clip.

Names are looked up when first used: reading the operator's words for a backbone needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Backbone": "backbone",
    "BackboneSpec": "specs",
    "ClassPrompt": "tokens",
    "ClassPrompts": "tokens",
    "ImageTower": "image",
    "PreprocessConfig": "preprocess",
    "PromptBatch": "prompts",
    "PromptTable": "tokens",
    "TextTower": "text",
    "Tokenizer": "tokens",
    "init_ctx": "tokens",
    "load_backbone": "backbone",
    "parse_backbone": "specs",
    "prompt_name": "tokens",
}

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone as Backbone
    from npt_core.clip.backbone import load_backbone as load_backbone
    from npt_core.clip.image import ImageTower as ImageTower
    from npt_core.clip.preprocess import PreprocessConfig as PreprocessConfig
    from npt_core.clip.prompts import PromptBatch as PromptBatch
    from npt_core.clip.specs import BackboneSpec as BackboneSpec
    from npt_core.clip.specs import parse_backbone as parse_backbone
    from npt_core.clip.text import TextTower as TextTower
    from npt_core.clip.tokens import ClassPrompt as ClassPrompt
    from npt_core.clip.tokens import ClassPrompts as ClassPrompts
    from npt_core.clip.tokens import PromptTable as PromptTable
    from npt_core.clip.tokens import Tokenizer as Tokenizer
    from npt_core.clip.tokens import init_ctx as init_ctx
    from npt_core.clip.tokens import prompt_name as prompt_name

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
