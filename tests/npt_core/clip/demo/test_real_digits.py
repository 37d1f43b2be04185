"""The split of the real digits never moves, and drawing never sees them."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

import npt_core.clip.demo as demo
from npt_core.clip.demo import real_digits


def test_halves_are_disjoint_whole_and_stratified() -> None:
    look, report = (real_digits.load_half(half) for half in real_digits.HALVES)
    assert not set(look.rows) & set(report.rows)
    assert sorted([*look.rows, *report.rows]) == list(range(1797))
    first, second = Counter(look.labels), Counter(report.labels)
    assert all(0 <= first[d] - second[d] <= 1 for d in map(str, range(10)))


def test_the_split_is_the_one_it_always_was() -> None:
    halves = real_digits.split_rows(load_digits().target)
    assert halves["look"][:5].tolist() == [0, 1, 3, 5, 9]
    assert int(halves["report"].sum()) == 799125


def test_pictures_are_dark_ink_on_white() -> None:
    half = real_digits.load_half("look")
    assert half.images.shape[1:] == (64, 64)
    assert half.images.dtype == np.uint8
    corners = half.images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert np.median(corners) == 255
    picture = half.pictures()[0]
    assert (picture.mode, picture.size) == ("L", (64, 64))
    with pytest.raises(ValueError, match="'look' or 'report'"):
        real_digits.load_half("all")


def test_only_scoring_reads_the_real_digits() -> None:
    folder = Path(demo.__file__).parent
    readers = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom | ast.Import):
                text = ast.unparse(node)
                if "real_digits" in text or "sklearn" in text:
                    readers.add(path.name)
    # `pretrain` prints scores on the half to look at; everything that draws or makes a loss is elsewhere.
    assert readers == {"pretrain.py", "real_digits.py"}
