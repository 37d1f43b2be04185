"""Labelled sets for benchmarks/science.py: real handwritten digits, and drawn sets unlike the pre-training pictures.

Each set is a function that gives pictures and labels, the same ones every time. `REPORTED` sets are what results are
given for; `OPEN` sets are for choosing weights and settings, and no result is reported on them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from npt_core.clip.demo import draw
from npt_core.clip.demo.fonts import find_fonts, is_unseen
from npt_core.clip.demo.real_digits import load_half
from npt_core.clip.demo.shapes import shape_mask
from npt_core.clip.demo.vocabulary import LETTER_NAMES, SHAPE_NAMES

Labelled = list[tuple[Image.Image, str]]
EACH = 60
"""Drawn pictures of a class."""


def digits(half: str) -> Labelled:
    """Real handwritten digits, scikit-learn's part of the UCI set (Alpaydin, Kaynak 1998, CC BY 4.0)."""
    found = load_half(half)
    return list(zip(found.pictures(), found.labels, strict=True))


def compositional() -> Labelled:
    """36 fine-grained classes such as "striped red star": four shapes, three colours, three textures."""
    pictures: Labelled = []
    seed = 0
    for texture in ("solid", "striped", "dotted"):
        for colour in ("red", "blue", "green"):
            for shape in ("star", "circle", "square", "triangle"):
                seed += 1
                drawn = draw.draw_shapes(EACH, [801, seed], names=[shape], colours=[colour], textures=[texture])
                name = f"{texture} {colour} {shape}".removeprefix("solid ")
                pictures += [(Image.fromarray(image), name) for image in drawn.images]
    return pictures


def outlines() -> Labelled:
    """Thin grey outlines of shapes; in training one texture of six is an outline, and wider."""
    rng = np.random.default_rng(802)
    pictures: Labelled = []
    for name in SHAPE_NAMES:
        for _ in range(EACH):
            mask = Image.fromarray(shape_mask(name, rng, loose=0.5))
            inner = mask.filter(ImageFilter.MinFilter(5))
            line = np.asarray(mask, np.int16) - np.asarray(inner, np.int16)
            paper, ink = rng.integers(190, 256), rng.integers(0, 90)
            grey = paper + (ink - paper) * np.clip(line, 0, 255) / 255
            pictures.append((Image.fromarray(grey.astype(np.uint8)).convert("RGB"), name))
    return pictures


def rotated() -> Labelled:
    """Shapes turned by 25 to 70 degrees; training turned them by up to 20."""
    rng = np.random.default_rng(803)
    drawn = draw.draw_shapes(EACH * len(SHAPE_NAMES), 803, ease=0.7, worn=0.0)
    pictures: Labelled = []
    for image, name in zip(drawn.images, drawn.labels, strict=True):
        angle = float(rng.uniform(25, 70) * rng.choice([-1, 1]))
        corner = tuple(int(v) for v in image[0, 0])
        turned = Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR, fillcolor=corner)
        pictures.append((turned, name))
    return pictures


def noisy() -> Labelled:
    """Shapes under strong noise."""
    rng = np.random.default_rng(804)
    drawn = draw.draw_shapes(EACH * len(SHAPE_NAMES), 804, ease=0.3)
    pictures: Labelled = []
    for image, name in zip(drawn.images, drawn.labels, strict=True):
        loud = image + rng.normal(0, 70, image.shape)
        pictures.append((Image.fromarray(np.clip(loud, 0, 255).astype(np.uint8)), name))
    return pictures


def other_colours() -> Labelled:
    """Shapes in colours that training never used: channels swapped and inverted."""
    drawn = draw.draw_shapes(EACH * len(SHAPE_NAMES), 805, ease=0.3)
    return [
        (Image.fromarray(255 - image[..., [1, 2, 0]] // 2), name)
        for image, name in zip(drawn.images, drawn.labels, strict=True)
    ]


def letters() -> Labelled:
    """Letters, capital and small, in the font families of matplotlib's wheel that training never used."""
    import matplotlib

    found = find_fonts((os.fspath(Path(matplotlib.get_data_path(), "fonts", "ttf")),))
    faces = [face for face in found if is_unseen(face.family)]
    rng = np.random.default_rng(806)
    pictures: Labelled = []
    for letter in LETTER_NAMES:
        for _ in range(EACH):
            face = faces[int(rng.integers(len(faces)))]
            mask = draw.glyph_mask(letter.upper() if rng.random() < 0.5 else letter, face, rng)
            turned = Image.fromarray(mask).rotate(float(rng.uniform(-10, 10)), Image.Resampling.BILINEAR)
            paper, ink = rng.integers(150, 256), rng.integers(0, 110)
            grey = paper + (ink - paper) * np.asarray(turned, np.float64) / 255
            pictures.append((Image.fromarray(grey.astype(np.uint8)).convert("RGB"), letter))
    return pictures


REPORTED: dict[str, Callable[[], Labelled]] = {
    "digits": lambda: digits("report"),
    "compositional": compositional,
    "outlines": outlines,
    "rotated": rotated,
}
OPEN: dict[str, Callable[[], Labelled]] = {
    "digits-look": lambda: digits("look"),
    "noisy": noisy,
    "other-colours": other_colours,
    "letters": letters,
}
SETS = REPORTED | OPEN
