"""Tables of docs/results.md from the runs of benchmarks/science.py.

    python -m benchmarks.science_report build/science/quick.csv

Differences are paired: the same set, method, tau and seed with and without a regulariser. Intervals are 95 % bootstrap
intervals of the mean over pairs. They treat sets and methods as a sample, as seeds are; with so few it is a weak one.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np

DRAWS = 10_000


def pairs(rows: list[dict[str, Any]], regularizer: str, tau: str, number: str) -> np.ndarray[Any, Any]:
    """(n,) differences of a number to the same run without a regulariser."""
    plain = {key(row): row for row in rows if row["regularizer"] == "none"}
    chosen = [row for row in rows if row["regularizer"] == regularizer and row["tau"] == tau]
    return np.array([float(row[number]) - float(plain[key(row)][number]) for row in chosen])


def key(row: dict[str, Any]) -> tuple[str, ...]:
    """What two runs of a pair have in common."""
    return tuple(row[name] for name in ("dataset", "method", "tau", "seed"))


def interval(values: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Mean, and the ends of its bootstrap interval."""
    draws = np.random.default_rng(0).choice(values, (DRAWS, len(values))).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def table(rows: list[dict[str, Any]], number: str, title: str) -> list[str]:
    """Differences by regulariser and tau."""
    taus = sorted({row["tau"] for row in rows}, key=float, reverse=True)
    lines = [f"| {title} | " + " | ".join(f"τ = {float(tau):g}" for tau in taus) + " |", "|---" * (len(taus) + 1) + "|"]
    for regularizer in ("npt", "cpt"):
        cells = []
        for tau in taus:
            mean, low, high = interval(pairs(rows, regularizer, tau, number))
            cells.append(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]")
        lines.append(f"| {regularizer.upper()} − none | " + " | ".join(cells) + " |")
    return [*lines, ""]


def by_set(rows: list[dict[str, Any]]) -> list[str]:
    """Mean H ± standard deviation over runs, by set."""
    lines = ["| mean H | zero-shot | none | NPT | CPT |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(row["dataset"] for row in rows):
        mine = [row for row in rows if row["dataset"] == name]
        cells = [f"{float(mine[0]['zero_h']):.3f}"]
        for regularizer in ("none", "npt", "cpt"):
            values = [float(row["h"]) for row in mine if row["regularizer"] == regularizer]
            cells.append(f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    with parser.parse_args().csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    print(f"{len(rows)} tunings, {sum(float(row['seconds']) for row in rows) / 60:.1f} minutes of one core\n")
    for number, title in (("h", "difference in mean H"), ("base", "in base accuracy"), ("novel", "in novel accuracy")):
        print("\n".join(table(rows, number, title)))
    print("\n".join(by_set(rows)))


if __name__ == "__main__":
    main()
