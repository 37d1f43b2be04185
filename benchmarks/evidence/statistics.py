"""Paired differences and rank correlations with bootstrap intervals."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.evidence.runs import KEY

DRAWS = 5_000
Numbers = NDArray[np.float64]
Row = dict[str, Any]


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % bootstrap interval; NaN ends where there is nothing to draw from."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.mean:+.3f}"
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    @property
    def without_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0


def read(path: Path) -> list[Row]:
    """Read the lines of a CSV of benchmarks/science.py, numbers as numbers."""
    words = {"protocol", "dataset", "method", "regularizer", "weights", "target", "chosen"}
    with path.open(newline="") as file:
        return [
            {name: value if name in words else float(value) if value else np.nan for name, value in line.items()}
            for line in csv.DictReader(file)
        ]


def runs(lines: Iterable[Row]) -> list[Row]:
    """Bring the lines of a run together: `base`, `novel`, `all`, ... and H; `zero_*` is zero-shot on the same pictures.

    `few` is the accuracy on the third of the tuned classes with the fewest training images.
    """
    found: dict[tuple[Any, ...], Row] = {}
    for line in lines:
        run = found.setdefault(tuple(line[name] for name in KEY), dict(line))
        run[line["target"]], run[f"zero_{line['target']}"] = line["accuracy"], line["zero_shot"]
        if not np.isnan(line["few"]):
            run["few"] = line["few"]
    for run in found.values():
        if "novel" in run:
            run["h"], run["zero_h"] = harmonic(run["base"], run["novel"]), harmonic(run["zero_base"], run["zero_novel"])
    return list(found.values())


def harmonic(first: float, second: float) -> float:
    """Return the harmonic mean, 0 where both are."""
    return 2 * first * second / (first + second) if first + second else 0.0


def differences(found: Sequence[Row], chosen: Callable[[Row], bool], number: str) -> list[tuple[str, float, float]]:
    """Return (set, seed, difference) of chosen runs to the same run without a regulariser."""
    names = ("dataset", "method", "tau", "shots", "seed", "epochs", "lr")
    plain = {tuple(one[name] for name in names): one for one in found if one["regularizer"] == "none"}
    pairs = []
    for one in found:
        other = plain.get(tuple(one[name] for name in names))
        if chosen(one) and other is not None:
            pairs.append((one["dataset"], one["seed"], one[number] - other[number]))
    return pairs


def interval(pairs: Sequence[tuple[str, float, float]]) -> Interval:
    """Mean difference, resampling within each set its seeds: all runs on one training set go together.

    A set with a single seed says nothing of chance: there is then no interval.

    Source: the cluster bootstrap; runs of one seed share their pictures and are no independent observations.
    """
    mean = float(np.mean([value for _, _, value in pairs]))
    by_set: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, seed, value in pairs:
        by_set[name][seed].append(value)
    if min(map(len, by_set.values())) < 2:
        return Interval(mean, float("nan"), float("nan"))
    rng = np.random.default_rng(0)
    sums, counts = np.zeros(DRAWS), np.zeros(DRAWS)
    for clusters in by_set.values():
        totals = np.array([sum(values) for values in clusters.values()])
        sizes = np.array([len(values) for values in clusters.values()])
        picked = rng.integers(len(totals), size=(DRAWS, len(totals)))
        sums += totals[picked].sum(axis=1)
        counts += sizes[picked].sum(axis=1)
    low, high = np.quantile(sums / counts, [0.025, 0.975])
    return Interval(mean, float(low), float(high))


def spearman(first: Numbers, second: Numbers) -> Interval:
    """Spearman's rho of two (n,) samples with a bootstrap interval over runs; NaN where one does not vary."""
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(1_000):
        picked = rng.integers(len(first), size=len(first))
        draws.append(rho(first[picked], second[picked]))
    low, high = np.nanquantile(draws, [0.025, 0.975]) if np.isfinite(draws).any() else (np.nan, np.nan)
    return Interval(rho(first, second), float(low), float(high))


def rho(first: Numbers, second: Numbers) -> float:
    """Return Spearman's rho, NaN where one sample does not vary."""
    a, b = rankdata(first), rankdata(second)
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
