"""The frozen CLIP: the only place that knows open_clip."""

from npt_core.clip.backbone import Backbone, load_backbone
from npt_core.clip.preprocess import PreprocessConfig
from npt_core.clip.specs import BackboneSpec, parse_backbone
from npt_core.clip.text import PromptBatch, TextTower
from npt_core.clip.tokens import ClassPrompt, ClassPrompts, PromptTable, Tokenizer, init_ctx, prompt_name

__all__ = [
    "Backbone",
    "BackboneSpec",
    "ClassPrompt",
    "ClassPrompts",
    "PreprocessConfig",
    "PromptBatch",
    "PromptTable",
    "TextTower",
    "Tokenizer",
    "init_ctx",
    "load_backbone",
    "parse_backbone",
    "prompt_name",
]
