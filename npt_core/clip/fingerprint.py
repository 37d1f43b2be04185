"""One hash for everything that decides a feature: weights, architecture, preprocessing, tokenizer.

It does not depend on the file the weights came from (values are widened to fp32 first: the same numbers stored in fp16
and in fp32 are the same weights) nor on the precision they are computed in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, fields
from typing import Any

import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

_RECIPE = "npt-backbone-1"
# settings of a config that change no feature: training-only, or where the first weights came from
_IDLE = {
    "patch_dropout",
    "output_tokens",
    "timm_model_pretrained",
    "timm_drop",
    "timm_drop_path",
    "hf_model_pretrained",
    "hf_tokenizer_name",
    "tokenizer_kwargs",
    "tokenizer_mode",
}


def fingerprint(
    state: Mapping[str, torch.Tensor], model_cfg: Mapping[str, Any], preprocess: Mapping[str, Any], tokenizer: str
) -> str:
    """SHA-256 in hex.

    Args:
        state: `state_dict()` of the loaded model, before any cast.
        model_cfg: open_clip model config; keys that hold their default count as absent.
        preprocess: `PreprocessConfig.to_dict()`.
        tokenizer: `Tokenizer.identity`.
    """
    names = sorted(state)
    with ThreadPoolExecutor(max_workers=4) as pool:  # hashing leaves the interpreter lock
        digests = list(pool.map(lambda name: _digest(state[name]), names))
    total = hashlib.sha256()
    facts = [_RECIPE, architecture(model_cfg), dict(preprocess), tokenizer]
    total.update(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode())
    for name, digest in zip(names, digests, strict=True):
        total.update(name.encode() + b"\0" + digest)
    return total.hexdigest()


def architecture(model_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an open_clip config that decides features, defaults left out."""
    out: dict[str, Any] = {}
    for key, value in model_cfg.items():
        if key in ("vision_cfg", "text_cfg"):
            defaults = _defaults(CLIPVisionCfg if key == "vision_cfg" else CLIPTextCfg)
            out[key] = {k: v for k, v in value.items() if k not in _IDLE and v != defaults.get(k, MISSING)}
        elif key not in ("init_logit_scale", "init_logit_bias", "custom_text") and value not in (None, False):
            out[key] = value
    return out


def _defaults(kind: type) -> dict[str, Any]:
    return {f.name: f.default for f in fields(kind)}


def _digest(tensor: torch.Tensor) -> bytes:
    tensor = tensor.detach().cpu().contiguous()
    wide = tensor.to(torch.float32) if tensor.is_floating_point() else tensor.to(torch.int64)
    digest = hashlib.sha256(f"{wide.dtype}{tuple(wide.shape)}".encode())
    digest.update(wide.numpy().data)
    return digest.digest()
