"""Answers between tuned and zero-shot."""

from __future__ import annotations

from torch import Tensor


def mixed(tuned: Tensor, zero_shot: Tensor, share: float) -> Tensor:
    """Return share * tuned + (1 - share) * zero-shot; exactly the tuned values at 1.

    Of logits or cosines, same shape. For text features this is interpolation before they are normalised.

    Source: after WiSE-FT, arXiv 2109.01903, which interpolates weights.
    """
    return tuned if share == 1.0 else share * tuned + (1.0 - share) * zero_shot
