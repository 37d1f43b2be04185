"""Pictures with their attributes, drawn from a seed.

images, labels = draw_shapes(100, seed=1)                        # (100, 64, 64, 3) uint8, names
images, labels = draw_digits(100, seed=1, fonts="unseen")        # printed digits in families never trained on
pictures = draw_batch(np.random.default_rng([7, step]), 256)     # what one step of training sees
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from npt_core.clip.demo import effects
from npt_core.clip.demo import vocabulary as v
from npt_core.clip.demo.fonts import FontFace, load_font, load_own_font, split_fonts
from npt_core.clip.demo.shapes import shape_mask
from npt_core.clip.demo.strokes import write_digit
from npt_core.errors import ConfigError

SIZE = 64
# How easy pictures usually are: mostly dark on white and large, everything else now and then (`draw_batch`).
USUAL = 0.6
Attributes = NDArray[np.int64]
Families = Sequence[Sequence[FontFace]]


@dataclass(frozen=True)
class Mix:
    """How often each kind of picture is drawn in training; the shares add up to 1."""

    stroke_digits: float = 0.36
    printed_digits: float = 0.26
    letters: float = 0.06
    shapes: float = 0.32
    scanned_strokes: float = 0.75
    scanned_print: float = 0.30


@dataclass(frozen=True)
class Pictures:
    """A batch: `pixels` (n, 3, 64, 64) float in 0..1 and `attributes` (n, len(FIELDS)) as `vocabulary` says."""

    pixels: Tensor
    attributes: Attributes

    def __len__(self) -> int:
        return len(self.attributes)

    def images(self) -> NDArray[np.uint8]:
        """(n, 64, 64, 3) bytes."""
        return (self.pixels * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


@dataclass
class _Plan:
    """What to draw: raw masks with attributes, and which of them go through the scanner."""

    masks: list[NDArray[np.uint8]] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)
    scanned: list[bool] = field(default_factory=list)
    loose: float = 1.0

    def add(self, mask: NDArray[np.uint8], kind: int, name: int, style: int, scanned: bool) -> None:
        self.masks.append(mask)
        self.rows.append([kind, name, v.UNSAID, v.UNSAID, v.UNSAID, style, v.UNSAID])
        self.scanned.append(scanned)


def glyph_mask(
    text: str, face: FontFace | None, rng: np.random.Generator, size: int = SIZE, loose: float = 1.0
) -> NDArray[np.uint8]:
    """One printed character, (size, size), ink 255 on 0; Pillow's own font where `face` is None."""
    points = int(size * (0.98 - loose * rng.uniform(0, 0.34)) / 4) * 4
    font = load_own_font(points) if face is None else load_font(face.path, points)
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("L", (size, size))
    room_x, room_y = size - (right - left), size - (bottom - top)
    spread = 0.5 + loose * rng.uniform(-0.15, 0.15, 2)
    ImageDraw.Draw(image).text((room_x * spread[0] - left, room_y * spread[1] - top), text, fill=255, font=font)
    return np.asarray(image)


def _pick_face(families: Families, rng: np.random.Generator) -> FontFace | None:
    if not families:
        return None
    family = families[int(rng.integers(len(families)))]
    return family[int(rng.integers(len(family)))]


def _add_print(
    plan: _Plan, text: str, kind: int, name: int, families: Families, rng: np.random.Generator, scanned: bool
) -> None:
    face = _pick_face(families, rng)
    # A typeface that imitates a hand is neither printed nor handwritten for a caption.
    style = v.UNSAID if face is not None and face.handwriting else v.PRINTED
    plan.add(glyph_mask(text, face, rng, loose=plan.loose), kind, name, style, scanned)


def _plan_batch(rng: np.random.Generator, n: int, mix: Mix, families: Families, loose: float) -> _Plan:
    plan = _Plan(loose=loose)
    edges = np.cumsum([mix.stroke_digits, mix.printed_digits, mix.letters, mix.shapes])
    for kind in np.searchsorted(edges / edges[-1], rng.random(n)):
        if kind == 0:
            digit = int(rng.integers(10))
            plan.add(
                write_digit(digit, rng, loose=loose), v.DIGIT, digit, v.HANDWRITTEN, rng.random() < mix.scanned_strokes
            )
        elif kind == 1:
            digit = int(rng.integers(10))
            _add_print(plan, str(digit), v.DIGIT, digit, families, rng, rng.random() < mix.scanned_print)
        elif kind == 2:
            letter = int(rng.integers(26))
            text = v.LETTER_NAMES[letter].upper() if rng.random() < 0.5 else v.LETTER_NAMES[letter]
            _add_print(plan, text, v.LETTER, v.FIRST_LETTER + letter, families, rng, rng.random() < 0.15)
        else:
            shape = int(rng.integers(len(v.SHAPE_NAMES)))
            mask = shape_mask(v.SHAPE_NAMES[shape], rng, loose=loose)
            plan.add(mask, v.SHAPE, v.FIRST_SHAPE + shape, v.UNSAID, False)
    return plan


_PALETTE = np.array(list(v.COLOURS.values()), dtype=np.float32)


# Hardly to be seen on white paper.
_PALE = frozenset({v.WHITE, v.COLOUR_NAMES.index("yellow"), v.COLOUR_NAMES.index("pink")})


def _named(colour: int, rng: np.random.Generator) -> NDArray[np.float32]:
    spread = 0.03 if colour in (v.BLACK, v.WHITE, v.GRAY) else 0.07
    shift = rng.normal(0, spread, 1 if colour in (v.BLACK, v.WHITE, v.GRAY) else 3)
    return np.asarray(np.clip(_PALETTE[colour] + shift, 0, 1), dtype=np.float32)


def _towards_zero(chance: float, ease: float) -> float:
    """A number in 0..1, the same at ease 0, zero at ease 1, and every number still possible in between."""
    return 0.0 if ease >= 1 else chance ** (1 / (1 - ease))


def _contrast(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """How well two colours can be told apart: the mean distance, and light and dark count most."""
    light = np.array([0.3, 0.55, 0.15], dtype=np.float32)
    return float(0.5 * np.abs(a - b).mean() + abs(float((a - b) @ light)))


def _paint_shape(
    row: list[int], rng: np.random.Generator, colours: Sequence[int], textures: Sequence[int], ease: float
) -> _Paint:
    name = v.NAMES[row[v.NAME]]
    allowed = [t for t in textures if not (t == v.OUTLINED and name in v.LINE_SHAPES)] or [v.SOLID]
    # About half of all shapes are solid; the other textures share the rest.
    row[v.TEXTURE] = v.SOLID if v.SOLID in allowed and rng.random() < 0.5 + 0.5 * ease else int(rng.choice(allowed))
    row[v.COLOUR] = int(rng.choice(colours))
    ink = _named(row[v.COLOUR], rng)
    for _ in range(50):
        kind = _towards_zero(rng.random(), ease) if row[v.COLOUR] not in _PALE else rng.random()
        background = (
            v.WHITE
            if kind < 0.45
            else v.BLACK
            if kind < 0.57
            else v.GRAY
            if kind < 0.65
            else int(rng.integers(len(_PALETTE)))
        )
        paper = _named(background, rng)
        if background != row[v.COLOUR] and _contrast(ink, paper) > 0.22:
            break
    row[v.BACKGROUND] = background
    extreme = _named(v.WHITE if _contrast(ink, _PALETTE[v.WHITE]) > _contrast(ink, _PALETTE[v.BLACK]) else v.BLACK, rng)
    second = paper if rng.random() < 0.55 else extreme
    uneven = rng.uniform(0.02, 0.12) if rng.random() < 0.25 else 0.0
    if uneven > 0.05:
        row[v.BACKGROUND] = v.UNSAID
    return _Paint(ink, second, paper, uneven)


def _paint_glyph(row: list[int], rng: np.random.Generator, scanned: bool, ease: float) -> _Paint:
    chance = _towards_zero(rng.random(), ease)
    limits = (0.50, 0.72, 0.92) if scanned else (0.45, 0.60, 0.78)
    if chance < limits[0]:
        row[v.COLOUR], row[v.BACKGROUND] = v.BLACK, v.WHITE
    elif chance < limits[1]:
        row[v.COLOUR], row[v.BACKGROUND] = v.WHITE, v.BLACK
    elif chance < limits[2]:
        grey = rng.uniform(0, 1, 2)
        while abs(grey[0] - grey[1]) < 0.3:
            grey = rng.uniform(0, 1, 2)
        ink, paper = (np.full(3, value, dtype=np.float32) for value in grey)
        return _Paint(ink, ink, paper, rng.uniform(0, 0.05) if rng.random() < 0.3 else 0.0)
    else:
        while True:
            row[v.COLOUR], row[v.BACKGROUND] = (int(c) for c in rng.integers(len(_PALETTE), size=2))
            if _contrast(_PALETTE[row[v.COLOUR]], _PALETTE[row[v.BACKGROUND]]) > 0.27:
                break
    pure = row[v.COLOUR] in (v.BLACK, v.WHITE) and rng.random() < 0.6
    if pure and row[v.BACKGROUND] in (v.BLACK, v.WHITE):
        ink, paper = (np.full(3, float(row[f] == v.WHITE), dtype=np.float32) for f in (v.COLOUR, v.BACKGROUND))
    else:
        ink, paper = _named(row[v.COLOUR], rng), _named(row[v.BACKGROUND], rng)
    return _Paint(ink, ink, paper, rng.uniform(0, 0.06) if rng.random() < 0.15 else 0.0)


@dataclass(frozen=True)
class _Paint:
    ink: NDArray[np.float32]
    second: NDArray[np.float32]
    paper: NDArray[np.float32]
    uneven: float


def _render(
    plan: _Plan,
    rng: np.random.Generator,
    *,
    colours: Sequence[int] = tuple(range(len(v.COLOURS))),
    textures: Sequence[int] = tuple(range(len(v.TEXTURE_NAMES))),
    worn: float | None = None,
    ease: float = USUAL,
) -> Pictures:
    """Masks to pictures; fills in the attributes that colouring and wear decide."""
    n = len(plan.masks)
    worn = 0.35 * (1 - ease) if worn is None else worn
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    scanned = torch.tensor(plan.scanned)
    glyph = torch.tensor([row[v.KIND] != v.SHAPE for row in plan.rows])
    masks = torch.from_numpy(np.stack(plan.masks)).float().div_(255)[:, None]
    strength = effects.uniform((n,), 0, 1, generator) * torch.where(glyph, 1.0, 0.35) * (1 - 0.5 * ease)
    masks = effects.warp(masks, strength, generator)
    pen = effects.uniform((n,), -0.7, 1.0, generator) * glyph * (torch.rand(n, generator=generator) < 0.6)
    masks = effects.change_pen(masks, pen)
    if scanned.any():
        masks[scanned] = effects.enlarge(effects.scan(masks[scanned], generator), SIZE, generator)
    paints = [
        _paint_shape(row, rng, colours, textures, ease)
        if row[v.KIND] == v.SHAPE
        else _paint_glyph(row, rng, scan, ease)
        for row, scan in zip(plan.rows, plan.scanned, strict=True)
    ]
    for row, scan in zip(plan.rows, plan.scanned, strict=True):
        chance = rng.random()
        share = worn * (0.4 if scan else 1.0)
        spoiled = 1 + int(3 * chance / share) if chance < share else v.UNSAID
        # The scanner's grid is a low resolution already.
        row[v.QUALITY] = v.LOW_RESOLUTION if scan and spoiled < 0 else spoiled if spoiled > 0 else v.SHARP
    attributes = np.array(plan.rows, dtype=np.int64)
    ink, second, paper = (
        torch.from_numpy(np.stack([getattr(p, part) for p in paints])) for part in ("ink", "second", "paper")
    )
    uneven = torch.tensor([p.uneven for p in paints], dtype=torch.float32)
    left, first = effects.texture(torch.from_numpy(attributes[:, v.TEXTURE]), masks, generator)
    pixels = effects.composite(left, first, ink, second, effects.uneven_paper(paper, uneven, SIZE, generator))
    quality = torch.from_numpy(attributes[:, v.QUALITY])
    quality = torch.where(scanned & (quality == v.LOW_RESOLUTION), -1, quality)
    touch = (torch.rand(n, generator=generator) < torch.where(scanned, 0.25, 0.5)).float() * (worn > 0)
    return Pictures(effects.wear(pixels, quality, touch, generator), attributes)


def draw_batch(
    rng: np.random.Generator, n: int, mix: Mix | None = None, families: Families | None = None, ease: float = USUAL
) -> Pictures:
    """Pictures of all kinds, as training sees them.

    Args:
        rng: Decides everything; the same state gives the same pictures on the same fonts.
        n: How many.
        mix: Shares of the kinds.
        families: Fonts by family; the training half of this machine's when None.
        ease: 1 for large dark ink on white paper without wear only, 0 for everything there is. A network that sees ink
            and paper swapped from the start finds nothing to begin with.
    """
    fonts = split_fonts("train") if families is None else families
    return _render(_plan_batch(rng, n, mix or Mix(), fonts, 1 - ease), rng, ease=ease)


def draw_shapes(
    n: int,
    seed: int | Sequence[int],
    *,
    names: Sequence[str] = v.SHAPE_NAMES,
    colours: Sequence[str] = v.COLOUR_NAMES,
    textures: Sequence[str] = v.TEXTURE_NAMES,
    ease: float = USUAL,
    worn: float | None = None,
) -> Drawn:
    """Freshly drawn shapes, names in turn so that classes are balanced.

    Args:
        n: How many.
        seed: Everything follows from it.
        names: Shapes to draw, of `SHAPE_NAMES`.
        colours: Colours to use, of `COLOUR_NAMES`.
        textures: Textures to use, of `TEXTURE_NAMES`.
        ease: 0 for every colour, place, warp and wear there is, 1 for large clean dark ones on white.
        worn: Share of pictures that are blurred, noisy or of low resolution; decided by `ease` when None.

    Raises:
        ConfigError: A name, colour or texture that is not known.
    """
    rng = np.random.default_rng(seed)
    chosen = [_index(v.SHAPE_NAMES, name, "shape") for name in names]
    plan = _Plan(loose=1 - ease)
    for i in range(n):
        shape = chosen[i % len(chosen)]
        mask = shape_mask(v.SHAPE_NAMES[shape], rng, loose=plan.loose)
        plan.add(mask, v.SHAPE, v.FIRST_SHAPE + shape, v.UNSAID, False)
    pictures = _render(
        plan,
        rng,
        colours=[_index(v.COLOUR_NAMES, c, "colour") for c in colours],
        textures=[_index(v.TEXTURE_NAMES, t, "texture") for t in textures],
        ease=ease,
        worn=worn,
    )
    return Drawn(pictures.images(), [v.NAMES[i] for i in pictures.attributes[:, v.NAME]], pictures.attributes)


def draw_digits(
    n: int,
    seed: int | Sequence[int],
    *,
    fonts: str = "train",
    style: str = "printed",
    scanned: float = 0.0,
    ease: float = USUAL,
    worn: float | None = None,
    families: Families | None = None,
) -> Drawn:
    """Freshly drawn digits, 0 to 9 in turn.

    Args:
        n: How many.
        seed: Everything follows from it.
        fonts: `train` or `unseen` families of this machine, for printed digits.
        style: `printed`, or `handwritten` for stroke digits, which need no font.
        scanned: Share that goes through the 8x8 grid of a scanner.
        ease: 0 for every colour, place, warp and wear there is, 1 for large clean dark ones on white.
        worn: Share of pictures that are blurred, noisy or of low resolution; decided by `ease` when None.
        families: Fonts to use in place of this machine's; an empty list means Pillow's own font.

    Raises:
        ConfigError: Unknown style or fonts, or too few fonts on this machine.
    """
    if style not in v.STYLE_NAMES:
        raise ConfigError(f"style must be one of {', '.join(v.STYLE_NAMES)}, not {style!r}.")
    rng = np.random.default_rng(seed)
    usable: Families = [] if style == "handwritten" else split_fonts(fonts) if families is None else families
    plan = _Plan(loose=1 - ease)
    for i in range(n):
        digit = i % 10
        through = rng.random() < scanned
        if style == "handwritten":
            plan.add(write_digit(digit, rng, loose=plan.loose), v.DIGIT, digit, v.HANDWRITTEN, through)
        else:
            _add_print(plan, str(digit), v.DIGIT, digit, usable, rng, through)
    pictures = _render(plan, rng, ease=ease, worn=worn)
    return Drawn(pictures.images(), [v.NAMES[i] for i in pictures.attributes[:, v.NAME]], pictures.attributes)


@dataclass(frozen=True)
class Drawn:
    """`images` (n, 64, 64, 3) uint8, `labels` (n names), `attributes` (n, len(FIELDS)); unpacks as (images, labels)."""

    images: NDArray[np.uint8]
    labels: list[str]
    attributes: Attributes

    def __iter__(self) -> Iterator[Any]:
        return iter((self.images, self.labels))


def _index(known: Sequence[str], name: str, what: str) -> int:
    if name not in known:
        raise ConfigError(f"{name!r} is no {what} this project draws; it draws {', '.join(known)}.")
    return list(known).index(name)
