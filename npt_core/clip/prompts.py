"""Prompts as embeddings: what both text paths take, and how they are cut into pieces."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch.utils.checkpoint import checkpoint

Path = Literal["auto", "fast", "reference"]
PATHS: tuple[Path, ...] = ("auto", "fast", "reference")
"""How a tower computes: by the exact short cut, as open_clip does, or by the first where it is exact."""


@dataclass(frozen=True)
class PromptBatch:
    """Token embeddings of N prompts that begin alike; positions are not added yet.

    Attributes:
        prefix: (P, d_text) the same for all prompts, or (G, P, d_text) for each of G groups. P may be 0.
        suffix: (N, S, d_text) what follows, padded; or (G, N, S, d_text).
        eot_index: (N,) int64 on the CPU: position of EOT in prefix + suffix. What stands behind it is padding.
        deep_ctx: (depth - 1, n, d_text) vectors that replace the n positions after the start token at the input of
            blocks 1 .. depth - 1 (MaPLe, arXiv 2210.03117); they must lie in the prefix.
        n_sos: Start tokens before the context: 1, or 0 for towers without one.
    """

    prefix: torch.Tensor
    suffix: torch.Tensor
    eot_index: torch.Tensor
    deep_ctx: torch.Tensor | None = None
    n_sos: int = 1

    @property
    def groups(self) -> int | None:
        """G, or None where there are no groups."""
        if self.prefix.ndim == 3:
            return self.prefix.shape[0]
        return self.suffix.shape[0] if self.suffix.ndim == 4 else None

    @property
    def N(self) -> int:  # noqa: N802 - the symbol of method.md
        """Number of prompts in each group."""
        return self.suffix.shape[-3]


def replace_deep(x: torch.Tensor, vectors: torch.Tensor, start: int) -> torch.Tensor:
    """(M, L, d_text) hidden states with positions start .. start + n - 1 replaced by (n, d_text)."""
    fresh = vectors.to(x.dtype).expand(x.shape[0], -1, -1)
    return torch.cat([x[:, :start], fresh, x[:, start + fresh.shape[1] :]], dim=1)


def in_chunks(run: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...], chunk: int | None) -> torch.Tensor:
    """`run` over pieces of the first axis of `inputs`, checkpointed while gradients are recorded; joined again."""
    total = inputs[0].shape[0]
    if chunk is None or chunk >= total:
        return run(*inputs)
    again = torch.is_grad_enabled()
    on_cpu = inputs[-1].device.type == "cpu"

    def one(*piece: torch.Tensor) -> torch.Tensor:
        if on_cpu:
            _give_back()
        return run(*piece)

    pieces = []
    for part in range(math.ceil(total / chunk)):
        piece = tuple(t[part * chunk : (part + 1) * chunk] for t in inputs)
        pieces.append(checkpoint(one, *piece, use_reentrant=False, preserve_rng_state=False) if again else one(*piece))
    return torch.cat(pieces)


@cache
def _trim() -> Callable[[int], int] | None:
    """Glibc's `malloc_trim`; None with another C library."""
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim


def _give_back() -> None:
    """Give the system back what is free between the heap's blocks.

    A piece leaves holes that the next one does not fill: without this the second of two pieces of 1,000 prompts takes
    half as much memory again.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
