"""Small layers with seeded first values."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def linear(width_in: int, width_out: int, generator: torch.Generator, *, bias: bool = True) -> nn.Linear:
    """Return a Linear with PyTorch's usual first values, drawn from `generator`."""
    layer = nn.Linear(width_in, width_out, bias=bias)
    bound = 1 / math.sqrt(width_in)
    with torch.no_grad():
        layer.weight.copy_(torch.empty_like(layer.weight).uniform_(-bound, bound, generator=generator))
        if bias:
            layer.bias.copy_(torch.empty_like(layer.bias).uniform_(-bound, bound, generator=generator))
    return layer


class Attention(nn.Module):
    """Multi-head attention of queries to other tokens, without positions.

    Args:
        d_query: Width of queries and of the output.
        d_context: Width of what is attended to.
        heads: Must divide `d_query`.
        generator: First values.
    """

    def __init__(self, d_query: int, d_context: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.q = linear(d_query, d_query, generator, bias=False)
        self.k = linear(d_context, d_query, generator, bias=False)
        self.v = linear(d_context, d_query, generator, bias=False)
        self.out = linear(d_query, d_query, generator)

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        """(B, n, d_query) and (B, T, d_context) -> (B, n, d_query)."""

        def heads(x: Tensor) -> Tensor:
            return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)  # (B, H, n, d_head)

        mixed = F.scaled_dot_product_attention(heads(self.q(queries)), heads(self.k(context)), heads(self.v(context)))
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


def heads_for(width: int, d_head: int = 64) -> int:
    """Return the number of heads of about `d_head` that divides `width`."""
    wanted = max(1, round(width / d_head))
    return next(h for h in range(wanted, 0, -1) if width % h == 0)
