"""Fonts of this machine, split into families to train on and families that training never sees."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from npt_core.errors import ConfigError

UNSEEN_SHARE = 0.2
MIN_FAMILIES = 20
SUFFIXES = {".ttf", ".otf"}
PACKAGES_HINT = (
    "install more fonts, on Debian for example fonts-dejavu fonts-liberation fonts-freefont-ttf fonts-roboto-unhinted "
    "fonts-lato fonts-open-sans fonts-urw-base35 fonts-texgyre fonts-dkg-handwriting fonts-breip fonts-humor-sans"
)
# Scripts that draw symbols or other alphabets with the code points of digits and letters, and styles nobody can read.
_LEFT_OUT_TEXT = """
    symbol dingbat ding emoji math icons barcode braille cursor ornament swash initials d050000l standardsymbols
    wood fleurons isabella shadow zapf lmex lmsy lmmi redacted blank keycaps radisnoir
"""
_HANDWRITTEN_TEXT = """
    hand script chancery brush kristi femke breip humor comic chilanka purisa dancing kaushan rufscript ecolier
    schola chorus andika dustin domestic summersby sjf penstroke tomson levien fontana
"""
_LEFT_OUT = _LEFT_OUT_TEXT.split()
_HANDWRITTEN = _HANDWRITTEN_TEXT.split()


@dataclass(frozen=True, order=True)
class FontFace:
    """One font file: where it is, its family, and whether its family imitates a hand."""

    path: str
    family: str
    handwriting: bool


def font_folders() -> list[Path]:
    """The folders in which this system keeps its fonts."""
    home = Path(os.path.expanduser("~"))
    return [
        Path("/usr/share/fonts"),
        Path("/usr/local/share/fonts"),
        home / ".fonts",
        home / ".local/share/fonts",
        Path("/Library/Fonts"),
        Path("/System/Library/Fonts"),
        Path("C:/Windows/Fonts"),
    ]


def is_unseen(family: str) -> bool:
    """Whether `family` is kept out of training: decided by its name alone, the same on every machine."""
    first = hashlib.sha256(family.lower().encode()).digest()[0]
    return first < 256 * UNSEEN_SHARE


@lru_cache(maxsize=4)
def find_fonts(folders: tuple[str, ...] | None = None) -> tuple[FontFace, ...]:
    """Every usable font, sorted.

    Args:
        folders: Where to look; the system's folders when None.

    Returns:
        Faces that draw ten different digits and the letters, one entry a file.
    """
    roots = [Path(folder) for folder in folders] if folders is not None else font_folders()
    found: list[FontFace] = []
    for root in roots:
        if not root.is_dir():
            continue
        for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES):
            face = _read_face(path)
            if face is not None:
                found.append(face)
    return tuple(sorted(found))


def split_fonts(which: str, faces: Sequence[FontFace] | None = None) -> list[list[FontFace]]:
    """Fonts by family: one list a family, so that a family with many cuts is not drawn more often.

    Args:
        which: `train` or `unseen`.
        faces: Fonts to split; those of this machine when None.

    Raises:
        ConfigError: `which` is something else, or this machine has fewer than `MIN_FAMILIES` families in all.
    """
    if which not in ("train", "unseen"):
        raise ConfigError(f"fonts must be 'train' or 'unseen', not {which!r}.")
    all_faces = find_fonts() if faces is None else faces
    families: dict[str, list[FontFace]] = {}
    for face in all_faces:
        families.setdefault(face.family, []).append(face)
    if faces is None and len(families) < MIN_FAMILIES:
        raise ConfigError(
            f"Drawing printed digits and letters needs at least {MIN_FAMILIES} font families; this machine has "
            f"{len(families)}: {PACKAGES_HINT}."
        )
    wanted = which == "unseen"
    return [families[name] for name in sorted(families) if is_unseen(name) == wanted]


def _read_face(path: Path) -> FontFace | None:
    """The face in `path`, or None where it cannot draw ten different digits and the letters."""
    try:
        font = ImageFont.truetype(str(path), 24)
        family = (font.getname()[0] or path.stem).strip()
        marks = {bytes(font.getmask(char)) for char in "0123456789"}
        letters = {bytes(font.getmask(char)) for char in "aAgGkKxX"}
        missing = bytes(font.getmask("\uffff"))
    except (OSError, ValueError, UnicodeError):
        return None
    words = f"{family} {path.stem}".lower()
    if len(marks) < 10 or len(letters) < 4 or missing in marks or any(word in words for word in _LEFT_OUT):
        return None
    return FontFace(str(path), family, any(word in words for word in _HANDWRITTEN))


@lru_cache(maxsize=4096)
def load_font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """The font of a file at `size` pixels, kept for the next call."""
    return ImageFont.truetype(path, size)


@lru_cache(maxsize=64)
def load_own_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that Pillow brings along; unpacking it takes longer than drawing with it."""
    return ImageFont.load_default(size)
