"""The exact fast path of the text tower: the same features as `text.py`, with the work that cannot matter left out.

Three facts allow it (measured in `benchmarks/text_path.py`):

1. The mask is causal and the feature is read at EOT, so nothing behind EOT is computed. Suffixes of one length lie side
   by side without padding.
2. What all prompts begin with (SOS and shared context) goes through the tower once. Every prompt's suffix attends to
   those keys and values; they are never copied for each prompt.
3. The last block computes keys and values of all positions, everything else only at EOT.

Rows of prefix and suffixes share one matrix, so that each weight is read once a pass. Weights are frozen: only
activations need gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from npt_core.clip.text import PromptBatch, TextTower


def why_not_exact(tower: TextTower) -> str | None:
    """Why the fast path would change the features of this tower, or None if it does not."""
    if tower.attn_mask is None:
        return "its attention is not causal"
    size = tower.attn_mask.shape[-1]
    causal = torch.full((size, size), float("-inf")).triu_(1)
    if tower.attn_mask.ndim != 2 or not torch.equal(tower.attn_mask.float().cpu(), causal):
        return "its attention mask is not the plain causal one"
    if tower.pooling not in ("argmax", "eos"):
        return f"it pools at the {tower.pooling!r} position, not at EOT"
    for block in tower.blocks:
        attention = getattr(block, "attn", None)
        if type(block) is not ResidualAttentionBlock or type(attention) is not nn.MultiheadAttention:
            return f"its blocks ({type(block).__name__}) are not the standard ones"
        plain = attention.bias_k is None and not attention.add_zero_attn
        if not plain or attention.in_proj_weight is None or hasattr(block, "ln_1_kv"):
            return "its attention layers are not plain self-attention"
    return None


@dataclass(frozen=True)
class _Group:
    """Prompts whose suffixes up to EOT have one length: rows start .. stop - 1 of the packed suffixes."""

    start: int
    stop: int
    count: int
    length: int


@dataclass(frozen=True)
class _Plan:
    """How N padded suffixes of S positions are packed: sorted by length, nothing behind EOT."""

    rows: torch.Tensor  # (T,) which of the N * S padded rows
    positions: torch.Tensor  # (T,) position of each row in the whole prompt
    eot_rows: torch.Tensor  # (N,) packed row of each prompt's EOT, prompts in sorted order
    back: torch.Tensor  # (N,) from sorted order to the order of the batch
    groups: tuple[_Group, ...]


@lru_cache(maxsize=32)
def _plan(lengths: tuple[int, ...], s: int, p: int, device: torch.device) -> _Plan:
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    rows: list[int] = []
    positions: list[int] = []
    eot_rows: list[int] = []
    groups: list[_Group] = []
    for n in order:
        length = lengths[n]
        if groups and groups[-1].length == length:
            last = groups[-1]
            groups[-1] = _Group(last.start, last.stop + length, last.count + 1, length)
        else:
            groups.append(_Group(len(rows), len(rows) + length, 1, length))
        rows.extend(range(n * s, n * s + length))
        positions.extend(range(p, p + length))
        eot_rows.append(len(rows) - 1)
    back = torch.tensor(order, dtype=torch.int64).argsort()
    as_index = (torch.tensor(v, dtype=torch.int64).to(device) for v in (rows, positions, eot_rows))
    return _Plan(*as_index, back.to(device), tuple(groups))


def encode_fast(tower: TextTower, batch: PromptBatch, chunk: int | None) -> torch.Tensor:
    """(N, d), or (G, N, d) with groups: raw features in the compute dtype. See `TextTower.encode_prompts`."""
    from npt_core.clip.text import in_chunks

    groups, n = batch.groups, batch.N
    lengths = [int(i) - batch.prefix.shape[-2] + 1 for i in batch.eot_index.tolist()]
    suffix = batch.suffix
    if suffix.ndim == 4 and batch.prefix.ndim == 2:  # groups that share the prefix are just more prompts
        lengths = lengths * suffix.shape[0]
        suffix = suffix.flatten(0, 1)
    prefix = batch.prefix if batch.prefix.ndim == 3 else batch.prefix[None]  # (G', P, d_text)
    suffix = suffix if suffix.ndim == 4 else suffix[None]  # (G' or 1, N', S, d_text)

    total = len(lengths)
    step = total if chunk is None else chunk
    if step < total:  # neighbours in length together: fewer, fuller groups
        order = sorted(range(total), key=lengths.__getitem__)
    else:
        order = list(range(total))
    inverse = torch.tensor(order).argsort().to(suffix.device)

    def run(index: torch.Tensor) -> torch.Tensor:
        chosen = index.tolist()
        part = suffix[:, index.to(suffix.device)] if step < total else suffix
        picked = [lengths[i] for i in chosen]
        return _encode(tower, prefix, part, picked, batch.deep_ctx, batch.n_sos).transpose(0, 1)

    raw = in_chunks(run, (torch.tensor(order, dtype=torch.int64),), chunk)  # (N', G', d)
    raw = raw.index_select(0, inverse).transpose(0, 1) if step < total else raw.transpose(0, 1)
    if groups is None:
        return raw[0]
    return raw.reshape(groups, n, -1)


def _encode(
    tower: TextTower,
    prefix: torch.Tensor,
    suffix: torch.Tensor,
    lengths: Sequence[int],
    deep_ctx: torch.Tensor | None,
    n_sos: int,
) -> torch.Tensor:
    """(G, P, d_text) and (G or 1, N, S, d_text) -> (G, N, d) raw."""
    from npt_core.clip.text import replace_deep

    g, p = prefix.shape[:2]
    plan = _plan(tuple(lengths), suffix.shape[-2], p, suffix.device)
    packed = suffix.flatten(1, 2).index_select(1, plan.rows)  # (G or 1, T, d_text)
    positions = tower.positional_embedding.index_select(0, plan.positions)
    packed = (packed + positions.to(packed.dtype)).to(tower.dtype)
    x = torch.cat([tower.add_positions(prefix), packed.expand(g, -1, -1)], dim=1)  # (G, P + T, d_text)
    for layer, block in enumerate(tower.blocks):
        if deep_ctx is not None and 1 <= layer <= deep_ctx.shape[0]:
            x = replace_deep(x, deep_ctx[layer - 1], n_sos)
        block = cast("ResidualAttentionBlock", block)
        x = _block(block, x, p, plan) if layer < tower.depth - 1 else _last_block(block, x, p, plan)
    return tower.project(x.index_select(1, plan.back))


def _block(block: ResidualAttentionBlock, x: torch.Tensor, p: int, plan: _Plan) -> torch.Tensor:
    """One residual block over the rows (G, P + T, d_text): prefix causal, suffixes to the prefix and themselves."""
    attention = cast("nn.MultiheadAttention", block.attn)
    heads = attention.num_heads
    qkv = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # each (G, H, P + T, d_head)
    mixed = [F.scaled_dot_product_attention(q[:, :, :p], k[:, :, :p], v[:, :, :p], is_causal=True)] if p else []
    mixed += _suffix_attention(q[:, :, p:], k, v, p, plan.groups)
    out = torch.cat(mixed, dim=2).transpose(1, 2).flatten(2)  # (G, P + T, d_text)
    x = x + block.ls_1(attention.out_proj(out))
    return cast("torch.Tensor", x + block.ls_2(block.mlp(block.ln_2(x))))


def _last_block(block: ResidualAttentionBlock, x: torch.Tensor, p: int, plan: _Plan) -> torch.Tensor:
    """The last block, computed at EOT only: (G, P + T, d_text) -> (G, N, d_text), prompts in sorted order."""
    attention = cast("nn.MultiheadAttention", block.attn)
    heads, width = attention.num_heads, x.shape[-1]
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    rows = plan.eot_rows + p
    normed = block.ln_1(x)
    kv = F.linear(normed, weight[width:], None if bias is None else bias[width:])
    k, v = kv.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
    q = F.linear(normed.index_select(1, rows), weight[:width], None if bias is None else bias[:width])
    q = q.unflatten(-1, (heads, -1)).transpose(1, 2)  # (G, H, N, d_head)
    out = torch.cat(_suffix_attention(q, k, v, p, plan.groups, eot_only=True), dim=2).transpose(1, 2).flatten(2)
    x = x.index_select(1, rows) + block.ls_1(attention.out_proj(out))
    return cast("torch.Tensor", x + block.ls_2(block.mlp(block.ln_2(x))))


def _suffix_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, p: int, groups: Sequence[_Group], *, eot_only: bool = False
) -> list[torch.Tensor]:
    """Attention of suffix rows to the shared prefix and to their own suffix.

    Args:
        q: (G, H, T, d_head) queries of all suffix rows, or (G, H, N, d_head) of the EOT rows alone.
        k: (G, H, P + T, d_head).
        v: Like k.
        p: P.
        groups: The packed lengths.
        eot_only: Which of the two q is.

    Returns:
        One (G, H, rows, d_head) for each group.
    """
    q = q * q.shape[-1] ** -0.5
    shared = q @ k[:, :, :p].transpose(-1, -2)  # (G, H, rows, P)
    out, at = [], 0
    for group in groups:
        queries = 1 if eot_only else group.length
        rows = slice(at, at + group.count * queries)
        at = rows.stop
        keys = k[:, :, p + group.start : p + group.stop].unflatten(2, (group.count, group.length))
        values = v[:, :, p + group.start : p + group.stop].unflatten(2, (group.count, group.length))
        own = q[:, :, rows].unflatten(2, (group.count, queries)) @ keys.transpose(-1, -2)  # (G, H, n, queries, S)
        if not eot_only:
            own = own + torch.full_like(own[0, 0, 0], float("-inf")).triu_(1)
        scores = torch.cat([shared[:, :, rows].unflatten(2, (group.count, queries)), own], dim=-1)
        weights = scores.softmax(dim=-1, dtype=scores.dtype if scores.dtype is torch.float64 else torch.float32)
        weights = weights.to(v.dtype)
        mixed = (weights[..., p:] @ values).flatten(2, 3)  # (G, H, n * queries, d_head)
        out.append(mixed + weights[..., :p].flatten(2, 3) @ v[:, :, :p] if p else mixed)
    return out
