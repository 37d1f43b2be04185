"""From a `BackboneSpec` to a loaded open_clip model: one function for each kind of name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import open_clip
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.pretrained import download_pretrained_from_hf, get_pretrained_cfg, list_pretrained_tags_by_model
from torch import nn

from npt_core.clip.checkpoints import load_into, read_state_dict
from npt_core.clip.preprocess import PreprocessConfig
from npt_core.clip.specs import BackboneSpec, close_matches
from npt_core.clip.tokens import Tokenizer
from npt_core.errors import BackboneUnavailableError, UnknownBackboneError, UnsupportedBackboneError


@dataclass(frozen=True)
class LoadedModel:
    """Weights in fp32 on the CPU with everything that belongs to them."""

    model: nn.Module
    model_cfg: Mapping[str, Any]
    preprocess: PreprocessConfig
    tokenizer: Tokenizer
    description: str
    knows_photographs: bool = True
    trained_token_ids: frozenset[int] | None = None


def load_model(spec: BackboneSpec, cache_dir: Path | None) -> LoadedModel:
    """Load the weights a spec names.

    Raises:
        UnknownBackboneError: open_clip has no such architecture or weights; close names are listed.
        BackboneUnavailableError: They exist but cannot be had or read here.
        UnsupportedBackboneError: The text tower takes no prompts (found before anything is downloaded, where possible).
    """
    loaders = {"demo": _load_demo, "open_clip": _load_open_clip, "hf-hub": _load_hub, "local": _load_local}
    return loaders[spec.kind](spec, cache_dir)


def build_model(model_cfg: Mapping[str, Any]) -> nn.Module:
    """An open_clip model of a config, weights random, nothing downloaded."""
    config = deepcopy(dict(model_cfg))
    custom = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    if "hf_model_name" in config["text_cfg"]:
        config["text_cfg"]["hf_model_pretrained"] = False
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    kind = CLIP if not custom else CoCa if "multimodal_cfg" in config else CustomTextCLIP
    return cast("nn.Module", kind(**config))


def default_tokenizer(model_cfg: Mapping[str, Any]) -> Tokenizer:
    """open_clip's own tokenizer, as configs without a named one use it."""
    return _bpe(json.dumps(model_cfg["text_cfg"].get("tokenizer_kwargs", {}), sort_keys=True))


@lru_cache(maxsize=8)
def _bpe(kwargs: str) -> Tokenizer:
    """Built once: reading its 49,152 merges takes longer than loading a small backbone."""
    return Tokenizer.wrap(open_clip.SimpleTokenizer(**json.loads(kwargs)))


def _load_demo(spec: BackboneSpec, cache_dir: Path | None) -> LoadedModel:
    from npt_core.clip.demo.weights import build_demo_model, load_demo_weights

    demo = load_demo_weights()
    config = {key: value for key, value in demo.config.items() if key != "preprocess"}
    model = build_demo_model(config)
    load_into(model, dict(demo.state_dict), arch="demo", source="of the demo")
    preprocess = {"size": config["vision_cfg"]["image_size"], **demo.config["preprocess"]}
    return LoadedModel(
        model,
        config,
        PreprocessConfig.from_dict(preprocess),
        default_tokenizer(config),
        "A small CLIP trained by this project on pictures it draws: shapes, digits, letters. It knows no photographs.",
        knows_photographs=False,
        trained_token_ids=frozenset(demo.trained_token_ids),
    )


def _load_open_clip(spec: BackboneSpec, cache_dir: Path | None) -> LoadedModel:
    arch, tag = str(spec.arch), str(spec.weights)
    config = _config_of(arch)
    tags = list_pretrained_tags_by_model(arch)
    published = get_pretrained_cfg(arch, tag)
    if not published:
        every = [f"{a}/{t}" for a, t in open_clip.list_pretrained()]
        alike = [f"{arch}/{t}" for t in close_matches(tag, tags, 3)] or close_matches(f"{arch}/{tag}", every)
        have = f"open_clip has {', '.join(tags)} for {arch}" if tags else f"open_clip has no weights at all for {arch}"
        raise UnknownBackboneError(f"Backbone {spec.name!r} is unknown: {have}.{_did_you_mean(alike)}")
    _refuse_early(spec.name, config)
    # OpenAI's and some other weights were trained with QuickGELU, which the architecture's name alone does not say
    config["quick_gelu"] = bool(config.get("quick_gelu", False) or published.get("quick_gelu", False))
    model = _create(spec, arch, cache_dir, pretrained=tag, force_quick_gelu=config["quick_gelu"])
    return LoadedModel(
        model,
        config,
        PreprocessConfig.from_dict(cast("Any", model.visual).preprocess_cfg),
        _tokenizer(spec, arch, config, cache_dir),
        f"{arch} with the weights {tag} of open_clip",
    )


def _load_hub(spec: BackboneSpec, cache_dir: Path | None) -> LoadedModel:
    repository = str(spec.weights)
    try:
        path = download_pretrained_from_hf(repository, filename="open_clip_config.json", cache_dir=_text(cache_dir))
        config = json.loads(Path(path).read_text(encoding="utf-8"))["model_cfg"]
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise _unavailable(spec, cache_dir, error) from error
    _refuse_early(spec.name, config)
    model = _create(spec, f"hf-hub:{repository}", cache_dir)
    return LoadedModel(
        model,
        config,
        PreprocessConfig.from_dict(cast("Any", model.visual).preprocess_cfg),
        _tokenizer(spec, f"hf-hub:{repository}", config, cache_dir),
        f"{repository} from the Hugging Face hub",
    )


def _load_local(spec: BackboneSpec, cache_dir: Path | None) -> LoadedModel:
    arch, path = str(spec.arch), Path(str(spec.weights))
    config = _config_of(arch)
    _refuse_early(spec.name, config)
    state, openai = read_state_dict(path)
    if openai:  # those archives hold no hint of their activation: it is QuickGELU in all of them
        config["quick_gelu"] = True
    model = build_model(config)
    load_into(model, state, arch=arch, source=path.name)
    return LoadedModel(
        model,
        config,
        _usual_preprocessing(arch, cast("Any", model.visual).image_size),
        _tokenizer(spec, arch, config, cache_dir),
        f"{arch} from a file of the operator's",
    )


def _config_of(arch: str) -> dict[str, Any]:
    if arch not in (known := open_clip.list_models()):
        raise UnknownBackboneError(
            f"open_clip has no architecture {arch!r}.{_did_you_mean(close_matches(arch, known))} "
            "All names: open_clip.list_models()."
        )
    return cast("dict[str, Any]", open_clip.get_model_config(arch))


def _refuse_early(name: str, config: Mapping[str, Any]) -> None:
    text = config["text_cfg"]
    if text.get("hf_model_name"):
        reason = f"its text tower is the Hugging Face model {text['hf_model_name']}, which takes token ids only"
    elif text.get("embed_cls") or "multimodal_cfg" in config:
        reason = "it is a CoCa: a class token is appended behind the text and pooled there"
    else:
        return
    raise UnsupportedBackboneError(
        f"Backbone {name!r} cannot be tuned: {reason}. Choose a CLIP whose text tower is open_clip's own transformer."
    )


def _create(spec: BackboneSpec, model_name: str, cache_dir: Path | None, **kwargs: Any) -> nn.Module:
    try:
        model = open_clip.create_model(
            model_name, precision="fp32", device="cpu", cache_dir=_text(cache_dir), require_pretrained=True, **kwargs
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise _unavailable(spec, cache_dir, error) from error
    return cast("nn.Module", model)


def _tokenizer(spec: BackboneSpec, model_name: str, config: Mapping[str, Any], cache_dir: Path | None) -> Tokenizer:
    named = config["text_cfg"].get("hf_tokenizer_name")
    if not named and (spec.kind == "hf-hub" or "siglip" not in model_name.lower()):  # open_clip's own rule
        return default_tokenizer(config)
    try:
        inner = open_clip.get_tokenizer(model_name, cache_dir=_text(cache_dir))
    except ImportError as error:
        raise BackboneUnavailableError(
            f"Backbone {spec.name!r} needs a tokenizer of the package `transformers`: pip install transformers."
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise _unavailable(spec, cache_dir, error) from error
    return Tokenizer.wrap(inner, pad_id=config["text_cfg"].get("pad_id", 0))


def _usual_preprocessing(arch: str, size: Any) -> PreprocessConfig:
    """What all published weights of an architecture share; where they differ or there are none, open_clip's default."""
    keys = ("mean", "std", "interpolation", "resize_mode")
    published = [get_pretrained_cfg(arch, tag) for tag in list_pretrained_tags_by_model(arch)]
    shared = {}
    for key in keys:
        values = {json.dumps(cfg.get(key)) for cfg in published}
        if len(values) == 1 and (value := json.loads(values.pop())) is not None:
            shared[key] = value
    return PreprocessConfig.from_dict({"size": size, **shared})


def _unavailable(spec: BackboneSpec, cache_dir: Path | None, error: BaseException) -> BackboneUnavailableError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    where = f"the folder {cache_dir}" if cache_dir else "the cache of the Hugging Face hub"
    return BackboneUnavailableError(
        f"The weights of backbone {spec.name!r} are not on this machine and could not be downloaded ({reason}). "
        f"Connect this machine once, or copy {where} from one that has them; or name a file as local:NAME=ARCH@FILE; "
        "or use `demo`."
    )


def _did_you_mean(names: list[str]) -> str:
    return f" Did you mean {', '.join(names)}?" if names else ""


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
