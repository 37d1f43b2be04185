"""One residual block of open_clip's transformer, in the pieces of which the exact fast paths are made.

Weights are frozen: gradients go to what comes in, never to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F


def why_not_standard(block: nn.Module) -> str | None:
    """Why a block is not computed as `x + attention(ln_1(x))`, then `x + mlp(ln_2(x))`; None if it is."""
    attention = getattr(block, "attn", None)
    if type(block) is not ResidualAttentionBlock or type(attention) is not nn.MultiheadAttention:
        return f"its blocks ({type(block).__name__}) are not the standard ones"
    plain = attention.bias_k is None and not attention.add_zero_attn
    if not plain or attention.in_proj_weight is None or hasattr(block, "ln_1_kv"):
        return "its attention layers are not plain self-attention"
    return None


def feed_forward(block: ResidualAttentionBlock, x: torch.Tensor) -> torch.Tensor:
    """Second half of a block: x + mlp(ln_2(x)), (..., d) -> (..., d)."""
    hidden = block.ln_2(x)
    for layer in cast("nn.Sequential", block.mlp):
        hidden = quick_gelu(hidden) if type(layer) is QuickGELU else layer(hidden)
    return cast("torch.Tensor", x + block.ls_2(hidden))


def attend(
    q: torch.Tensor, kv: torch.Tensor, mask: torch.Tensor | None = None, *, causal: bool = False
) -> torch.Tensor:
    """Softmax attention of all heads.

    Args:
        q: (B, rows, H, d_head).
        kv: (B, keys, 2, H, d_head) keys and values.
        mask: Added to the scores.
        causal: Row i sees keys 0 .. i.

    Returns:
        (B, rows, H, d_head).
    """
    q, k, v = (t.transpose(1, 2) for t in (q, kv[:, :, 0], kv[:, :, 1]))
    dtype = q.dtype
    if dtype is torch.bfloat16 and q.device.type == "cpu":  # its backward there takes more than twice as long as fp32's
        q, k, v = q.float(), k.float(), v.float()
        mask = None if mask is None else mask.float()
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return mixed.to(dtype).transpose(1, 2)


class _QuickGELU(torch.autograd.Function):
    """x sigmoid(1.702 x), bit for bit as open_clip's, which keeps four tensors of x's size for backward; this keeps x.

    It is what most of the memory of a step went into. Its slope is that of SiLU at 1.702 x, one pass in torch.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return (_QUICK * x).sigmoid_().mul_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return cast("torch.Tensor", torch.ops.aten.silu_backward(grad, _QUICK * x))


_QUICK = 1.702
_quick_gelu = cast("Callable[[torch.Tensor], torch.Tensor]", _QuickGELU.apply)


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """open_clip's QuickGELU with less kept for the backward pass; of operations that export where there is none."""
    return _quick_gelu(x) if torch.is_grad_enabled() else x * torch.sigmoid(_QUICK * x)
