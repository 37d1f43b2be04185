"""Handwritten-like digits: stroke skeletons, bent at random and drawn with a round pen.

Every digit has several skeletons (a seven with and without its bar, a four open and closed, ...). A stroke is a kind
("curve": Catmull-Rom spline through its points, "lines": straight pieces) and control points in a unit box (x to the
right, y down). A writer's hand is imitated by moving the points, by slant, rotation and aspect, and by the pen's width.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Points = NDArray[np.float64]
Stroke = tuple[str, tuple[tuple[float, float], ...]]
SAMPLES_A_PIECE = 6


# One skeleton a paragraph: digit, how often, then strokes ("c" curve, "l" lines) of x,y points parted by ";".
_SKELETON_TEXT = """
0 6 : c 0.5,0 0.12,0.16 0,0.5 0.12,0.84 0.5,1 0.88,0.84 1,0.5 0.88,0.16 0.5,0
0 2 : c 0.7,0.06 0.35,0 0.05,0.3 0,0.65 0.3,1 0.75,0.9 1,0.5 0.85,0.12 0.5,0.02
0 0.3 : c 0.5,0 0.12,0.16 0,0.5 0.12,0.84 0.5,1 0.88,0.84 1,0.5 0.88,0.16 0.5,0 ; l 0.85,0.15 0.15,0.85
1 4 : l 0.5,0 0.5,1
1 4 : l 0.2,0.24 0.55,0 0.55,1
1 2 : l 0.15,0.28 0.5,0 0.5,1 ; l 0.1,1 0.9,1
1 2 : l 0,0.42 0.6,0 0.6,1
1 1 : l 0.5,0 0.5,1 ; l 0.15,1 0.85,1
1 1 : c 0.35,0.15 0.55,0 0.52,0.5 0.5,1
2 4 : c 0.05,0.24 0.2,0.06 0.5,0 0.82,0.1 0.9,0.3 0.72,0.56 0.35,0.82 0,1 ; l 0,1 1,1
2 4 : c 0.05,0.2 0.4,0 0.85,0.13 0.82,0.43 0.42,0.85 0.1,0.98 0,0.86 0.18,0.78 0.5,0.92 0.78,1 1,0.9
2 2 : c 0.05,0.1 0.5,0 0.85,0.15 0.75,0.5 0.4,0.8 0.02,1 0.4,0.95 0.7,0.96 1,1
2 1 : c 0.1,0.05 0.6,0 0.9,0.2 0.6,0.6 0,1 ; l 0,1 0.95,0.95
3 5 : c 0.05,0.12 0.4,0 0.82,0.1 0.84,0.33 0.35,0.47 ; c 0.35,0.47 0.85,0.53 1,0.74 0.8,0.95 0.4,1 0,0.9
3 2 : l 0,0 0.9,0 0.4,0.4 ; c 0.4,0.4 0.85,0.53 1,0.74 0.8,0.95 0.4,1 0,0.9
3 3 : c 0.05,0.08 0.5,0 0.9,0.15 0.75,0.4 0.4,0.48 0.85,0.58 1,0.78 0.75,0.97 0.35,1 0,0.92
3 1 : c 0.1,0.02 0.6,0 0.85,0.2 0.55,0.45 0.45,0.46 0.9,0.6 0.85,0.85 0.45,1 0.05,0.97
4 3 : l 0.7,1 0.7,0 0,0.65 1,0.65
4 3 : l 0.2,0 0,0.55 1,0.55 ; l 0.75,0.2 0.68,1
4 3 : l 0.3,0 0,0.6 1,0.6 ; l 0.7,0.35 0.6,1
4 2 : c 0.1,0 0.04,0.35 0.35,0.55 0.9,0.45 ; l 0.9,0 0.8,1
4 2 : l 0.5,0 0,0.7 1,0.65 ; l 0.72,0.4 0.68,1
4 1 : l 0.6,0 0.05,0.5 1,0.5 ; l 0.6,0 0.45,1
5 4 : l 0.92,0 0.2,0 0.12,0.44 ; c 0.12,0.44 0.5,0.36 0.9,0.5 0.95,0.75 0.7,0.97 0.3,1 0,0.9
5 3 : c 0.92,0.03 0.5,0 0.15,0.06 0.12,0.34 0.5,0.42 0.9,0.6 0.88,0.86 0.5,1 0.05,0.94
5 3 : l 0.3,0.05 0.15,0.45 ; c 0.15,0.45 0.5,0.38 0.85,0.55 0.85,0.8 0.5,1 0,0.96 ; l 0.3,0.03 1,0
5 2 : l 1,0 0.45,0.05 0.25,0.42 ; c 0.25,0.42 0.6,0.45 0.8,0.65 0.65,0.9 0.3,1 0,0.97
6 4 : c 0.8,0 0.4,0.18 0.1,0.5 0.04,0.8 0.3,1 0.7,1 0.95,0.8 0.85,0.58 0.5,0.5 0.2,0.62 0.07,0.8
6 3 : c 0.5,0 0.2,0.3 0.02,0.68 0.18,0.95 0.55,1 0.88,0.88 0.85,0.68 0.5,0.6 0.15,0.75
6 2 : c 0.35,0 0.1,0.4 0.05,0.8 0.4,1 0.85,0.92 0.95,0.7 0.6,0.52 0.12,0.62
6 1 : c 0.9,0.1 0.55,0 0.15,0.25 0.02,0.65 0.25,0.98 0.75,0.97 0.95,0.72 0.6,0.47 0.1,0.6
7 3 : l 0,0 1,0 0.4,1
7 4 : l 0,0.03 0.95,0 0.45,1 ; l 0.2,0.52 0.95,0.5
7 2 : l 0,0.16 0.05,0 1,0 0.35,1
7 2 : c 0,0.1 0.3,0.02 0.7,0.06 0.95,0 ; c 0.95,0 0.65,0.4 0.5,0.7 0.45,1
7 3 : c 0,0.12 0.4,0 0.85,0.02 0.8,0.3 0.55,0.65 0.45,1 ; l 0.25,0.5 1,0.48
7 1 : c 0.05,0.25 0.1,0.04 0.5,0.06 0.95,0 ; l 0.95,0 0.5,1 ; l 0.3,0.55 0.9,0.5
8 4 : c 0.85,0.12 0.5,0 0.12,0.14 0.18,0.34 0.5,0.48 0.85,0.65 0.9,0.87 0.5,1 0.1,0.87 0.15,0.65 0.5,0.48 0.82,0.32
    0.85,0.12
8 3 : c 0.5,0 0.16,0.08 0.08,0.24 0.2,0.42 0.5,0.48 0.8,0.42 0.92,0.24 0.84,0.08 0.5,0 ; c 0.5,0.47 0.12,0.56 0,0.74
    0.12,0.93 0.5,1 0.88,0.93 1,0.74 0.88,0.56 0.5,0.47
8 3 : c 0.95,0.08 0.5,0 0.1,0.14 0.25,0.38 0.65,0.6 0.75,0.85 0.45,1 0.12,0.88 0.3,0.6 0.7,0.35 1,0.05
8 2 : c 0.5,0 0.2,0.12 0.3,0.38 0.75,0.65 0.7,0.93 0.4,1 0.2,0.85 0.4,0.55 0.8,0.3 0.8,0.08 0.5,0
9 3 : c 0.92,0.14 0.5,0 0.1,0.13 0.06,0.36 0.4,0.5 0.8,0.4 0.93,0.14 ; l 0.92,0.1 0.85,1
9 3 : c 0.92,0.14 0.5,0 0.1,0.13 0.06,0.36 0.4,0.5 0.8,0.4 0.93,0.14 ; c 0.93,0.12 0.95,0.5 0.75,0.88 0.4,1 0.1,0.93
9 3 : c 0.85,0.12 0.5,0 0.12,0.14 0.15,0.38 0.5,0.45 0.85,0.15 0.88,0.5 0.8,0.85 0.5,1 0.15,0.95
9 2 : c 0.8,0.15 0.45,0 0.05,0.2 0.25,0.45 0.75,0.3 0.8,0.12 ; l 0.82,0.15 0.5,1
9 2 : c 0.95,0.05 0.5,0.02 0.1,0.2 0.3,0.45 0.85,0.3 0.95,0.05 0.75,0.6 0.6,1
"""


def _read_skeletons(text: str) -> dict[int, tuple[tuple[float, tuple[Stroke, ...]], ...]]:
    """Digit to its skeletons: ((how often, strokes), ...)."""
    found: dict[int, list[tuple[float, tuple[Stroke, ...]]]] = {}
    for paragraph in text.replace("\n    ", " ").strip().splitlines():
        head, body = paragraph.split(" : ")
        digit, weight = head.split()
        strokes: list[Stroke] = []
        for stroke in body.split(" ; "):
            kind, *points = stroke.split()
            pairs = [tuple(map(float, point.split(","))) for point in points]
            strokes.append(("curve" if kind == "c" else "lines", tuple((x, y) for x, y in pairs)))
        found.setdefault(int(digit), []).append((float(weight), tuple(strokes)))
    return {digit: tuple(skeletons) for digit, skeletons in found.items()}


SKELETONS = _read_skeletons(_SKELETON_TEXT)


@lru_cache(maxsize=64)
def _spline(n_points: int) -> Points:
    """Matrix (samples, n_points): control points to points on their Catmull-Rom spline."""
    eye = np.eye(n_points)
    ends = np.vstack([2 * eye[0] - eye[1], eye, 2 * eye[-1] - eye[-2]])
    rows = []
    for piece in range(n_points - 1):
        a, b, c, d = ends[piece : piece + 4]
        last = piece == n_points - 2
        for t in np.linspace(0, 1, SAMPLES_A_PIECE + last, endpoint=last):
            cubic = (-a + 3 * b - 3 * c + d) * t**3
            rows.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + cubic))
    return np.array(rows)


@lru_cache(maxsize=16)
def _variants(digit: int) -> tuple[NDArray[np.float64], list[list[tuple[Points, bool]]]]:
    weights = np.array([weight for weight, _ in SKELETONS[digit]], dtype=np.float64)
    skeletons = [
        [(np.array(points, dtype=np.float64), kind == "curve") for kind, points in strokes]
        for _, strokes in SKELETONS[digit]
    ]
    return np.cumsum(weights / weights.sum()), skeletons


def digit_curves(digit: int, rng: np.random.Generator) -> list[Points]:
    """Polylines, each (points, 2), of one digit as a hand might write it; about a unit high, centred at 0."""
    chances, skeletons = _variants(digit)
    skeleton = skeletons[min(int(np.searchsorted(chances, rng.random())), len(skeletons) - 1)]
    wobble = rng.uniform(0.01, 0.055)
    # A smooth bend of the plane moves strokes that touch together, so that joints stay joints.
    bend = rng.normal(0, 0.05, (2, 2))
    phase = rng.uniform(0, 2 * np.pi, (2, 2))
    aspect = rng.uniform(0.45, 0.95)
    slant = rng.normal(0.08, 0.2)
    angle = rng.normal(0, 0.1)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    curves = []
    for points, curved in skeleton:
        moved = points + rng.normal(0, wobble, points.shape)
        line = _spline(len(moved)) @ moved if curved else _densify(moved)
        line = line + bend[0] * np.sin(3 * line[:, 1:] + phase[0]) + bend[1] * np.sin(3 * line[:, :1] + phase[1])
        line = line - 0.5
        line[:, 0] = line[:, 0] * aspect - slant * line[:, 1]
        curves.append(line @ turn.T)
    return curves


def _densify(points: Points) -> Points:
    """More points on the straight pieces, so that a bend of the plane bends them too."""
    steps = np.linspace(0, 1, 4, endpoint=False)[:, None]
    pieces = [a + (b - a) * steps for a, b in zip(points[:-1], points[1:], strict=True)]
    return np.vstack([*pieces, points[-1:]])


def write_digit(digit: int, rng: np.random.Generator, size: int = 64, loose: float = 1.0) -> NDArray[np.uint8]:
    """One digit as a hand might write it.

    Args:
        digit: 0 to 9.
        rng: Decides skeleton, bends, slant, rotation, aspect, height and pen.
        size: Side of the square picture in pixels.
        loose: 0 for digits that all fill the frame, 1 for all sizes.

    Returns:
        (size, size) grey picture, ink 255 on 0, the whole digit within the frame.
    """
    curves = digit_curves(digit, rng)
    pen = size * rng.uniform(0.05, 0.19)
    every = np.vstack(curves)
    low, high = every.min(0), every.max(0)
    span = max(float((high - low).max()), 1e-3)
    scale = (size * (0.94 - loose * rng.uniform(0, 0.3)) - pen) / span
    shift = size / 2 - scale * (low + high) / 2
    image = Image.new("L", (size, size))
    pencil = ImageDraw.Draw(image)
    radius = pen / 2
    for curve in curves:
        points = curve * scale + shift
        flat = [(float(x), float(y)) for x, y in points]
        pencil.line(flat, fill=255, width=max(1, round(pen)), joint="curve")
        for x, y in (flat[0], flat[-1]):
            pencil.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return np.asarray(image)
