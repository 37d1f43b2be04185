"""Outlines of the named shapes, drawn as filled grey masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from npt_core.clip.demo.vocabulary import SHAPE_NAMES

Points = NDArray[np.float64]
# These lie in several ways; all others stand upright, give or take a little.
_QUARTER_TURNS = {"arrow": 4, "crescent": 2, "semicircle": 2, "triangle": 2}


def _regular(n: int, start: float = -np.pi / 2) -> Points:
    angles = start + np.arange(n) * 2 * np.pi / n
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _ellipse(width: float, height: float, n: int = 40) -> Points:
    return np.asarray(_regular(n) * np.array([width, height]))


def _star(rng: np.random.Generator) -> Points:
    n = 5 if rng.random() < 0.8 else 6
    points = _regular(2 * n)
    points[1::2] *= rng.uniform(0.36, 0.5)
    return points


def _cross(rng: np.random.Generator) -> Points:
    w = rng.uniform(0.2, 0.36)
    corner = np.array([(w, -1), (w, -w), (1, -w)])
    turns = [np.array([[0, -1], [1, 0]]), np.array([[-1, 0], [0, -1]]), np.array([[0, 1], [-1, 0]])]
    return np.vstack([corner, *(corner @ turn.T for turn in turns)])


def _heart(rng: np.random.Generator) -> Points:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x / 16 * rng.uniform(0.85, 1.0), (y + 2.5) / 15], 1)


def _arrow(rng: np.random.Generator) -> Points:
    w, head, neck = rng.uniform(0.14, 0.28), rng.uniform(0.5, 0.75), rng.uniform(-0.1, 0.3)
    return np.array([(-1, -w), (neck, -w), (neck, -head), (1, 0), (neck, head), (neck, w), (-1, w)])


def _crescent(rng: np.random.Generator) -> Points:
    depth = rng.uniform(0.25, 0.55)
    t = np.linspace(-np.pi * 0.5, np.pi * 0.5, 24)
    outer = np.stack([-np.cos(t), np.sin(t)], 1)
    inner = np.stack([-np.cos(t[::-1]) * depth, np.sin(t[::-1])], 1)
    return np.vstack([outer + [0.5, 0], inner + [0.5, 0]])


def _flower(rng: np.random.Generator) -> Points:
    petals = int(rng.integers(5, 8))
    t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius = 0.72 + 0.28 * np.cos(petals * t)
    return np.stack([radius * np.cos(t), radius * np.sin(t)], 1)


def _house(rng: np.random.Generator) -> Points:
    w, eaves = rng.uniform(0.6, 0.75), rng.uniform(-0.25, 0.05)
    return np.array([(0, -1), (1, eaves), (w, eaves), (w, 1), (-w, 1), (-w, eaves), (-1, eaves)])


def _semicircle(rng: np.random.Generator) -> Points:
    t = np.linspace(0, np.pi, 30)
    return np.stack([np.cos(t), 0.5 - np.sin(t)], 1)


def _triangle(rng: np.random.Generator) -> Points:
    return np.array([(rng.uniform(-0.3, 0.3), -0.95), (1, 0.8), (-1, 0.8)])


_POLYGONS: dict[str, Callable[[np.random.Generator], Points]] = {
    "circle": lambda rng: _ellipse(1, rng.uniform(0.95, 1.0)),
    "square": lambda rng: np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.85,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "ring": lambda rng: _ellipse(1, rng.uniform(0.92, 1.0)),
    "arrow": _arrow,
    "hexagon": lambda rng: _regular(6),
    "diamond": lambda rng: _regular(4) * np.array([rng.uniform(0.5, 0.75), 1]),
    "crescent": _crescent,
    "oval": lambda rng: _ellipse(*((1, rng.uniform(0.5, 0.68)) if rng.random() < 0.6 else (rng.uniform(0.5, 0.68), 1))),
    "rectangle": lambda rng: (
        np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        * ((1, rng.uniform(0.4, 0.62)) if rng.random() < 0.6 else (rng.uniform(0.4, 0.62), 1))
    ),
    "semicircle": _semicircle,
    "flower": _flower,
    "house": _house,
}


def _line_shape(name: str, rng: np.random.Generator) -> tuple[Points, float]:
    """A spiral or a wave: its line and the pen's width, for a frame of -1 to 1."""
    if name == "spiral":
        turns = rng.uniform(2.0, 2.7)
        t = np.linspace(0.08, 1, 90)
        angle = 2 * np.pi * turns * t * (1 if rng.random() < 0.5 else -1)
        return np.stack([t * np.cos(angle), t * np.sin(angle)], 1), rng.uniform(0.13, 0.2)
    waves = rng.uniform(1.5, 3.0)
    x = np.linspace(-1, 1, 70)
    return np.stack([x, rng.uniform(0.25, 0.45) * np.sin(np.pi * waves * x + rng.uniform(0, 6))], 1), rng.uniform(
        0.18, 0.3
    )


def shape_mask(name: str, rng: np.random.Generator, size: int = 64, loose: float = 1.0) -> NDArray[np.uint8]:
    """A filled shape somewhere in the frame.

    Args:
        name: One of `SHAPE_NAMES`.
        rng: Decides proportions, turn, size and place.
        size: Side of the square picture in pixels.
        loose: 0 for shapes that all fill the frame upright, 1 for all sizes, turns and places.

    Returns:
        (size, size) grey mask, 255 inside.
    """
    if name not in SHAPE_NAMES:
        raise ValueError(f"{name!r} is no shape this project draws; it draws {', '.join(SHAPE_NAMES)}.")
    quarters = _QUARTER_TURNS.get(name, 1)
    angle = int(rng.integers(quarters)) * 2 * np.pi / quarters + loose * rng.normal(0, 0.14)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    radius = size * (0.46 - loose * rng.uniform(0, 0.14))
    room = size / 2 - radius
    centre = size / 2 + loose * rng.uniform(-0.7 * room, 0.7 * room, 2)
    image = Image.new("L", (size, size))
    pencil = ImageDraw.Draw(image)
    if name in _POLYGONS:
        points = _POLYGONS[name](rng)
        pencil.polygon(_flat((points @ turn.T) * radius + centre), fill=255)
        if name == "ring":
            inner = points * rng.uniform(0.45, 0.65)
            pencil.polygon(_flat((inner @ turn.T) * radius + centre), fill=0)
    else:
        points, pen = _line_shape(name, rng)
        pencil.line(
            _flat((points @ turn.T) * radius * 0.9 + centre), fill=255, width=max(2, round(pen * radius)), joint="curve"
        )
    return np.asarray(image)


def _flat(points: Points) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points]
