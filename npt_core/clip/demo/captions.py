"""Captions that are true of a picture, and the test whether one is.

A caption is a text and the attribute row of what it mentions (-1 where it is silent); see `vocabulary`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from npt_core.clip.demo import vocabulary as v

TEMPLATES: tuple[str, ...] = (
    "a photo of a {}.",
    "a photo of a {}",
    "a photo of the {}.",
    "a picture of a {}.",
    "a picture of the {}",
    "an image of a {}.",
    "an image of the {}.",
    "a drawing of a {}.",
    "a sketch of a {}.",
    "a painting of a {}.",
    "a rendering of a {}.",
    "a close-up photo of a {}.",
    "a cropped photo of the {}.",
    "a good photo of a {}.",
    "a bad photo of a {}.",
    "a photo of one {}.",
    "a photo of my {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "a photo of a nice {}.",
    "a clean picture of the {}.",
    "this is a {}.",
    "this is a photo of a {}.",
    "this picture shows a {}.",
    "there is a {} in the picture.",
    "it is a {}.",
    "one can see a {} here",
    "a simple {}",
    "a {}.",
    "a {}",
    "the {}",
    "{}",
    "{}.",
    "{}",
    "itap of a {}.",
    "an example of a {}.",
    "a scan of a {}.",
    "a centered image of a {}, drawn by a computer.",
    "art of a {}.",
    "a type of {}.",
)
QUALITY_TEMPLATES: dict[int, tuple[str, ...]] = {
    v.SHARP: ("a sharp photo of a {}.", "a clear picture of a {}."),
    v.BLURRY: ("a blurry photo of a {}.", "a blurry {}"),
    v.LOW_RESOLUTION: ("a low resolution photo of a {}.", "a pixelated photo of a {}.", "a low resolution {}"),
    v.NOISY: ("a noisy photo of a {}.", "a noisy picture of a {}."),
}
# Words that say nothing: a prompt with learned vectors has positions that no short caption reaches.
_FILLER_TEXT = """
    a the of an this that is it in on photo picture image drawing view kind type example and with small simple
    plain nice new old good clean single one some very here we see shown seen from for to at by my your their x
    y z object thing item pattern figure sign symbol mark form class set data sample test
"""
FILLERS: tuple[str, ...] = tuple(_FILLER_TEXT.split())
LONGEST_FILLER = 17


@dataclass(frozen=True)
class Captions:
    """`texts` (n) and `attributes` (n, len(FIELDS)), -1 where a caption is silent."""

    texts: list[str]
    attributes: NDArray[np.int64]


def is_true(captions: NDArray[np.int64], pictures: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which captions are true of which pictures: (pictures, captions)."""
    mentioned = captions[None, :, :]
    return np.asarray(((mentioned == v.UNSAID) | (mentioned == pictures[:, None, :])).all(-1))


def may_be_true(captions: NDArray[np.int64], pictures: NDArray[np.int64]) -> NDArray[np.bool_]:
    """As `is_true`, but what the drawing left without a word (a grey between black and white) contradicts nothing."""
    mentioned, shown = captions[None, :, :], pictures[:, None, :]
    return np.asarray(((mentioned == v.UNSAID) | (shown == v.UNSAID) | (mentioned == shown)).all(-1))


def name_phrases(name: int) -> tuple[str, ...]:
    """What a picture with this name can be called, without an article."""
    if name < v.FIRST_LETTER:
        numeral, word = v.DIGIT_NAMES[name], v.DIGIT_WORDS[name]
        return (
            numeral,
            numeral,
            word,
            word,
            f"digit {numeral}",
            f"digit {word}",
            f"number {numeral}",
            f"number {word}",
        )
    if name < v.FIRST_SHAPE:
        letter = v.NAMES[name]
        return (f"letter {letter}", letter)
    shape = v.NAMES[name]
    return (shape, shape, shape, *v.SHAPE_SYNONYMS.get(shape, (shape,)), f"{shape} shape")


def class_names(kind: int) -> tuple[list[int], list[str]]:
    """The names of one kind: their numbers in `NAMES`, and the plain words that a user would give as labels."""
    start, stop = ((0, v.FIRST_LETTER), (v.FIRST_LETTER, v.FIRST_SHAPE), (v.FIRST_SHAPE, len(v.NAMES)))[kind]
    return list(range(start, stop)), list(v.NAMES[start:stop])


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def caption(picture: NDArray[np.int64], rng: np.random.Generator, long: bool = False) -> tuple[str, list[int]]:
    """One caption that is true of a picture.

    Args:
        picture: (len(FIELDS),) attributes.
        rng: Decides what is mentioned and how.
        long: Put the name after up to `LONGEST_FILLER` words that say nothing.

    Returns:
        The text and what it mentions.
    """
    said = [v.UNSAID] * len(v.FIELDS)
    kind, name = int(picture[v.KIND]), int(picture[v.NAME])
    said[v.KIND], said[v.NAME] = kind, name
    phrase = _pick(name_phrases(name), rng)
    before: list[str] = []
    shape = kind == v.SHAPE
    for place, chance, words in (
        (v.COLOUR, 0.42 if shape else 0.12, v.COLOUR_NAMES),
        (v.TEXTURE, 0.34 if shape else 0.0, v.TEXTURE_NAMES),
        (v.STYLE, 0.16, v.STYLE_NAMES),
    ):
        if picture[place] >= 0 and rng.random() < chance:
            said[place] = int(picture[place])
            word = words[said[place]]
            before.append("grey" if word == "gray" and rng.random() < 0.3 else word)
    if len(before) > 1 and rng.random() < 0.5:
        before.reverse()
    if before and shape and rng.random() < 0.06:
        phrase, said[v.NAME] = _pick(("thing", "shape", "figure"), rng), v.UNSAID
    phrase = " ".join([*before, phrase])
    if picture[v.BACKGROUND] >= 0 and rng.random() < 0.10:
        said[v.BACKGROUND] = int(picture[v.BACKGROUND])
        ground = v.COLOUR_NAMES[said[v.BACKGROUND]]
        phrase += _pick((f" on a {ground} background", f" on {ground}"), rng)
    if picture[v.QUALITY] >= 0 and rng.random() < 0.07:
        said[v.QUALITY] = int(picture[v.QUALITY])
        return _pick(QUALITY_TEMPLATES[said[v.QUALITY]], rng).format(phrase), said
    if long:
        fillers = [_pick(FILLERS, rng) for _ in range(int(rng.integers(3, LONGEST_FILLER + 1)))]
        return " ".join([*fillers, phrase]) + ("." if rng.random() < 0.6 else ""), said
    return _pick(TEMPLATES, rng).format(phrase), said


def captions_for(pictures: NDArray[np.int64], rng: np.random.Generator, long_share: float = 0.0) -> Captions:
    """One caption a picture, in order; `long_share` of them begin with words that say nothing."""
    drawn = [caption(row, rng, bool(rng.random() < long_share)) for row in pictures]
    return Captions([text for text, _ in drawn], np.array([said for _, said in drawn], dtype=np.int64))


def name_captions(rng: np.random.Generator) -> list[str]:
    """One plain caption for each of `NAMES`, all in one template."""
    template = _pick(TEMPLATES, rng)
    return [template.format(_pick(name_phrases(name), rng)) for name in range(len(v.NAMES))]


def all_words() -> list[str]:
    """Every word that a caption can hold, sorted: what the token table has to know."""
    texts = [template.replace("{}", " ") for template in TEMPLATES]
    texts += [template.replace("{}", " ") for group in QUALITY_TEMPLATES.values() for template in group]
    texts += [phrase for name in range(len(v.NAMES)) for phrase in name_phrases(name)]
    texts += [*v.COLOUR_NAMES, *v.TEXTURE_NAMES, *v.STYLE_NAMES, *v.QUALITY_NAMES, *FILLERS]
    texts += ["grey", "on", "background", "thing", "shape", "figure", ".", ","]
    return sorted({word for text in texts for word in text.split()})
