"""The exact fast path of the text tower: the same features as `text.py`, with the work that cannot matter left out.

Three facts allow it (measured in `benchmarks/text_path.py`):

1. The mask is causal and the feature is read at EOT, so nothing behind EOT is computed: suffixes are cut there and
   laid end to end, short ones together.
2. What all prompts begin with (SOS and shared context) goes through the tower once. Every prompt's suffix attends to
   those keys and values, which are copied once for each pack of prompts, not for each prompt.
3. The last block computes keys and values of all positions, everything else only at EOT.

Rows of prefix and suffixes share one matrix, so that each weight is read once a pass. Weights are frozen: only
activations need gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F

from npt_core.clip.blocks import attend, feed_forward, why_not_standard
from npt_core.clip.prompts import PromptBatch, in_chunks, replace_deep

if TYPE_CHECKING:
    from open_clip.transformer import ResidualAttentionBlock

    from npt_core.clip.text import TextTower


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
        if reason := why_not_standard(block):
            return reason
    return None


_PACK_ROWS = 64  # rows of a pack; 32 to 128 differ by a few per cent, one pack for 100 classes costs a tenth more


@dataclass(frozen=True)
class _Plan:
    """How N padded suffixes are laid out: what is behind EOT is cut, neighbours share a pack of R rows.

    A pack is one call's worth of attention: its rows attend to the shared prefix and, through the mask, to the rows of
    their own prompt. Few large calls beat many small ones, although the mask throws some products away.
    """

    packs: int  # m
    rows: torch.Tensor  # (m R,) which of the N * S padded rows stands there; fillers repeat row 0
    positions: torch.Tensor  # (m R,) position of each row in the whole prompt
    mask: torch.Tensor  # m > 1: (m, 1, R, P + R); m = 1: (P + R, P + R), the prefix's own causal mask included
    last_rows: torch.Tensor  # (m Q,) EOT rows of each pack, filled up to Q
    last_mask: torch.Tensor  # m > 1: (m, 1, Q, P + R); m = 1: (Q, P + R)
    back: torch.Tensor  # (N,) where in last_rows each prompt's EOT is


@lru_cache(maxsize=32)
def _plan(lengths: tuple[int, ...], s: int, p: int, device: torch.device, dtype: torch.dtype) -> _Plan:
    """Lay out prompts whose suffixes count `lengths` rows up to EOT, padded to `s`, behind a prefix of `p`."""
    packs = _fill(lengths, _PACK_ROWS)
    m, r = len(packs), max(sum(lengths[n] for n in pack) for pack in packs)
    q = max(map(len, packs))
    rows = torch.zeros(m, r, dtype=torch.int64)
    positions = torch.full((m, r), min(p, p + s - 1), dtype=torch.int64)
    last_rows = torch.zeros(m, q, dtype=torch.int64)
    back = torch.zeros(len(lengths), dtype=torch.int64)
    seen = torch.zeros(m, r, p + r, dtype=torch.bool)
    seen[:, :, :p] = True
    seen[:, :, p:] |= torch.eye(r, dtype=torch.bool)  # fillers must see something
    for i, pack in enumerate(packs):
        at = 0
        for j, n in enumerate(pack):
            here = slice(at, at + lengths[n])
            rows[i, here] = torch.arange(n * s, n * s + lengths[n])
            positions[i, here] = torch.arange(p, p + lengths[n])
            seen[i, here, p + at : p + here.stop] = torch.ones(lengths[n], lengths[n], dtype=torch.bool).tril_()
            at = here.stop
            last_rows[i, j] = at - 1
            back[n] = i * q + j
    last_seen = seen.gather(1, last_rows[:, :, None].expand(-1, -1, p + r))
    if m == 1:
        causal = torch.ones(p, p, dtype=torch.bool).tril_()
        top = torch.cat([causal, torch.zeros(p, r, dtype=torch.bool)], dim=1)
        seen, last_seen = torch.cat([top, seen[0]]), last_seen[0]
    else:
        seen, last_seen = seen[:, None], last_seen[:, None]
    offset = torch.arange(m)[:, None] * r
    return _Plan(
        m,
        rows.flatten().to(device),
        positions.flatten().to(device),
        _additive(seen, dtype).to(device),
        (last_rows + offset).flatten().to(device),
        _additive(last_seen, dtype).to(device),
        back.to(device),
    )


def encode_fast(tower: TextTower, batch: PromptBatch, chunk: int | None) -> torch.Tensor:
    """(N, d), or (G, N, d) with groups: raw features in the compute dtype. See `TextTower.encode_prompts`."""
    groups, n = batch.groups, batch.N
    lengths = [int(i) - batch.prefix.shape[-2] + 1 for i in batch.eot_index.tolist()]
    suffix = batch.suffix
    if suffix.ndim == 4 and batch.prefix.ndim == 2:  # groups that share the prefix are just more prompts
        lengths = lengths * suffix.shape[0]
        suffix = suffix.flatten(0, 1)
    prefix = batch.prefix if batch.prefix.ndim == 3 else batch.prefix[None]  # (G', P, d_text)
    suffix = suffix if suffix.ndim == 4 else suffix[None]  # (G' or 1, N', S, d_text)

    if chunk is None or chunk >= len(lengths):
        raw = _encode(tower, prefix, suffix, lengths, batch.deep_ctx, batch.n_sos)  # (G', N', d)
    else:  # prompts of one length in one chunk
        order = torch.tensor(lengths).argsort(stable=True)

        def run(index: torch.Tensor) -> torch.Tensor:
            some, chosen = suffix[:, index.to(suffix.device)], [lengths[i] for i in index.tolist()]
            return _encode(tower, prefix, some, chosen, batch.deep_ctx, batch.n_sos).transpose(0, 1)

        sorted_raw = in_chunks(run, (order,), chunk)  # (N', G', d)
        raw = sorted_raw[order.argsort().to(sorted_raw.device)].transpose(0, 1)
    return raw[0] if groups is None else raw.reshape(groups, n, -1)


def _fill(lengths: Sequence[int], aim: int) -> list[list[int]]:
    """Prompts in packs of about `aim` rows, short ones together; of a few sizes, the one with the fewest fillers."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    total = sum(lengths)
    most = max(1, round(total / aim))
    slack = lengths[order[-1]] - 1
    tries = [_fill_to(lengths, order, math.ceil(total / m) + slack) for m in range(most, most // 2, -1)[:6]]
    return min(tries, key=lambda packs: len(packs) * max(sum(lengths[n] for n in pack) for pack in packs))


def _fill_to(lengths: Sequence[int], order: Sequence[int], room: int) -> list[list[int]]:
    packs: list[list[int]] = [[]]
    used = 0
    for n in order:
        if packs[-1] and used + lengths[n] > room:
            packs.append([])
            used = 0
        packs[-1].append(n)
        used += lengths[n]
    return packs


def _additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))


def _encode(
    tower: TextTower,
    prefix: torch.Tensor,
    suffix: torch.Tensor,
    lengths: Sequence[int],
    deep_ctx: torch.Tensor | None,
    n_sos: int,
) -> torch.Tensor:
    """(G, P, d_text) and (G or 1, N, S, d_text) -> (G, N, d) raw."""
    g, p = prefix.shape[:2]
    plan = _plan(tuple(lengths), suffix.shape[-2], p, suffix.device, tower.dtype)
    packed = suffix.flatten(1, 2).index_select(1, plan.rows)  # (G or 1, m R, d_text)
    positions = tower.positional_embedding.index_select(0, plan.positions)
    packed = (packed + positions.to(packed.dtype)).to(tower.dtype)
    x = torch.cat([tower.add_positions(prefix), packed.expand(g, -1, -1)], dim=1)  # (G, P + m R, d_text)
    for layer, block in enumerate(tower.blocks):
        if deep_ctx is not None and 1 <= layer <= deep_ctx.shape[0]:
            x = replace_deep(x, deep_ctx[layer - 1], n_sos)
        x = _block(cast("ResidualAttentionBlock", block), x, p, plan, last=layer == tower.depth - 1)
    return tower.project(x.index_select(1, plan.back))


def _block(block: ResidualAttentionBlock, x: torch.Tensor, p: int, plan: _Plan, *, last: bool) -> torch.Tensor:
    """One residual block: (G, P + m R, d_text) -> the same, or (G, m Q, d_text) at the EOT rows of the last block."""
    attention = cast("nn.MultiheadAttention", block.attn)
    g, rows, width = x.shape
    heads = attention.num_heads
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    normed = block.ln_1(x)
    if last:  # keys and values everywhere, a query only at EOT
        at_eot = plan.last_rows + p
        q = F.linear(normed.index_select(1, at_eot), weight[:width], None if bias is None else bias[:width])
        q = q.view(g, -1, heads, width // heads)
        kv = F.linear(normed, weight[width:], None if bias is None else bias[width:])
        kv = kv.view(g, rows, 2, heads, width // heads)
        x = x.index_select(1, at_eot)
        mixed = _suffix_attention(q, kv, p, plan, plan.last_mask)
    else:
        qkv = F.linear(normed, weight, bias).view(g, rows, 3, heads, width // heads)
        q, kv = qkv[:, :, 0], qkv[:, :, 1:]
        if plan.packs == 1:
            mixed = _suffix_attention(q, kv, p, plan, plan.mask)
        else:
            mixed = _suffix_attention(q[:, p:], kv, p, plan, plan.mask)
            if p:
                mixed = torch.cat([attend(q[:, :p], kv[:, :p], causal=True).flatten(2), mixed], dim=1)
    return feed_forward(block, x + block.ls_1(attention.out_proj(mixed)))


def _suffix_attention(q: torch.Tensor, kv: torch.Tensor, p: int, plan: _Plan, mask: torch.Tensor) -> torch.Tensor:
    """Attention of suffix rows to the shared prefix and to their own prompt.

    Args:
        q: (G, rows, H, d_head): m packs of queries; with one pack, the prefix's may stand before them.
        kv: (G, P + m R, 2, H, d_head) keys and values.
        p: P.
        plan: The layout.
        mask: Its mask for these queries.

    Returns:
        (G, rows, d_text).
    """
    g, m = q.shape[0], plan.packs
    if m > 1:
        own = kv[:, p:].reshape(g, m, -1, *kv.shape[2:])  # (G, m, R, 2, H, d_head)
        shared = kv[:, None, :p].expand(-1, m, -1, -1, -1, -1)
        kv = torch.cat([shared, own], dim=2).flatten(0, 1)  # (G m, P + R, ...): one small copy of the prefix a pack
        q = q.reshape(g * m, -1, *q.shape[2:])
        mask = mask.repeat(g, 1, 1, 1) if g > 1 else mask
    mixed = attend(q, kv, mask)
    return mixed.reshape(g, -1, q.shape[2] * q.shape[3])
