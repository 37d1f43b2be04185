"""From scores to answers: the best classes of each picture, and whether the best is sure enough.

One piece of code for whoever answers, so that a request and a batch job give the same rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from npt_core.classifier import Scores


class Candidate(NamedTuple):
    """A class that a picture may show; similarity as in `Scores`."""

    label: str
    probability: float
    similarity: float


class Ranking(NamedTuple):
    """The best classes of one picture, best first; rejected where the best has too small a probability."""

    top: tuple[Candidate, ...]
    rejected: bool


def rank(scores: Scores, top_k: int, reject_below: float = 0.0) -> list[Ranking]:
    """Return the answer for each of B images.

    Args:
        scores: Of B images over K labels.
        top_k: Classes in an answer, at least 1; all K where there are fewer.
        reject_below: The probability under which the best class counts as no answer.

    Returns:
        One ranking an image, in order; classes of equal probability keep the order of the labels.
    """
    k = min(top_k, len(scores.labels))
    ordered = scores.probabilities.sort(dim=1, descending=True, stable=True)
    columns = ordered.indices[:, :k]
    similarities = scores.similarities.gather(1, columns).tolist()
    return [
        Ranking(
            tuple(Candidate(scores.labels[c], p, s) for c, p, s in zip(column, row, similarity, strict=True)),
            rejected=row[0] < reject_below,
        )
        for column, row, similarity in zip(columns.tolist(), ordered.values[:, :k].tolist(), similarities, strict=True)
    ]
