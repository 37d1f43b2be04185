"""What a model remembers of the images it was tuned on: the directions in which their features lie, no image.

M = 1/n sum_i f_i f_i^T is the uncentred second moment of the features. Kept is a factor A with A^T A = M up to the
smallest eigenvalues. With it old images need not be stored for a later tuning to spare what they see.

Source: null spaces of the uncentred feature covariance, Adam-NSCL, arXiv 2103.07113.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_DIRECTIONS = 64
"""Rows of a memory: 128 kB at a width of 512."""


def remember(features: Tensor, before: Tensor | None = None, weight: float = 0.0) -> Tensor:
    """Return a memory of images, and of what was remembered before.

    Args:
        features: (n, d) of the images; n may be 0.
        before: (r, d) memory to go on from.
        weight: How many images stand behind `before`.

    Returns:
        (r, d) float32 on the CPU, rows sqrt(l_j) u_j of the eigenvalues l_j of the mean second moment, largest first;
        at most `MAX_DIRECTIONS`.
    """
    total = len(features) + (weight if before is not None else 0.0)
    rows = features.double().cpu() / max(total, 1.0) ** 0.5
    if before is not None and weight:
        rows = torch.cat([rows, before.double().cpu() * (weight / total) ** 0.5])
    if not len(rows):
        return torch.zeros(0, features.shape[-1])
    _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    kept = min(MAX_DIRECTIONS, int((values > values[0] * 1e-6).sum()))
    # The sign of a singular vector is the library's choice: the largest entry is made positive.
    chosen = directions[:kept]
    signs = chosen.gather(1, chosen.abs().argmax(dim=1, keepdim=True)).sign()
    memory: Tensor = (values[:kept, None] * chosen * signs).float().contiguous()
    return memory


def memory_fault(memory: Tensor, d: int) -> str | None:
    """Return why a tensor cannot be a memory of features of width d, or None."""
    if memory.dim() != 2 or memory.shape[1] != d or not 1 <= len(memory) <= MAX_DIRECTIONS:
        return f"has shape {tuple(memory.shape)}; expected are 1 to {MAX_DIRECTIONS} rows of {d}"
    if memory.dtype != torch.float32:
        return f"is {memory.dtype}; expected is float32"
    return None if bool(torch.isfinite(memory).all()) else "holds NaN or infinite values"
