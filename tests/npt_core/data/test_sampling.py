from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npt_core.data.sampling import (
    ALWAYS_TRAIN,
    base_to_novel,
    few_shot,
    imbalanced_counts,
    stratified_folds,
    stratified_split,
)
from npt_core.errors import ConfigError

some_labels = st.lists(st.sampled_from(["cat", "dog", "owl", "fox"]), min_size=1, max_size=60)
seeds = st.integers(0, 2**40)


@st.composite
def grouped(draw):
    """Labels, and groups that may cross classes."""
    labels = draw(some_labels)
    return labels, draw(st.lists(st.integers(0, 20), min_size=len(labels), max_size=len(labels)))


def test_draws_are_the_same_on_every_machine():
    """Pinned numbers: should they ever change, results of earlier versions can no longer be repeated."""
    labels = ["cat", "dog"] * 8
    assert few_shot(labels, 3, seed=7).tolist() == PINNED["few_shot"]
    assert stratified_split(labels, 0.25, seed=7)[1].tolist() == PINNED["split"]
    assert stratified_folds(labels, 3, seed=7).tolist() == PINNED["folds"]
    assert imbalanced_counts(6, 16, 0.06, seed=7) == PINNED["imbalance"]


PINNED: dict[str, list[int]] = {
    "few_shot": [4, 5, 12, 13, 14, 15],
    "split": [6, 13, 14, 15],
    "folds": [1, 1, 1, 1, 2, 0, 0, 0, 0, 0, 2, 2, 0, 1, 2, 2],
    "imbalance": [9, 1, 16, 5, 2, 1],
}


# --- few-shot --------------------------------------------------------------------------------------------------------


@given(some_labels, st.integers(1, 20), seeds)
def test_few_shot_takes_at_most_n_of_each_class(labels, n, seed):
    drawn = few_shot(labels, n, seed)
    assert drawn.dtype == np.int64
    assert sorted(set(drawn.tolist())) == drawn.tolist()
    counts = Counter(labels)
    assert Counter(labels[i] for i in drawn) == {label: min(n, count) for label, count in counts.items()}
    assert np.array_equal(drawn, few_shot(labels, n, seed))


@given(some_labels, st.integers(1, 9), seeds)
def test_more_shots_are_the_same_pictures_and_others(labels, n, seed):
    assert set(few_shot(labels, n, seed)) <= set(few_shot(labels, n + 1, seed))


@given(some_labels, st.integers(1, 9), seeds)
def test_a_new_class_changes_no_other_draw(labels, n, seed):
    more = [*labels, *["new"] * 5]
    drawn = [i for i in few_shot(more, n, seed).tolist() if i < len(labels)]
    assert drawn == few_shot(labels, n, seed).tolist()


def test_another_seed_draws_others():
    labels = ["a"] * 1000
    draws = {tuple(few_shot(labels, 5, seed).tolist()) for seed in range(50)}
    assert len(draws) == 50


def test_every_sample_can_be_drawn():
    labels = [0] * 10 + [1] * 10
    hits = Counter(i for seed in range(400) for i in few_shot(labels, 2, seed).tolist())
    assert len(hits) == 20
    assert 40 < min(hits.values()) <= max(hits.values()) < 130


def test_counts_may_differ_from_class_to_class():
    drawn = few_shot([0, 0, 0, 1, 1, 2], {0: 2, 1: 0}, seed=0)
    assert Counter([0, 0, 0, 1, 1, 2][i] for i in drawn) == {0: 2}


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (-1, 0), ({"a": -1}, 0), (1, -1)])
def test_few_shot_refuses_what_makes_no_sense(n, seed):
    with pytest.raises(ConfigError):
        few_shot(["a", "b"], n, seed)


# --- split -----------------------------------------------------------------------------------------------------------


@given(some_labels, st.floats(0, 0.99), seeds)
def test_a_split_is_stratified(labels, fraction, seed):
    train, held = stratified_split(labels, fraction, seed)
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(len(labels)))
    held_counts = Counter(labels[i] for i in held)
    for label, count in Counter(labels).items():
        expected = 0 if count < 2 or fraction == 0 else min(count - 1, max(1, int(count * fraction + 0.5)))
        assert held_counts[label] == expected


@given(grouped(), st.floats(0.01, 0.9), seeds)
def test_groups_stay_on_one_side_and_every_class_can_be_learned(drawn, fraction, seed):
    labels, groups = drawn
    train, held = stratified_split(labels, fraction, seed, groups)
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(len(labels)))
    assert not {groups[i] for i in train} & {groups[i] for i in held}
    assert {labels[i] for i in train} == set(labels)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 5)), min_size=1, max_size=12), seeds)
def test_with_groups_inside_classes_every_class_of_two_groups_is_held_out(shape, seed):
    labels = [label for label, size in shape for _ in range(size)]
    groups = [number for number, (_, size) in enumerate(shape) for _ in range(size)]
    _, held = stratified_split(labels, 0.2, seed, groups)
    enough = {label for label, count in Counter(label for label, _ in shape).items() if count >= 2}
    assert {labels[i] for i in held} == enough


@given(grouped(), seeds)
def test_what_groups_are_called_changes_nothing(drawn, seed):
    labels, groups = drawn
    renamed = [f"group {group * 7919 % 101}" for group in groups]
    for one, other in zip(
        stratified_split(labels, 0.3, seed, groups), stratified_split(labels, 0.3, seed, renamed), strict=True
    ):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ConfigError, match="fraction"):
        stratified_split(["a", "b"], fraction, 0)


def test_groups_of_another_length_are_refused():
    for call in (lambda: stratified_split(["a"], 0.1, 0, [1, 2]), lambda: stratified_folds(["a"], 2, 0, [])):
        with pytest.raises(ConfigError, match="groups for 1 samples"):
            call()


# --- folds -----------------------------------------------------------------------------------------------------------


@given(some_labels, st.integers(2, 7), seeds)
def test_folds_are_even_in_every_class(labels, k, seed):
    folds = stratified_folds(labels, k, seed)
    for label, count in Counter(labels).items():
        sizes = [sum(f == fold and own == label for f, own in zip(folds, labels, strict=True)) for fold in range(k)]
        if count == 1:
            assert sum(sizes) == 0
        else:
            assert sum(sizes) == count
            assert max(sizes) - min(sizes) <= 1


@given(grouped(), st.integers(2, 5), seeds)
def test_folds_keep_groups_together_and_leave_every_class_to_learn(drawn, k, seed):
    labels, groups = drawn
    folds = stratified_folds(labels, k, seed, groups)
    assert set(folds.tolist()) <= {ALWAYS_TRAIN, *range(k)}
    for group in set(groups):
        assert len({folds[i] for i in range(len(labels)) if groups[i] == group}) == 1
    for fold in range(k):
        assert {labels[i] for i in range(len(labels)) if folds[i] != fold} == set(labels)


def test_one_fold_is_refused():
    with pytest.raises(ConfigError, match="at least 2"):
        stratified_folds(["a"], 1, 0)


# --- imbalance, base and novel ---------------------------------------------------------------------------------------


@given(st.integers(1, 200), st.integers(1, 500), st.floats(0.001, 1), seeds)
def test_counts_follow_the_long_tail(K, n_max, tau, seed):
    counts = imbalanced_counts(K, n_max, tau, seed)
    assert len(counts) == K
    assert max(counts) == n_max
    assert min(counts) == (n_max if K == 1 else max(1, int(n_max * tau + 1e-9)))
    assert sorted(counts) == sorted(imbalanced_counts(K, n_max, tau, seed + 1))


def test_the_published_shapes():
    assert sorted(imbalanced_counts(5, 16, 1.0, 0)) == [16] * 5
    assert sorted(imbalanced_counts(5, 16, 0.25, 0), reverse=True) == [16, 11, 8, 5, 4]
    assert sorted(imbalanced_counts(5, 16, 0.06, 0), reverse=True) == [16, 7, 3, 1, 1]
    assert sorted(imbalanced_counts(4, 1000, 0.001, 0), reverse=True) == [1000, 100, 10, 1]
    assert len({tuple(imbalanced_counts(8, 16, 0.06, seed)) for seed in range(10)}) > 5


@pytest.mark.parametrize(("K", "n_max", "tau"), [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1.1), (1, 1, float("nan"))])
def test_imbalance_out_of_range_is_refused(K, n_max, tau):
    with pytest.raises(ConfigError, match="Imbalance"):
        imbalanced_counts(K, n_max, tau, 0)


@given(some_labels)
def test_base_is_the_first_half_of_the_sorted_classes(labels):
    base, novel = base_to_novel(labels)
    assert [*base, *novel] == sorted(set(labels))
    assert len(base) - len(novel) in (0, 1)


def test_numbers_sort_as_numbers():
    assert base_to_novel([10, 9, 2]) == ([2, 9], [10])
