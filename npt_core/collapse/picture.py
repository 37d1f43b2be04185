"""What the class geometry looks like: cosines of class directions, and a plane where a simplex frame is a polygon.

The numbers of `geometry` say how far the directions are from a frame; this shows it while the tuning runs. The plane is
ours: the directions are laid on the frame as well as a rotation can (orthogonal Procrustes), and seen along two axes of
the frame's own space in which its K vertices are the K-th roots of unity.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from npt_core.collapse.geometry import EPS, directions

MOST_CLASSES = 24
"""Of more classes, so many are shown, spread evenly: a picture of a thousand could not be read, nor sent 50 times."""


@torch.no_grad()
def picture(text_features: Tensor | None) -> dict[str, Any] | None:
    """Describe class vectors so that they can be drawn.

    Args:
        text_features: (K, d), or (B, K, d) where the text depends on the image: its mean over images is shown.

    Returns:
        None where there is nothing to draw: no text features, fewer than 3 classes, values that are not finite. Else
        `classes` (m numbers of the classes shown, m <= `MOST_CLASSES`), `of` (K), `target` (the cosine of two
        directions of a frame of K), `cosines` (m, m) of directions seen from the mean of all classes, rounded to 0.01,
        and `points` (m, 2), rounded to 0.001: a frame's lie at `vertex(i, m)`.
    """
    if text_features is None:
        return None
    features = text_features.float().cpu()
    if features.dim() == 3:
        features = features.mean(dim=0)
    num_classes = features.shape[0]
    if num_classes < 3 or not bool(torch.isfinite(features).all()):
        return None
    chosen = shown_classes(num_classes)
    unit = directions(features)[chosen].double()
    return {
        "classes": chosen,
        "of": num_classes,
        "target": -1.0 / (num_classes - 1),
        "cosines": _rounded(unit @ unit.t(), 2),
        "points": _rounded(frame_plane(features[chosen]), 3),
    }


def shown_classes(num_classes: int) -> list[int]:
    """Return the numbers of the classes a picture shows: all of few, of many the same every time."""
    m = min(num_classes, MOST_CLASSES)
    return [i * num_classes // m for i in range(m)]


def vertex(i: int, m: int) -> tuple[float, float]:
    """Return where direction i of a simplex frame of m lies in the plane: on the unit circle, at its angle."""
    angle = 2.0 * math.pi * i / m
    return math.cos(angle), math.sin(angle)


def frame_plane(features: Tensor) -> Tensor:
    """Return (m, 2) float64 places of class vectors in the plane.

    With T the (m, d) directions seen from their own mean, G = T T^t and the frame E = sqrt(m/(m-1)) (I - 11^t/m), the
    rotation R that brings T R nearest to E gives T R = G^1/2 where the rows of T add up to 0, and it is what is drawn:
    the directions of part of a frame, seen from the part's mean, are again a frame. E projects to `vertex(i, m)`.

    Args:
        features: (m, d), m >= 3.
    """
    unit = directions(features, eps=EPS).double()
    m = unit.shape[0]
    values, vectors = torch.linalg.eigh(unit @ unit.t())
    root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.t()
    places: Tensor = root @ _axes(m) / math.sqrt(m / (m - 1))
    return places


@lru_cache(maxsize=4)
def _axes(m: int) -> Tensor:
    return torch.tensor([vertex(i, m) for i in range(m)], dtype=torch.float64)


def _rounded(values: Tensor, digits: int) -> list[list[float]]:
    return [[round(float(value), digits) + 0.0 for value in row] for row in values.tolist()]
