"""The frozen CLIP that everything else stands on: towers, preprocessing, tokenizer, fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import nn

from npt_core.clip.fingerprint import fingerprint
from npt_core.clip.image import ImageTower
from npt_core.clip.loading import default_tokenizer, load_model
from npt_core.clip.precision import DTYPES, cast_towers, resolve_device, resolve_precision
from npt_core.clip.preprocess import RESIZE_MODES, PreprocessConfig
from npt_core.clip.prompts import PromptBatch
from npt_core.clip.specs import BackboneSpec, parse_backbone
from npt_core.clip.text import TextTower
from npt_core.clip.tokens import Tokenizer
from npt_core.errors import ConfigError, FingerprintMismatchError, PromptError, PromptLengthError

_TEXTS_AT_ONCE = 256


class Backbone:
    """A frozen CLIP by name; nothing of it is ever learned.

    Make one with `load_backbone`, or `from_model` around an open_clip model in memory.

    Attributes:
        spec: How the operator named it.
        name: What users see.
        device: Where the towers are.
        precision: `fp32`, `bf16` or `fp16`; features are fp32 whatever it is.
        dtype: The same as a torch dtype.
        fingerprint: SHA-256 of weights, architecture, preprocessing and tokenizer.
        d: Width of the joint embedding.
        d_text: Width of the text tower.
        d_vision: Width of the image tower's tokens; None where it has none.
        context_length: Token positions of the text tower.
        image_size: Height and width in pixels.
        logit_scale: Factor on cosines before the softmax: exp of the stored value.
        preprocess: How pictures are prepared.
        tokenizer: Words to ids.
        text: The text tower.
        image: The image tower.
        text_path: `fast` or `reference`.
        text_path_reason: Why.
        trained_token_ids: Tokens that training ever showed the tower, where that is known (the demo).
        knows_photographs: Whether it was trained on photographs.
        description: One sentence about it.
        nbytes: Memory of the weights.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        spec: BackboneSpec,
        fingerprint: str,
        preprocess: PreprocessConfig,
        tokenizer: Tokenizer,
        precision: str,
        trained_token_ids: frozenset[int] | None,
        knows_photographs: bool,
        description: str,
    ) -> None:
        self.spec, self.name, self.fingerprint = spec, spec.name, fingerprint
        self.preprocess, self.tokenizer = preprocess, tokenizer
        self._own_preprocess = preprocess
        self.precision, self.dtype = precision, DTYPES[precision]
        self.trained_token_ids, self.knows_photographs = trained_token_ids, knows_photographs
        self.description = description
        self._model = model.eval().requires_grad_(False)
        self.text = TextTower(model, name=self.name, dtype=self.dtype, pad_id=tokenizer.pad_id)
        self.image = ImageTower(cast("nn.Module", model.visual), name=self.name, dtype=self.dtype)
        self.device = self.text.device
        self.d, self.d_text, self.d_vision = self.text.d, self.text.d_text, self.image.d_vision
        self.context_length, self.image_size = self.text.context_length, self.image.image_size
        self.logit_scale = float(cast("torch.Tensor", model.logit_scale).detach().float().exp())
        self.text_path = "fast" if self.text.fast_refusal is None else "reference"
        self.text_path_reason = self.text.fast_refusal or "causal, pooled at EOT, standard blocks: exact here"
        tensors = [*model.parameters(), *model.buffers()]
        self.nbytes = sum(t.numel() * t.element_size() for t in tensors)

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        model_cfg: Mapping[str, Any],
        *,
        name: str,
        spec: BackboneSpec | None = None,
        preprocess: PreprocessConfig | None = None,
        tokenizer: Tokenizer | None = None,
        device: str = "cpu",
        precision: str = "fp32",
        trained_token_ids: frozenset[int] | None = None,
        knows_photographs: bool = True,
        description: str = "",
    ) -> Backbone:
        """Wrap an open_clip model that is in memory; it is frozen, moved and cast in place.

        Args:
            model: `CLIP`, `CustomTextCLIP` or alike, weights in fp32.
            model_cfg: The open_clip config it was built from.
            name: What users see.
            spec: How it was named; by default a local one.
            preprocess: Default: open_clip's, at the model's image size.
            tokenizer: Default: open_clip's own.
            device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
            precision: `auto`, `fp32`, `bf16` or `fp16`.
            trained_token_ids: Tokens seen in training, where known.
            knows_photographs: Whether it was trained on photographs.
            description: One sentence about it.

        Raises:
            UnsupportedBackboneError: Its text tower takes no prompts.
            ConfigError: A device or precision this machine does not have.
        """
        where = resolve_device(device)
        precision = resolve_precision(precision, where)
        tokenizer = tokenizer or default_tokenizer(model_cfg)
        size = cast("Any", model.visual).image_size
        preprocess = preprocess or PreprocessConfig.from_dict({"size": size})
        mark = fingerprint(model.state_dict(), model_cfg, preprocess.to_dict(), tokenizer.identity)
        return cls(
            cast_towers(model.to(where), precision),
            spec=spec or BackboneSpec(name, "local"),
            fingerprint=mark,
            preprocess=preprocess,
            tokenizer=tokenizer,
            precision=precision,
            trained_token_ids=trained_token_ids,
            knows_photographs=knows_photographs,
            description=description or name,
        )

    def load_pixels(self, image: Image.Image) -> torch.Tensor:
        """An RGB picture as (3, H, W) float32 on the CPU, prepared as the tower's evaluation does."""
        return self.preprocess.transform(image)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) preprocessed pictures to (B, d) float32 unit-norm features on `device`; no gradient."""
        with torch.no_grad():
            return self.image.encode(pixels.to(self.device, non_blocking=True))

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """N whole texts to (N, d) float32 unit-norm features on `device`; no gradient.

        Raises:
            PromptLengthError: A text has more tokens than the tower has positions; nothing is cut silently.
            PromptError: A text of which the tokenizer keeps nothing.
        """
        if not texts:
            return torch.empty(0, self.d, device=self.device)
        tokenizer = self.tokenizer
        sos = [] if tokenizer.sos_id is None else [tokenizer.sos_id]
        rows = [[*tokenizer.encode(text), tokenizer.eot_id] for text in texts]
        for text, row in zip(texts, rows, strict=True):
            if len(row) == 1:
                raise PromptError(f"The tokenizer keeps nothing of the text {text!r}; write it in words.")
            if len(row) + len(sos) > self.context_length:
                raise PromptLengthError(
                    f"The text {text[:80]!r} has {len(row) + len(sos)} tokens with start and end; backbone "
                    f"{self.name!r} takes {self.context_length}. Shorten it."
                )
        ids = torch.full((len(rows), max(map(len, rows))), tokenizer.pad_id, dtype=torch.int64)
        for n, row in enumerate(rows):
            ids[n, : len(row)] = torch.tensor(row)
        eot = torch.tensor([len(sos) + len(row) - 1 for row in rows])
        with torch.no_grad():
            prefix = self.text.embed(torch.tensor(sos, dtype=torch.int64))
            batch = PromptBatch(prefix, self.text.embed(ids), eot, n_sos=len(sos))
            return self.text.encode_prompts(batch, chunk=_TEXTS_AT_ONCE)

    def unseen_words(self, text: str) -> list[str]:
        """Words of `text` that training never showed the text tower; empty where that is not known."""
        return [] if self.trained_token_ids is None else self.tokenizer.unseen_words(text, self.trained_token_ids)

    def require_fingerprint(self, expected: str, *, what: str) -> None:
        """Refuse to serve something made with other weights.

        Args:
            expected: The fingerprint stored in it.
            what: What it is, for the message.

        Raises:
            FingerprintMismatchError: The two differ.
        """
        if expected != self.fingerprint:
            raise FingerprintMismatchError(
                f"{what} was made with other weights or preprocessing (fingerprint {expected[:12]}…) than backbone "
                f"{self.name!r} has ({self.fingerprint[:12]}…): its scores would mean nothing. Configure the backbone "
                "it was made with, or tune again on this one."
            )

    def with_precision(self, precision: str) -> Backbone:
        """The same towers computing in another precision, as a copy; values already rounded stay rounded."""
        precision = resolve_precision(precision, self.device)
        if precision == self.precision:
            return self
        return Backbone(
            cast_towers(deepcopy(self._model), precision),
            spec=self.spec,
            fingerprint=self.fingerprint,
            preprocess=self._own_preprocess,
            tokenizer=self.tokenizer,
            precision=precision,
            trained_token_ids=self.trained_token_ids,
            knows_photographs=self.knows_photographs,
            description=self.description,
        ).with_resize(self.resize)

    @property
    def resize(self) -> str | None:
        """How it fits pictures into its square, where that is not its own way: `crop`, `pad` or `squash`."""
        if self.preprocess == self._own_preprocess:
            return None
        return next(name for name, mode in RESIZE_MODES.items() if mode == self.preprocess.resize_mode)

    def with_resize(self, resize: str | None) -> Backbone:
        """The same towers, of the same fingerprint, for pictures that are fitted into the square in another way.

        Features of the two are different; what was learned on the one must be used on it.

        Args:
            resize: `crop` (shorter side to size, centre kept), `pad` (longer side to size, bars), `squash` (both
                sides to size), or None for its own way.

        Raises:
            ConfigError: Another name.
        """
        if resize is not None and resize not in RESIZE_MODES:
            raise ConfigError(f"resize is {resize!r}; it can be {', '.join(RESIZE_MODES)}.")
        mode = self._own_preprocess.resize_mode if resize is None else RESIZE_MODES[resize]
        if mode == self.preprocess.resize_mode:
            return self
        other = copy(self)
        other.preprocess = replace(self._own_preprocess, resize_mode=mode)
        return other

    def describe(self) -> dict[str, Any]:
        """What is known about it, as plain JSON values without any path of the machine."""
        return {
            "name": self.name,
            "kind": self.spec.kind,
            "description": self.description,
            "knows_photographs": self.knows_photographs,
            "fingerprint": self.fingerprint,
            "d": self.d,
            "d_text": self.d_text,
            "d_vision": self.d_vision,
            "context_length": self.context_length,
            "image_size": list(self.image_size),
            "logit_scale": self.logit_scale,
            "preprocess": self.preprocess.to_dict(),
            "text_path": self.text_path,
            "text_path_reason": self.text_path_reason,
            "image_prompts": self.image.prompt_refusal is None,
            "image_prompts_reason": self.image.prompt_refusal,
            "device": str(self.device),
            "precision": self.precision,
            "nbytes": self.nbytes,
        }


def load_backbone(
    spec: BackboneSpec | str, *, device: str = "auto", precision: str = "auto", cache_dir: Path | None = None
) -> Backbone:
    """Load a frozen CLIP by name.

    Args:
        spec: A spec, or the operator's words for one (see `parse_backbone`).
        device: `auto` is CUDA, else MPS, else the CPU.
        precision: `auto` is fp32 on CPU and MPS, bf16 (fp16 on older ones) on CUDA.
        cache_dir: Where downloaded weights are kept; default: the hub's own cache.

    Raises:
        UnknownBackboneError: No such name; close ones are listed.
        BackboneUnavailableError: The weights cannot be had or read.
        UnsupportedBackboneError: Its text tower takes no prompts; the reason is given.
        ConfigError: A device or precision this machine does not have.
    """
    spec = parse_backbone(spec) if isinstance(spec, str) else spec
    resolve_precision(precision, resolve_device(device))  # fail before the download, not after it
    loaded = load_model(spec, cache_dir)
    return Backbone.from_model(
        loaded.model,
        loaded.model_cfg,
        name=spec.name,
        spec=spec,
        preprocess=loaded.preprocess,
        tokenizer=loaded.tokenizer,
        device=device,
        precision=precision,
        trained_token_ids=loaded.trained_token_ids,
        knows_photographs=loaded.knows_photographs,
        description=loaded.description,
    )
