"""Vectors of known geometry."""

from __future__ import annotations

import torch


def orthogonal(dim: int, seed: int = 0) -> torch.Tensor:
    """A random (dim, dim) orthogonal matrix."""
    draw = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(draw).Q.float()


def etf(num_classes: int, dim: int, seed: int = 0) -> torch.Tensor:
    """A (K, d) simplex equiangular tight frame of unit vectors, turned at random; needs d >= K."""
    simplex = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    simplex = simplex / simplex.norm(dim=1, keepdim=True)
    padded = torch.cat([simplex, torch.zeros(num_classes, dim - num_classes, dtype=torch.float64)], dim=1)
    return (padded @ orthogonal(dim, seed).double()).float()
