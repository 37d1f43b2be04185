"""What each picture looks like to a model that has not seen it: cross-validation on frozen features.

The model is the Gaussian classifier with one covariance for all classes: it has a closed form, so that folds of 60,000
pictures take seconds, and it is a strong one on CLIP's features (Wang et al., "A Hard-to-Beat Baseline for
Training-free CLIP-based Adaptation", arXiv 2402.04087). The covariance is shrunk as Ledoit and Wolf do (2004), so that
a handful of pictures a class is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from npt_core.data.sampling import ALWAYS_TRAIN, stratified_folds

FOLDS = 5
ROWS = 1024
"""Pictures judged at once: memory is rows times classes."""

CALIBRATE_ON = 4096
TEMPERATURES = np.geomspace(0.005, 2.0, 48)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Judged:
    """What n pictures look like out of sample.

    Attributes:
        seen: (n,) whether there was a model to ask; a class that would vanish when held out is never held out.
        given: (n,) probability of the picture's own label, 0 to 1.
        best: (n,) the class that is most probable among those whose threshold is reached, -1 where none is.
        probability: (n,) of `best`.
        distance: (n,) Mahalanobis distance to the nearest class mean, NaN where not seen.
    """

    seen: npt.NDArray[np.bool_]
    given: Floats
    best: Ints
    probability: Floats
    distance: Floats


class GaussianClasses:
    """Class means and one covariance.

    Args:
        features: (n, d).
        labels: (n,) classes 0 to K - 1, each at least once.
        K: Number of classes.
    """

    def __init__(self, features: Floats, labels: Ints, K: int) -> None:  # noqa: N803
        from sklearn.covariance import ledoit_wolf

        means = np.zeros((K, features.shape[1]))
        np.add.at(means, labels, features)
        means /= np.bincount(labels, minlength=K)[:, None]
        covariance, _ = ledoit_wolf(features - means[labels], assume_centered=True)
        covariance = covariance + np.eye(len(covariance)) * max(1e-12, 1e-6 * float(np.trace(covariance)))
        # Whitened, the Mahalanobis distance is the Euclidean one.
        self._whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T  # (d, d)
        self._means = means @ self._whiten  # (K, d)
        self._bias = -0.5 * (self._means**2).sum(axis=1)

    def scores(self, features: Floats) -> tuple[Floats, Floats]:
        """Return (n, K) log likelihoods up to a constant of each row, and (n,) distances to the nearest mean."""
        white = features @ self._whiten
        scores = white @ self._means.T + self._bias
        squared = (white**2).sum(axis=1) - 2 * scores.max(axis=1)
        return scores, np.sqrt(np.maximum(squared, 0))


def judge(
    features: npt.NDArray[np.float32],
    labels: Ints,
    groups: Sequence[int],
    K: int,  # noqa: N803
    *,
    check: Callable[[], None] | None = None,
) -> Judged:
    """Cross-validate.

    The thresholds are those of confident learning (Northcutt, Jiang, Chuang, arXiv 1911.00068): a class counts for a
    picture when its probability reaches the mean that it has over the pictures of that label. The probabilities are
    softened by one temperature, fitted to the given labels, or the model would be sure of everything.

    Args:
        features: (n, d) unit norm.
        labels: (n,) classes 0 to K - 1, each at least once.
        groups: (n,) equal means together: near duplicates share a fold.
        K: Number of classes.
        check: Called before each piece of work; it may raise to stop.
    """
    check = check or (lambda: None)
    folds = stratified_folds(labels.tolist(), FOLDS, 0, groups=list(groups))
    seen = folds != ALWAYS_TRAIN
    models: dict[int, GaussianClasses] = {}
    for fold in np.unique(folds[seen]).tolist():
        check()
        inside = folds != fold
        models[fold] = GaussianClasses(features[inside].astype(np.float64), labels[inside], K)

    def pieces(rows: Ints) -> Iterator[tuple[Ints, Floats, Floats]]:
        for fold, model in models.items():
            mine = rows[folds[rows] == fold]
            for start in range(0, len(mine), ROWS):
                check()
                part = mine[start : start + ROWS]
                yield part, *model.scores(features[part].astype(np.float64))

    rows = np.flatnonzero(seen)
    temperature = _temperature(pieces(_sample(rows)), labels)
    n = len(labels)
    given, probability, distance = np.zeros(n), np.zeros(n), np.full(n, np.nan)
    for part, scores, away in pieces(rows):
        given[part] = _softmax(scores * temperature)[np.arange(len(part)), labels[part]]
        distance[part] = away
    count = np.bincount(labels[rows], minlength=K)
    total = np.bincount(labels[rows], weights=given[rows], minlength=K)
    threshold = np.where(count > 0, total / np.maximum(count, 1), np.inf)
    best = np.full(n, -1, dtype=np.int64)
    for part, scores, _ in pieces(rows):
        likely = _softmax(scores * temperature)
        likely[likely < threshold] = -1.0
        choice = likely.argmax(axis=1)
        value = likely[np.arange(len(part)), choice]
        best[part], probability[part] = np.where(value >= 0, choice, -1), np.maximum(value, 0)
    return Judged(seen, given, best, probability, distance)


def _sample(rows: Ints) -> Ints:
    """An even sample to calibrate on, the same one every time."""
    return rows[:: max(1, -(-len(rows) // CALIBRATE_ON))]


def _softmax(logits: Floats) -> Floats:
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Floats = exp / exp.sum(axis=1, keepdims=True)
    return result


def _temperature(pieces: Iterator[tuple[Ints, Floats, Floats]], labels: Ints) -> float:
    """Return the factor on the scores under which the given labels are most likely."""
    loss = np.zeros(len(TEMPERATURES))
    for part, scores, _ in pieces:
        scores = scores - scores.max(axis=1, keepdims=True)
        own = scores[np.arange(len(part)), labels[part]]
        for number, factor in enumerate(TEMPERATURES):
            loss[number] += float((np.log(np.exp(scores * factor).sum(axis=1)) - own * factor).sum())
    return float(TEMPERATURES[int(loss.argmin())])
