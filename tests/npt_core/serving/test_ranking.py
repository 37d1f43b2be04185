"""Scores become answers: order, ties, how many, and what is rejected."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from npt_core.classifier import Scores
from npt_core.serving import rank

LABELS = ("a", "b", "c", "d")


def scores(*rows: list[float]) -> Scores:
    probabilities = torch.tensor(rows)
    return Scores(LABELS, probabilities, probabilities.sqrt())


def test_the_best_come_first_with_their_own_similarity() -> None:
    first, second = rank(scores([0.1, 0.6, 0.25, 0.05], [0.7, 0.1, 0.1, 0.1]), top_k=2)
    assert [one.label for one in first.top] == ["b", "c"]
    assert first.top[0].similarity == torch.tensor(0.6).sqrt().item()
    assert second.top[0].label == "a"


def test_ties_keep_the_order_of_the_labels() -> None:
    (ranking,) = rank(scores([0.25] * 4), top_k=4)
    assert [one.label for one in ranking.top] == list(LABELS)


def test_rejected_only_below_the_threshold() -> None:
    at, under = rank(scores([0.5, 0.5, 0.0, 0.0], [0.25] * 4), top_k=1, reject_below=0.5)
    assert not at.rejected
    assert under.rejected
    assert len(under.top) == 1  # what it would have said is still told


def test_nothing_is_rejected_where_nobody_asks() -> None:
    assert not rank(scores([0.25] * 4), top_k=1)[0].rejected


@given(st.integers(1, 9), st.lists(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4), max_size=5))
def test_every_row_is_sorted_and_has_no_label_twice(top_k: int, rows: list[list[float]]) -> None:
    found = rank(Scores(LABELS, torch.tensor(rows).reshape(-1, 4), torch.zeros(len(rows), 4)), top_k)
    assert len(found) == len(rows)
    for row, ranking in zip(rows, found, strict=True):
        assert len(ranking.top) == min(top_k, 4) == len({one.label for one in ranking.top})
        assert [one.probability for one in ranking.top] == sorted(row, reverse=True)[:top_k]
