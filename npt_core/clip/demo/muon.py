"""Muon: momentum whose update is made orthogonal, for the matrices inside the two transformers.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. It needs far fewer steps than AdamW
on networks as small as this one. Single precision throughout: on a CPU without bfloat16 units anything else is slower.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Newton-Schulz iteration: (n, rows, columns) to the nearest matrices with singular values about 1."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return cast("Tensor", x.mT if tall else x)


class Muon(Optimizer):
    """Nesterov momentum with orthogonal updates.

    Args:
        params: Matrices. One with three times as many rows as columns is taken for packed queries, keys and values,
            which are made orthogonal one by one.
        lr: Size of a step: the spectral norm of the change to a square matrix.
        momentum: Share of the former direction that is kept.
        weight_decay: Relative shrinking by lr times this.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; a closure is not supported."""
        if closure is not None:
            raise ValueError("Muon takes no closure.")
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(state["momentum"], group["momentum"])
                parts = 3 if parameter.shape[0] == 3 * parameter.shape[1] else 1
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                for piece, target in zip(update.chunk(parts), parameter.chunk(parts), strict=True):
                    by_shape.setdefault(tuple(piece.shape), []).append((piece, target))
            for (rows, columns), pairs in by_shape.items():
                updates = orthogonalise(torch.stack([piece for piece, _ in pairs]))
                size = group["lr"] * max(1.0, rows / columns) ** 0.5
                for (_, target), update in zip(pairs, updates, strict=True):
                    target.sub_(update, alpha=size)
