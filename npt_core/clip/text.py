"""The frozen text tower: prompt embeddings to features, in the full context exactly as open_clip computes them.

`text_fast.py` computes the same features with less work, where that is exact; `TextTower` picks the path.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from npt_core.clip.prompts import PATHS, Path, PromptBatch, in_chunks, replace_deep
from npt_core.clip.text_fast import encode_fast, why_not_exact
from npt_core.errors import PromptError, PromptLengthError, UnsupportedBackboneError

_POOLING = ("argmax", "eos", "first", "last")


class TextTower:
    """The text side of one frozen CLIP.

    Args:
        model: An open_clip `CLIP`, or a model whose `.text` is a `TextTransformer`.
        name: The backbone's name, for messages.
        dtype: Compute dtype of the blocks.
        pad_id: Token id of the positions behind the end.

    Raises:
        UnsupportedBackboneError: A text tower that takes no prompts.
    """

    def __init__(self, model: nn.Module, *, name: str, dtype: torch.dtype, pad_id: int = 0) -> None:
        tower = model if hasattr(model, "token_embedding") else getattr(model, "text", model)
        if reason := why_no_prompts(tower):
            raise UnsupportedBackboneError(
                f"Backbone {name!r} cannot be tuned: its text tower ({type(tower).__name__}) takes no prompts, because "
                f"{reason}. Choose a CLIP whose text tower is open_clip's own transformer."
            )
        self.name, self.dtype, self.pad_id = name, dtype, pad_id
        self._rms: dict[frozenset[int], float] = {}
        self.token_embedding = cast("nn.Embedding", tower.token_embedding)
        self.positional_embedding = cast("torch.Tensor", tower.positional_embedding)
        self.blocks = list(cast("nn.ModuleList", tower.transformer.resblocks))  # type: ignore[union-attr]
        self.ln_final = cast("nn.Module", tower.ln_final)
        self.projection = cast("nn.Linear | torch.Tensor | None", tower.text_projection)
        self.attn_mask = cast("torch.Tensor | None", tower.attn_mask)
        self.pooling = _pooling(tower)
        self.eos_id = int(getattr(tower, "text_eos_id", getattr(tower, "eos_id", -1)))

        self.context_length, self.d_text = self.positional_embedding.shape
        self.depth = len(self.blocks)
        if self.projection is None:
            self.d = self.d_text
        elif isinstance(self.projection, nn.Linear):
            self.d = self.projection.out_features
        else:
            self.d = self.projection.shape[1]
        self.fast_refusal = why_not_exact(self)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.positional_embedding.device

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Token embeddings of ids, without positions: (..., d_text) in fp32 (fp64 in an fp64 tower)."""
        with torch.no_grad():
            return cast("torch.Tensor", self.token_embedding(ids.to(self.device))).to(self._wide)

    def embedding_rms(self, trained_ids: Collection[int] | None = None) -> float:
        """Root mean square of the token table: of its trained rows only, where those are known."""
        key = frozenset(trained_ids or ())
        if key not in self._rms:  # every fresh method asks, and the table is large
            table = self.token_embedding.weight
            if key:
                table = table[torch.tensor(sorted(key), device=table.device)]
            self._rms[key] = float(table.float().square().mean().sqrt())
        return self._rms[key]

    def __call__(self, batch: PromptBatch, *, path: Path = "auto", chunk: int | None = None) -> torch.Tensor:
        """See `encode_prompts`."""
        return self.encode_prompts(batch, path=path, chunk=chunk)

    def encode_prompts(self, batch: PromptBatch, *, path: Path = "auto", chunk: int | None = None) -> torch.Tensor:
        """Encode soft prompts; differentiable in every embedding of the batch, never in the weights.

        Args:
            batch: N prompts, positions not yet added.
            path: `reference` computes the whole context as open_clip does; `fast` the exact short cut of
                `text_fast.py`; `auto` the fast one where it is exact for this tower.
            chunk: At most so many prompts are computed at once, and while gradients are recorded each chunk is
                computed again in the backward pass: less memory for more time. None: all at once.

        Returns:
            (N, d), or (G, N, d) with groups; float32, unit L2 norm.

        Raises:
            PromptError: Shapes that do not fit, or `fast` on a tower for which it is not exact.
            PromptLengthError: More positions than the tower has.
        Source: CoOp, arXiv 2109.01134. Differs: fast and chunked paths.
        """
        self._check(batch, path, chunk)
        if path == "fast" or (path == "auto" and self.fast_refusal is None):
            raw = encode_fast(self, batch, chunk)
        else:
            raw = self._encode_reference(batch, chunk)
        return F.normalize(raw.to(self._wide), dim=-1)

    def add_positions(self, x: torch.Tensor, start: int = 0) -> torch.Tensor:
        """(..., L, d_text) embeddings of positions start .. start + L - 1, in the compute dtype."""
        positions = self.positional_embedding[start : start + x.shape[-2]]
        return (x + positions.to(x.dtype)).to(self.dtype)

    def project(self, pooled: torch.Tensor) -> torch.Tensor:
        """(..., d_text) pooled outputs of the last block to (..., d) raw features."""
        pooled = self.ln_final(pooled)
        if self.projection is None:
            return pooled
        if isinstance(self.projection, nn.Linear):
            return cast("torch.Tensor", self.projection(pooled))
        return pooled @ self.projection

    @property
    def _wide(self) -> torch.dtype:
        return torch.float64 if self.dtype is torch.float64 else torch.float32

    def _encode_reference(self, batch: PromptBatch, chunk: int | None) -> torch.Tensor:
        groups, n = batch.groups, batch.N
        lead = (groups or 1, n)
        prefix = batch.prefix if batch.prefix.ndim == 3 else batch.prefix[None]
        suffix = batch.suffix if batch.suffix.ndim == 4 else batch.suffix[None]
        prefix = prefix[:, None].expand(*lead, -1, -1).flatten(0, 1)  # (G N, P, d_text)
        suffix = suffix.expand(*lead, -1, -1).flatten(0, 1)
        eot = batch.eot_index.to(prefix.device).repeat(lead[0])

        def run(prefix: torch.Tensor, suffix: torch.Tensor, eot: torch.Tensor) -> torch.Tensor:
            return self._reference_piece(replace(batch, prefix=prefix, suffix=suffix, eot_index=eot))

        raw = in_chunks(run, (prefix, suffix, eot), chunk)
        return raw.view(*lead, -1) if groups is not None else raw

    def _reference_piece(self, batch: PromptBatch) -> torch.Tensor:
        """(M, P, d_text), (M, S, d_text) -> (M, d): the whole context of every prompt, padding included."""
        x = torch.cat([batch.prefix, batch.suffix], dim=1)
        missing = self.context_length - x.shape[1]
        padding = self.embed(torch.full((max(missing, 0),), self.pad_id)).expand(x.shape[0], -1, -1)
        x = torch.cat([x[:, : self.context_length], padding.to(x.dtype)], dim=1)  # (M, L, d_text)
        x = self.add_positions(x)
        for layer, block in enumerate(self.blocks):
            if batch.deep_ctx is not None and 1 <= layer <= batch.deep_ctx.shape[0]:
                x = replace_deep(x, batch.deep_ctx[layer - 1], batch.n_sos)
            x = block(x, attn_mask=self.attn_mask)
        where = {"first": 0, "last": -1}.get(self.pooling)
        pooled = x[torch.arange(x.shape[0], device=x.device), batch.eot_index] if where is None else x[:, where]
        return self.project(pooled)

    def _check(self, batch: PromptBatch, path: Path, chunk: int | None) -> None:
        if path not in PATHS:
            raise PromptError(f"Text path {path!r} is unknown; it can be {', '.join(PATHS)}.")
        if path == "fast" and self.fast_refusal is not None:
            raise PromptError(
                f"The fast text path is not exact for backbone {self.name!r}: {self.fast_refusal}. Use `auto`."
            )
        if chunk is not None and chunk < 1:
            raise PromptError(f"chunk is {chunk}; at least one prompt must be computed at a time.")
        shapes = f"prefix {tuple(batch.prefix.shape)}, suffix {tuple(batch.suffix.shape)}"
        both = batch.prefix.ndim == 3 and batch.suffix.ndim == 4
        if (
            batch.prefix.ndim not in (2, 3)
            or batch.suffix.ndim not in (3, 4)
            or (both and batch.prefix.shape[0] != batch.suffix.shape[0])
            or batch.prefix.shape[-1] != self.d_text
            or batch.suffix.shape[-1] != self.d_text
            or batch.eot_index.shape != (batch.N,)
        ):
            raise PromptError(
                f"{shapes}, eot_index {tuple(batch.eot_index.shape)} do not fit together; accepted are "
                f"(P, {self.d_text}) or (G, P, {self.d_text}), (N, S, {self.d_text}) or (G, N, S, ...), (N,)."
            )
        p, length = batch.prefix.shape[-2], batch.prefix.shape[-2] + batch.suffix.shape[-2]
        if batch.N and not p <= int(batch.eot_index.min()) <= int(batch.eot_index.max()) < length:
            raise PromptError(f"eot_index must lie in the suffix, positions {p} to {length - 1}; {shapes}.")
        if batch.N and int(batch.eot_index.max()) >= self.context_length:
            raise PromptLengthError(
                f"Prompts of {int(batch.eot_index.max()) + 1} tokens do not fit into the {self.context_length} "
                f"positions of backbone {self.name!r}; shorten names or context."
            )
        if batch.deep_ctx is not None and (
            batch.deep_ctx.ndim != 3
            or batch.deep_ctx.shape[0] >= self.depth
            or batch.deep_ctx.shape[1] + batch.n_sos > p
            or batch.deep_ctx.shape[2] != self.d_text
        ):
            raise PromptError(
                f"deep_ctx {tuple(batch.deep_ctx.shape)} does not fit: it needs at most {self.depth - 1} layers of at "
                f"most {p - batch.n_sos} vectors of width {self.d_text}, inside the shared prefix."
            )


def why_no_prompts(tower: nn.Module) -> str | None:
    """Why a text tower can take no prompts at all, or None if it can."""
    if not all(hasattr(tower, part) for part in ("token_embedding", "positional_embedding", "transformer", "ln_final")):
        return "it is not open_clip's own transformer, so embeddings cannot be fed to it"
    if getattr(tower, "cls_emb", None) is not None:
        return "it appends a class token behind the text and pools there (CoCa)"
    if getattr(tower, "use_pad_mask", False):
        return "it masks padding by token id, and context vectors have no ids"
    if not getattr(tower.transformer, "batch_first", True) or not hasattr(tower.transformer, "resblocks"):
        return "its blocks do not take (batch, position, width)"
    if (pooling := _pooling(tower)) not in _POOLING:
        return f"it pools by {pooling!r}; known are {', '.join(_POOLING)}"
    return None


def _pooling(tower: nn.Module) -> str:
    return str(getattr(tower, "text_pool_type", getattr(tower, "pool_type", "argmax")))
