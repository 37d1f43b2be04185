"""Captions say only what is so."""

from __future__ import annotations

import numpy as np
import pytest

from npt_core.clip.demo import captions, draw
from npt_core.clip.demo import vocabulary as v
from npt_core.clip.demo.training import CONTEXT_LENGTH, CompactTokenizer


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return draw.draw_batch(np.random.default_rng(11), 150, families=[], ease=0.0).attributes


def test_every_caption_is_true_of_its_picture(pictures: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    for long_share in (0.0, 1.0):
        written = captions.captions_for(pictures, rng, long_share)
        assert captions.is_true(written.attributes, pictures).diagonal().all()


def test_words_and_attributes_agree(pictures: np.ndarray) -> None:
    written = captions.captions_for(pictures, np.random.default_rng(1))
    for text, said in zip(written.texts, written.attributes, strict=True):
        words = text.replace(".", " ").replace(",", " ").split()
        for place, known in ((v.TEXTURE, v.TEXTURE_NAMES), (v.STYLE, v.STYLE_NAMES)):
            mentioned = [i for i, word in enumerate(known) if word in words]
            assert mentioned == ([int(said[place])] if said[place] >= 0 else [])
        if said[v.NAME] >= 0:
            assert any(phrase in text for phrase in captions.name_phrases(int(said[v.NAME])))


def test_truth() -> None:
    red_star, red, blue = ([-1] * len(v.FIELDS) for _ in range(3))
    red_star[v.NAME], red_star[v.COLOUR] = 40, 0
    red[v.COLOUR], blue[v.COLOUR] = 0, 2
    shown = np.array([red_star, [2, 40, -1, 0, 0, 0, 0]])
    said = np.array([red, blue])
    assert captions.is_true(said, shown).tolist() == [[True, False], [False, False]]
    assert captions.may_be_true(said, shown).tolist() == [[True, False], [True, True]]


def test_the_token_table_knows_every_caption_and_no_caption_is_too_long(pictures: np.ndarray) -> None:
    tokenizer = CompactTokenizer()
    rng = np.random.default_rng(2)
    texts = [*captions.captions_for(pictures, rng, 0.5).texts, *captions.name_captions(rng)]
    tokens = tokenizer(texts)
    assert tokens.shape[1] <= CONTEXT_LENGTH
    ends = tokens.argmax(1)
    assert (tokens[np.arange(len(texts)), ends] == tokenizer.ids.index(tokenizer.eot)).all()
    assert list(tokenizer.ids) == sorted(set(tokenizer.ids))


def test_bare_labels_are_in_the_vocabulary() -> None:
    known = set(CompactTokenizer().ids)
    inner = CompactTokenizer()._tokenizer
    for label in (*v.DIGIT_NAMES, *v.DIGIT_WORDS, *v.SHAPE_NAMES, "striped red star", "a photo of a 7."):
        assert set(inner.encode(label)) <= known
