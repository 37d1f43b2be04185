"""The exact fast path of the image tower: the same features as `image.py`, with the work that cannot matter left out.

1. Queries, keys and values come from one product of a matrix that lies as it is read, and only the activations that
   the backward pass needs are kept. Weights are frozen: gradients go to the prompts and to nothing else.
2. The last block computes keys and values of every token, everything else only where pooling reads: at the class token.
3. Learned tokens that fresh ones replace in the next block, and those of the last block, are keys and values only.

Measured in `benchmarks/methods.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import nn
from torch.nn import functional as F

from npt_core.clip.blocks import attend, feed_forward, why_not_standard

LastPrompts = Callable[[torch.Tensor], torch.Tensor]
"""(B, 1 + T, d_vision) at the input of the last block -> (B, m, d_vision) tokens for it."""


def why_not_exact(visual: nn.Module) -> str | None:
    """Why the fast path would change the features of this image tower, or None if it does not."""
    tower = cast("Any", visual)
    if type(tower) is not VisionTransformer:
        return f"it is {type(tower).__name__}"
    if tower.attn_pool is not None:
        return "it pools by attention over all tokens"
    if tower.pool_type not in ("tok", "avg"):
        return f"it pools by {tower.pool_type!r}"
    if not getattr(tower.transformer, "batch_first", True):
        return "it does not take (batch, token, width)"
    for block in tower.transformer.resblocks:
        if reason := why_not_standard(block):
            return reason
    return None


def run_blocks(
    visual: VisionTransformer,
    x: torch.Tensor,
    layers: Sequence[torch.Tensor],
    last: LastPrompts | None,
    *,
    pooled_only: bool,
) -> torch.Tensor:
    """All blocks of a tower for which `why_not_exact` is None.

    Args:
        visual: The tower.
        x: (B, 1 + T, d_vision) class token and patches, positions added, input norm applied.
        layers: (B, n, d_vision) fresh tokens of each of the first blocks, the first with the input norm applied; later
            blocks keep those of the block before.
        last: Makes the tokens of the last block.
        pooled_only: Nothing but what pooling reads is wanted.

    Returns:
        (B, 1 + T, d_vision), or (B, 1, d_vision) where only the class token is wanted; without learned tokens.
    """
    end = x.shape[1]
    blocks = visual.transformer.resblocks
    depth = len(blocks)
    only_class_token = pooled_only and visual.pool_type == "tok"
    for i, block in enumerate(blocks):
        fresh = layers[i] if i < len(layers) else None
        if last is not None and i == depth - 1:
            fresh = last(x).to(x.dtype)
        if i == depth - 1:
            keep = 1 if only_class_token else end
        elif i + 1 < len(layers) or (last is not None and i + 1 == depth - 1):
            keep = end  # the next block brings tokens of its own
        else:
            keep = x.shape[1] + (0 if fresh is None else fresh.shape[1])
        x = _block(cast("ResidualAttentionBlock", block), x, fresh, keep)
    return x


def _block(block: ResidualAttentionBlock, x: torch.Tensor, fresh: torch.Tensor | None, keep: int) -> torch.Tensor:
    """One residual block on [x, fresh], computed at the first `keep` tokens: (B, keep, d_vision)."""
    attention = cast("nn.MultiheadAttention", block.attn)
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    width, heads = x.shape[2], attention.num_heads

    if fresh is not None:
        x = torch.cat([x, fresh], dim=1)
    normed = block.ln_1(x)
    b, rows, d_head = *x.shape[:2], width // heads
    if keep == 1:
        q = F.linear(normed[:, :1], weight[:width], None if bias is None else bias[:width])
        q = q.view(b, 1, heads, d_head)
        kv = F.linear(normed, weight[width:], None if bias is None else bias[width:])
        kv = kv.view(b, rows, 2, heads, d_head)
    else:
        qkv = F.linear(normed, weight, bias).view(b, rows, 3, heads, d_head)
        q, kv = qkv[:, :keep, 0], qkv[:, :, 1:]
    mixed = attend(q, kv).flatten(2)  # (B, keep, d_vision)
    return feed_forward(block, x[:, :keep] + block.ls_1(attention.out_proj(mixed)))
