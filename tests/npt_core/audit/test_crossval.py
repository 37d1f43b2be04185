"""Cross-validated judgements on features whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from npt_core.audit import crossval
from npt_core.audit.crossval import GaussianClasses, judge
from npt_core.errors import Cancelled


def blobs(each: int, K: int = 4, d: int = 12, spread: float = 0.25, seed: int = 0):  # noqa: N803
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1, (K, d))
    labels = np.repeat(np.arange(K), each)
    return (centres[labels] + rng.normal(0, spread, (len(labels), d))).astype(np.float32), labels


def test_a_turned_label_is_doubted_and_the_true_class_is_named() -> None:
    features, truth = blobs(20)
    labels = truth.copy()
    labels[[3, 30]] = [2, 3]
    judged = judge(features, labels, list(range(len(labels))), 4)
    assert judged.seen.all()
    assert judged.best[3] == truth[3]
    assert judged.best[30] == truth[30]
    wrong = (judged.best != labels) & (judged.best >= 0) & (judged.given < 0.05)
    assert set(np.flatnonzero(wrong)) == {3, 30}


def test_a_stranger_is_farther_from_every_class_than_the_others() -> None:
    features, labels = blobs(20)
    features[7] = -3 * features[7]
    distance = judge(features, labels, list(range(len(labels))), 4).distance
    assert distance.argmax() == 7
    assert distance[7] > 2 * np.sort(distance)[-2]


def test_pictures_of_one_group_never_judge_each_other() -> None:
    """Copies of a wrongly labelled picture would vouch for the wrong label."""
    features, labels = blobs(12)
    features = np.concatenate([features, np.repeat(features[:1], 6, axis=0)])
    labels = np.concatenate([labels, np.full(6, 1)])
    alone = [*range(48), *[0] * 6]
    assert (judge(features, labels, alone, 4).given[48:] < 0.05).all()
    assert (judge(features, labels, list(range(54)), 4).given[48:] > 0.05).all()


def test_a_class_of_one_picture_is_not_judged() -> None:
    features, labels = blobs(6)
    features = np.concatenate([features, features[:1] + 5])
    judged = judge(features, np.append(labels, 4), list(range(25)), 5)
    assert not judged.seen[24]
    assert np.isnan(judged.distance[24])
    assert judged.seen[:24].all()


def test_pieces_of_any_size_give_the_same_judgement(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs(15, K=3)
    groups = list(range(len(labels)))
    whole = judge(features, labels, groups, 3)
    monkeypatch.setattr(crossval, "ROWS", 7)
    parts = judge(features, labels, groups, 3)
    assert (whole.best == parts.best).all()
    np.testing.assert_allclose(whole.given, parts.given, rtol=1e-9)
    np.testing.assert_allclose(whole.distance, parts.distance, rtol=1e-9)


def test_it_stops_when_told_to() -> None:
    features, labels = blobs(10)
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) > 3:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        judge(features, labels, list(range(len(labels))), 4, check=check)
    assert len(calls) == 4


def test_the_gaussian_model_agrees_with_the_formula() -> None:
    features, labels = blobs(2000, K=3, d=4)
    model = GaussianClasses(features.astype(float), labels, 3)
    means = np.stack([features[labels == k].mean(axis=0) for k in range(3)]).astype(float)
    centred = features - means[labels]
    inverse = np.linalg.inv(centred.T @ centred / len(features))
    scores, distance = model.scores(features[:9].astype(float))
    gaps = features[:9, None].astype(float) - means[None]
    squared = np.einsum("bkd,de,bke->bk", gaps, inverse, gaps)
    np.testing.assert_allclose(distance, np.sqrt(squared.min(axis=1)), rtol=0.03)  # the covariance is shrunk a little
    assert (scores.argmax(axis=1) == squared.argmin(axis=1)).all()
