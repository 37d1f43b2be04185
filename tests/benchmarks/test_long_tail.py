"""The exponential long tail, on the items of a data set."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paper_sets import Item, long_tail
from npt_core.data.sampling import few_shot, imbalanced_counts
from npt_core.errors import ConfigError, DatasetError

taus = st.sampled_from([1.0, 0.25, 0.06]) | st.floats(0.01, 1)
seeds = st.integers(0, 2**40)


def items_of(counts: dict[int, int]) -> list[Item]:
    """Items of each label, classes interleaved."""
    most = max(counts.values(), default=0)
    return [
        Item(Path(f"{label}/{n}.jpg"), label, f"class {label}")
        for n in range(most)
        for label, count in counts.items()
        if n < count
    ]


@st.composite
def pools(draw):
    """Items of 1 to 12 classes, any labels, each with at least `n_max`; and `n_max`."""
    n_max = draw(st.integers(1, 16))
    labels = draw(st.lists(st.integers(0, 60), min_size=1, max_size=12, unique=True))
    return items_of({label: n_max + draw(st.integers(0, 5)) for label in labels}), n_max


@given(pools(), taus, seeds)
def test_a_long_tail_has_the_counts_of_the_formula(pool, tau, seed):
    items, n_max = pool
    drawn = long_tail(items, n_max, tau, seed)
    counts = Counter(item.label for item in drawn)
    K = len({item.label for item in items})
    formula = [max(1, math.floor(n_max * tau ** (k / max(K - 1, 1)) + 1e-9)) for k in range(K)]
    assert sorted(counts.values(), reverse=True) == formula
    assert counts.keys() == {item.label for item in items}
    assert [counts[label] for label in sorted(counts)] == imbalanced_counts(K, n_max, tau, seed)


@given(pools(), taus, seeds)
def test_a_long_tail_is_some_of_the_items_once_each_and_the_same_for_a_seed(pool, tau, seed):
    items, n_max = pool
    drawn = long_tail(items, n_max, tau, seed)
    assert len(set(drawn)) == len(drawn)
    places = [items.index(item) for item in drawn]
    assert places == sorted(places)
    assert drawn == long_tail(items, n_max, tau, seed)


def test_the_papers_three_ratios():
    items = items_of(dict.fromkeys(range(5), 20))
    found = {tau: sorted(Counter(i.label for i in long_tail(items, 16, tau, 3)).values()) for tau in (1, 0.25, 0.06)}
    assert found == {1: [16] * 5, 0.25: [4, 5, 8, 11, 16], 0.06: [1, 1, 3, 7, 16]}


def test_another_seed_draws_others_and_another_order_of_classes():
    items = items_of(dict.fromkeys(range(8), 30))
    drawn = [long_tail(items, 16, 0.06, seed) for seed in range(4)]
    assert len(set(drawn)) == 4
    assert len({tuple(sorted(Counter(i.label for i in one).items())) for one in drawn}) > 1


def test_without_a_tail_it_is_the_few_shot_draw():
    items = items_of(dict.fromkeys(range(4), 10))
    expected = few_shot([item.label for item in items], 4, 5)
    assert long_tail(items, 4, 1, 5) == tuple(items[i] for i in expected)


def test_a_class_with_fewer_images_than_its_share_is_named():
    with pytest.raises(DatasetError, match=r"1 of 2 classes.*class 1 has 3 of 8.*at most 3"):
        long_tail(items_of({0: 8, 1: 3}), 8, 1, 0)
    assert len(long_tail(items_of({0: 8, 1: 3}), 3, 1, 0)) == 6


@pytest.mark.parametrize(("n_max", "tau", "seed"), [(0, 1, 0), (4, 0, 0), (4, 1.5, 0), (4, 1, -1)])
def test_values_out_of_range_are_refused(n_max, tau, seed):
    with pytest.raises(ConfigError):
        long_tail(items_of({0: 4, 1: 4}), n_max, tau, seed)


def test_no_items_have_no_long_tail():
    with pytest.raises(DatasetError, match="no items"):
        long_tail([], 16, 0.06, 0)
