"""From answers to a table, the best two, and whether the difference between them can be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from npt_core.tuning.evaluate import Array, mcnemar, summarise

if TYPE_CHECKING:
    from npt_core.classifier import Scores
    from npt_core.data.dataset import Sample

COMPARISON_FORMAT = 1
SIGNIFICANT = 0.05
MAX_DISAGREEMENTS = 50


@dataclass
class Answers:
    """What one classifier said of every image; a few numbers an image, however many classes there are.

    Attributes:
        name: The classifier's name in the comparison.
        facts: What else is told of it.
        labels: What it chose among.
        indices: Positions of the images in the data set, in the order they were asked about.
    """

    name: str
    facts: dict[str, Any]
    labels: tuple[str, ...]
    indices: list[int] = field(default_factory=list)
    _column: dict[str, int] = field(default_factory=dict, repr=False)
    _parts: list[tuple[Array, Array, Array]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self._column = {label: number for number, label in enumerate(self.labels)}

    def add(self, indices: Sequence[int], truth: Sequence[str], scores: Scores) -> None:
        """Take the scores of some images.

        Args:
            indices: Their positions in the data set.
            truth: Their labels; one that the classifier does not know can only be answered wrongly.
            scores: Over `labels`.
        """
        probabilities = scores.probabilities.double().numpy()
        own = np.array([self._column.get(label, -1) for label in truth])
        with np.errstate(divide="ignore"):
            log_own = np.log(probabilities[np.arange(len(own)), own])
        log_own[own < 0] = -np.inf
        self._parts.append((probabilities.argmax(axis=1), probabilities.max(axis=1), log_own))
        self.indices += indices

    def keep(self, indices: Sequence[int]) -> None:
        """Keep the answers to these images, in this order."""
        row = {index: number for number, index in enumerate(self.indices)}
        rows = [row[index] for index in indices]
        columns = [np.concatenate(part)[rows] for part in zip(*self._parts, strict=True)]
        self._parts, self.indices = [(columns[0], columns[1], columns[2])], list(indices)

    @property
    def predicted(self) -> list[str]:
        """The answer to each image."""
        return [self.labels[column] for column in np.concatenate([part[0] for part in self._parts])]

    @property
    def confidence(self) -> Array:
        """(n,) probability of each answer."""
        return np.concatenate([part[1] for part in self._parts])

    @property
    def log_own(self) -> Array:
        """(n,) log probability of the true class, nats."""
        return np.concatenate([part[2] for part in self._parts])


@dataclass
class Comparison:
    """What a comparison came to.

    Attributes:
        dataset: `id`, `split`, `images`, `classes`, `unreadable`, how many images a contestant was `tuned_on` and
            whether those were left out (`seen`), what they chose `among`.
        contestants: Best first: `name`, what was passed on about it, `classes`, `unknown_classes` (those of the data
            set that it cannot answer), `metrics` (see `tuning.evaluate.summarise`).
        best: The names of the best two.
        test: McNemar's test between them (`first`, `second`, see `tuning.evaluate.mcnemar`), `p_holm` (the p-value
            after Holm's correction for all pairs that were looked at), `significant` (p_holm below 0.05), `words`.
        pairs: The same for every pair, without words.
        disagreements: Up to 50 images that one of the best two got right and the other did not; `image` is a thumbnail
            as a data URI where `compare` made it.
        warnings: For people.
    """

    dataset: dict[str, Any]
    contestants: list[dict[str, Any]]
    best: list[str]
    test: dict[str, Any]
    pairs: list[dict[str, Any]]
    disagreements: list[dict[str, Any]]
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {"format": COMPARISON_FORMAT, **vars(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(**{key: value for key, value in data.items() if key != "format"})

    def summary(self) -> dict[str, Any]:
        """Return the few numbers a list of jobs shows."""
        return {
            "images": self.dataset["images"],
            "accuracy": {one["name"]: one["metrics"]["accuracy"] for one in self.contestants},
            "best": self.best[0],
            "p_value": self.test["p_value"],
            "p_holm": self.test["p_holm"],
            "significant": self.test["significant"],
        }


def judge(samples: Sequence[Sample], answers: Sequence[Answers], dataset: Mapping[str, Any]) -> Comparison:
    """Compare answers to the same images.

    Args:
        samples: The n images.
        answers: At least two; each has n answers in the order of `samples`.
        dataset: Facts about the data set that are passed on.
    """
    truth = [sample.label for sample in samples]
    names = _names(answers)
    table = [{"name": name, **one.facts, **_measured(one, truth)} for name, one in zip(names, answers, strict=True)]
    order = sorted(range(len(answers)), key=lambda i: _rank(table[i]["metrics"]))
    right = [np.array([guess == label for guess, label in zip(one.predicted, truth, strict=True)]) for one in answers]
    pairs = _pairs([names[i] for i in order], [right[i] for i in order])
    first, second = order[0], order[1]
    return Comparison(
        dataset={**dataset, "images": len(samples)},
        contestants=[table[i] for i in order],
        best=[names[first], names[second]],
        test={**pairs[0], "words": _words(pairs[0], _called(table[first]), _called(table[second]), len(samples))},
        pairs=pairs,
        disagreements=_disagreements(samples, (names[first], answers[first]), (names[second], answers[second])),
        warnings=_warnings(dataset, table, len(samples)),
    )


def _rank(metrics: Mapping[str, Any]) -> tuple[float, float]:
    """The more often right the better, then the less surprised; an nll that is not known is the worst, 0 the best."""
    return (-metrics["accuracy"], np.inf if metrics["nll"] is None else metrics["nll"])


def _names(answers: Sequence[Answers]) -> list[str]:
    """Names that differ: zero-shot stands there once for each backbone and each way to fit an image into its square."""
    names = [one.name for one in answers]
    several = {name for name in names if names.count(name) > 1}
    return [
        f"{one.name} ({', '.join(str(one.facts[key]) for key in ('backbone', 'resize') if one.facts.get(key))})"
        if one.name in several
        else one.name
        for one in answers
    ]


def _measured(one: Answers, truth: Sequence[str]) -> dict[str, Any]:
    unknown = sorted(set(truth) - set(one.labels))
    labels = [*one.labels, *unknown]  # what it does not know has a row of its own, and no answer ever falls there
    column = {label: number for number, label in enumerate(labels)}
    metrics = summarise(
        np.array([column[label] for label in truth]),
        np.array([column[label] for label in one.predicted]),
        one.confidence,
        one.log_own,
        labels,
    )
    metrics["per_class"] = [
        entry for entry in metrics["per_class"] if entry["support"] or entry["precision"] is not None
    ]
    return {"classes": len(one.labels), "unknown_classes": unknown, "metrics": metrics}


def _pairs(names: Sequence[str], right: Sequence[Array]) -> list[dict[str, Any]]:
    """Every pair, the better one first, with Holm's step-down correction (Scandinavian Journal of Statistics, 1979)."""
    pairs = [
        {"first": names[a], "second": names[b], **mcnemar(right[a], right[b])}
        for a, b in combinations(range(len(names)), 2)
    ]
    worst = 0.0
    for rank, pair in enumerate(sorted(pairs, key=lambda one: one["p_value"])):
        worst = max(worst, min(1.0, pair["p_value"] * (len(pairs) - rank)))
        pair |= {"p_holm": worst, "significant": worst < SIGNIFICANT}
    return pairs


def _called(entry: Mapping[str, Any]) -> str:
    """What people call it: its title and version where it has them."""
    title, version = entry.get("title"), entry.get("version")
    return f"{title} v{version}" if title and version else entry["name"]


def _words(pair: Mapping[str, Any], first: str, second: str, images: int) -> str:
    split = (
        f"{first} alone is right on {pair['only_first_right']} of {images} images, {second} alone on "
        f"{pair['only_second_right']}"
    )
    if pair["significant"]:
        return f"{split}: {first} is better (p = {pair['p_holm']:.2g})."
    return f"{split}: that can be chance (p = {pair['p_holm']:.2g}); more images would tell."


def _disagreements(
    samples: Sequence[Sample], first: tuple[str, Answers], second: tuple[str, Answers]
) -> list[dict[str, Any]]:
    """The images one of two got wrong, the surest mistakes first."""
    told = [(name, one.predicted, one.confidence) for name, one in (first, second)]
    found = []
    for number, sample in enumerate(samples):
        said = {name: (predicted[number], float(sure[number])) for name, predicted, sure in told}
        wrong = [sure for label, sure in said.values() if label != sample.label]
        if len(wrong) == 1:
            answers = {name: {"label": label, "probability": sure} for name, (label, sure) in said.items()}
            found.append((wrong[0], {"path": sample.path, "label": sample.label, "answers": answers}))
    return [entry for _, entry in sorted(found, key=lambda one: -one[0])[:MAX_DISAGREEMENTS]]


def _warnings(dataset: Mapping[str, Any], table: Sequence[Mapping[str, Any]], images: int) -> list[str]:
    found = []
    if copies := dataset.get("copies", 0):
        found.append(f"{copies} files were left out: others have the same bytes and label, and an image counts once.")
    used = dataset["tuned_on"]
    if used and dataset["seen"] == "leave-out":
        found.append(f"{used} images were left out: a model was tuned on them.")
    elif used:
        found.append(
            f"{used} of {images} images were used to tune a model: it looks better here than it is on new images."
        )
    for one in table:
        if one.get("calibrated_here"):
            found.append(
                f"{one['name']} was calibrated on images of this data set: its calibration error and nll look better "
                "here than they are on new images."
            )
        if one["unknown_classes"]:
            listed = ", ".join(map(repr, one["unknown_classes"][:5]))
            more = f" and {len(one['unknown_classes']) - 5} more" if len(one["unknown_classes"]) > 5 else ""
            found.append(f"{one['name']} has no class {listed}{more}: it cannot be right on their images.")
    return found
